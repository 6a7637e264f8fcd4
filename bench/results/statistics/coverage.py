"""How often the 95 % intervals of `bench.results.statistics.intervals` hold the truth, by simulation.

`python -m bench.results.statistics.coverage` does it. Results go to results/statistics/coverage.json, which the report
prints. Everything is drawn from one seed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.canonical import canonical_json
from bench.files import write_whole
from bench.paths import inside
from bench.results.statistics.intervals import crossed_interval

__all__ = ["SCENARIOS", "Scenario", "coverage_simulation", "write_coverage"]

TRUTH = 0.02


@dataclass(frozen=True)
class Scenario:
    """Standard deviations of single scores: over seeds, over prompts, and of what is left (score units, 0 to 1).

    binary: scores are 0 or 1 with that mean, as strict verifiers give them, and differences of two such. claim: the
    deviation over claims, which `wordings` prompts each state: so many in turn.
    """

    seed: float
    prompt: float
    noise: float
    binary: bool = False
    claim: float = 0.0
    wordings: tuple[int, ...] = (1,)


SCENARIOS = {
    "seed variance only": Scenario(seed=0.02, prompt=0.0, noise=0.0),
    "prompt variance only": Scenario(seed=0.0, prompt=0.3, noise=0.0),
    "both": Scenario(seed=0.02, prompt=0.3, noise=0.0),
    "both, with noise": Scenario(seed=0.02, prompt=0.3, noise=0.4),
    "pass or fail scores": Scenario(seed=0.02, prompt=0.2, noise=0.0, binary=True),
    "claims in several wordings": Scenario(seed=0.02, prompt=0.1, noise=0.2, claim=0.3, wordings=(1, 1, 2, 4, 8)),
}


def coverage_simulation(
    scenario: Scenario, seeds: int, prompts: int = 256, repeats: int = 2000, entropy: int = 0
) -> float:
    """Share of simulated experiments (0 to 1) whose interval of the mean difference holds the true one."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([entropy, seeds, prompts])))
    hits = 0
    for _ in range(repeats):
        clusters = _clusters(scenario, prompts)
        interval = crossed_interval(_differences(scenario, seeds, clusters, random), clusters=clusters)
        hits += interval.low <= TRUTH <= interval.high
    return hits / repeats


def _clusters(scenario: Scenario, prompts: int) -> np.ndarray:
    """The claim (P,) of each prompt, by number."""
    wordings = np.resize(scenario.wordings, prompts)
    return np.repeat(np.arange(prompts), wordings)[:prompts]


def _differences(scenario: Scenario, seeds: int, clusters: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Paired differences (S, P) to a baseline, with mean TRUTH."""
    prompts = len(clusters)
    by_seed = scenario.seed * random.standard_normal((seeds, 1))
    by_prompt = scenario.prompt * random.standard_normal((1, prompts))
    if scenario.claim:
        by_prompt += scenario.claim * random.standard_normal(prompts)[clusters]
    if not scenario.binary:
        return TRUTH + by_seed + by_prompt + scenario.noise * random.standard_normal((seeds, prompts))
    # uniform, so that chances stay inside 0 and 1 and the mean difference is TRUTH exactly
    width = scenario.prompt * np.sqrt(12)
    shared, gain = random.uniform(-0.5, 0.5, (2, 1, prompts)) * width
    method = 0.5 + TRUTH / 2 + 0.5 * shared + 0.5 * gain + np.clip(by_seed, -0.1, 0.1)
    baseline = 0.5 - TRUTH / 2 + 0.5 * shared - 0.5 * gain
    drawn = random.uniform(size=(2, seeds, prompts))
    return (drawn[0] < method).astype(float) - (drawn[1] < baseline)


def write_coverage(path: Path, repeats: int = 4000, prompts: int = 256) -> None:
    """Simulate all scenarios at 2, 3, 5 and 10 seeds and store coverage as JSON."""
    table = {
        name: {str(seeds): coverage_simulation(scenario, seeds, prompts, repeats) for seeds in (2, 3, 5, 10)}
        for name, scenario in SCENARIOS.items()
    }
    scenarios = {name: asdict(scenario) for name, scenario in SCENARIOS.items()}
    stored = {"coverage": table, "level": 0.95, "prompts": prompts, "repeats": repeats, "scenarios": scenarios}
    write_whole(path, (canonical_json({"schema": 1, **stored}, indent=2) + "\n").encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.results.statistics.coverage", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
    write_coverage(inside(parser.parse_args().results, "statistics/coverage.json"))

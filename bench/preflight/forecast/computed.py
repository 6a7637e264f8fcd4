"""What updates spend on the embedded base, without measuring: the FLOPs of its passes are known."""

from __future__ import annotations

from bench.budget import Ledger
from bench.config.settings import BASE, Experiment, StageSettings
from bench.models.embedded_flops import EmbeddedFlops, read_flops
from bench.preflight.forecast.spending import one_weight_stage, spent_by_update


def computed_spending(experiment: Experiment, rate: float) -> dict[str, list[dict[str, float]]] | None:
    """What an update of each stage spends by unit, by method; None where it is not known without a measurement.

    Known are the passes of the embedded base with all weights trained, and of the rewards of its tasks. `rate` is that
    of forward passes a second, from which seconds follow.
    """
    known = read_flops()
    stages = {chain.label: chain.stages for chain in experiment.methods if chain.label != BASE}
    reward = experiment.tasks[0].reward
    if (
        experiment.model is not None
        or experiment.data is not None
        or experiment.runtime.resolution is not None
        or reward not in {None, *known.rewards}
        or any(stage.train.adaptation != "full" for of_stages in stages.values() for stage in of_stages)
    ):
        return None
    return {label: [_amounts(stage, known, reward, rate) for stage in of_stages] for label, of_stages in stages.items()}


def _amounts(settings: StageSettings, known: EmbeddedFlops, reward: str | None, rate: float) -> dict[str, float]:
    ledger = Ledger()
    stage = one_weight_stage(settings, known.shift, known.passes, ledger, known.rewards[reward] if reward else 0.0)
    spent = spent_by_update(stage, ledger)
    return {**spent, "seconds": spent["cost"] / rate}

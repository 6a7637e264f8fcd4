"""The method that the tutorial shows: as a file, against its formula, and as a wheel from outside this tree."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import registry
from bench.api import PluginError
from bench.cli.main import main
from bench.cli.new import create
from bench.config.load import load_settings
from bench.conformance import assert_conforms
from bench.datasets.worlds import load_world
from bench.experiments.status.progress import EVENTS, ProgressDisplay
from bench.results.records.schema import Step
from bench.results.records.writer import CellRecord
from methods.sft import SFT
from tests.support import cells
from tests.support.closed_form import ClosedFormEnv, train
from tests.support.documents import blocks

# The smallest run that a command line can ask for.
TINY = """
budget: 100
task:
  scorers: [scenes-aesthetic]
  primary: scenes-aesthetic
  reward: scenes-aesthetic
  select: scenes-aesthetic
  margins: {}
  candidates: 16
evaluation: {final_prompts: 4, held_out_prompts: 0, diversity_prompts: 0, milestones: [1.0], milestone_prompts: 4,
  grid_prompts: 2, grid_steps: [], grid_guidance: [], drift_states: 0, pictures: 1, steps: 1}
"""


# A method of a stranger's, whose terms have names that nothing here knows.
STRANGER = '''
from bench import flow
from bench.api import Method, Needs


class Stranger(Method):
    """Two weighted terms."""

    name = "stranger"
    needs = Needs(data=True)

    def step(self, env):
        for batch in env.draw.batches():
            z1, sigma = env.draw.noise(batch.index), env.draw.sigma(batch.index)
            v = env.model.velocity(flow.interpolate(batch.z0, z1, sigma), sigma, batch.cond)
            mse = (v - (z1 - batch.z0)).square().flatten(1).mean(1)
            env.backward({"mse": (1.0, mse), "size": (0.5, v.square().flatten(1).mean(1))}, env.batch_size)
        return env.update()
'''


TUTORIAL = "docs/tutorial/method.md"


@pytest.fixture(scope="module")
def block() -> str:
    """The tutorial's one block of Python, which is a file."""
    (found,) = blocks("python", page=TUTORIAL)
    assert found.file == "reflexflow.py"
    return found.text


@pytest.fixture
def file(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its file, named as its first line says, in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = block.split("\n", 1)[0].removeprefix("# ")
    Path(name).write_text(block, encoding="utf-8")
    return f"./{name}"


def test_the_tutorial_shows_a_whole_method_and_how_to_run_it(block: str, file: str) -> None:
    assert len(block.splitlines()) < 100
    text = "\n".join(found.text for found in blocks("sh", page=TUTORIAL))
    (methods,) = re.findall(r"^python -m bench run --methods (\S+) --name mine$", text, re.MULTILINE)
    assert file in methods.split(",")
    assert [chain.label for chain in load_settings("quick", {"methods": methods.split(",")}).methods] == [
        "sft",
        "reflexflow",
    ]
    for command in (["check"], ["format", "--check"]):  # as it would be read in methods/
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "methods/reflexflow.py", "-"]
        subprocess.run(ruff, input=block, text=True, cwd=registry.ROOT, check=True, capture_output=True)


def test_it_conforms(file: str, tiny_pipeline: Path) -> None:
    assert_conforms(file, load_world("scenes", str(tiny_pipeline)))  # its gradient goes on into the state, unlike SFT's


def test_its_update_is_the_formula(file: str) -> None:
    """By autograd through both passes, sample by sample; and with weight 0 it is SFT, to the last bit."""
    cls = registry.load_method(file)
    env, twin = (ClosedFormEnv(batch_size=8, micro_batch=size) for size in (3, 8))
    total, k, shift = torch.zeros(()), 20, twin.model.shift
    for batch in twin.draw.batches():
        z1, s0 = twin.draw.noise(batch.index), twin.draw.sigma(batch.index)
        t0 = s0 / (shift - (shift - 1) * s0)
        assert (t0 > 2 / k).all()  # none of these samples reaches the floor of the schedule
        s1 = shift * (t0 - 1 / k) / (1 + (shift - 1) * (t0 - 1 / k))
        z = (1 - s0[:, None]) * batch.z0 + s0[:, None] * z1
        v = twin.model.velocity(z, s0, batch.cond)
        zhat = z + (s1 - s0)[:, None] * v
        turned, away = twin.model.velocity(zhat, s1, batch.cond), zhat - batch.z0
        cosine = (turned * away).sum(1) / (turned.norm(dim=1) * away.norm(dim=1))
        total = total + ((v - (z1 - batch.z0)) ** 2).mean(1).sum() + 0.5 * (2 - 2 * cosine).sum()
    (total / 8).backward()
    twin.optimizer.step()
    metrics = cls(cls.Config(weight=0.5, rollout_steps=k)).step(env)
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)
    assert metrics["base"] + 0.5 * metrics["direction"] == pytest.approx(total.item() / 8, rel=1e-5)

    plain, same = ClosedFormEnv(micro_batch=4), ClosedFormEnv(micro_batch=4)
    expected = train(SFT(SFT.Config()), plain, 3)
    history = train(cls(cls.Config(weight=0.0)), same, 3)
    assert [{"base": metrics["base"]} for metrics in history] == expected
    assert torch.equal(plain.weights, same.weights)


def test_as_a_wheel_from_outside_the_tree_it_runs_by_its_name(
    block: str, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bench new --package`, the tutorial's method in it, built and installed without an index, run by the command."""
    create("reflexflow", tmp_path, package=True)
    home, wheels, site = tmp_path / "bench-reflexflow", tmp_path / "wheels", tmp_path / "site"
    class_name = re.findall(r"^class (\w+)\(Method\)", block, re.MULTILINE)[0]
    (home / "bench_reflexflow.py").write_text(block, encoding="utf-8")
    metadata = (home / "pyproject.toml").read_text(encoding="utf-8")
    (home / "pyproject.toml").write_text(metadata.replace(":Reflexflow", f":{class_name}"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    _done([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, home], tmp_path)
    (wheel,) = wheels.glob("bench_reflexflow-0.1.0-*.whl")
    _done([*pip, "install", *offline, "--target", site, wheel], tmp_path)

    (tmp_path / "tiny.yaml").write_text(TINY)
    results = tmp_path / "results"
    settings = ["--preset", "smoke", "--config", tmp_path / "tiny.yaml", "--model", tiny_pipeline, "--name", "wheel"]
    command = [sys.executable, "-m", "bench", "run", "--methods", "reflexflow", *settings, "--results", results]
    assert main([*map(str, command[3:])]) == 2  # here, where it is not installed
    assert "no method 'reflexflow' is registered" in capsys.readouterr().err
    out = _done(command, registry.ROOT, {"PYTHONPATH": str(site)})
    assert "alignment/reflexflow/seed0" in out and "done, " in out
    record = CellRecord(results / "wheel" / "alignment" / "reflexflow" / "seed0")
    assert record.status() == "done"
    assert all(0 < event.metrics["direction"] < 4 for event in record.events() if event.kind == "step")
    # Two passes with gradient a sample: the second is charged, and the way back through both.
    ledger = record.events()[-1].ledger
    assert ledger.forward == pytest.approx(2 * ledger.samples) and ledger.backward > 1.5 * ledger.forward


def _done(command: list[str | Path], folder: Path, variables: dict[str, str] | None = None) -> str:
    environment = {**os.environ, **(variables or {})}
    result = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_loss_of_a_strangers_method_is_shown_while_it_runs(tiny_pipeline: Path, tmp_path: Path) -> None:
    """It is the weighted sum of its terms, whatever they are called, and with any size of the micro-batches."""
    path = tmp_path / "stranger.py"
    path.write_text(STRANGER, encoding="utf-8")
    found = []
    for size in (8, 3):
        e = cells.experiment(tiny_pipeline, methods=[str(path)], budget="100", **{"train.micro_batch": size})
        events = cells.run(e, tmp_path / str(size), "stranger")
        steps = CellRecord(tmp_path / str(size) / e.name / "alignment" / "stranger" / "seed0").events()
        logged = [event.metrics for event in steps if isinstance(event, Step)]
        shown = [event["loss"] for event in events if event["event"] == "step"]
        assert len(shown) >= 3 and shown == [metrics["loss"] for metrics in logged]
        assert shown == pytest.approx([metrics["mse"] + 0.5 * metrics["size"] for metrics in logged], rel=1e-5)
        found.append(shown)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    display = ProgressDisplay(Console(file=io.StringIO(), force_terminal=True, width=80))
    for event in events[: 1 + next(i for i, event in enumerate(events) if event["event"] == "step")]:
        if event["event"] in EVENTS:
            display.handle(event)
    assert display.cells["alignment/stranger/seed0"].loss == shown[0]


def test_the_name_of_the_total_is_no_terms(tiny_pipeline: Path, tmp_path: Path) -> None:
    path = tmp_path / "stranger.py"
    path.write_text(STRANGER.replace('"mse"', '"loss"'), encoding="utf-8")
    e = cells.experiment(tiny_pipeline, methods=[str(path)], budget="100")
    with pytest.raises(PluginError, match="'loss' is the sum of all terms, which is logged by itself"):
        cells.run(e, tmp_path, "stranger")

"""A cell that is interrupted while it is judged at the end goes on with what is left to judge, and trains no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.api import BenchError
from bench.cli.experiment_options import with_prompt_sets
from tests.support.cells import experiment, facts, run

COUNTS = '''
from pathlib import Path
import numpy as np
from bench.api import Reward

class {Name}(Reward):
    """A reward that counts its pictures in a file, and needs one there that says it may."""
    name = "{name}"

    def load(self):
        self.fingerprint = Path("weights").read_text()

    def __call__(self, images, prompts, metadata):
        if not Path("may-{name}").exists():
            raise ConnectionError("{name} may not")
        with Path("log-{name}").open("a") as log:
            log.write("x" * len(images))
        return images.astype(np.float32).mean((1, 2, 3)) / 255
'''


def scored(name: str) -> int:
    """How many pictures the reward has scored since last asked."""
    log = Path(f"log-{name}")
    count = len(log.read_text()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return count


@pytest.mark.parametrize(
    ("label", "more"),
    [
        ("base", {}),
        ("sft", {"sft.train.ema_half_life": 0.3}),
        ("soar", {"soar.train.adaptation": "lora"}),
        ("sft+flowgrpo", {"flowgrpo.num_groups": 2, "flowgrpo.num_generations": 2}),
    ],
)
def test_what_was_judged_is_not_judged_again(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, more: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second", "third"):
        Path(f"{name}.py").write_text(COUNTS.format(name=name, Name=name.capitalize()))
    Path("weights").write_text("as published")
    Path("prompts.txt").write_text("a circle\na star\n")
    sets = {n: {"path": "prompts.txt", "scorers": [f"{n}.py"]} for n in ("second", "third")}
    gives = {f"evaluation.prompt_sets.{name}": given for name, given in sets.items()}
    gives |= {"task.scorers": ["scenes-geneval", "first.py"], "task.primary": "scenes-geneval"}
    methods = ["sft" if label == "base" else label]
    e = with_prompt_sets(experiment(tiny_pipeline, methods=methods, **gives, **more))

    for name in ("first", "second", "third"):
        Path(f"may-{name}").touch()
    run(e, tmp_path / "whole", label)
    whole = {name: scored(name) for name in ("first", "second", "third")}
    assert whole["second"] == whole["third"] == 2

    Path("may-third").unlink()
    with pytest.raises(BenchError, match="third may not"):
        run(e, tmp_path / "parts", label)
    assert (scored("first"), scored("second"), scored("third")) == (whole["first"] - 2, 2, 0)  # but the grid's pictures

    Path("may-third").touch()
    events = run(e, tmp_path / "parts", label)
    kinds = [event["event"] for event in events]
    assert "step" not in kinds and kinds.count("milestone") == 1
    where = "goes on with what was not judged yet" if label == "base" else "goes on from update"
    assert any(where in event["message"] for event in events if event["event"] == "note")
    assert (scored("first"), scored("second"), scored("third")) == (2, 0, 2)
    cell = Path(e.name, "alignment", label, "seed0")
    assert facts(tmp_path / "parts" / cell) == facts(tmp_path / "whole" / cell)
    models = [tmp_path / part / cell / "checkpoint" / "model" for part in ("parts", "whole")]
    for one, other in zip(*(sorted(model.rglob("*.safetensors")) for model in models), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_base_of_which_nothing_was_scored_takes_a_mended_checkpoint(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.py").write_text(COUNTS.format(name="first", Name="First"))
    Path("weights").write_text("damaged")
    e = experiment(tiny_pipeline, methods=["sft"], **{"task.scorers": ["scenes-geneval", "first.py"]})
    with pytest.raises(BenchError, match="first may not"):
        run(e, tmp_path / "results", "base")
    Path("weights").write_text("as published")
    Path("may-first").touch()
    events = run(e, tmp_path / "results", "base")
    assert [event["message"] for event in events if event["event"] == "note"] == ["failed before; starts afresh"]

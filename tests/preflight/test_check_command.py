"""`bench check` at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import registry
from bench.cli.main import main

SQUEEZED = '''
from bench.api import Reward

class Squeezed(Reward):
    """Forgets that one picture is a batch too."""
    name = "squeezed"

    def __call__(self, images, prompts, metadata):
        return images.reshape(len(images), -1).mean(1).squeeze() / 255
'''


def test_a_reward_that_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "scenes-geneval"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reward scenes-geneval: 8 checks"
    assert "  passed          range" in lines
    assert "  not applicable  gradient: the reward is not differentiable" in lines
    assert "  7 passed, 1 not applicable, in " in lines[-2]


def test_a_failure_says_what_was_expected_what_came_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "squeezed.py").write_text(SQUEEZED)
    assert main(["check", str(tmp_path / "squeezed.py"), "scenes-ocr"]) == 1
    out = capsys.readouterr().out
    failed = out[out.index("  FAILED          single-picture") :].splitlines()
    assert failed[1].strip() == "expected an array of shape (1,) for one picture; came shape ()"
    assert failed[2].strip().startswith("why it matters: a squeezed array")
    assert "6 passed, 1 failed, 1 not applicable" in out
    assert out.rstrip().endswith("1 of 2 conform; not squeezed")


MISSING = '''
from bench.api import CheckpointMissing, Reward

class Absent(Reward):
    """Its weights are not here."""
    name = "absent"

    def load(self):
        raise CheckpointMissing("nobody/nothing: expected weights; to get it: make it")

    def __call__(self, images, prompts, metadata):
        return images[:, 0, 0, 0] / 255
'''


def test_all_leaves_out_what_has_no_checkpoint_here_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "absent.py").write_text(MISSING)
    everything = {registry.METHODS: (), registry.REWARDS: (str(tmp_path / "absent.py"), "scenes-ocr")}
    monkeypatch.setattr(registry, "names", everything.__getitem__)
    assert main(["check", "--all"]) == 0
    out = capsys.readouterr().out
    assert "  not checked: nobody/nothing: expected weights; to get it: make it" in out
    assert out.rstrip().endswith("1 of 2 conform; no checkpoint here: absent")
    assert main(["check", str(tmp_path / "absent.py")]) == 2
    assert "to get it: make it" in capsys.readouterr().err


def test_the_list_has_every_check_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert "  resume                    a run that was interrupted" in out
    assert "  order                     scores handed to the wrong pictures" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected names of methods or rewards, --all, or --list"),
        (["sfft"], "no method or reward 'sfft' is registered; did you mean 'sft'?"),
        (["scenes-ocrr"], "no method or reward 'scenes-ocrr' is registered; did you mean 'scenes-ocr'?"),
        (["nowhere.py"], "'nowhere.py': there is no such file"),
        (["sft", "--alll"], "no option --alll; did you mean --all?"),
    ],
)
def test_what_does_not_exist_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err

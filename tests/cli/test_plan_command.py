"""`bench plan` for named cards, as it is given on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.main import main

SMALL = [
    "plan", "--preset", "rehearsal", "--model", "shrunken", "--methods", "sft", "--runtime.resolution", "64",
    "--runtime.text_length", "24", "--train.gradient_checkpointing", "false",
]  # fmt: skip


@pytest.mark.slow
def test_cards_are_compared_at_the_utilisation_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    command = [*SMALL, "--gpu", "h100, RTX4090", "--utilisation", "0.25", "--results", str(results)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "One card at 0.25 of its dense peak" in out
    table = out[out.index("One card at") :].splitlines()
    h100, rtx = (next(line for line in table if line.startswith(title)) for title in ("H100 SXM", "RTX 4090"))
    assert "fits: at most" in h100 and "fits: at most" in rtx
    assert "A100" not in out and "memory of the card" in out and "disk, at most" in out
    assert not results.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "h10"], "--gpu: no card 'h10' is known; did you mean 'h100'?"),
        (["--gpu", "voodoo"], "--gpu: no card 'voodoo' is known; choose from rtx3090"),
        (["--gpu", ""], "--gpu: no card '' is known; choose from"),
        (["--gpu", "h100", "--utilisation", "1.5"], "expected a share above 0 and at most 1, got 1.5"),
        (["--gpu", "h100", "--utilisation", "nan"], "expected a share above 0 and at most 1, got nan"),
        (["--gpu", "h100", "--utilisation", "half"], "expected a share above 0 and at most 1, got half"),
    ],
)
def test_a_wrong_card_or_share_is_one_message(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("option", [["--utilisation", "0.3"], ["--cards", "4"], ["--shard", "true"]])
def test_what_is_for_computed_hours_is_not_taken_where_the_model_is_measured(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *option]) == 2
    assert "this model is here and is measured, by one process: name a card by --gpu" in capsys.readouterr().err

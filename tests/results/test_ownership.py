"""Results are the user's own until they are shared: out of version control, and out of the report of what is shared."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.api import DataError
from bench.cli.main import main
from bench.results import report
from bench.results.records.ownership import is_own, mark_as_own
from bench.results.report.page import PAGE
from tests.support.synthetic_results import World, write_world

SMALL = World(tasks=("alignment",), seeds=2, methods=("sft",), prompts=16, milestone_prompts=8, grid=((), ()))


def git(folder: Path, *arguments: str) -> str:
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *user, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one shared experiment and its reports."""
    folder = tmp_path_factory.mktemp("made")
    write_world(folder / "results", replace(SMALL, name="shared"))
    report.write_report(folder / "results", folder / "REPORT.md")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Share")
    return folder


@pytest.fixture
def checkout(made: Path, tmp_path: Path) -> Path:
    """The same, with an experiment of the user's own, and no report of it."""
    folder = Path(shutil.copytree(made, tmp_path / "checkout"))
    mark_as_own(write_world(folder / "results", replace(SMALL, name="mine")))
    return folder


def test_own_results_leave_the_checkout_as_it_was(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, results = checkout / "results" / "mine", str(checkout / "results")
    assert is_own(mine) and not is_own(checkout / "results" / "shared")
    assert git(checkout, "status", "--porcelain") == ""
    assert main(["report", "mine", "--results", results]) == 0
    assert capsys.readouterr().out.split() == [str(mine / "REPORT.md")]
    assert (mine / PAGE).is_file() and (mine / "figures" / "curves-alignment.png").is_file()
    assert main(["report", "--results", results]) == 0
    own_first = [mine / "REPORT.md", checkout / "results/shared/REPORT.md", checkout / "REPORT.md"]
    assert capsys.readouterr().out.split() == list(map(str, own_first))
    assert main(["report", "--check", "--results", results]) == 0
    assert main(["verify", "--results", results]) == 0
    (checkout / "results" / "shared" / PAGE).unlink()  # kept out by the checkout's own rule, which is not here
    assert git(checkout, "status", "--porcelain") in ("", " D results/shared/report.html\n")
    assert "mine" not in (checkout / "REPORT.md").read_text()


def test_a_results_folder_that_is_an_experiment_stands_for_it(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = checkout / "results" / "mine"
    assert main(["report", "--results", str(mine)]) == 0
    assert main(["report", "--results", str(mine), "--check"]) == 0
    monkeypatch.chdir(mine)
    assert main(["report", "--results", ".", "--check"]) == 0
    (mine / "REPORT.md").write_text((mine / "REPORT.md").read_text() + "more\n")
    assert main(["report", "--results", ".", "--check"]) == 1
    assert "text says 'more'" in capsys.readouterr().err.replace("-", "")


def test_what_is_shared_stands_in_the_report(checkout: Path) -> None:
    (checkout / "results" / "mine" / ".gitignore").unlink()
    told = report.check_report(checkout / "results", checkout / "REPORT.md")
    assert any(line.endswith("mine/REPORT.md is missing: run `python -m bench report`") for line in told)
    report.write_report(checkout / "results", checkout / "REPORT.md")
    assert report.check_report(checkout / "results", checkout / "REPORT.md") == []
    assert "[mine](results/mine/REPORT.md)" in (checkout / "REPORT.md").read_text()
    assert "results/mine/" in git(checkout, "status", "--porcelain")


def test_own_results_alone_have_no_report_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark_as_own(write_world(tmp_path / "results", replace(SMALL, name="mine")))
    assert main(["report", "--results", str(tmp_path / "results")]) == 0
    assert main(["report", "--check", "--results", str(tmp_path / "results")]) == 0
    assert not (tmp_path / "REPORT.md").exists() and (tmp_path / "results/mine/REPORT.md").is_file()
    capsys.readouterr()
    for arguments, message in (
        (["miner"], "no experiment 'miner' in "),
        (["mine", "--report", "x.md"], "--report is of the report of all experiments"),
    ):
        assert main(["report", *arguments, "--results", str(tmp_path / "results")]) == 2
        assert message in capsys.readouterr().err


def test_a_link_in_the_place_of_the_mark_or_the_report_is_not_followed(checkout: Path, tmp_path: Path) -> None:
    mine, outside = checkout / "results" / "mine", tmp_path / "outside"
    outside.write_text("kept")
    (mine / "REPORT.md").symlink_to(outside)
    with pytest.raises(DataError, match=r"REPORT\.md is a link"):
        report.write_experiment(mine)
    (mine / "REPORT.md").unlink()
    (mine / "REPORT.md").write_text("my own notes")
    with pytest.raises(DataError, match="was not written by `bench report`"):
        report.write_experiment(mine)
    (mine / ".gitignore").unlink()
    (mine / ".gitignore").symlink_to(outside)
    with pytest.raises(DataError, match=r"\.gitignore is a link"):
        is_own(mine)
    assert outside.read_text() == "kept"

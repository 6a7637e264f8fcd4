"""A detached run: a session of its own, a log beside the results, and nothing started where it could not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.api import DataError
from bench.cli.main import main
from bench.cli.run import command_line
from bench.experiments.detach import detach
from bench.locks import hold_lock


def test_it_runs_in_a_session_of_its_own_and_writes_to_its_log(tmp_path: Path) -> None:
    pid, log = detach(["list", "methods"], tmp_path / "results" / "long")
    assert os.getsid(pid) == pid != os.getsid(0)
    assert os.waitpid(pid, 0)[1] == 0
    first, *rest = log.read_text().splitlines()
    assert first.startswith("== 20") and first.endswith("  bench list methods")
    assert any("soar" in line for line in rest)
    assert log == tmp_path / "results" / "long" / "run.log"


def test_nothing_is_started_where_it_could_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", "--preset", "smoke", "--detach", "--results", str(tmp_path / "results")]
    folder = tmp_path / "results" / "smoke"
    with hold_lock(folder / "run.lock"):
        assert main(run) == 2
        assert "is held by process" in capsys.readouterr().err
        with pytest.raises(DataError, match="another --name"):
            detach(["list"], folder)
    assert main([*run, "--budget", "5 apples"]) == 2
    assert "5 apples" in capsys.readouterr().err
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main(run) == 2
    assert "start the launcher itself" in capsys.readouterr().err
    assert not (folder / "run.log").exists()


def test_the_recorded_command_says_neither_how_it_was_watched_nor_where() -> None:
    given = ["run", "--name", "x", "--track", "trackio", "--results=here", "--seeds", "2"]
    assert command_line(given) == "python -m bench run --name x --seeds 2"

"""Records, telemetry, commands and reports say nothing of the machine: no host name, and no absolute path."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench import registry
from bench.canonical import config_hash
from bench.datasets.pictures.inspection import InspectedPictures, copy_lists, csv_bytes
from bench.experiments.grid import experiment_header
from bench.results.records.hashes import line_hash
from bench.results.records.schema import Telemetry, dump, parse_telemetry
from bench.results.records.writer import read_experiment_header
from bench.results.report import write_report
from tests.support.cells import experiment, run
from tests.support.synthetic_results import World, write_world

ROOT = Path(__file__).resolve().parents[1]
# Of two folders at least, or in one of those where users' files lie; what follows a word, a dot or a scheme is none.
ABSOLUTE = re.compile(r"(?<![\w.~/<>*])(?:/[A-Za-z0-9_.@-]+){2,}|/(?:home|root|Users|tmp|mnt|workspace)/\w+")
HOST = {"host", "hostname", "node", "machine", "fqdn", "user", "username", "cwd", "home", "ip", "address"}
LEFT_BEHIND = (".lock", ".part", "run.log")  # of a run; .gitignore has them


def texts(path: Path) -> Iterator[str]:
    """All texts of a stored file: its lines, the names and cells of its tables, the words of its pictures."""
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield from file.schema_arrow.names
        if path.name.startswith("pictures"):  # the texts of scores are splits and categories
            yield from map(str, (cell for column in file.read().columns for cell in column.to_pylist()))
    elif path.suffix == ".html":  # data: URLs and files within aside, whose letters may look like paths
        yield from re.sub(r"[\w+/=]{40,}", "", path.read_text(encoding="utf-8")).splitlines()
    elif path.suffix == ".png":
        yield from (text.decode("latin-1") for text in re.findall(rb"tEXt([\x00-\x7f]{4,200})", path.read_bytes()))
    else:
        yield from path.read_text(encoding="utf-8").splitlines()


def names(value: Any) -> Iterator[str]:
    """The names of all fields in a JSON value."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names(item)


def told(folder: Path) -> list[str]:
    """What the files of a folder, or a file, tell of the machine: a place and a text each."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if not path.is_file() or path.name.endswith(LEFT_BEHIND) or "checkpoint" in path.parts:
            continue
        for text in texts(path):
            found += [f"{path}: {match[0]!r}" for match in ABSOLUTE.finditer(text)]
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            lines = [json.loads(path.read_bytes())] if path.suffix == ".json" else []
        found += [f"{path}: a field {name!r}" for line in lines for name in names(line) if name.lower() in HOST]
    return found


def test_what_is_committed_tells_nothing_of_a_machine() -> None:
    assert [line for place in ("results", "REPORT.md") for line in told(ROOT / place)] == []


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "cannot read /srv/data/x.png"}',
        '{"model": "/opt/models"}',
        '{"a": [{"host": "gpu7"}]}',
        '{"source": "../../home/ada/x.py"}',
        '{"command": "sft,/srv/ada/x.py"}',
    ],
)
def test_what_tells_of_a_machine_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.jsonl").write_text(f"{text}\n")
    assert len(told(tmp_path)) == 1


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
@pytest.mark.parametrize(
    "name",
    [
        "run.lock",
        "progress.json",
        "a/b/seed0/checkpoint/cell.lock",
        "run.log",
        "a/.x.json.12.part",
        "tracking/events.out.host",
    ],
)
def test_what_a_run_leaves_behind_is_not_committed(name: str) -> None:
    """It may hold the name of the machine."""
    asked = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--quiet", f"results/mine/{name}"]
    assert subprocess.run(asked, check=False).returncode == 0


def test_older_telemetry_is_read_and_its_host_forgotten() -> None:
    fields = {"kind": "end", "update": 3, "seconds": 1.0, "cpu_seconds": 1.0, "max_rss_mib": 1.0, "time": "2026-01-01"}
    older = parse_telemetry(json.dumps({**fields, "host": "gpu7"}))
    assert dump(older) == dump(Telemetry.model_validate(fields)) and "host" not in dump(older)


@pytest.mark.slow
def test_the_report_of_older_records_names_no_folder(tmp_path: Path) -> None:
    """They hold paths as they were given, which it shows without the folders, the same on every machine."""
    small = World(tasks=("alignment",), seeds=1, methods=("sft",), prompts=16, milestone_prompts=8, grid=((), ()))
    folder = write_world(tmp_path / "results", small)
    header = json.loads((folder / "experiment.json").read_text())
    header["command"] = "python -m bench run --preset /srv/ada/mine.yaml"
    header["config"]["model"] = "/srv/ada/models/sd35"
    header["config_hash"] = config_hash(header["config"])
    header["hash"] = line_hash(header, "")
    (folder / "experiment.json").write_text(json.dumps(header))
    write_report(tmp_path / "results", tmp_path / "REPORT.md")
    text = (folder / "REPORT.md").read_text()
    assert told(folder / "REPORT.md") == told(tmp_path / "REPORT.md") == []
    assert "`python -m bench run --preset .../mine.yaml` (`...` stands for a folder that is not recorded)" in text
    assert '"model": ".../sd35"' in text


@pytest.mark.slow
def test_a_cell_never_writes_the_name_of_its_machine(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu7-of-ada")
    e = experiment(tiny_pipeline, methods=["sft"])
    run(e, tmp_path, "sft")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"record.jsonl", "telemetry.jsonl"} <= {path.name for path in files}
    assert [path for path in files if b"gpu7-of-ada" in path.read_bytes()] == []  # locks are let go of, and empty
    assert told(tmp_path) == []


METHOD = '''
from bench import flow
from bench.api import Method, Needs

class Mine(Method):
    """A method of a user's."""
    name = "{name}"
    needs = Needs(data=True)

    def step(self, env):
        {body}
        for batch in env.draw.batches():
            v = env.model.velocity(batch.z0, env.draw.sigma(batch.index), batch.cond)
            env.backward({{"base": (1.0, flow.per_sample_mse(v, batch.z0))}}, count=env.batch_size)
        return env.update()
'''
REWARD = '''
import numpy as np
from bench.api import Reward

class Bright(Reward):
    """A reward of a user's."""
    name = "bright"

    def __call__(self, images, prompts, metadata):
        return images.astype(np.float32).mean((1, 2, 3)) / 255
'''


def test_a_header_keeps_no_folder_of_whatever_command_it_is_given(tiny_pipeline: Path, tmp_path: Path) -> None:
    header = experiment_header(experiment(tiny_pipeline), tmp_path, "python -m bench run --preset /srv/ada/mine.yaml")
    assert header.command == "python -m bench run --preset .../mine.yaml"


@pytest.mark.slow
def test_a_run_with_a_users_own_files_names_no_folder_of_theirs(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Plugins in the project, in the user's folder and elsewhere, all given by absolute paths; one of them fails."""
    from tests.support import cells

    home, elsewhere = tmp_path / "ada", tmp_path / "disk"
    project = home / "project"
    for folder in (project, elsewhere):
        folder.mkdir(parents=True)
    (project / "good.py").write_text(METHOD.format(name="good", body=""))
    (elsewhere / "bad.py").write_text(METHOD.format(name="bad", body="raise ValueError(f'not in {__file__}')"))
    (home / "bright.py").write_text(REWARD)
    (project / "mine.yaml").write_text("extends: smoke\n")
    own = {
        "methods": f"{project}/good.py,{elsewhere}/bad.py",
        "task.scorers": [f"{home}/bright.py", "scenes-aesthetic"],
        "task.primary": f"{home}/bright.py",
        "task.select": f"0.5*{home}/bright.py+0.5*scenes-aesthetic",
        "model": str(tiny_pipeline),
    }
    options = cells.options(tiny_pipeline, **own)
    command = ["-m", "bench", "run", "--preset", f"{project}/mine.yaml", *options, "--workers", "1", "--name", "mine"]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(registry.ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 cells failed" in done.stderr and str(elsewhere / "bad.py") in done.stdout  # the terminal tells all

    assert told(project / "results") == []
    for path in (project / "results").rglob("*"):
        if path.is_file() and "checkpoint" not in path.parts:
            assert str(tmp_path).encode() not in path.read_bytes(), path

    folder = project / "results" / "mine"
    header = read_experiment_header(folder)
    words = shlex.split(header.command)
    assert words[:6] == ["python", "-m", "bench", "run", "--preset", "mine.yaml"]
    assert {"--methods=good.py,.../bad.py", "--task.primary=~/bright.py", "--model=.../pipeline"} <= set(words)
    assert header.tasks["alignment"].scorers == ("~/bright.py", "scenes-aesthetic") and "~/bright.py" in header.scorers
    assert header.tasks["alignment"].filter == "0.5*~/bright.py+0.5*scenes-aesthetic"
    good = [json.loads(line) for line in (folder / "alignment/good/seed0/record.jsonl").read_text().splitlines()]
    assert good[0]["config"]["stages"][0]["source"] == "good.py" and good[0]["config"]["model"] == ".../pipeline"
    assert good[-1]["status"] == "done"
    bad = json.loads((folder / "alignment/bad/seed0/record.jsonl").read_text().splitlines()[-1])
    assert "raised ValueError: not in .../bad.py (.../bad.py:" in bad["reason"]
    report = (folder / "REPORT.md").read_text()
    assert "`...` stands for a folder that is not recorded" in report and "bright" in report


def test_the_list_of_pictures_left_out_names_no_folder(tmp_path: Path) -> None:
    found = InspectedPictures((), (), tmp_path / "cache", 0)
    found.folder.mkdir()
    rows = [("metadata.jsonl:3", f"{tmp_path}/a.png", "outside", f"'{tmp_path}/a.png' leads out of {tmp_path}")]
    (found.folder / "left-out.csv").write_bytes(csv_bytes(("place", "name", "kind", "detail"), rows))
    (found.folder / "pictures.parquet").write_bytes(b"kept as it is")
    copy_lists(found, tmp_path / "results" / "data")
    written = (tmp_path / "results" / "data" / "left-out.csv").read_text()
    assert str(tmp_path) not in written
    assert list(csv.reader(io.StringIO(written)))[1][:3] == ["metadata.jsonl:3", ".../a.png", "outside"]

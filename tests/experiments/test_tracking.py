"""Curves for TensorBoard, trackio and wandb: a function of the records, local, refused at once without the package."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.api import ConfigError
from bench.cli.main import main
from bench.config.load import load_settings
from bench.experiments.grid import experiment_header
from bench.experiments.status.tracking import (
    Point,
    TensorBoard,
    Tracked,
    Tracker,
    Trackio,
    WeightsAndBiases,
    tracker_of,
)
from bench.results.records.writer import CellRecord
from tests.experiments.test_status import cell, milestone, step

SFT = "alignment/sft/seed0"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Screen:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def handle(self, event: dict[str, Any]) -> None:
        self.shown.append(event["event"])


class Memory:
    """A tracker in memory."""

    hint = ""

    def __init__(self) -> None:
        self.points: dict[str, list[Point]] = {}

    def begin(self, cell: str) -> None:
        self.points[cell] = []

    def write(self, cell: str, points: Sequence[Point]) -> None:
        self.points[cell] += points


def grow(record: CellRecord, tracked: Tracked) -> None:
    """Two steps and a milestone, each followed by the display's event."""
    for update in (1, 2):
        step(record, update, WHEN, cost=96.0 * update)
        tracked.handle({"cell": SFT, "event": "step"})
    milestone(record, 2, 0.5, cost=192.0)
    tracked.handle({"cell": SFT, "event": "milestone"})


def test_what_grew_in_the_record_is_passed_on_once(tmp_path: Path) -> None:
    screen, memory = Screen(), Memory()
    tracked = Tracked(screen, memory, tmp_path)
    tracked.handle({"cell": SFT, "event": "start"})
    record = cell(tmp_path, SFT)
    grow(record, tracked)
    tracked.handle({"cell": SFT, "event": "step"})  # nothing was logged
    assert screen.shown == ["start", "step", "step", "milestone", "step"]
    assert [(p.update, p.cost) for p in memory.points[SFT]] == [(1, 96.0), (2, 192.0), (2, 192.0)]
    first, _, last = memory.points[SFT]
    assert (first.time, first.values) == (WHEN, {"training/loss": 0.25})
    assert last.values == {"score/scenes-clip": 0.31, "score/scenes-geneval": 0.625}

    record.truncate(2)  # the cell goes on from a checkpoint after the first update, in another run
    again = Tracked(Screen(), memory, tmp_path)
    step(record, 2, WHEN, cost=192.0)
    again.handle({"cell": SFT, "event": "step"})
    assert [p.update for p in memory.points[SFT]] == [1, 2]


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    read = EventAccumulator(str(folder))
    read.Reload()
    found = {tag: [(e.step, e.value, e.wall_time) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    for tag in read.Tags()["tensors"]:
        found[tag] = [(e.step, float(make_ndarray(e.tensor_proto)), e.wall_time) for e in read.Tensors(tag)]
    return found


def test_tensorboard_shows_the_record_over_updates_and_cost(tmp_path: Path) -> None:
    for _ in range(2):  # a second run begins afresh, and nothing stands there twice
        record = cell(tmp_path, SFT)
        record.truncate(1)
        grow(record, Tracked(Screen(), TensorBoard(tmp_path / "tracking", "long"), tmp_path))
    seconds = WHEN.timestamp()
    found = scalars(tmp_path / "tracking" / SFT)
    assert found["training over updates/loss"] == [(1, 0.25, seconds), (2, 0.25, seconds)]
    assert found["training over cost/loss"] == [(96, 0.25, seconds), (192, 0.25, seconds)]
    assert [point[:2] for point in found["score over cost/scenes-geneval"]] == [(192, 0.625)]
    assert len(found) == 2 + 4


def test_trackio_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("trackio") is None:  # not imported here: it reads the environment when it is
        pytest.skip("trackio is not installed: it wants an older Pillow, so only the extra `track` brings it")

    def connect(*args: Any) -> None:
        raise AssertionError(f"the network was asked for: {args}")

    monkeypatch.setenv("TRACKIO_DIR", "")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/somewhere")
    monkeypatch.setattr(socket.socket, "connect", connect)
    for _ in range(2):
        record = cell(tmp_path, SFT)
        record.truncate(1)
        grow(record, Tracked(Screen(), Trackio(tmp_path / "tracking", "long"), tmp_path))
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("long", SFT)
    assert [(row["step"], row["updates"], row["cost"]) for row in rows] == [(1, 1, 96), (2, 2, 192), (2, 2, 192)]
    assert rows[0]["training/loss"] == 0.25 and rows[2]["score/scenes-geneval"] == 0.625
    assert datetime.fromisoformat(rows[0]["timestamp"]) == WHEN
    assert {path.parent for path in tmp_path.rglob("*.db")} == {tmp_path / "tracking"}
    with pytest.raises(ConfigError, match="Choose another --name"):
        Trackio(tmp_path / "tracking", "long_system")
    with pytest.raises(ConfigError, match="start another one"):
        Trackio(tmp_path / "elsewhere", "long")


def logged(folder: Path) -> list[dict[str, Any]]:
    """The rows of the run in a folder of wandb's, in the log format of LevelDB: blocks of 32 KiB, of whole records."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    data, place, rows = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        assert kind == 1 and len(data) < 32_768  # a whole record, of the first block
        record = Record.FromString(data[place + 7 : place + 7 + size])
        place += 7 + size
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_group, record.run.display_name, record.run.host) == ("long", SFT, "")
    return rows


@pytest.mark.slow
def test_wandb_stays_offline_and_tells_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where WANDB_MODE says nothing; a second run begins afresh."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    init, given = wandb.init, list[dict[str, Any]]()
    monkeypatch.setattr(wandb, "init", lambda **options: given.append(options) or init(**options))
    for _ in range(2):
        record = cell(tmp_path, SFT)
        record.truncate(1)
        tracker = WeightsAndBiases(tmp_path / "tracking", "long")
        grow(record, Tracked(Screen(), tracker, tmp_path))
        tracker._runs[SFT].finish()
    wandb.teardown()  # waits until all is written
    assert {options["settings"].mode for options in given} == {"offline"}
    (folder,) = (tmp_path / "tracking" / "wandb").glob("*run-*")
    assert folder.name.startswith("offline-run-") and not list(folder.rglob("*metadata*"))
    rows = logged(folder)
    assert [(row["updates"], row["cost"]) for row in rows] == [(1, 96), (2, 192), (2, 192)]
    assert rows[0]["training/loss"] == 0.25 and rows[2]["score/scenes-geneval"] == 0.625
    assert rows[0]["_timestamp"] == WHEN.timestamp()
    (written,) = folder.glob("*.wandb")
    for told in (socket.gethostname(), str(tmp_path), str(Path.home())):
        assert told.encode() not in written.read_bytes()


@pytest.mark.parametrize(("mode", "words"), [("online", "nobody has logged in"), ("shared", "offline or online")])
def test_wandb_goes_online_with_the_user_s_own_login_alone(
    mode: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["run", "--preset", "smoke", "--track", "wandb", "--results", str(tmp_path / "results")]) == 2
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_one_message_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "")
    for module in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for more in ([], ["--detach"]):
        run = ["run", "--preset", "smoke", "--track", name, "--results", str(tmp_path / "results")]
        assert main([*run, *more]) == 2
        out, error = capsys.readouterr()
        assert out == "" and f"--track {name} needs the package {name}" in error and ".[track]" in error
    assert list(tmp_path.iterdir()) == []


def test_no_number_depends_on_the_tracker(tmp_path: Path) -> None:
    plain, tracked = load_settings("smoke", {}), load_settings("smoke", {"track": "tensorboard"})
    assert plain.config_hash == tracked.config_hash
    assert experiment_header(plain, tmp_path) == experiment_header(tracked, tmp_path)
    assert plain.cell_config("alignment", "sft") == tracked.cell_config("alignment", "sft")
    nothing: Tracker | None = tracker_of(plain, tmp_path)
    assert nothing is None

"""The curves of a run for TensorBoard, trackio or Weights & Biases, written from its records while they grow.

Nothing goes over a network, but where the user sets WANDB_MODE to online and has logged in.

One run of the tracker for each cell. It is written from the beginning of the record each time, so that a cell that goes
on after an interruption has no work twice. What is shown: the metrics of logged steps, and the milestones' scores,
diversity and drift, over updates and over cost. Records stay the truth: no report reads any of this.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench.api import ConfigError, DataError
from bench.config.settings import Experiment
from bench.experiments.workers import EventHandler
from bench.files import disk_errors
from bench.paths import inside
from bench.results.records.schema import Event, Milestone, Step
from bench.results.records.writer import read_events, read_telemetry

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

FOLDER = "tracking"
_GROWN = ("step", "milestone", "end")  # events of the display after which a record may have grown


@dataclass(frozen=True)
class Point:
    """What is known after `update` updates at `cost` forward-equivalents; names of values are `group/name`."""

    update: int
    cost: float
    time: datetime
    values: Mapping[str, float]


class Tracker(Protocol):
    """Where curves are written; `hint` says how to look at them."""

    hint: str

    def begin(self, cell: str) -> None:
        """Forget what an earlier attempt wrote of this cell."""

    def write(self, cell: str, points: Sequence[Point]) -> None:
        """Add points to the run of a cell."""


def tracker_of(experiment: Experiment, results: Path) -> Tracker | None:
    """The tracker that the experiment asks for, which writes beside its results; None where it asks for none.

    Raises:
        ConfigError: its package is not installed, or it cannot be used as asked.
    """
    if experiment.track is None:
        return None
    kinds: dict[str, Callable[[Path, str], Tracker]] = {
        "tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases,
    }  # fmt: skip
    try:
        return kinds[experiment.track](inside(results, f"{experiment.name}/{FOLDER}"), experiment.name)
    except ImportError as error:
        raise ConfigError(
            f"--track {experiment.track} needs the package {experiment.track}, which cannot be imported ({error}): "
            "pip install -e '.[track]', or leave --track out"
        ) from error


class TensorBoard:
    """An event file for each cell, without torch: TensorBoard's own writer."""

    def __init__(self, folder: Path, project: str) -> None:
        from tensorboard.summary.writer import event_file_writer

        self.hint = f"tensorboard --logdir {folder}"
        self._open = event_file_writer.EventFileWriter
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def begin(self, cell: str) -> None:
        """As `Tracker` has it."""
        place = inside(self._folder, cell)
        with disk_errors(place):
            shutil.rmtree(place, ignore_errors=True)
            self._writers[cell] = self._open(str(place))

    def write(self, cell: str, points: Sequence[Point]) -> None:
        """As `Tracker` has it; a value stands under `group over updates/name` and `group over cost/name`."""
        from tensorboard.compat.proto.event_pb2 import Event as Entry
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._writers[cell]
        with disk_errors(self._folder):
            for point in points:
                for axis, step in (("updates", point.update), ("cost", round(point.cost))):
                    values = [
                        Summary.Value(tag=name.replace("/", f" over {axis}/", 1), simple_value=value)
                        for name, value in point.values.items()
                    ]
                    writer.add_event(Entry(wall_time=point.time.timestamp(), step=step, summary=Summary(value=values)))
            writer.flush()


class Trackio:
    """trackio's local database. Its `init` and `log` are not used: the environment may lead those to the hub."""

    def __init__(self, folder: Path, project: str) -> None:
        folder = folder.resolve()
        os.environ["TRACKIO_DIR"] = str(folder)
        from trackio import utils
        from trackio.sqlite_storage import SQLiteStorage

        if folder != utils.TRACKIO_DIR:  # read once, at import
            raise ConfigError(f"this process has used trackio in {utils.TRACKIO_DIR} before: start another one")
        try:
            SQLiteStorage.validate_project_name(project)
        except ValueError as error:
            raise ConfigError(f"--track trackio: {error} Choose another --name") from error
        self.hint = f"TRACKIO_DIR={folder} trackio show --project {project}"
        self._folder = folder
        self._storage = SQLiteStorage
        self._project = project

    def begin(self, cell: str) -> None:
        """As `Tracker` has it."""
        with _stored(self._folder):
            self._storage.delete_run(self._project, cell)

    def write(self, cell: str, points: Sequence[Point]) -> None:
        """As `Tracker` has it; `updates` and `cost` can be chosen as the horizontal axis."""
        rows = [{"updates": p.update, "cost": p.cost, **p.values} for p in points]
        times = [p.time.isoformat() for p in points]
        with _stored(self._folder):
            self._storage.bulk_log(self._project, cell, rows, steps=[p.update for p in points], timestamps=times)


class WeightsAndBiases:
    """A run of wandb for each cell, in the group of the experiment; offline, unless WANDB_MODE says online.

    Nothing of the machine, the environment or the sources is told, but what wandb's own logs in the folder hold. The
    project is `bench`, or what WANDB_PROJECT says.
    """

    def __init__(self, folder: Path, project: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import; else it reports over the network
        import wandb

        asked = os.environ.get("WANDB_MODE") or "offline"
        if asked not in ("offline", "online"):
            raise ConfigError(f"--track wandb: WANDB_MODE is {asked!r}: set it to offline or online, or leave it")
        mode: Literal["offline", "online"] = "online" if asked == "online" else "offline"
        if mode == "online":
            _require_login(wandb)
        where = os.environ.get("WANDB_PROJECT") or "bench"
        self.hint = f"wandb sync {folder / 'wandb' / 'offline-run-*'}   (sends them; nothing was sent yet)"
        if mode == "online":
            self.hint = f"project {where} at wandb, group {project}"
        self._wandb = wandb
        self._settings = wandb.Settings(
            project=where, run_group=project, mode=mode, silent=True, console="off", host="", program="bench",
            disable_git=True, disable_code=True, disable_job_creation=True, symlink=False, x_disable_meta=True,
            x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        self._folder = folder
        self._group = project
        self._runs: dict[str, Any] = {}

    def begin(self, cell: str) -> None:
        """As `Tracker` has it; online the run of the same id is overwritten."""
        identity = blake2b(f"{self._group}/{cell}".encode(), digest_size=8).hexdigest()
        with self._told():
            for earlier in self._folder.glob(f"wandb/*run-*-{identity}"):
                shutil.rmtree(earlier)
            self._folder.mkdir(parents=True, exist_ok=True)
            run = self._wandb.init(
                id=identity, name=cell, dir=self._folder, reinit="create_new", settings=self._settings
            )
            run.define_metric("*", step_metric="updates")
            self._runs[cell] = run

    def write(self, cell: str, points: Sequence[Point]) -> None:
        """As `Tracker` has it; `updates` is the horizontal axis, and `cost` can be chosen."""
        with self._told():
            for point in points:
                row = {"updates": point.update, "cost": point.cost, "_timestamp": point.time.timestamp()}
                self._runs[cell].log({**row, **point.values})

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns the refusals of system and wandb into one message."""
        try:
            with disk_errors(self._folder):
                yield
        except self._wandb.Error as error:
            raise DataError(f"--track wandb: {error}; leave --track out, or set WANDB_MODE to offline") from error


def _require_login(wandb: Any) -> None:
    try:
        why = "" if wandb.login(prompt=False) else "nobody has logged in"
    except wandb.Error as error:
        why = str(error)
    if why:
        raise ConfigError(
            f"--track wandb: WANDB_MODE is online, and {why}: run `wandb login`, or leave WANDB_MODE out, which keeps "
            "the curves on this machine until `wandb sync` sends them"
        )


@contextmanager
def _stored(folder: Path) -> Iterator[None]:
    """Turns the refusals of system and database into one message."""
    try:
        with disk_errors(folder):
            yield
    except sqlite3.Error as error:
        raise DataError(f"cannot write {folder}: {error}; remove that folder, or leave --track out") from error


class Tracked:
    """A display whose events also tell when to look into the records, and to pass on what has grown there."""

    def __init__(self, display: EventHandler, tracker: Tracker, folder: Path) -> None:
        self._display = display
        self._tracker = tracker
        self._folder = folder
        self._events: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event.

        Raises:
            DataError: a record is damaged, or the tracker cannot be written.
        """
        if event["event"] in _GROWN:
            self._pass_on(event["cell"])
        self._display.handle(event)

    def _pass_on(self, cell: str) -> None:
        place = inside(self._folder, cell)
        record = place / "record.jsonl"
        size = record.stat().st_size if record.is_file() else 0
        if size == self._sizes.get(cell, 0):
            return
        self._sizes[cell] = size
        events = read_events(place)
        if cell not in self._events:
            self._tracker.begin(cell)
        new = events[self._events.get(cell, 0) :]
        self._events[cell] = len(events)
        found = points(new, _times(place))
        if found:
            self._tracker.write(cell, found)


def points(events: Iterable[Event], times: Mapping[tuple[str, int], datetime]) -> list[Point]:
    """The steps and milestones among events; one that telemetry does not know (yet) has the present time."""
    found = []
    for event in events:
        if isinstance(event, Step | Milestone):
            time = times.get((event.kind, event.update)) or datetime.now(UTC)
            found.append(Point(event.update, event.ledger.cost, time, _values(event)))
    return found


def _values(event: Step | Milestone) -> dict[str, float]:
    if isinstance(event, Step):
        return {f"training/{name}": value for name, value in event.metrics.items()}
    values = {f"score/{name}": summary.mean for name, summary in event.scores.items()}
    values |= {f"drift/{name}": value for name, value in event.drift.items()}
    return values if event.diversity is None else {**values, "score/diversity": event.diversity}


def _times(place: Path) -> dict[tuple[str, int], datetime]:
    return {(line.kind, line.update): datetime.fromisoformat(line.time) for line in read_telemetry(place)}

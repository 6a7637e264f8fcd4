"""The append-only record of one cell (task x method x seed), and where things lie under `results/`.

    results/<experiment>/experiment.json           what was compared                       `ExperimentHeader`
    results/<experiment>/<task>/<method>/seed<k>/  one cell; the untouched model is `<task>/base/seed0`
        record.jsonl               deterministic facts, one event a line                   `Event`
        telemetry.jsonl            clock and memory: no part of the record                 `Telemetry`
        scores-<update:06d>.parquet, grid.parquet   per-sample scores                      `SCORE_COLUMNS`
        scores-<update:06d>-final.parquet           where that update was judged twice     the same
        prompts-<set>.parquet      scores on a prompt set, one row a prompt                the same
        pictures.png               one row of tiles, the same prompts and noise for all methods
        checkpoint/                not committed

Every line is flushed and synced, and has a hash of itself and of all lines before it; lines that name a file have its
hash too. A crash can tear the last line only: the writer cuts a torn line when it opens the record again, the reader
names it. The events are typed in `schema` beside this module; `reader` reads experiments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from bench.api import DataError, NonFiniteError
from bench.canonical import canonical_json, config_hash, told_differences
from bench.files import append_whole, remove_file, write_whole
from bench.paths import inside, portable
from bench.reading import read_text
from bench.results.records.hashes import file_sha256, line_hash, sound_lines
from bench.results.records.provenance import changed_sources, shown_sources
from bench.results.records.schema import (
    LEDGER,
    SCORE_COLUMNS,
    Cell,
    End,
    Event,
    ExperimentHeader,
    GridScores,
    Milestone,
    PromptSetScores,
    SampleGrid,
    Step,
    Telemetry,
    dump,
    parse_event,
    parse_header,
    parse_telemetry,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "CellRecord",
    "Status",
    "cell_status",
    "read_events",
    "read_experiment_header",
    "read_lines",
    "read_telemetry",
    "status_of",
    "write_experiment_header",
]

RECORD, TELEMETRY, EXPERIMENT = "record.jsonl", "telemetry.jsonl", "experiment.json"
Status = Literal["new", "unfinished", "done", "failed"]


def read_lines(path: Path) -> tuple[list[str], bool]:
    """The complete lines of a JSON-lines file, and whether a torn one follows. A missing file has no lines.

    Raises DataError for what is no file (a device may never end), and for bytes that are no UTF-8.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a file, but it is something else: remove it")
    try:
        whole, _, rest = path.read_bytes().rpartition(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return [], False
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return ([] if not whole else whole.decode().split("\n")), bool(rest)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}): the file is damaged") from error


def cell_status(folder: Path) -> Status:
    """`new` (no record), `unfinished` (interrupted or running), `done` or `failed`.

    Only reads, so that it may be asked while a run goes on. Raises DataError where a line is not an event.
    """
    return status_of(read_events(folder))


def read_events(folder: Path) -> list[Event]:
    """The events that a cell's record holds so far; a line that is being written is left out.

    Only reads, as `cell_status` does. Raises DataError where a line is not an event.
    """
    path = inside(folder, RECORD)
    return [parse_event(line, f"{path}:{number}") for number, line in enumerate(read_lines(path)[0], 1)]


def read_telemetry(folder: Path) -> list[Telemetry]:
    """The lines of a cell's telemetry so far, as `read_events` reads its record."""
    path = inside(folder, TELEMETRY)
    return [parse_telemetry(line, f"{path}:{number}") for number, line in enumerate(read_lines(path)[0], 1)]


def status_of(events: list[Event]) -> Status:
    """As `cell_status` has it, of events that were read."""
    if not events:
        return "new"
    return events[-1].status if isinstance(events[-1], End) else "unfinished"


def read_experiment_header(folder: Path) -> ExperimentHeader:
    """`experiment.json` of results/<experiment>.

    Raises DataError where it is missing, damaged or newer than ours, or is not as it was written.
    """
    path = inside(folder, EXPERIMENT)
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {EXPERIMENT}: it is not a results folder") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}: the file is damaged") from error
    header = parse_header(text, str(path))
    _refuse_edited(path, header)
    return header


def _refuse_edited(path: Path, header: ExperimentHeader) -> None:
    """Raise DataError where a header does not agree with its own hashes, or with the budget that it holds twice."""
    wrong = None
    if header.config_hash != config_hash(header.config):
        wrong = f"config_hash is {header.config_hash}, but that of its config is {config_hash(header.config)}"
    elif header.config.get("budget", header.budget) != header.budget:
        wrong = f"budget is {header.budget!r}, but that of its config is {header.config['budget']!r}"
    elif header.schema_ > 1 and header.hash != _header_hash(header):
        wrong = "its hash is not that of its content"
    if wrong:
        raise DataError(f"{path} is not as it was written ({wrong}): records are never edited, so restore it")


def _header_hash(header: ExperimentHeader) -> str:
    return line_hash(dump(header), "")


def write_experiment_header(folder: Path, header: ExperimentHeader) -> None:
    """Store `experiment.json`; one that says the same already, if in an older schema, stays as it is.

    Raises DataError where the folder already holds an experiment of another configuration.
    """
    if (folder / EXPERIMENT).exists():
        held = read_experiment_header(folder)
        if held.config_hash != header.config_hash:
            raise DataError(
                f"{folder} holds experiment {held.name!r} with other settings than those asked for now "
                f"({told_differences(held.config, header.config)}): give this one another --name, or remove that folder"
            )
        if header.model_copy(update={"schema_": held.schema_, "hash": held.hash}) == held:
            return
    header = header.model_copy(update={"hash": _header_hash(header)})
    write_whole(folder / EXPERIMENT, (canonical_json(dump(header), indent=2) + "\n").encode())


class CellRecord:
    """Writer of one cell's folder. Opening an interrupted record cuts the line that the crash tore.

    Raises DataError where the record or the telemetry is a link, and for whatever a process that was forked from this
    one would write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = os.getpid()
        self._ended: bool | None = None
        self._head: str | None = None
        self._cut_torn_line(inside(folder, RECORD))
        self._cut_torn_line(inside(folder, TELEMETRY))

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for the whole record; empty where there is none."""
        if self._head is None:
            lines = read_lines(inside(self.folder, RECORD))[0]
            self._head = parse_event(lines[-1], str(self.folder / RECORD)).hash or "" if lines else ""
        return self._head

    def sound(self) -> tuple[list[str], str | None]:
        """The hashes of the lines, from the first on, that are as they were written and name files that are.

        Beside them what is wrong with the next one, None where all lines are sound. Raises DataError as `events` does.
        """
        self.events()
        return sound_lines(read_lines(inside(self.folder, RECORD))[0], self.folder)

    def events(self) -> list[Event]:
        """All events so far, in order. Raises DataError where a line is not an event."""
        return read_events(self.folder)

    def status(self) -> Status:
        """As `cell_status` has it."""
        return status_of(self.events())

    def start(self, header: Cell | Mapping[str, Any]) -> bool:
        """Write the first line, or check that an existing record may be continued under this header: True if so.

        A failed record of another configuration or other sources gives way to a new one: what failed was mended, and
        there is no result to lose. The new header has to have the present hash of every source that the held one names.
        Raises DataError where any other record has another configuration, place or
        sources: its numbers would mix.
        """
        self._refuse_fork()
        new = _cell(header)
        events = self.events()
        if not events:
            self._append_event(new)
            return False
        held = events[0]
        if not isinstance(held, Cell):
            raise DataError(f"{self.folder / RECORD} does not begin with a cell event")
        for name in ("experiment", "task", "method", "seed"):
            _refuse_other(self.folder, name, getattr(held, name), getattr(new, name))
        changed = changed_sources(held.provenance.sources, new.provenance.sources)
        if self.status() == "failed" and (held.config_hash != new.config_hash or changed):
            self.begin(new)
            return False
        _refuse_other(self.folder, "config_hash", held.config_hash, new.config_hash)
        refuse_changed_sources(self.folder, changed)
        return True

    def begin(self, header: Cell | Mapping[str, Any]) -> None:
        """Put a record of this first line alone in the place of the one that stands there."""
        self._refuse_fork()
        write_whole(self.folder / RECORD, _line(self._sealed(_cell(header), "")))
        self.truncate(1)

    def append(self, kind: str, **fields: Any) -> None:
        """Add one event, e.g. `append("grid", file="grid.parquet")`, with the hash of the file that it names.

        A reason is stored without absolute paths. Raises DataError for unknown kinds and fields, for a file that is not
        stored yet, and after the end; NonFiniteError for NaN and infinities.
        """
        if isinstance(fields.get("reason"), str):
            fields["reason"] = portable(fields["reason"])
        event = parse_event(canonical_json({**fields, "kind": kind}), f"event {kind!r}")
        if self._has_ended():
            raise DataError(f"{self.folder / RECORD} has ended: call truncate before adding {kind!r}")
        if isinstance(event, Milestone | GridScores | PromptSetScores | SampleGrid):
            event = event.model_copy(update={"sha256": self._sha256(event.file)})
        self._append_event(event)

    def end_failed(self, reason: str) -> None:
        """End a record whose worker cannot: the ledger is the last one that it recorded."""
        spent = [event.ledger for event in self.events() if isinstance(event, Step | Milestone)]
        ledger = asdict(spent[-1]) if spent else dict.fromkeys(LEDGER, 0)
        self.append("end", status="failed", reason=reason, ledger=ledger)

    def telemetry(self, kind: str, **fields: Any) -> None:
        """Add one line of clock and memory; see `Telemetry` for the fields."""
        self._refuse_fork()
        line = parse_telemetry(canonical_json({**fields, "kind": kind}), f"telemetry {kind!r}")
        append_whole(self.folder / TELEMETRY, _line(line))

    def write_scores(self, name: str, scores: pd.DataFrame | Mapping[str, Any]) -> None:
        """Per-sample scores as parquet: `SCORE_COLUMNS`, then a float32 column per scorer, NaN where it does not apply.

        The file appears whole or not at all. Raises DataError for missing columns, NonFiniteError for infinities.
        """
        import pandas as pd

        self._refuse_fork()
        frame = pd.DataFrame(scores)
        missing = [column for column in SCORE_COLUMNS if column not in frame]
        if missing:
            raise DataError(f"scores {name!r} lack {', '.join(missing)}; they have {', '.join(map(str, frame))}")
        scorers = sorted(column for column in frame if column not in SCORE_COLUMNS)
        frame = frame[[*SCORE_COLUMNS, *scorers]].astype({**SCORE_COLUMNS, **dict.fromkeys(scorers, "float32")})
        infinite = [column for column in scorers if not (frame[column].isna() | frame[column].abs().le(3e38)).all()]
        if infinite:
            raise NonFiniteError(f"scores {name!r}: infinite values of {', '.join(infinite)}")
        data = frame.to_parquet(None, index=False, compression="zstd", write_page_checksum=True)
        write_whole(self.folder / name, data)

    def read_scores(self, name: str) -> dict[str, np.ndarray]:
        """The columns of what `write_scores` stored; raises DataError where it cannot be read."""
        from bench.results.records.score_files import columns_of, read_scores

        return columns_of(read_scores(inside(self.folder, name), None))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Store a file of the cell (`pictures.png`) so that it appears whole or not at all."""
        self._refuse_fork()
        write_whole(self.folder / name, data)

    def truncate(self, count: int) -> None:
        """Keep the first `count` events, so that a record resumed from a checkpoint equals an uninterrupted one.

        Files that only later events name go too. Telemetry keeps the lost work. Raises DataError where there are fewer.
        """
        self._refuse_fork()
        lines = read_lines(inside(self.folder, RECORD))[0]
        if len(lines) < count:
            raise DataError(
                f"{self.folder / RECORD} has {len(lines)} events, but its checkpoint follows {count}: the record was "
                "cut; remove that folder to run the cell afresh"
            )
        kept = lines[:count]
        write_whole(self.folder / RECORD, "".join(f"{line}\n" for line in kept).encode())
        self._ended, self._head = False, None
        files = {getattr(event, "file", None) for event in self.events()}
        scores = (path for kind in ("scores", "prompts") for path in self.folder.glob(f"{kind}-*.parquet"))
        for path in [*scores, self.folder / "grid.parquet", self.folder / "pictures.png"]:
            if path.name not in files:
                remove_file(path)

    def _append_event(self, event: Event) -> None:
        self._refuse_fork()
        sealed = self._sealed(event, self.head)
        append_whole(self.folder / RECORD, _line(sealed))
        self._ended, self._head = isinstance(event, End), sealed.hash or ""

    @staticmethod
    def _sealed(event: Event, before: str) -> Event:
        """An event with its hash, which follows the line of the hash `before`; without in a record that has none."""
        hashed = before or isinstance(event, Cell)
        return event.model_copy(update={"hash": line_hash(dump(event), before) if hashed else None})

    def _sha256(self, name: str) -> str:
        path = inside(self.folder, name)
        if not path.is_file():
            raise DataError(f"{path} has to be stored before an event names it")
        return file_sha256(path)

    def _refuse_fork(self) -> None:
        if os.getpid() != self._process:
            raise DataError(
                f"{self.folder} is written by process {self._process} alone, and {os.getpid()} was forked from it: end "
                "what a plugin forks by os._exit() where its own work is done"
            )

    def _has_ended(self) -> bool:
        if self._ended is None:
            self._ended = self.status() in ("done", "failed")
        return self._ended

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        if read_lines(path)[1]:
            data = path.read_bytes()
            write_whole(path, data[: data.rfind(b"\n") + 1])


def _cell(header: Cell | Mapping[str, Any]) -> Cell:
    event = header if isinstance(header, Cell) else parse_event(canonical_json({"kind": "cell", **header}), "header")
    assert isinstance(event, Cell)
    return event


def _line(event: BaseModel) -> bytes:
    return (canonical_json(dump(event)) + "\n").encode()


def refuse_changed_sources(folder: Path, changed: Sequence[str]) -> None:
    """Raise DataError where sources have changed since a record began."""
    if changed:
        raise DataError(
            f"{folder} was recorded by other code than the present, which differs in {shown_sources(changed)}: restore "
            "that, remove that folder to run the cell afresh, or give the experiment another name"
        )


def _refuse_other(folder: Path, name: str, held: Any, new: Any) -> None:
    if held != new:
        raise DataError(
            f"{folder} was recorded with {name} {held!r}, this run has {new!r}: remove that folder to run the cell "
            "afresh, or give the experiment another name"
        )

"""Under which configuration and code a cell is recorded, and whether cells of others may stand beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import registry
from bench.api import DataError
from bench.canonical import config_hash, told_differences
from bench.config.job import CellJob
from bench.config.reward_expression import scorers_of_task
from bench.config.settings import BASE, Experiment
from bench.hub import locate_model
from bench.paths import portable_values
from bench.plugin_code import code_files, own_file
from bench.results.records.listing import list_cells
from bench.results.records.provenance import base_files, changed_sources, collect, shown_sources, source_hashes
from bench.results.records.registration import registration_hash
from bench.results.records.schema import Cell, End, dump
from bench.results.records.writer import RECORD, CellRecord, Status, read_experiment_header

_PLUGIN = "plugin/"


@dataclass(frozen=True)
class Remaining:
    """The cells that need a run; `uncomparable` others have the older kind of source hash, of a whole package."""

    jobs: list[CellJob]
    uncomparable: int = 0


def cell_header(job: CellJob, device: str, held: Collection[str] = ()) -> dict[str, Any]:
    """The first event of the cell's record.

    The sources are those that this process has imported, so that it has to have imported what the cell needs; those
    named in `held`, of a record that is to go on, are looked at too.
    """
    experiment = job.experiment
    config = experiment.cell_config(job.task, job.label)
    stages = () if job.label == BASE else experiment.stages(job.label)
    precision = stages[0].train.precision if stages else experiment.train.precision
    own = own_sources(job)  # first: it imports the plugins
    sources = source_hashes(own, held)
    return {
        "experiment": experiment.name, "task": job.task, "method": job.label, "seed": job.seed, "config": config,
        "config_hash": config_hash(config), "registration": registration_hash(job.results),
        "provenance": dump(collect(device, precision, experiment.threads, sources)),
    }  # fmt: skip


def remaining_jobs(jobs: Sequence[CellJob], folder: Path, *, allow_mixed: bool) -> Remaining:
    """The cells that need a run, after a look at every cell that the results folder holds.

    With `allow_mixed`, finished cells of other code stay beside the new ones, and unfinished ones begin afresh.

    A finished cell of these jobs is verified before it counts as done.

    Raises:
        DataError: a record is damaged or of a newer schema; a cell was recorded with other settings, of whatever seed,
            by other code, or from another base; or it is finished, and not what was recorded; a link stands in the
            place of one; or there is something to run beside records with absolute paths.
    """
    by_folder = {job.folder: job for job in jobs}
    looked = _Sources(_base_sources(jobs[0]))
    others: dict[Path, list[str]] = {}
    uncomparable: list[Path] = []
    absolute: list[Path] = []
    todo, done = list(jobs), list[Path]()
    for place in list_cells(folder):
        record = CellRecord(place)
        status, job = record.status(), by_folder.get(place)
        if status in ("new", "failed"):  # begins afresh where it has to
            continue
        cell, sources = _recorded(record)
        _refuse_other_settings(jobs[0].experiment, cell, place)
        if portable_values(cell.config) != cell.config:
            absolute.append(place)
        if cell.provenance.covers == "package":
            uncomparable.append(place)
        elif changed := looked.changed(sources, job):
            others[place] = changed
        if allow_mixed and (place in others or place in uncomparable):
            _give_up_unfinished(record, status)
        if status == "done" and job is not None:
            todo.remove(job)
            done.append(place)
    if todo and absolute:
        raise DataError(
            f"{len(absolute)} cells in {folder} were recorded by an older version, with absolute paths in their "
            f"settings ({absolute[0]} is one), and nothing goes on beside them: their report stays as it is; give this "
            "run another --name, or remove that folder to run all of it afresh"
        )
    if not allow_mixed:
        _refuse_other_code(others, uncomparable if todo else [], folder)
    _verify(done, folder)
    return Remaining(todo, len(uncomparable))


def _verify(done: Sequence[Path], folder: Path) -> None:
    """Raise DataError where finished cells of an experiment are not what was recorded."""
    if not done:
        return
    from bench.results.records.cell_reader import read_cell  # here: no number of a cell depends on it

    header = read_experiment_header(folder)
    wrong = []
    for place in done:
        try:
            read_cell(place, header)
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        more = f"; so are {len(wrong) - 1} more (`python -m bench verify --name {folder.name}` lists them)"
        raise DataError(
            f"{wrong[0]}{more if wrong[1:] else ''}. Restore it, or remove that folder to run the cell again"
        )


class _Sources:
    """The hashes of sources as they are now, each read once for all cells."""

    def __init__(self, base: Mapping[str, Path | str]) -> None:
        self._known = source_hashes(base, imported=False)
        self._looked: set[str] = set()

    def changed(self, held: Mapping[str, str], job: CellJob | None) -> list[str]:
        """Which recorded sources differ; plugins of the user's own are known for the cells of this run alone."""
        new = held.keys() - self._looked
        self._looked |= new
        self._known |= source_hashes({}, new - self._known.keys(), imported=False)
        plugins = source_hashes(_plugin_sources(job), imported=False) if job else {}
        comparable = {name: digest for name, digest in held.items() if job or not name.startswith(_PLUGIN)}
        return changed_sources(comparable, self._known | plugins)


def recorded_sources(record: CellRecord) -> dict[str, str]:
    """The sources that the header of a record names; none where there is no record."""
    events = record.events()
    return dict(events[0].provenance.sources) if events and isinstance(events[0], Cell) else {}


def _recorded(record: CellRecord) -> tuple[Cell, dict[str, str]]:
    """The first event of a record, and all sources that it names."""
    events = record.events()
    first = events[0]
    if not isinstance(first, Cell):
        raise DataError(f"{record.folder / RECORD} does not begin with a cell event: remove that folder")
    late = events[-1].sources if isinstance(events[-1], End) else {}
    return first, first.provenance.sources | late


def _refuse_other_settings(experiment: Experiment, cell: Cell, place: Path) -> None:
    """Raise DataError for a cell that the experiment would make with other settings; its task, for another method."""
    if cell.task not in [task.name for task in experiment.tasks]:
        return
    is_known = cell.method in (BASE, *(chain.label for chain in experiment.methods))
    new = experiment.cell_config(cell.task, cell.method if is_known else BASE)
    held = portable_values(cell.config)
    if not is_known:
        held, new = {"task": held.get("task")}, {"task": new["task"]}
    if config_hash(held) != config_hash(new):
        raise DataError(
            f"{place} was recorded with other settings than those asked for now ({told_differences(held, new)}): give "
            "this run another --name, or remove that folder"
        )


def _refuse_other_code(others: Mapping[Path, list[str]], uncomparable: Sequence[Path], folder: Path) -> None:
    mend = "their numbers do not compare. Give this run another --name, restore what was changed, or say --allow-mixed"
    if others:
        place, changed = next(iter(others.items()))
        raise DataError(
            f"{len(others)} cells in {folder} were made by other code, or from another base, than the present ({place} "
            f"differs in {shown_sources(changed)}): {mend}"
        )
    if uncomparable:
        raise DataError(
            f"{len(uncomparable)} cells in {folder} have the older kind of source hash, of all files of the package, "
            f"which nothing can be compared with ({uncomparable[0]} is one), and new ones would stand beside them: "
            "give this run another --name, or say --allow-mixed"
        )


def _give_up_unfinished(record: CellRecord, status: Status) -> None:
    """End it as failed, for what failed under other code begins afresh: no cell is half of one, half of the other."""
    if status == "unfinished":
        record.end_failed("was interrupted, and the code has changed since")


def own_sources(job: CellJob) -> dict[str, Path | str]:
    """What is the user's own among the sources of a cell: plugins as `plugin/<file>`, its base as `base/<file>`.

    Of a fetched model the hub's revision tells all. The pins of a reward's environment are `environment/<file>`.
    """
    return _plugin_sources(job) | _base_sources(job)


def _plugin_sources(job: CellJob) -> dict[str, Path | str]:
    stages = () if job.label == BASE else job.experiment.stages(job.label)
    task = job.experiment.task(job.task)
    names = sorted(scorers_of_task(task, job.experiment.evaluation.set_scorers))
    rewards = [registry.load_reward(name) for name in names]
    classes: list[type] = [*(registry.load_method(stage.source) for stage in stages), *rewards]
    files = {
        f"{_PLUGIN}{path.relative_to(own.parent) if path.is_relative_to(own.parent) else path.name}": path
        for cls in classes if (own := own_file(cls)) is not None for path in code_files(cls)
    }  # fmt: skip
    pins = [path for cls in rewards if cls.environment for path in sorted(cls.environment.iterdir()) if path.is_file()]
    return {**dict(sorted(files.items())), **{f"environment/{p.name}": p for p in pins}}


def _base_sources(job: CellJob) -> dict[str, Path | str]:
    """Of a base of the user's own; the world's own is among the assets, and random weights have none."""
    experiment = job.experiment
    if experiment.model is None or experiment.weights == "random":
        return {}
    base = Path(experiment.model) if Path(experiment.model).is_dir() else locate_model(experiment.model)
    if base.parent.name == "snapshots":  # of the hub's cache, named by its revision
        return {"base/revision": base.name}
    return {f"base/{path.relative_to(base).as_posix()}": path for path in base_files(base)}

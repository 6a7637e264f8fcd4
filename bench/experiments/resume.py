"""Under which configuration and code a cell is recorded, and whether cells of others may stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench import registry
from bench.api import DataError
from bench.canonical import config_hash
from bench.config.job import CellJob
from bench.config.reward_expression import scorers_of_task
from bench.config.settings import BASE
from bench.results.records.provenance import collect, source_hashes
from bench.results.records.schema import Cell, dump
from bench.results.records.writer import RECORD, CellRecord, Status

_SHOWN = 4  # changed files named in a message


def cell_header(job: CellJob, device: str) -> dict[str, Any]:
    """The first event of the cell's record."""
    experiment = job.experiment
    config = experiment.cell_config(job.task, job.label)
    stages = () if job.label == BASE else experiment.stages(job.label)
    precision = stages[0].train.precision if stages else experiment.train.precision
    provenance = collect(device, precision, experiment.threads, _plugins(job), _base(job))
    return {
        "experiment": experiment.name, "task": job.task, "method": job.label, "seed": job.seed, "config": config,
        "config_hash": config_hash(config), "provenance": dump(provenance),
    }  # fmt: skip


def left_to_do(jobs: Sequence[CellJob], folder: Path, *, allow_mixed: bool) -> list[CellJob]:
    """The cells that need a run, after a look at every cell that the results folder holds.

    With `allow_mixed`, finished cells of other code stay beside the new ones, and unfinished ones begin afresh.

    Raises:
        DataError: a record is damaged or of a newer schema; a cell was recorded with other settings, by other code,
            or from another base.
    """
    held = {path.parent: CellRecord(path.parent) for path in sorted(folder.glob(f"*/*/seed*/{RECORD}"))}
    by_folder = {job.folder: job for job in jobs}
    others: dict[Path, list[str]] = {}
    todo = list(jobs)
    for place, record in held.items():
        status, job = record.status(), by_folder.get(place)
        if status in ("new", "failed"):  # begins afresh where it has to
            continue
        cell = _cell(record)
        if job is not None:
            _refuse_other_settings(job, cell)
        now = _sources(_plugins(job) if job else (), _base(jobs[0]))
        changed = _changed(cell.provenance.sources, now, whole=job is not None)
        if changed:
            others[place] = changed
            if allow_mixed:
                _give_up_unfinished(record, status)
        if status == "done" and job is not None:
            todo.remove(job)
    if others and not allow_mixed:
        place, changed = next(iter(others.items()))
        names = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        raise DataError(
            f"{len(others)} cells in {folder} were made by other code, or from another base, than the present ({place} "
            f"differs in {names}): their numbers do not compare. Give this run another --name, restore what was "
            "changed, or say --allow-mixed"
        )
    return todo


def _cell(record: CellRecord) -> Cell:
    first = record.events()[0]
    if not isinstance(first, Cell):
        raise DataError(f"{record.folder / RECORD} does not begin with a cell event: remove that folder")
    return first


def _refuse_other_settings(job: CellJob, cell: Cell) -> None:
    if cell.config_hash != config_hash(job.experiment.cell_config(job.task, job.label)):
        raise DataError(
            f"{job.folder} was recorded with other settings than those asked for now: give this run another --name, or "
            "remove that folder"
        )


def _changed(held: Mapping[str, str], now: Mapping[str, str], *, whole: bool) -> list[str]:
    """Names of the sources that differ; without `whole`, plugins of the user's own, which are unknown, are left out."""
    names = sorted({*held, *now})
    return [n for n in names if held.get(n) != now.get(n) and (whole or not n.startswith("plugin/"))]


def _give_up_unfinished(record: CellRecord, status: Status) -> None:
    """End it as failed, for what failed under other code begins afresh: no cell is half of one, half of the other."""
    if status == "unfinished":
        record.end_failed("was interrupted, and the code has changed since")


def _plugins(job: CellJob) -> tuple[Path, ...]:
    """Files of methods and rewards that are the user's own."""
    stages = () if job.label == BASE else job.experiment.stages(job.label)
    task = job.experiment.task(job.task)
    rewards = scorers_of_task(task, job.experiment.evaluation.set_scorers)
    classes: list[type] = [registry.load_method(stage.source) for stage in stages]
    classes += [registry.load_reward(name) for name in sorted(rewards)]
    files = (registry.own_file(cls) for cls in classes)
    return tuple(sorted({file for file in files if file is not None}))


def _base(job: CellJob) -> Path | None:
    """The folder of a base of the user's own; the world's own is among the sources, and random weights have none."""
    experiment = job.experiment
    if experiment.model is None or experiment.weights == "random":
        return None
    if Path(experiment.model).is_dir():
        return Path(experiment.model)
    from bench.hub import locate_model

    return locate_model(experiment.model)


@cache
def _sources(plugins: tuple[Path, ...], base: Path | None) -> dict[str, str]:
    return source_hashes(plugins, base)

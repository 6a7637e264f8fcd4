"""`bench replay`: the update of a failed cell that met NaN or infinity, run again from the cell's last checkpoint.

The random numbers are the same, so the update is the same to the last bit, unless code or machine have changed since.
The cell's folder is only read, and nothing that it names runs but registered plugins and those that the user gives.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.api import Batch, DataError, NonFiniteError
from bench.budget import Ledger
from bench.canonical import canonical_json
from bench.config.job import CellJob
from bench.config.pictures import Data
from bench.config.settings import Experiment
from bench.datasets.base_model import base_model
from bench.datasets.pictures.preparation import prepare_pictures
from bench.datasets.worlds import experiment_world
from bench.experiments.cell_log import refuse_other_cell
from bench.experiments.recorded import recorded_model, with_given_plugins
from bench.experiments.resume import own_sources
from bench.models.policy import PipelinePolicy
from bench.parsing import option_effects, values_before
from bench.paths import inside, portable_values
from bench.results.records.provenance import changed_sources, shown_sources, source_hashes
from bench.results.records.schema import Cell, parse_event
from bench.results.records.writer import RECORD, read_experiment_header, read_lines
from bench.scoring.loading import Placement, load_scorers
from bench.scoring.weighted_sum import standard_candidates
from bench.tensors import load_tensors
from bench.training import failure_dump as evidence
from bench.training.checkpoint import Checkpoints, Saved
from bench.training.context import TaskContext
from bench.training.loop import Training
from bench.training.stage import Stage


def replay(
    folder: Path, pictures: Data | None = None, server: str | None = None, *, model: str | None = None,
    plugins: Sequence[str] = (),
) -> int:  # fmt: skip
    """Run it again and print what it finds; returns 1 where it meets the same again, 0 where it does not.

    `pictures` say where those lie that the cell was trained on, where they were the user's own; `server` is where a
    reward server is, if its scorers are there; `model` is the base, where it lies elsewhere than the record says;
    `plugins` are those that the record names and that are not registered: no other code runs.

    Raises:
        DataError: the folder holds no cell, or none that met NaN or infinity; its pictures are others; a plugin or the
            base that it names has to be given; or a link stands in it.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links have to be seen, not resolved
    cell, about = _cell(folder), evidence.read_failure_dump(folder)
    config, differences = with_given_plugins(cell.config, plugins, cell.provenance.sources, folder)
    job = _job(folder, cell.model_copy(update={"config": config}), pictures, model)
    job = replace(job, experiment=replace(job.experiment, reward_server=server))
    print("\n".join([f"{job.name}: update {about['update']} failed: {about['reason']}", *differences]))
    changed = _changed(job, cell)
    if changed:
        print(f"the code has changed since ({shown_sources(changed)}), so the updates before may not be the same")
    torch.set_num_threads(job.experiment.threads)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "checkpoint"
        copy.mkdir()
        for path in inside(folder, "checkpoint").glob("*"):
            if path.suffix in (".json", ".safetensors"):
                shutil.copyfile(inside(folder, f"checkpoint/{path.name}"), copy / path.name)
        saved, complaints = Checkpoints(copy).load(lambda state: _refuse_other_cell(job, state))
        begin = f"the checkpoint of update {saved.state['update']}" if saved else "the beginning"
        print("\n".join([*complaints, f"from {begin}"]))
        return _again(job, copy, saved, about, folder)


def _refuse_other_cell(job: CellJob, state: Mapping[str, Any]) -> None:
    """Raise DataError for a checkpoint of another cell; older ones do not say whose they are."""
    if "cell" in state:
        refuse_other_cell(job, state)


def _changed(job: CellJob, cell: Cell) -> list[str]:
    """The sources of the cell that are another file now, or cannot be compared."""
    held = cell.provenance.sources
    return changed_sources(held, source_hashes(own_sources(job), held, imported=False))


def _again(job: CellJob, checkpoints: Path, saved: Saved | None, about: Mapping[str, Any], folder: Path) -> int:
    experiment = job.experiment
    world, task = experiment_world(experiment), experiment.task(job.task)
    policy = PipelinePolicy.of(experiment, world)
    ledger = Ledger.from_state(saved.state["ledger"]) if saved else Ledger()
    scorers = load_scorers(
        {task.reward, task.select},
        candidates=lambda: standard_candidates(world, task),
        placement=Placement.of(experiment),
    )
    training = Training(job, TaskContext(world, task, policy, scorers), ledger, checkpoints)
    try:
        for metrics in training.updates(saved):
            print(f"update {training.update}: " + ", ".join(f"{k} {v:.6g}" for k, v in sorted(metrics.items())))
            if training.update >= about["update"]:
                print("it passes now")
                return 0
    except NonFiniteError as error:
        print(f"update {training.update + 1}: {error}")
        assert training.stage is not None
        print("\n".join(_findings(training.stage, folder)))
        return 1
    print(f"the budget ended after update {training.update}: it passes now")
    return 0


def _findings(stage: Stage, folder: Path) -> Iterator[str]:
    """What is known of a stage whose step has just met NaN or infinity."""
    kept = load_tensors(inside(folder, f"{evidence.FOLDER}/batch.safetensors"))
    now = evidence.dumped_tensors(stage)
    other = sorted(n for n in {*kept, *now} if n not in kept or n not in now or not _same(kept[n], now[n]))
    yield f"differs from what was kept in {', '.join(other)}" if other else "the same batch as was kept, bit for bit"
    weights = torch.cat([p.detach().flatten() for p in stage.env.optimizer.parameters])
    finite = weights[weights.isfinite()]
    yield (
        f"trained weights before the update: {len(weights) - len(finite)} of {len(weights)} are not finite, "
        f"the largest is {float(finite.abs().max()) if len(finite) else float('nan'):.4g}"
    )
    for name, values in stage.env.log.non_finite.items():
        latest = evidence.failed_batch(stage)
        for place in (~values.isfinite()).nonzero().flatten().tolist():
            sample = "" if latest is None else f", {_sample(latest, place)}"
            yield f"{name}[{place}] is {float(values[place])}{sample}"


def _sample(batch: Batch, place: int) -> str:
    """The sample of a value of a loss, which may have several in a row of all samples."""
    row = place % len(batch)
    return f"sample {batch.index[row]}, {batch.prompts[row]!r}"


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values, NaN in the same places included."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _cell(folder: Path) -> Cell:
    lines, _ = read_lines(inside(folder, RECORD))
    first = parse_event(lines[0], f"{folder / RECORD}:1") if lines else None
    if not isinstance(first, Cell):
        raise DataError(f"{folder} holds no {RECORD}: expected a cell of the results, <task>/<method>/seed<k>")
    return first


def _job(folder: Path, cell: Cell, pictures: Data | None, model: str | None) -> CellJob:
    """The job that was recorded there; the experiment's header has what the cells share, and numbers depend on."""
    place = folder.parents[2]
    inside(place, folder.relative_to(place).as_posix())
    effects = option_effects(Experiment)
    recorded = read_experiment_header(place).config
    shared = {name: value for name, value in recorded.items() if effects.get(name, "numbers") == "numbers"}
    # Nothing is judged here, and where prompt sets lie is not recorded.
    shared["evaluation"] = {**shared.get("evaluation", {})}
    shared["evaluation"].pop("prompt_sets", None)
    stages, task = [_completed(stage) for stage in cell.config.get("stages", [])], cell.config["task"]
    own = {
        "name": cell.experiment, "tasks": [task], "seeds": [cell.seed],
        "methods": [{"label": cell.method, "stages": stages}],
    }  # fmt: skip
    shared["model"] = model or recorded_model(shared.get("model"), folder)
    shared.pop("data", None)
    experiment = Experiment.from_resolved(shared | own)
    if experiment.world == "images":
        experiment = replace(experiment, data=_pictures(folder, experiment, pictures, recorded.get("data")))
    return CellJob(experiment, place.parent, cell.task, cell.method, cell.seed)


def _completed(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded stage with the options that it was recorded without."""
    return {**stage, "config": values_before(registry.load_method(stage["source"]).Config) | stage["config"]}


def _pictures(folder: Path, experiment: Experiment, requested: Data | None, recorded: Mapping[str, Any] | None) -> Data:
    """The pictures that the cell was trained on, looked for where `requested` says; where they lay is not recorded."""
    if requested is None:
        raise DataError(f"{folder} was trained on pictures of your own: say where they lie, by --data FOLDER")
    all_train = bool((recorded or {}).get("all_train"))
    found = prepare_pictures(requested, base_model(experiment.model), all_train=all_train).settings
    if portable_values(json.loads(canonical_json(found.identity()))) != recorded:
        raise DataError(
            f"{requested.path}: expected the pictures and settings that {folder} was trained on, got others"
        )
    return found

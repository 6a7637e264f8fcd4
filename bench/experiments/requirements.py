"""What every cell of a run needs, looked for before anything is written: device, base model, scorers' checkpoints."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from bench.api import BenchError
from bench.config.reward_expression import scorers_of_task
from bench.config.settings import Experiment
from bench.experiments.grid import experiment_jobs
from bench.experiments.workers import run_alone
from bench.results.records.registration import registration_hash
from bench.results.records.writer import cell_status


def require_ready(experiment: Experiment, results: Path) -> None:
    """Refuse a run whose cells would all fail at their beginning; one that has no cell left to run needs nothing.

    It is looked for where the cells run, in a worker process.

    Raises:
        ConfigError: there is no such device, or the reward server has another scorer.
        DataError: there is no such base model, or it is of another family.
        ConfigError, DataError: the registration beside the results is damaged.
        CheckpointMissing: a scorer's checkpoint or environment is not on this machine.
    """
    if all(cell_status(job.folder) == "done" for job in experiment_jobs(experiment, results)):
        return
    registration_hash(results)
    error = run_alone(_look, experiment)
    if error is not None:
        raise error


def _look(experiment: Experiment, sender: Connection) -> None:
    """In the worker: send what is missing, None where nothing is."""
    from bench.datasets.base_model import base_model
    from bench.device import resolve_device
    from bench.scoring.loading import Placement

    try:
        resolve_device(experiment.device)
        if experiment.weights != "random":
            base_model(experiment.model)
        of_sets = experiment.evaluation.set_scorers
        names = {name for task in experiment.tasks for name in scorers_of_task(task, of_sets)}
        Placement.of(experiment).require_checkpoints(sorted(names))
        sender.send(None)
    except BenchError as error:
        sender.send(error)

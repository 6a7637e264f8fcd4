"""What a step that met NaN or infinity was working on, kept under the cell's folder for `bench replay`.

failure/batch.safetensors   the micro-batch or the rollouts, and the losses that are not finite
failure/batch.json          update, stage, reason, the prompts, the samples' global index
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.api import Batch, DataError
from bench.canonical import canonical_json
from bench.files import write_whole
from bench.models.text_condition import TextCondition
from bench.paths import inside, portable
from bench.reading import read_json
from bench.tensors import write_tensors
from bench.training.stage import Stage

FOLDER = "failure"
TENSORS, ABOUT = "batch.safetensors", "batch.json"


def write_failure_dump(folder: Path, stage: Stage, number: int, update: int, reason: str) -> Path:
    """Store what the failed step of a cell was working on; returns the folder that holds it.

    `number` is the stage's, `update` the last update that succeeded.
    """
    about = _about(stage) | {"stage": number, "method": stage.method.name, "update": update + 1}
    about["reason"] = portable(reason)
    write_tensors(inside(folder, f"{FOLDER}/{TENSORS}"), dumped_tensors(stage))
    write_whole(inside(folder, f"{FOLDER}/{ABOUT}"), (canonical_json(about, indent=2) + "\n").encode())
    return folder / FOLDER


def remove_failure_dump(folder: Path) -> None:
    """Remove what `write_failure_dump` stored for a cell, where it has; another file beside it stays.

    Raises:
        DataError: a link stands in its place.
    """
    for name in (TENSORS, ABOUT):
        inside(folder, f"{FOLDER}/{name}").unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or something else is left in it
        inside(folder, FOLDER).rmdir()


def dumped_tensors(stage: Stage) -> dict[str, Tensor]:
    """What a stage is working on: the micro-batch, the rollouts, and losses that are not finite."""
    found = dict(stage.env.log.non_finite)
    latest, rollouts = failed_batch(stage), stage.env.rollouts
    if latest is not None:
        assert isinstance(latest.cond, TextCondition)
        found |= {"z0": latest.z0, **latest.cond.named()}
        found |= {} if latest.rejected is None else {"rejected": latest.rejected}
    if rollouts is not None:
        found |= {f"rollout.{name}": tensor for name, tensor in rollouts.tensors.items()}
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def failed_batch(stage: Stage) -> Batch | None:
    """The samples whose loss is not finite; the latest micro-batch where all losses are; None without data."""
    return stage.env.log.failed_on or stage.env.draw.latest


def read_failure_dump(folder: Path) -> dict[str, Any]:
    """`batch.json` of a cell.

    Raises:
        DataError: the cell has none, or it is damaged.
    """
    path = inside(folder, f"{FOLDER}/{ABOUT}")
    try:
        return dict(read_json(path))
    except OSError as error:
        raise DataError(
            f"{folder} holds no {FOLDER}/{ABOUT}: expected a cell that met NaN or infinity in training, for there "
            "is nothing else to replay"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): run the cell again to make it anew") from error


def _about(stage: Stage) -> dict[str, Any]:
    latest, rollouts = failed_batch(stage), stage.env.rollouts
    about: dict[str, Any] = {"rollouts_used": rollouts.used if rollouts is not None else None}
    if latest is not None:
        about |= {"index": latest.index.tolist(), "prompts": list(latest.prompts), "metadata": list(latest.metadata)}
    return about

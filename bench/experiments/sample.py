"""A grid of pictures from a checkpoint: one row for each prompt, one column for each initial noise.

What is slow to import is imported once there is something to draw, so that a wrong path is told at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench import rng
from bench.api import ConfigError, DataError
from bench.config.settings import Runtime
from bench.experiments.recorded import recorded_model
from bench.parsing import Problems, validate
from bench.paths import inside
from bench.reading import read_json, read_text
from bench.results.records.hashes import changed_file
from bench.results.records.schema import Cell, End, parse_event
from bench.results.records.writer import RECORD, read_events, read_lines

if TYPE_CHECKING:
    from bench.datasets.world import World
    from bench.models.policy import PipelinePolicy

GUIDANCE, STEPS = 3.0, 20  # where no cell says others
_GAP = 4  # pixels between tiles
_CHUNK = 64


def sample_grid(
    checkpoint: Path | None, out: Path, *, prompts: Sequence[str] = (), prompt_file: Path | None = None,
    world: str = "scenes", model: Path | None = None, guidance: float | None = None, steps: int | None = None,
    seed: int = 0, samples: int = 4, note: Callable[[str], object] = lambda text: None,
) -> list[str]:  # fmt: skip
    """Write a PNG to `out` and return its prompts, from the top row down.

    `checkpoint` is a cell of the results, a transformer's folder, a whole pipeline's, or None for the base, which is
    `model` or the world's own. Of a cell, base, guidance and steps are those it was evaluated with where nothing else
    is said; of all else guidance is 3 and steps are 20. Without prompts there is one of each category. The noise
    depends on `seed` and the prompt, not on the checkpoint. `note` is told what could not be made sure of.

    Raises:
        ConfigError: steps or samples below 1, a negative guidance scale, or an output that is no PNG.
        DataError: the checkpoint or the file of prompts is missing, or holds none; or a cell's base is not found.
    """
    cell = _cell_config(checkpoint) if checkpoint is not None else {}
    evaluated = cell.get("evaluation", {})
    guidance = float(evaluated.get("guidance", GUIDANCE)) if guidance is None else guidance
    steps = int(evaluated.get("steps", STEPS)) if steps is None else steps
    if steps < 1 or samples < 1 or guidance < 0:
        raise ConfigError(
            "expected at least 1 step and 1 sample and a guidance scale of at least 0, "
            f"got {steps}, {samples} and {guidance}"
        )
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends with .png")
    if checkpoint is not None and (checkpoint / "model_index.json").is_file():
        checkpoint, model = None, checkpoint
    recorded = recorded_model(cell.get("model"), checkpoint) if checkpoint is not None and model is None else None
    base = str(model) if model is not None else recorded
    if checkpoint is not None:
        _weights_folder(checkpoint)
    texts = [*prompts, *(_lines(prompt_file) if prompt_file else ())]
    from bench.datasets.worlds import load_world

    place = load_world(world, base)
    texts = texts or _examples(place)
    policy = load_checkpoint(place, checkpoint, note)
    rows = [_row(policy, text, guidance=guidance, steps=steps, seed=seed, samples=samples) for text in texts]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tile(np.stack(rows))).save(out)
    return texts


def load_checkpoint(
    world: World, checkpoint: Path | None, note: Callable[[str], object] = lambda text: None
) -> PipelinePolicy:
    """The world's base with the weights of a checkpoint; a cell of the results or a transformer's folder.

    `note` is told where nothing says whether they are whole.

    Raises:
        DataError: there are no weights in that folder, they are no safetensors, lie behind a link or elsewhere, are not
            those that the cell left, or of another shape than the base's.
    """
    folder = None if checkpoint is None else _weights_folder(checkpoint)
    from bench.models.policy import PipelinePolicy

    if checkpoint is None or folder is None:
        return PipelinePolicy.load(world.model)
    _refuse_other_model(folder, note)
    runtime, kind = _as_trained(checkpoint)
    policy = PipelinePolicy.load(world.model, runtime=runtime, weights=kind)
    try:
        weights = type(policy.transformer).from_pretrained(folder, use_safetensors=True).state_dict()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: expected a config.json with safetensors weights beside it: {error}") from error
    try:
        policy.transformer.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{folder}: these weights do not fit the base in {world.model}: {error}") from error
    return policy


def _weights_folder(checkpoint: Path) -> Path:
    """Where the weights of a checkpoint lie, all of them within that folder; raises DataError where they do not."""
    places = [inside(checkpoint, "checkpoint/model"), inside(checkpoint, "model"), checkpoint]
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise DataError(
            f"{checkpoint} holds no weights: expected a cell of the results with its checkpoint/model, or a checkpoint "
            "folder (checkpoints are not committed: run the experiment to make them)"
        )
    _refuse_ways_out(folder)
    return folder


def _as_trained(checkpoint: Path) -> tuple[Runtime, str]:
    """How the base of a cell was loaded, picture size and text length with it; the defaults for what is no cell.

    The result's weights are float32, and compiling takes longer than a few pictures.
    """
    config = _cell_config(checkpoint)
    problems = Problems()
    runtime = validate(Runtime, config.get("runtime", {}), "runtime", problems)
    problems.raise_if_any(f"{checkpoint / RECORD}")
    assert runtime is not None
    as_result = dataclasses.replace(runtime, denoiser_weights="float32", compile=False)
    return as_result, config.get("weights", "stored")


def _cell_config(folder: Path) -> dict[str, Any]:
    """What a cell of the results was made with; empty for what is no cell."""
    lines, _ = read_lines(inside(folder, RECORD))
    first = parse_event(lines[0], f"{folder / RECORD}:1") if lines else None
    return dict(first.config) if isinstance(first, Cell) else {}


def _refuse_other_model(folder: Path, note: Callable[[str], object]) -> None:
    """Make sure that a model in its cell's folder is the one that the cell left; `note` is told where none says."""
    cell = folder.absolute().parents[1]
    events = read_events(cell) if folder.absolute().parts[-2:] == ("checkpoint", "model") else []
    if not events:
        return
    held = events[-1].model if isinstance(events[-1], End) else {}
    names = {name for name in held if Path(name).parent == Path("checkpoint/model")}
    if not names:
        note(f"{cell} was recorded before hashes were, or is not finished: whether its model is whole is not known")
        return
    strange = {f"checkpoint/model/{path.name}" for path in folder.iterdir()} - names
    wrong = [found for name in sorted(names) if (found := changed_file(cell, name, held[name]))]
    wrong += [f"{name} is no part of the model that was recorded" for name in sorted(strange)]
    if wrong:
        raise DataError(f"{cell}: {'; '.join(wrong)}: restore the model, or remove that folder and run the cell again")


def _refuse_ways_out(folder: Path) -> None:
    """Make sure that all of a checkpoint lies in its folder: no links, and no parts elsewhere in an index of parts."""
    for path in folder.iterdir():
        inside(folder, path.name)
    for path in folder.glob("*.index.json"):
        try:
            parts = set(read_json(path)["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: expected an index of safetensors files: the file is damaged ({error})") from error
        for part in parts:
            inside(folder, str(part))


def tile(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 (rows, columns, H, W, 3) as one, with white gaps between them."""
    rows, columns, height, width, channels = pictures.shape
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = pictures[row, column]
    return sheet


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise DataError(f"cannot read the prompts in {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"cannot read the prompts in {path}: {error}") from error
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"{path} holds no prompts: expected one in each line")
    return found


def _examples(world: World) -> list[str]:
    return [world.prompts("report", [category], 1)[0].text for category in world.categories]


def _row(policy: PipelinePolicy, text: str, *, guidance: float, steps: int, seed: int, samples: int) -> np.ndarray:
    """`samples` pictures of one prompt, uint8 (samples, H, W, 3)."""
    import torch

    pictures = []
    for start in range(0, samples, _CHUNK):
        index = range(start, min(start + _CHUNK, samples))
        with torch.no_grad():
            z1 = torch.from_numpy(rng.normal(seed, f"sample/{text}", index, policy.latent_shape)).to(policy.device)
            z0 = policy.sample(z1, policy.encode([text] * len(index)), steps=steps, guidance=guidance)
            pictures.append(policy.decode(z0))
    return np.concatenate(pictures)

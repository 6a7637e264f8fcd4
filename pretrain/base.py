"""How good the base is: gold accuracy by category and guidance on validation prompts, and the sheets to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.scenes.sheet import contact_sheet
from bench.datasets.scenes.vocabulary import CATEGORIES
from pretrain.agreement import Pairs, base_samples, by_category, open_pipeline, rendered_pairs
from pretrain.loop import checkpoint_progress
from pretrain.vae import reconstruct

GUIDANCES = (1.0, 2.0, 3.0, 4.5)
COLUMNS = len(CATEGORIES)


def accuracy(pipeline: Any, count: int, guidances: Sequence[float] = GUIDANCES) -> dict[str, dict[str, float]]:
    """Strict gold accuracy over all and by category of `count` validation prompts, for each guidance scale."""
    result = {}
    for guidance in guidances:
        made = base_samples(pipeline, count, guidance)
        result[str(guidance)] = by_category(made.gold(), made.categories)
        print(f"base guidance {guidance} {result[str(guidance)]}", flush=True)
    return result


def sheets(pipeline: Any, log: Path, guidance: float, rows: int = 8) -> None:
    """Write the sheets: clean and ugly data, reconstructions under their originals, samples; one column a category."""
    count = rows * COLUMNS
    for style in ("clean", "broad", "ugly"):
        data = rendered_pairs(count, style)
        contact_sheet(data.images, data.captions, COLUMNS, f"Training data, {style}", log / f"data-{style}.png")
    originals = rendered_pairs(count // 2)
    pictures = _interleave(originals.images, reconstruct(pipeline.vae, originals.images))
    captions = [text for k in range(0, count // 2, COLUMNS) for text in _labels(originals, k)]
    contact_sheet(pictures, captions, COLUMNS, "Originals above their reconstructions", log / "reconstructions.png")
    made = base_samples(pipeline, count, guidance)
    right = ["right" if value == 1 else "wrong" for value in made.gold()]
    captions = [f"{text} [{word}]" for text, word in zip(made.captions, right, strict=True)]
    contact_sheet(made.images, captions, COLUMNS, f"Base, guidance {guidance:g}", log / "base-samples.png")


def _interleave(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Rows of COLUMNS pictures, alternately from two lists."""
    groups = range(0, len(above), COLUMNS)
    return np.concatenate([part[k : k + COLUMNS] for k in groups for part in (above, below)])


def _labels(originals: Pairs, first: int) -> list[str]:
    own = list(originals.captions[first : first + COLUMNS])
    return own + ["reconstruction"] * len(own)


def write_base_samples(folder: Path, assets: Path, log: Path, count: int = 700) -> None:
    """Measure the exported base and write base.json and the sheets."""
    pipeline = open_pipeline(assets)
    by_guidance = accuracy(pipeline, count)
    best = max(by_guidance, key=lambda guidance: by_guidance[guidance]["overall"])
    broad = rendered_pairs(count)
    rebuilt = Pairs(reconstruct(pipeline.vae, broad.images), broad.captions, broad.claims)
    stages = {p.stem: checkpoint_progress(p) for p in sorted(folder.glob("*.safetensors")) if _is_checkpoint(p)}
    result = {
        "prompts": count,
        "accuracy_by_guidance": by_guidance,
        "best_guidance": float(best),
        "reconstruction_accuracy": by_category(rebuilt.gold(), rebuilt.categories),
        "render_accuracy": by_category(broad.gold(), broad.categories),
        "stages": {
            name: {
                "samples": int(state["samples"]),
                "steps": int(state["step"]),
                "core_hours": round(state["cpu_seconds"] / 3600, 3),
            }
            for name, state in stages.items()
        },
    }
    log.mkdir(parents=True, exist_ok=True)
    (log / "base.json").write_text(json.dumps(result, indent=1) + "\n")
    sheets(pipeline, log, float(best))


def _is_checkpoint(path: Path) -> bool:
    return path.stem in ("vae", "decoder", "clip", "ocr", "transformer", "further", "preferences")

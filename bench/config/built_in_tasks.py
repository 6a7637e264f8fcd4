"""The built-in tasks of each world as plain values, so that they can be listed without importing anything."""

from __future__ import annotations

from typing import Any

_SCENES_SCORERS = [
    "scenes-geneval",
    "scenes-ocr",
    "scenes-aesthetic",
    "scenes-clip",
    "scenes-ocr-net",
    "scenes-aesthetic-head",
]
_SCENES_MARGINS = {
    "scenes-geneval": 0.01,
    "scenes-ocr": 0.01,
    "scenes-aesthetic": 0.1,
    "scenes-clip": 0.005,
    "scenes-ocr-net": 0.01,
    "scenes-aesthetic-head": 0.1,
}
_GENEVAL = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]


def _scenes(title: str, primary: str, reward: str | None, categories: list[str] | None) -> dict[str, Any]:
    """A task whose reward also selects the supervised data; without one, that data is as pre-training drew it."""
    return {
        "title": title,
        "primary": primary,
        "reward": reward,
        "select": reward,
        "top_share": 0.25 if reward else 1.0,
        "categories": categories,
        "scorers": _SCENES_SCORERS,
        "margins": _SCENES_MARGINS,
    }


_BRIGHTNESS = "bench.datasets.rehearsal:Brightness"

TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "scenes": {
        "alignment": _scenes("text-image alignment", "scenes-geneval", "scenes-clip", _GENEVAL),
        "aesthetic": _scenes("aesthetic quality", "scenes-aesthetic", "scenes-aesthetic-head", None),
        "text": _scenes("text rendering", "scenes-ocr", "scenes-ocr-net", ["text"]),
        "alignment-gold": _scenes("alignment, exact verifier", "scenes-geneval", "scenes-geneval", _GENEVAL),
        "unselected": _scenes("continued pre-training, nothing selected", "scenes-geneval", None, _GENEVAL),
    },
    # The user's own pictures: all of them train, unless `bench curate` or a task's `select` chose some. The default
    # scorer is the one that judges pictures of any size and subject; `--reward` names another.
    "images": {
        "pictures": {
            "title": "pictures of the user's own",
            "primary": "scenes-aesthetic",
            "reward": "scenes-aesthetic",
            "select": None,
            "top_share": 1.0,
            "scorers": ["scenes-aesthetic"],
            "margins": {"scenes-aesthetic": 0.1},
        },
    },
    "rehearsal": {
        "rehearsal": {
            "title": "rehearsal, no evidence",
            "primary": _BRIGHTNESS,
            "reward": _BRIGHTNESS,
            "select": _BRIGHTNESS,
            "scorers": [_BRIGHTNESS],
            "candidates": 64,
            "train_prompts": 64,
        }
    },
}
WORLDS = tuple(TASKS)

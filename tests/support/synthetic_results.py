"""Results of known truth: a whole results folder drawn from stated distributions, written by the real writer."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.canonical import canonical_json, config_hash
from bench.config.search import Search
from bench.results import report
from bench.results.records.registration import registration_hash
from bench.results.records.schema import BASE, ExperimentHeader, ScorerInfo, TaskInfo
from bench.results.records.writer import CellRecord, write_experiment_header

CATEGORIES = ("colors", "counting", "position", "text")
SCORERS = {
    "scenes-geneval": ScorerInfo(gold=True, margin=0.01),
    "scenes-ocr": ScorerInfo(gold=True, margin=0.01),
    "scenes-aesthetic": ScorerInfo(gold=True, margin=0.01),
    "scenes-clip": ScorerInfo(gold=False, margin=0.005, pair="scenes-geneval", range=(-1.0, 1.0)),
    "scenes-ocr-net": ScorerInfo(gold=False, margin=0.01, pair="scenes-ocr"),
    "scenes-aesthetic-head": ScorerInfo(gold=False, margin=0.01, pair="scenes-aesthetic", range=(0.0, 10.0)),
}
TASKS = {
    "alignment": TaskInfo(reward="scenes-clip", filter="scenes-clip", title="text-image alignment"),
    "aesthetic": TaskInfo(reward="scenes-aesthetic-head", filter="scenes-aesthetic-head", title="aesthetic quality"),
}
BASE_MEANS = {
    "scenes-geneval": 0.45,
    "scenes-ocr": 0.40,
    "scenes-aesthetic": 0.50,
    "scenes-clip": 0.28,
    "scenes-ocr-net": 0.45,
    "scenes-aesthetic-head": 5.3,
}
# True gains over the base at the end of the budget, by task, method and scorer; what is not named gains nothing.
GAINS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "alignment": {
        "sft": {"scenes-geneval": 0.05, "scenes-clip": 0.010},
        "soar": {"scenes-geneval": 0.20, "scenes-clip": 0.030},
        "flowgrpo": {"scenes-geneval": -0.15, "scenes-clip": 0.060},
    },
    "aesthetic": {
        "sft": {"scenes-aesthetic": 0.05, "scenes-aesthetic-head": 0.10},
        "soar": {"scenes-aesthetic": 0.05, "scenes-aesthetic-head": 0.10},
        "flowgrpo": {"scenes-aesthetic": 0.10, "scenes-aesthetic-head": 0.60, "scenes-geneval": -0.05},
    },
}
UPDATE_COST = {"sft": 96.0, "soar": 224.0, "flowgrpo": 2400.0}
BUDGET = 60_000.0


@dataclass(frozen=True)
class World:
    """How the synthetic scores vary. seed_sd, prompt_sd: as shares of a scorer's own scale."""

    name: str = "synthetic"
    label: str = "demonstration"
    methods: tuple[str, ...] = ("sft", "soar", "flowgrpo")
    tasks: tuple[str, ...] = ("alignment", "aesthetic")
    seeds: int = 3
    prompts: int = 160
    milestone_prompts: int = 80
    wordings: int = 1  # of each claim: so many prompts in a row state it
    seed_sd: float = 0.005
    prompt_sd: float = 0.1
    gains: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=lambda: GAINS)
    budget: float = BUDGET
    captions: tuple[str, ...] = ("two red stars", "a blue circle left of a green square", 'the text "K7"', "a cube")
    grid: tuple[tuple[float, ...], tuple[int, ...]] = ((1.0, 3.0, 5.0), (5, 10, 20))
    split: str = "report"
    search: Search | None = None
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of methods whose records tell theirs
    grid_prompts: int = 40
    once: tuple[float, float] | None = None  # what filter and encodings cost, where the records hold it


def build_world(folder: Path, world: World) -> Path:
    """Write folder/results and the REPORT.md made from them; returns `folder`."""
    write_world(folder / "results", world)
    report.write_report(folder / "results", folder / "REPORT.md")
    return folder


def write_world(results: Path, world: World = World()) -> Path:
    """Write results/<name>; returns that folder."""
    folder = results / world.name
    config = {"evaluation": {"steps": 20, "guidance": 3.0}, "budget": "60k"}
    header = ExperimentHeader(
        name=world.name,
        label=world.label,
        question="Which method improves the base most?",
        config=config,
        config_hash=config_hash(config),
        tasks={task: TASKS[task] for task in world.tasks},
        methods=world.methods,
        scorers=SCORERS,
        budget="60k",
        baseline="sft",
        trials=0,
        search=world.search,
        command=f"python -m bench run --preset {world.name}",
    )
    write_experiment_header(folder, header)
    for task in world.tasks:
        _cell(folder, world, task, BASE, 0)
        for method in world.methods:
            for seed in range(world.seeds):
                _cell(folder, world, task, method, seed)
    return folder


def ledger(cost: float = 0.0, updates: int = 0, **entries: Any) -> dict[str, Any]:
    """A ledger entry; what is not named is zero."""
    names = "flops images samples forward backward decode_cost reward_cost reward_calls curation_reward_calls"
    zero = dict.fromkeys([*names.split(), "skipped_updates"], 0)
    return {**zero, "cost": cost, "updates": updates, **entries}


def provenance(**changes: Any) -> dict[str, Any]:
    """Provenance of an imaginary machine."""
    made = {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "sources": {"bench/api.py": "00", "methods/sft.py": "01"},
        "sources_hash": "0011223344556677",
        "versions": {"torch": "2.9.0", "numpy": "2.0.0"},
        "python": "3.12.0",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    }
    return made | changes


def start(record: CellRecord, world: World, task: str, method: str, seed: int) -> None:
    """The header of a cell."""
    margins = {name: info.margin for name, info in SCORERS.items()}
    config = {"method": method, "task": {"name": task, "margins": margins}, "budgets": ["60000 cost"]}
    config |= {"stages": [world.stages[method]]} if method in world.stages else {}
    record.start(
        {
            "experiment": world.name,
            "task": task,
            "method": method,
            "seed": seed,
            "config": config,
            "config_hash": config_hash(config),
            "registration": registration_hash(record.folder.parents[3]),
            "provenance": provenance(),
        }
    )


def scores(world: World, task: str, method: str, seed: int, count: int, share: float) -> dict[str, np.ndarray]:
    """Scores (count,) of every scorer with `share` of the final gain; prompts are as difficult for all methods."""
    found = {}
    category = np.array([CATEGORIES[i % len(CATEGORIES)] for i in range(count)])
    for number, (scorer, mean) in enumerate(BASE_MEANS.items()):
        scale = 1.0 if mean > 1 else mean
        shared = np.random.default_rng([1, number]).standard_normal(world.prompts)[:count]
        own = np.random.default_rng([2, number, _number(method), seed])
        gain = world.gains[task].get(method, {}).get(scorer, 0.0) * share
        shift = 0.0 if method == BASE else world.seed_sd * scale * own.standard_normal()
        centre = mean + gain + shift + world.prompt_sd * scale * shared
        if SCORERS[scorer].gold:
            values = (np.random.default_rng([3, number, _number(method), seed]).uniform(size=count) < centre) * 1.0
        else:
            values = centre + 0.05 * scale * own.standard_normal(count)
        ocr = scorer.startswith("scenes-ocr")
        found[scorer] = np.where((category == "text") | (not ocr), values, np.nan).astype(np.float32)
    return found


def summaries(frame: Mapping[str, Any], own: Mapping[str, ScorerInfo] = SCORERS) -> dict[str, dict[str, Any]]:
    """Mean and count of every scorer over the prompts that are not held out."""
    counted = np.broadcast_to(np.asarray(frame["split"]), np.shape(frame["prompt_index"])) != "held_out"
    found = {}
    for name in own:
        values = np.asarray(frame[name], np.float32)[counted].astype(np.float64)
        values = values[np.isfinite(values)]
        found |= {name: {"mean": float(values.mean()), "n": values.size}} if values.size else {}
    return found


def as_schema_1(folder: Path) -> None:
    """Turn an experiment into one that was recorded before hashes were."""
    for path in [*folder.glob("*/*/seed*/record.jsonl"), folder / "experiment.json"]:
        is_record = path.suffix == ".jsonl"
        texts = path.read_text(encoding="utf-8").splitlines() if is_record else [path.read_text(encoding="utf-8")]
        for number, text in enumerate(texts):
            held = {name: v for name, v in json.loads(text).items() if name not in ("hash", "sha256", "model")}
            texts[number] = canonical_json(held | ({"schema": 1} if "schema" in held else {}))
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _number(method: str) -> int:
    return sum(method.encode())


def _frame(world: World, task: str, method: str, seed: int, update: int, count: int, share: float) -> dict[str, Any]:
    return {
        "prompt_index": np.arange(count),
        "cluster": np.arange(count) // world.wordings * world.wordings,
        "category": [CATEGORIES[i % len(CATEGORIES)] for i in range(count)],
        "split": [world.split] * count,
        "guidance": 3.0,
        "steps": 20,
        "update": update,
        **scores(world, task, method, seed, count, share),
    }


def _cell(folder: Path, world: World, task: str, method: str, seed: int) -> None:
    record = CellRecord(folder / task / method / f"seed{seed}")
    start(record, world, task, method, seed)
    each = UPDATE_COST.get(method, 500.0)
    updates = 0 if method == BASE else int(world.budget / each)
    for share in (1.0,) if method == BASE else (0.25, 0.5, 0.75, 1.0):
        _milestone(record, world, task, method, seed, int(updates * share), share)
    _ending(record, world, task, method, seed, updates)


def _milestone(record: CellRecord, world: World, task: str, method: str, seed: int, update: int, share: float) -> None:
    count = world.prompts if share == 1.0 else world.milestone_prompts
    frame = _frame(world, task, method, seed, update, count, share)
    if share == 1.0:
        few = min(40, world.prompts)
        held = _frame(world, task, method, seed, update, few, share) | {"split": ["held_out"] * few}
        frame = {n: v if np.isscalar(v) else np.concatenate([v, held[n]]) for n, v in frame.items()}
    file = f"scores-{update:06d}.parquet"
    record.write_scores(file, frame)
    spent = _spent(world, method, update)
    if method != BASE:
        record.append("step", stage=0, update=update, ledger=spent, metrics={"loss": 1.0 / (1 + update)})
    record.append(
        "milestone",
        update=update,
        fraction=0.0 if method == BASE else share,
        ledger=spent,
        guidance=3.0,
        steps=20,
        file=file,
        scores=summaries(frame),
        diversity=0.31 - 0.1 * share * (method == "flowgrpo") if share == 1.0 else None,
        drift={"velocity": 0.02 * share * (method != BASE), "norm_ratio": 1.0 + 0.01 * share, "path_kl": 0.3 * share},
    )
    seconds = update * UPDATE_COST.get(method, 500.0) / 1000
    record.telemetry("milestone", **_telemetry(update, seconds))


def _ending(record: CellRecord, world: World, task: str, method: str, seed: int, updates: int) -> None:
    guidance, steps = world.grid
    few, frames = min(world.grid_prompts, world.prompts), []
    for scale in guidance:
        for number in steps:
            share = 1.0 - 0.08 * abs(scale - 3.0) - 0.5 / number
            frames.append(
                _frame(world, task, method, seed, updates, few, share)
                | {"guidance": np.full(few, scale), "steps": np.full(few, number), "update": np.full(few, updates)}
            )
    if frames:
        record.write_scores("grid.parquet", {n: np.concatenate([f[n] for f in frames]) for n in frames[0]})
        record.append("grid", file="grid.parquet")
    record.write_bytes("pictures.png", _pictures(len(world.captions), _number(method)))
    record.append(
        "pictures",
        file="pictures.png",
        tile=[32, 32],
        prompt_indices=list(range(len(world.captions))),
        captions=list(world.captions),
        guidance=3.0,
        steps=20,
    )
    record.telemetry("end", **_telemetry(updates, updates * UPDATE_COST.get(method, 500.0) / 1000))
    record.append("end", status="done", reason=None, ledger=_spent(world, method, updates))


def _spent(world: World, method: str, update: int) -> dict[str, Any]:
    cost = update * UPDATE_COST.get(method, 500.0)
    images = 48 * update if method == "flowgrpo" else 0
    once = (0.0, 0.0) if world.once and method in (BASE, "flowgrpo") else world.once or (None, None)
    return ledger(
        cost=cost,
        updates=update,
        flops=cost * 1e9,
        forward=cost / 3,
        backward=cost / 3 * 2,
        images=images,
        samples=0 if method == "flowgrpo" else 32 * update,
        reward_calls=images,
        curation_reward_calls=0 if method in (BASE, "flowgrpo") else 4096,
        filter_cost=once[0],
        encoding_cost=once[1],
    )


def _telemetry(update: int, seconds: float) -> dict[str, Any]:
    time = "2026-01-01T00:00:00+00:00"
    return {"update": update, "seconds": seconds, "cpu_seconds": seconds, "max_rss_mib": 900.0, "time": time}


def _pictures(count: int, colour: int) -> bytes:
    row = np.full((32, 32 * count, 3), 235, dtype=np.uint8)
    for tile in range(count):
        row[8:24, 32 * tile + 8 : 32 * tile + 24] = [(50 * tile) % 256, colour % 256, 120]
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, format="PNG")
    return buffer.getvalue()

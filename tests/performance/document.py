"""The page on speed and its plot, from results/benchmarks alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.performance import measure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "benchmarks"
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.png"

# Ratios that are aimed at, by the beginning of a case's name: over the bare passes, over the straightforward way
GOALS = {"sft": (1.03, None), "soar, 1": (1.03, 0.90), "soar, 6": (1.03, 0.95), "flowgrpo": (1.05, 0.85)}
PART_GOALS = {"evaluation": "1.20"}


def read_figures() -> dict[str, Any]:
    """What was measured, by section."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def page(found: Mapping[str, Any]) -> str:
    """The page in Markdown; of what was not measured it says so."""
    first = found["steps-width1"]
    machine = first["with"]
    steps = []
    for width in measure.BATCHES:
        for row in _rows(found, f"steps-width{width}"):
            over_bare, over_other = _ratio(row["bare"]), _ratio(row["straightforward"])
            goals = _goal(row["case"], 0), _goal(row["case"], 1)
            steps.append((row["case"], f"{width} x", over_bare, goals[0], over_other, goals[1]))
    parts = [(row["part"], _ratio(row["bare"]), PART_GOALS.get(row["part"], "")) for row in _rows(found, "parts")]
    memory = [
        (row["case"], f"{row['harness']:.0f}", f"{row['straightforward']:.0f}",
         f"{row['harness'] / row['straightforward']:.2f}")
        for row in _rows(found, "memory")
    ]  # fmt: skip
    sizes = "; ".join(
        f"at {width} x, {batch} samples of an update or {measure.PICTURES[width]} pictures of a rollout phase"
        for width, batch in measure.BATCHES.items()
    )
    text = f"""# Speed

What the harness adds to the passes that a method cannot do without, and how its methods compare with the way their
authors write them. Measured by `python -m tests.performance` on a {machine["device"].upper()} with torch
{machine["torch"]}: {first["rounds"]} rounds, CPU seconds of one thread. The figures are in `results/benchmarks`; this
page is written from them. `pytest tests/performance --benchmark-enable --dist=no` measures again in three minutes, and
fails where a ratio is 25 % worse than here.

## An update

Medians over the rounds, with quartiles. *Bare* are the method's passes on given tensors, clipping by two passes and
AdamW's fused kernel, decoding and reward. *Straightforward* is the same update as in the authors' code, written anew
(`tests/performance/cases.py`): SOAR with a conditional pass of its own for the rollout and one graph for all points,
Flow-GRPO with both branches in one pass with gradient, one trained step after the other, and the reference beside each;
torch's default AdamW. A micro-batch is the batch, and three of it for six points of SOAR, whose authors' graph holds
seven. Flow-GRPO samples ten steps and trains five. On the embedded base and one of four times its
width: {sizes}.

{_table(("update", "width", "over bare", "goal", "over straightforward", "goal"), steps)}

{_picture(found)}

## Other parts

Sampling over the denoiser's passes and the decoder; scoring by all scorers of a task over one CLIP and the reader of
shapes; evaluation over the denoiser, the decoder and the CLIP once; curation over drawing the pictures, the network
that chooses and the VAE; a checkpoint over writing the same tensors; the report of all committed results, with its
comparison with what is there, over reading their files.

{_table(("part", "over bare", "goal"), parts)}

## Memory

The most main memory above the loaded model, in a process of its own, MiB; {measure.MEMORY_BATCH} samples or
{measure.MEMORY_PICTURES} pictures.

{_table(("update", "here", "straightforward", "ratio"), memory)}
"""
    return "\n\n".join(map(_wrapped, text.rstrip().split("\n\n"))) + "\n"


def _wrapped(block: str) -> str:
    """A paragraph in lines of 120 characters; tables, titles and pictures as they are."""
    return block if block[0] in "#|!" else textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def _picture(found: Mapping[str, Any]) -> str:
    return f"![CPU seconds of an update along six axes]({PLOT.name})" if _rows(found, "slopes") else "Not measured yet."


def _rows(found: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    """The rows of a section; none where it was not measured."""
    return found.get(section, {"rows": []})["rows"]


def _ratio(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _goal(case: str, which: int) -> str:
    goal = next(goals[which] for start, goals in GOALS.items() if case.startswith(start))
    return "" if goal is None else f"{goal:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Not measured yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Six small axes: seconds of an update in the harness and of its bare passes."""
    from matplotlib.figure import Figure

    slopes = _rows(found, "slopes")
    axes = list(dict.fromkeys(row["axis"] for row in slopes))
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for place, title in enumerate(axes, 1):
        rows = [row for row in slopes if row["axis"] == title]
        panel = figure.add_subplot(2, 3, place)
        for way, style in (("harness", "o-"), ("bare", "s--")):
            panel.plot([row["x"] for row in rows], [row[way] for row in rows], style, label=way, markersize=4)
        panel.set_xlabel(title)
        panel.set_xticks([row["x"] for row in rows])
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        if place in (1, 4):
            panel.set_ylabel("CPU seconds of an update")
        if place == 1:
            panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)

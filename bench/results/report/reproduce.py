"""What was spent, what failed, who judged, and how each number is made again."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.api import DataError
from bench.config.pictures import Found
from bench.paths import ELSEWHERE, portable
from bench.results.records.schema import BASE, Cell
from bench.results.report.markdown import code, escape, fenced, markdown_table
from bench.results.report.tables import method_name
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.one_off import one_off

__all__ = [
    "cost_table",
    "failures_table",
    "judges_table",
    "prompt_count",
    "reproduction",
    "run_command",
    "settings_table",
    "setup_table",
]

ENTRIES = (
    ("cost", "Cost"),
    ("forward", "Forward"),
    ("backward", "Backward"),
    ("decode_cost", "Decoding"),
    ("reward_cost", "Reward passes"),
    ("flops", "FLOPs"),
    ("updates", "Updates"),
    ("skipped_updates", "Skipped"),
    ("samples", "Clean samples"),
    ("images", "Pictures generated"),
    ("reward_calls", "Reward calls"),
    ("curation_reward_calls", "Curation calls"),
)
MOVED = " (`...` stands for a folder that is not recorded)"
_ROLES = {"training": "RL reward", "filter": "data filter"}


def cost_table(analysis: Analysis, task: str) -> str:
    """What each method spent, by entry of the ledger: means over finished seeds."""
    cells = analysis.experiment.cells
    rows = []
    for method in analysis.methods(task):
        own = cells[(cells["task"] == task) & (cells["method"] == method) & (cells["status"] == "done")]
        name = method_name(analysis, task, method)
        once = one_off(analysis, task, method)
        found = [_amount(float("nan") if cost is None else cost) for cost in (once.filter, once.encoding, once.total)]
        spent = float(own["cost"].mean())
        share = "–" if once.total is None or not spent else f"{once.total / spent:.0%}"
        rows.append([name, *(_amount(float(own[entry].mean())) for entry, _ in ENTRIES), *found, share])
    once_titles = ["Filter, once", "Encodings, once", "Both", "Share of the cost"]
    return markdown_table(["Method", *(title for _, title in ENTRIES), *once_titles], rows)


def _amount(value: float) -> str:
    if value != value:
        return "–"
    if value == round(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) >= 1e7 or abs(value) < 1000 else f"{value:,.0f}"


def failures_table(analysis: Analysis) -> str:
    """Cells that are not reported: refused, failed, interrupted, or never begun; a sentence where there are none."""
    refused = analysis.experiment.refused
    rows = [
        [escape(c.task), escape(c.method), escape(c.seed.removeprefix("seed")), "refused", escape("; ".join(c.reasons))]
        for c in refused
    ]
    for cell in analysis.experiment.results:
        if cell.status != "done":
            reason = cell.end.reason if cell.end and cell.end.reason else "interrupted: the same command goes on"
            torn = " (last line torn)" if cell.torn else ""
            name = [escape(cell.header.task), escape(cell.header.method), str(cell.header.seed)]
            rows.append([*name, cell.status + torn, escape(portable(reason, known=False))])
    seeds = sorted({cell.header.seed for cell in analysis.experiment.results if cell.header.method != BASE})
    present = {f"{c.header.task}/{c.header.method}/seed{c.header.seed}" for c in analysis.experiment.results}
    present |= {cell.name for cell in refused}
    header = analysis.experiment.header
    for task in header.tasks:
        wanted = [(task, BASE, 0), *((task, method, seed) for method in header.methods for seed in seeds)]
        for key in wanted:
            if f"{key[0]}/{key[1]}/seed{key[2]}" not in present:
                rows.append([escape(task), escape(key[1]), str(key[2]), "not run", "no record"])
    if not rows:
        return "None: every cell is finished."
    return markdown_table(["Task", "Method", "Seed", "Status", "Reason"], rows)


def setup_table(analysis: Analysis) -> str:
    """Tasks: what trains, what selects data, what judges, on how many prompts."""
    rows = []
    for task in analysis.tasks:
        info, primary = analysis.task_info(task), analysis.primary(task)
        prompts = prompt_count(analysis, task)
        margin = analysis.margin(task, primary)
        rows.append(
            [
                escape(task),
                escape(info.title or "–"),
                escape(info.reward or "none"),
                escape(info.filter or "none"),
                f"{escape(primary)} (margin {'none' if margin is None else f'{margin:g}'})",
                str(prompts),
            ]
        )
    return markdown_table(["Task", "About", "RL reward", "Data filter", "Headline scorer", "Prompts at the end"], rows)


def prompt_count(analysis: Analysis, task: str) -> int:
    """How many prompts the headline's scorer judged at the end."""
    primary = analysis.primary(task)
    return max(analysis.scores(task, method, primary).shape[1] for method in analysis.methods(task))


def settings_table(analysis: Analysis) -> str:
    """The settings of every method as they were resolved, stage by stage; records that hold none are named."""
    shown: dict[str, list[list[str]]] = {}
    for cell in analysis.experiment.results:
        head = cell.header
        if head.method != BASE and head.method not in shown:
            shown[head.method] = [[escape(head.method), *stage] for stage in _stages(head)]
    rows = [row for method in analysis.experiment.header.methods for row in shown.get(method, [])]
    if not rows:
        return "The settings of each method stand in the first line of its record.jsonl."
    return markdown_table(["Method", "Stage", "Its settings", "Training"], rows)


def _stages(head: Cell) -> list[list[str]]:
    stages = head.config.get("stages")
    if not isinstance(stages, list):
        return []
    return [
        [code(str(stage.get("name", "?"))), _settings(stage.get("config", {})), _settings(stage.get("train", {}))]
        for stage in stages
    ]


def _settings(values: dict[str, Any]) -> str:
    """`a=1, b=2`; lists by their length where they are long."""
    texts = []
    for name, value in sorted(values.items()):
        text = json.dumps(value)
        texts.append(f"{name}={text if len(text) <= 40 else f'[{len(value)} entries]'}")
    return code(portable(", ".join(texts), known=False)) if texts else "–"


def _pictures(data: Any) -> list[str]:
    """Which pictures of the user's own were trained on, what was left out, and who chose among them."""
    if data is None:
        return []
    try:
        found = TypeAdapter(Found).validate_python(data)
    except ValidationError as error:
        raise DataError(
            f"experiment.json: config.data does not describe pictures: {error.errors()[0]['msg']}"
        ) from error
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(found.left_out.items())) or "none"
    chosen = f", selected by {found.selected_by} ({found.rule}) among {found.scored}" if found.selected_by else ""
    there = {size: count for size, count in (found.buckets or {}).items() if count}
    buckets = f", in aspect buckets: {', '.join(f'{count} of {size}' for size, count in there.items())}"
    return [
        f"- pictures: {escape(found.form)}, fingerprint {code(found.fingerprint)}: {found.rows} rows, {found.kept} "
        f"used, left out: {escape(left_out)}; {found.training} to train on{escape(chosen)}, {found.resolution} pixels"
        + (escape(buckets) if there else "")
        + (f", {found.to_srgb} brought to sRGB from another colour profile" if found.to_srgb else "")
        + ("; too few captions to judge by: the prompts are those of the prompt sets" if found.all_train else "")
    ]


def judges_table(analysis: Analysis) -> str:
    """Each scorer's kind, version, checkpoint and part in every task, as the records hold them; empty where none do.

    What each follows stands below, where an experiment has noted it.

    Held out is a scorer that judges a task and neither trains nor selects there, not even as a part of a sum.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in analysis.experiment.results:
        for name, use in cell.scorers.scorers.items() if cell.scorers else ():
            words = [_ROLES[role] for role in use.roles if role in _ROLES] or ["held out"]
            found.setdefault((name, use.version, use.checkpoint), {})[cell.header.task] = " and ".join(words)
    if not found:
        return ""
    tasks = list(dict.fromkeys(task for parts in found.values() for task in parts))
    rows = [
        [
            escape(name), _kind_of(analysis, name), escape(version), code(checkpoint) if checkpoint else "–",
            *(parts.get(task, "–") for task in tasks),
        ]
        for (name, version, checkpoint), parts in sorted(found.items())
    ]  # fmt: skip
    head = ["Scorer", "Kind", "Version", "Checkpoint", *(f"In {escape(task)}" for task in tasks)]
    return "\n\n".join(filter(None, [markdown_table(head, rows), _sources(analysis)]))


def _sources(analysis: Analysis) -> str:
    """What each scorer follows, and where it differs from that, as it says itself."""
    infos = sorted(analysis.experiment.header.scorers.items())
    return "\n".join(f"- {escape(name)}: {escape(info.source)}" for name, info in infos if info.source)


def _kind_of(analysis: Analysis, name: str) -> str:
    """`gold` or `proxy`; a scorer that judges no task is not described."""
    info = analysis.experiment.header.scorers.get(name)
    return "–" if info is None else "gold" if info.gold else "proxy"


def run_command(analysis: Analysis) -> str:
    """The command that runs an experiment again."""
    header = analysis.experiment.header
    command = portable(header.command, known=False) or f"python -m bench run --preset {header.name}"
    return code(command) + (MOVED if ELSEWHERE in command else "")


def reproduction(analysis: Analysis) -> str:
    """Command, commit, configuration and sources behind the numbers of an experiment."""
    header, cells = analysis.experiment.header, analysis.experiment.cells
    lines = [f"- results: {code('results/' + header.name)}, configuration {code(header.config_hash)}"]
    lines.append(f"- run it: {run_command(analysis)}")
    lines.append(f"- this text and its figures: {code(f'python -m bench report {header.name}')}")
    lines += _pictures(header.config.get("data"))
    known_by = ["commit", "dirty", "sources_hash", "sources_cover"]
    for (commit, dirty, sources, cover), group in cells.groupby(known_by, dropna=False) if len(cells) else ():
        known = isinstance(commit, str)
        state = "changed since" if dirty is True else "clean"
        where = f"commit {code(commit[:12])} ({state})" if known else "no git checkout"
        older = ", the older kind of hash, of all files of the package" if cover == "package" else ""
        lines.append(f"- {len(group)} cells: {where}, sources {code(sources)}{older}")
    seen: dict[str, int] = {}
    for cell in analysis.experiment.results:
        made = cell.header.provenance
        versions = ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items()))
        line = f"Python {made.python}, {versions}; {made.device}, {made.dtype}, {made.threads} threads"
        seen[line] = seen.get(line, 0) + 1
    lines += [f"- {count} cells: {escape(line)}" for line, count in sorted(seen.items())]
    config = json.dumps(header.config, indent=1, sort_keys=True, ensure_ascii=False)
    config = fenced(portable(config, known=False), "json")
    return "\n".join(lines) + f"\n\n<details><summary>Resolved configuration</summary>\n\n{config}\n\n</details>"

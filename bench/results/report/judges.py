"""Which scorers an experiment used, with which checkpoints, and which of them were held out of training."""

from __future__ import annotations

from bench.results.report.markdown import code, escape, markdown_table
from bench.results.statistics.analysis import Analysis

__all__ = ["judges_table"]

_WORDS = {"training": "RL reward", "filter": "data filter"}


def judges_table(analysis: Analysis) -> str:
    """Each scorer's kind, version, checkpoint and part in every task, as the records hold them; empty where none do.

    What each follows stands below, where an experiment has noted it.

    Held out is a scorer that judges a task and neither trains nor selects there, not even as a part of a sum.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in analysis.experiment.results:
        for name, use in cell.scorers.scorers.items() if cell.scorers else ():
            words = [_WORDS[role] for role in use.roles if role in _WORDS] or ["held out"]
            found.setdefault((name, use.version, use.checkpoint), {})[cell.header.task] = " and ".join(words)
    if not found:
        return ""
    tasks = list(dict.fromkeys(task for parts in found.values() for task in parts))
    rows = [
        [
            escape(name), _kind(analysis, name), escape(version), code(checkpoint) if checkpoint else "–",
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


def _kind(analysis: Analysis, name: str) -> str:
    """`gold` or `proxy`; a scorer that judges no task is not described."""
    info = analysis.experiment.header.scorers.get(name)
    return "–" if info is None else "gold" if info.gold else "proxy"

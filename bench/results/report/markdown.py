"""Markdown that holds whatever a user calls things, and numbers with the digits that they deserve."""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from bench.results.records.schema import ScorerInfo
from bench.results.statistics.intervals import Interval

__all__ = [
    "anchor",
    "code",
    "escape",
    "fenced",
    "format_number",
    "interval_text",
    "link_target",
    "markdown_table",
    "one_line",
    "printable",
    "score_decimals",
    "signed",
]

_NUMBER = re.compile(r"^[-+]?\d|^–$")
_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
# What makes a heading, a list, a rule or an underlined title of the line that it begins.
_BLOCK = re.compile(r"^(?:[-+=#]|\d+(?=[.)](?:\s|$)))")
# Control characters, and those that turn the direction of the text after them.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Text of a user's own, shown as it is: no HTML, no markup, no links, no mentions, no line breaks.

    It may begin a line. Control characters are replaced (`printable`).
    """
    plain = html.escape(one_line(text), quote=False)
    plain = _SPECIAL.sub(r"\\\1", plain)
    plain = _BLOCK.sub(lambda found: found[0] + "\\" if found[0].isdigit() else "\\" + found[0], plain)
    return plain.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def one_line(text: str) -> str:
    """`printable`, with a space for each run of spaces and line breaks."""
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    """A text whose control characters are replaced, so that it cannot command a terminal or reverse what is read."""
    return _UNSEEN.sub("\ufffd", text)


def link_target(path: Path, report: Path) -> str:
    """The target of a link in `report` to a file, relative to it."""
    return quote(Path(os.path.relpath(path, report.parent)).as_posix())


def anchor(heading: str) -> str:
    """The fragment by which a heading of plain text is linked to, as GitHub forms it."""
    kept = re.sub(r"[^\w\- ]", "", one_line(heading).lower())
    return f"#{quote(kept.replace(' ', '-'))}"


def code(text: str) -> str:
    """Inline code, with a fence longer than any run of backticks inside."""
    # In a table a pipe ends the cell even here, unless an odd number of backslashes stands before it.
    plain = re.sub(r"(\\*)\|", lambda found: 2 * found[1] + "\\|", one_line(text)) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if "`" in plain else ""
    return f"{fence}{space}{plain}{space}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; cells are markdown already. Columns of numbers alone are set to the right."""
    body = list(rows)
    numeric = [all(_NUMBER.match(row[column]) for row in body) for column in range(len(head))]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("--:" if right else ":--" for right in numeric) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def score_decimals(info: ScorerInfo, margin: float | None) -> int:
    """Decimals that show a tenth of the margin, or of a hundredth of the range where no margin was stated."""
    if margin is not None:
        return max(1, math.floor(-math.log10(margin)) + 1)
    low, high = info.range
    return 3 if low is not None and high is not None and high - low <= 2 else 2


def interval_text(interval: Interval, decimals: int, sign: bool = False) -> str:
    """`0.489 [0.477, 0.501]`; the mean alone where there is no interval."""
    show = signed if sign else format_number
    if math.isnan(interval.low):
        return show(interval.mean, decimals)
    return f"{show(interval.mean, decimals)} [{show(interval.low, decimals)}, {show(interval.high, decimals)}]"


def format_number(value: float, decimals: int) -> str:
    """A number with this many decimals, without a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float, decimals: int) -> str:
    """A difference: always with its sign, zero without."""
    text = format_number(value, decimals)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"

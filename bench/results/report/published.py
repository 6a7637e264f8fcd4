"""Rows of the papers' own tables, from `published.yaml`: what was published, where, and why it is no baseline."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.parsing import Problems, read_yaml, validate

_STRICT = ConfigDict(extra="forbid")
_FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True, config=_STRICT)
class PublishedRow:
    """One published row: each figure with the digits that its source prints; None where it gives none."""

    name: str
    source: str
    geneval: str | None = None
    ocr: str | None = None
    pickscore: str | None = None
    clipscore: str | None = None
    hpsv2: str | None = None
    aesthetic: str | None = None
    imagereward: str | None = None

    def figure(self, scorer: str) -> str:
        """The figure under a scorer, or a dash."""
        return getattr(self, scorer, None) or "–"


@dataclass(frozen=True, config=_STRICT)
class PublishedTable:
    """All rows, and the sentences that have to stand beside them."""

    note: str
    rows: tuple[PublishedRow, ...]


@cache
def published() -> PublishedTable:
    """The published rows; raises ConfigError where the file is damaged."""
    problems = Problems()
    found = validate(PublishedTable, read_yaml(_FILE), "", problems)
    problems.raise_if_any(_FILE.name)
    assert found is not None
    return found

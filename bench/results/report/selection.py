"""Which experiment the report is about: results/report.json says so, or the most complete one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.api import DataError
from bench.results.statistics.analysis import Analysis

__all__ = ["Choice", "choose_main", "read_choice"]

Unit = Literal["cost", "flops", "seconds", "updates", "images"]


class Choice(BaseModel):
    """`results/report.json`, all of it optional. units: the axes of the curves, left to right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    main: str | None = None
    units: tuple[Unit, ...] = ("cost", "updates")


def read_choice(results: Path) -> Choice:
    """The configuration of the report; raises DataError where it is damaged or names unknown things."""
    path = results / "report.json"
    if not path.is_file():
        return Choice()
    try:
        return Choice.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(f"{path}: {problems}") from error


def choose_main(analyses: list[Analysis], name: str | None) -> Analysis:
    """The named experiment; without a name, unlabelled ones first, then the one with most finished cells.

    Raises DataError where the named one is not among them.
    """
    names = [analysis.experiment.header.name for analysis in analyses]
    if name is not None:
        if name not in names:
            raise DataError(f"results/report.json: no finished experiment {name!r}; there are {', '.join(names)}")
        return analyses[names.index(name)]

    def completeness(analysis: Analysis) -> tuple[bool, int, str]:
        done = sum(cell.status == "done" for cell in analysis.experiment.results)
        return bool(analysis.experiment.header.label), -done, analysis.experiment.header.name

    return min(analyses, key=completeness)

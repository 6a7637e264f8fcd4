"""The page of one experiment as text: one file, without a server, a script from elsewhere or a request."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.canonical import canonical_json
from bench.results.figures.style import UNIT_TITLES
from bench.results.report.answer import answer
from bench.results.report.curves import curves_figure
from bench.results.report.figure import Figure
from bench.results.report.figures import other_figures
from bench.results.report.markdown import format_number, printable, signed
from bench.results.report.page.downloads import downloads, scores_digest, settings_yaml
from bench.results.report.page.gallery import Gallery, picture_sources, read_galleries
from bench.results.report.page.score_table import table_rows
from bench.results.report.tables import filter_words
from bench.results.report.words import SIGNS, mark_notes, scorer_decimals
from bench.results.statistics.analysis import Analysis

__all__ = ["PageDocument"]

FOLDER = Path(__file__).parent
AXES = ("cost", "whole_cost", "updates", "seconds", "images")  # of the curves, as they can be chosen


@dataclass(frozen=True)
class PageDocument:
    """One experiment's page. `data_hash` is of all that it says; `render` draws, encodes and fills in the template."""

    analysis: Analysis

    @cached_property
    def _curves(self) -> list[tuple[str, str, Figure]]:
        """(task, unit, figure) of every axis that was recorded."""
        found = []
        for task in self.analysis.tasks:
            for unit in AXES:
                figure = curves_figure(self.analysis, task, (unit,))
                if figure and figure.data["units"]:
                    idle = [one["method"] for one in figure.data["means"] if max(one["x"][unit]) == 0]
                    caption = figure.caption + (f" None of this is spent by {', '.join(idle)}." if idle else "")
                    found.append((task, unit, replace(figure, name=f"{figure.name}-{unit}", caption=caption)))
        return found

    @cached_property
    def _others(self) -> list[Figure]:
        """The other figures of the report that are lines and points."""
        return other_figures(self.analysis)

    @cached_property
    def _galleries(self) -> list[Gallery]:
        return read_galleries(self.analysis)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        header, rows = self.analysis.experiment.header, table_rows(self.analysis)
        return {
            "name": header.name,
            "label": header.label,
            "question": header.question,
            "baseline": header.baseline if any(row["baseline"] for row in rows) else None,
            "answer": answer(self.analysis),
            "rows": rows,
            "notes": [
                f"{task}: {words}" for task in self.analysis.tasks if (words := filter_words(self.analysis, task))
            ],
            "marks": mark_notes(self.analysis, self.analysis.tasks),
        }

    @cached_property
    def data_hash(self) -> str:
        """16 hex digits of all numbers, texts, scores and pixels."""
        figures = [figure for _, _, figure in self._curves] + self._others
        facts = {
            **self._facts,
            "figures": {figure.name: [figure.data, figure.caption] for figure in figures},
            "galleries": [gallery.facts() for gallery in self._galleries],
            "scores": scores_digest(self.analysis),
            "settings": settings_yaml(self.analysis),
        }
        return blake2b(canonical_json(facts).encode(), digest_size=8).hexdigest()

    def render(self) -> bytes:
        """The HTML in UTF-8; the same for the same results and library versions."""
        script, style = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
        sources, smaller = picture_sources(self._galleries)
        parts = _environment().get_template("page.html.jinja").generate(
            **self._facts,
            signs=SIGNS,
            style=Markup(style),
            script=Markup(script),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
            units=[(unit, UNIT_TITLES[unit]) for unit in AXES if any(of == unit for _, of, _ in self._curves)],
            curves=[(task, unit, figure, _picture(figure), self._described(task, unit, figure))
                    for task, unit, figure in self._curves],
            others=[(figure, _picture(figure)) for figure in self._others],
            galleries=self._galleries,
            source_of=sources.__getitem__,
            smaller=smaller,
            downloads=downloads(self.analysis),
        )  # fmt: skip
        return b"".join(part.encode() for part in parts)  # one text of all takes several times the memory

    def _described(self, task: str, unit: str, figure: Figure) -> str:
        """What a reader who does not see the curves should know: where each begins and ends, minus the base."""
        said = []
        for scorer in figure.data["scorers"]:
            name = scorer["name"]
            decimals = scorer_decimals(self.analysis, task, name)
            base = figure.data["base"].get(name)
            show = format_number if base is None else signed
            ends = [f"{one['method']} ends at {show(one['y'][name][-1], decimals)}" for one in figure.data["means"]]
            start = [] if base is None else [f"the base has {format_number(base, decimals)}, which is subtracted"]
            said.append(f"{name} ({scorer['kind']}): {', '.join(start + ends)}")
        return f"Curves of {task} over {UNIT_TITLES[unit]}. {'. '.join(said)}."


def _environment() -> Environment:
    """Templates that show every text as it is: no markup in it, no control characters."""
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def _csp_hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _picture(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{b64encode(figure.draw('svg')).decode()}"

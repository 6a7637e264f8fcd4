"""All that is said of one experiment: `results/<experiment>/REPORT.md`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.results.records.schema import BASE
from bench.results.report import main_table, reproduce, tables, world
from bench.results.report.answer import answer
from bench.results.report.claims import published_claims
from bench.results.report.claims_table import claims_table
from bench.results.report.figure import Figure, headline_scorers
from bench.results.report.markdown import code, escape, link_target
from bench.results.report.registered import registration_words
from bench.results.report.search import search_section
from bench.results.report.words import VERDICTS
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.null import null_verdicts

__all__ = ["ExperimentReport"]

DRIFT_NOTE = (
    "diversity: mean pairwise distance of image embeddings among samples of one prompt. velocity: squared "
    "distance of the velocity from the base's, relative. norm_ratio: its norm over the base's. path_kl: KL "
    "divergence of sampling paths from the base's, in nats. Mean over seeds (lowest to highest)."
)
COST_NOTE = (
    "Means over finished seeds. One unit of cost is a forward pass of the denoiser for one sample; its parts are "
    "forward and backward passes, decoding and reward passes. Reward calls in training and in choosing the data stand "
    "apart. What the data took once, scoring the candidates for the choice and encoding the chosen, is in no budget: "
    "the last columns show it in the same unit (– where the records do not hold it), and the curves are drawn with and "
    "without it. "
    "Seconds and memory are telemetry of the machine, which the last table of a run in the terminal shows: they are no "
    "part of the record, and so not of this text, which is the same whether a run was interrupted or not."
)


class ExperimentReport:
    """The sections of one experiment's report, for a text that stands at `place`."""

    def __init__(self, analysis: Analysis, place: Path, figures: Sequence[Figure]) -> None:
        self.analysis = analysis
        self.header = analysis.experiment.header
        self.label = tables.label_of(analysis)
        self._place = place
        self._by_name = {figure.name: figure for figure in figures}

    def whole(self, results: Path) -> list[str]:
        """All sections."""
        return [
            *self.opening(),
            *self.results(),
            "## Curves",
            *self.curves(),
            *self.grids(),
            *self.claims(),
            *self.hacking(),
            "## Samples",
            *self.samples(),
            *self._by_task("Diversity and drift", tables.drift_table, DRIFT_NOTE),
            *self._by_task("What was spent", reproduce.cost_table, COST_NOTE),
            f"## Failed and unfinished cells{self.label}",
            reproduce.failures_table(self.analysis),
            *self.statistics(results),
            "## How each number is made again",
            *filter(None, [reproduce.judges_table(self.analysis)]),
            reproduce.reproduction(self.analysis),
            self._hashes(),
        ]

    def without_scores(self, why: str) -> list[str]:
        """The sections where there are no scores to report, and `why`; of a search on tune prompts, what it found."""
        return [
            self.question(),
            why,
            *search_section(self.analysis, self._image),
            reproduce.settings_table(self.analysis),
            "## Failed and unfinished cells",
            reproduce.failures_table(self.analysis),
            "## How it is made again",
            reproduce.reproduction(self.analysis),
        ]

    def opening(self) -> list[str]:
        """Question, the answer, set-up."""
        return [
            self.question(),
            *self.warning(),
            "## The answer",
            self.answer(),
            f"## Set-up{self.label}",
            self.facts(),
            reproduce.setup_table(self.analysis),
            reproduce.settings_table(self.analysis),
        ]

    def question(self) -> str:
        """What the experiment asks."""
        return escape(self.header.question or "Which method improves the base most, at equal budget?")

    def warning(self) -> list[str]:
        """What to think of an experiment with a label."""
        if not self.header.label:
            return []
        label = escape(self.header.label)
        return [f"> This experiment is labelled {label}: it shows the instrument, and its verdicts decide little."]

    def answer(self) -> str:
        """The answer in a few sentences, without what clocks said: that differs from run to run."""
        said = answer(self.analysis, clocks=False)
        return "\n".join(f"{number}. **{escape(one.lead)}**: {escape(one.rest)}" for number, one in enumerate(said, 1))

    def facts(self) -> str:
        """What all methods share."""
        found = self.analysis
        counts = {len(found.seeds(task, m)) for task in found.tasks for m in found.methods(task) if m != BASE}
        seeds = " or ".join(map(str, sorted(counts))) or "no"
        prompts = " or ".join(dict.fromkeys(f"{reproduce.prompt_count(found, task):,}" for task in found.tasks))
        trials = "not stated" if self.header.trials is None else str(self.header.trials)
        return (
            f"Experiment {code(self.header.name)}{self.label}: every method starts from the same base and gets the "
            f"same budget, {escape(self.header.budget or 'not stated')}, with {seeds} seeds and {trials} tuning trials "
            f"each; all are judged on the same {prompts} prompts with the same initial noise. Gold scorers are exact, "
            "proxies are learned; evaluation is never charged. Margins were written into the configuration before the "
            f"run. {registration_words(found)}"
        )

    def results(self) -> list[str]:
        """The main tables, with intervals, categories and held-out prompts."""
        parts = ["## Results"]
        for task in self.analysis.tasks:
            parts.append(f"### {escape(tables.task_heading(self.analysis, task))}")
            parts += [tables.summary_table(self.analysis, task), tables.filter_note(self.analysis, task)]
            parts += self._image(f"differences-{task}")
            parts.append(self._details(task))
            scorer = self.analysis.primary(task)
            parts.append(f"By category, {escape(scorer)}{self.label}:")
            parts.append(tables.category_table(self.analysis, task, scorer))
            held_out = tables.held_out_table(self.analysis, task)
            if held_out:
                parts += [f"On combinations that no training data holds{self.label}:", held_out]
            parts += [
                *main_table.main_table_section(self.analysis, task),
                *tables.prompt_sets_section(self.analysis, task),
            ]
        return parts

    def _details(self, task: str) -> str:
        summary = f"All differences with 95 % intervals, {escape(task)}{self.label}"
        inside = tables.detail_table(self.analysis, task)
        return f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>"

    def curves(self) -> list[str]:
        """Scores along the budget, a figure a task."""
        shown = [part for task in self.analysis.tasks for part in self._image(f"curves-{task}")]
        return shown or ["No curves were recorded."]

    def grids(self) -> list[str]:
        """Guidance and steps: figures, and the headline's numbers."""
        parts = []
        for task in self.analysis.tasks:
            scorer = headline_scorers(self.analysis, task)[0]
            grid = tables.grid_table(self.analysis, task, scorer)
            if grid:
                parts += self._image(f"grid-{task}")
                parts += [f"{escape(task)}, {escape(scorer)}, guidance scale w{self.label}:", grid]
        return ["## Guidance and steps", *(parts or ["No grid was recorded."])]

    def claims(self) -> list[str]:
        """The claims table of this experiment's comparisons, each by its own interval."""
        note = (
            "Here every comparison goes by its own interval, uncorrected; the verdicts on the claims by their "
            "registered comparisons, corrected for all of them, stand in the report of all experiments."
        )
        table = claims_table([self.analysis], None, self._place)
        return [f"## Claims{self.label}", published_claims().note, note, table]

    def hacking(self) -> list[str]:
        """Proxy against gold."""
        note = (
            "Gains over the base in standard deviations of its scores over prompts. A proxy that rises while gold "
            "falls is reward hacking. Supervised methods meet the proxy as a data filter only, RL methods as a reward."
        )
        found = tables.gains_table(self.analysis) or "No pair of a proxy and a gold scorer, or no base to gain over."
        return [f"## Proxy against gold{self.label}", note, *self._image("proxy-gold"), found]

    def samples(self, most: int | None = None) -> list[str]:
        """Sample grids, of all tasks or of the first ones that have any, and their prompts as text."""
        parts, shown = [], [task for task in self.analysis.tasks if f"samples-{task}" in self._by_name]
        for task in shown[:most]:
            captions = self._by_name[f"samples-{task}"].data["captions"]
            listed = "; ".join(f"({number}) {escape(text)}" for number, text in enumerate(captions, 1))
            parts += [*self._image(f"samples-{task}"), f"Prompts from top to bottom: {listed}"]
        return parts or ["No pictures were recorded."]

    def statistics(self, results: Path) -> list[str]:
        """How intervals and verdicts come about."""
        count = self.analysis.comparisons()
        text = (
            "Seeds are the unit of replication, and prompts that state the same claim are one draw. Differences "
            "are taken seed by seed on the same prompts and noise. The variance of their mean is the variance "
            "over seeds divided by the number of seeds, plus what all seeds share because they see the same "
            "claims; the t quantiles of both parts are weighed by their shares "
            f"(`bench/results/statistics/intervals.py` has the formula and its sources). {VERDICTS} That "
            "difference would have been shown with probability 0.8. One seed gives no interval. The base has no "
            "training seed: its interval is over claims alone. "
            f"There are {count} comparisons in the tables of differences; if no method differed from any other, about "
            f"{0.05 * count:.1f} of them would still exclude zero. {_null_words(self.analysis)}"
        )
        return ["## Statistics", text.strip(), world.coverage_section(results)]

    def _by_task(self, title: str, make: Callable[[Analysis, str], str], note: str) -> list[str]:
        parts = [f"## {title}", note]
        for task in self.analysis.tasks:
            parts += [f"{escape(task)}{self.label}:", make(self.analysis, task)]
        return parts

    def _image(self, name: str) -> list[str]:
        if name not in self._by_name:
            return []
        figure = self._by_name[name]
        path = self.analysis.experiment.folder / "figures" / f"{name}.png"
        caption = f"{escape(figure.title)}{self.label}. {escape(figure.caption)}"
        return [f"![{escape(figure.title)}]({link_target(path, self._place)})", f"*{caption}*"]

    def _hashes(self) -> str:
        lines = "\n".join(f"- {code(figure.name)}: {code(figure.data_hash)}" for figure in self._by_name.values())
        return f"<details><summary>Hashes of the plotted data</summary>\n\n{lines}\n\n</details>"


def _null_words(analysis: Analysis) -> str:
    """How often halves of one method's seeds were told apart; empty where no method has four seeds."""
    found = null_verdicts(analysis)
    if found is None:
        return ""
    return (
        f"Halves of one method's seeds ({found.seeds} each), compared as if they were two methods by the headline "
        f"scorers: {found.false} of {found.comparisons} comparisons ({found.false / found.comparisons:.1%}) told them "
        "apart."
    )

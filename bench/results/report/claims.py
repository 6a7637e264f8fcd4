"""What the SOAR paper claims, what it published on SD3.5-Medium, and what this experiment says about it.

Source: SOAR, arXiv 2604.12617, and the README of its code; the figures are theirs, on another model and other data.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.report.markdown import digits, escape, interval_text, markdown_table
from bench.results.report.tables import verdict_words
from bench.results.statistics.analysis import Analysis, Difference
from bench.results.statistics.intervals import crossed_interval, detectable, paired_differences, verdict

__all__ = ["CLAIMS", "Claim", "ClaimFinding", "claims_table", "findings", "summarise"]

NOT_TESTED = "not tested here"
BETTER, WORSE, TIE = "better", "worse", "tie"


@dataclass(frozen=True)
class Claim:
    """One row. `method` minus `reference` under `scorers`, in the `tasks` that an experiment has.

    An empty `scorers` asks for the scorer that each task trains on. A claim without `method` has no such comparison.
    tie_suffices: a tie confirms the claim as well as a gain does.
    """

    number: int
    text: str
    published: str
    method: str = ""
    reference: str = ""
    tasks: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    absent: str = NOT_TESTED
    tie_suffices: bool = False


CLAIMS = (
    Claim(
        1,
        "SOAR beats SFT on composition",
        "GenEval: base 0.63, SFT 0.70, SOAR 0.78",
        "soar",
        "sft",
        ("general", "alignment", "alignment-gold"),
        ("scenes-geneval",),
    ),
    Claim(
        2,
        "SOAR beats SFT on text rendering",
        "OCR: base 0.59, SFT 0.64, SOAR 0.67",
        "soar",
        "sft",
        ("general", "text"),
        ("scenes-ocr",),
    ),
    Claim(
        3,
        "SOAR raises every preference score over SFT",
        "base, SFT, SOAR: PickScore 22.34, 22.71, 22.86; ClipScore .285, .295, .295 (a tie); HPSv2.1 .279, .284, .289; "
        "Aesthetic 5.36, 5.35, 5.46; ImageReward 0.85, 1.04, 1.09",
        "soar",
        "sft",
        ("general", "alignment", "aesthetic"),
    ),
    Claim(
        4,
        "SOAR beats Flow-GRPO in final aesthetic score, with no reward model in training",
        "Aesthetic: SFT 5.74, Flow-GRPO 5.87, SOAR 5.94 (SOAR's data were chosen by the same scorer)",
        "soar",
        "flowgrpo",
        ("aesthetic",),
        ("scenes-aesthetic-head", "scenes-aesthetic"),
    ),
    Claim(
        5,
        "SOAR beats Flow-GRPO in final text-image alignment",
        "ClipScore: SFT .297, Flow-GRPO .296, SOAR .300",
        "soar",
        "flowgrpo",
        ("alignment",),
        ("scenes-clip", "scenes-geneval"),
    ),
    Claim(
        6,
        "SOAR's loss contains SFT's: it can replace SFT as the first stage",
        "lambda = 0 is SFT exactly; no two-stage figure",
        "soar+flowgrpo",
        "sft+flowgrpo",
        tie_suffices=True,
        absent=f"{NOT_TESTED}: needs soar+flowgrpo and sft+flowgrpo (that weight 0 equals SFT is a unit test)",
    ),
    Claim(
        7,
        "SOAR stays compatible with RL afterwards",
        "no figure",
        "soar+flowgrpo",
        "soar",
        absent=f"{NOT_TESTED}: needs soar+flowgrpo",
    ),
    Claim(
        8,
        "Dense, on-policy, no credit assignment: SOAR corrects exposure bias",
        "no measurement",
        absent=f"{NOT_TESTED}: needs soar, sft and a grid with several step counts",
    ),
)


@dataclass(frozen=True)
class ClaimFinding:
    """One comparison that bears on a claim."""

    task: str
    what: str
    difference: Difference
    decimals: int
    few: bool

    @property
    def text(self) -> str:
        """One line of the column `ours`."""
        found = interval_text(self.difference.interval, self.decimals, sign=True)
        mark = " †" if self.few else ""
        return (
            f"{escape(self.task)}, {escape(self.what)}: {found}, {verdict_words(self.difference, self.decimals)}{mark}"
        )


def findings(analysis: Analysis, claim: Claim) -> list[ClaimFinding]:
    """All comparisons of an experiment that bear on a claim; none where the data is absent."""
    if claim.number == 8:
        return [found for task in analysis.tasks if (found := _few_steps(analysis, task)) is not None]
    compared: list[ClaimFinding | None] = []
    for task in analysis.tasks:
        if claim.tasks and task not in claim.tasks:
            continue
        if {claim.method, claim.reference} <= set(analysis.methods(task)):
            wanted = claim.scorers or _asked(analysis, task, claim)
            compared += [
                _compare(analysis, task, claim, scorer) for scorer in wanted if scorer in analysis.scorers(task)
            ]
    return [item for item in compared if item is not None]


def _asked(analysis: Analysis, task: str, claim: Claim) -> tuple[str, ...]:
    """The scorer that the task trains on, for claims on preference scores; for two-stage claims the primary one too."""
    reward = analysis.task_info(task).reward
    names = ([reward] if reward else []) + ([] if claim.tasks else [analysis.primary(task)])
    return tuple(dict.fromkeys(names))


def _compare(analysis: Analysis, task: str, claim: Claim, scorer: str) -> ClaimFinding | None:
    found = analysis.difference(task, claim.method, claim.reference, scorer)
    if found is None:
        return None
    few = any(analysis.few_updates(task, name) for name in (claim.method, claim.reference))
    info = analysis.info(scorer)
    what = f"{scorer} ({'gold' if info.gold else 'proxy'})"
    return ClaimFinding(task, what, found, digits(info, analysis.margin(task, scorer)), few)


def _few_steps(analysis: Analysis, task: str) -> ClaimFinding | None:
    """What few sampling steps cost SOAR, minus what they cost SFT: exposure bias shows as loss at few steps."""
    guidance, steps = analysis.grid_settings(task)
    if not {"soar", "sft"} <= set(analysis.methods(task)) or len(steps) < 2:
        return None
    scorer = analysis.primary(task)
    marks = analysis.experiment.milestones
    used = float(marks.loc[marks["task"] == task, "guidance"].iloc[0])
    scale = min(guidance, key=lambda value: abs(value - used))
    loss = {}
    for method in ("soar", "sft"):
        many, few = (analysis.grid_scores(task, method, scorer, scale, count) for count in (steps[-1], steps[0]))
        if not many.size or not few.size:
            return None
        loss[method] = many - few
    seeds = loss["soar"].index.intersection(loss["sft"].index)
    if not len(seeds):
        return None
    values = paired_differences(loss["soar"].loc[seeds].to_numpy(), loss["sft"].loc[seeds].to_numpy())
    interval, margin = crossed_interval(values), analysis.margin(task, scorer)
    word = verdict(interval, margin, higher_is_better=not analysis.info(scorer).higher_is_better)
    what = f"{scorer} lost from {steps[-1]} to {steps[0]} steps at guidance {scale:g} (less is better)"
    few_updates = any(analysis.few_updates(task, name) for name in ("soar", "sft"))
    found = Difference("sft", interval, word, detectable(interval))
    return ClaimFinding(task, what, found, digits(analysis.info(scorer), margin), few_updates)


def summarise(claim: Claim, found: list[ClaimFinding]) -> str:
    """The verdict on a claim in words: it holds only where every comparison says better."""
    if not found:
        return claim.absent
    words: list[str] = [item.difference.verdict for item in found]
    if claim.tie_suffices:
        words = [BETTER if word == TIE else word for word in words]
    said = _words(words)
    if any(item.few for item in found):
        said += "; with fewer than 50 updates (†) this says little"
    if not claim.scorers and claim.tasks:
        said += f" (tested on {len(found)} learned score{'s' if len(found) > 1 else ''})"
    return said + (" (indirect: quality lost at few steps)" if claim.number == 8 else "")


def _words(words: list[str]) -> str:
    if all(word == BETTER for word in words):
        return "**holds here**"
    if all(word == WORSE for word in words):
        return "**fails here**: the opposite"
    if all(word == TIE for word in words):
        return "**tie**: no difference that matters"
    if all(word.startswith("undecided") for word in words):
        return "**undecided**"
    counts = [(name, sum(word.startswith(name) for word in words)) for name in (BETTER, WORSE, TIE, "undecided")]
    held = "**fails in part**" if WORSE in words else "**not shown as a whole**"
    return f"{held}: " + ", ".join(f"{count} {name}" for name, count in counts if count)


def claims_table(analysis: Analysis) -> str:
    """Eight rows: claim, published figures, ours, verdict."""
    rows = []
    for claim in CLAIMS:
        found = findings(analysis, claim)
        ours = "<br>".join(item.text for item in found) or "–"
        against = f" ({claim.method} minus {claim.reference})" if found and claim.method else ""
        if found and claim.number == 8:
            against = " (soar minus sft)"
        rows.append([str(claim.number), claim.text + against, claim.published, ours, summarise(claim, found)])
    head = ["#", "Claim", "Published on SD3.5-Medium", "Ours, embedded world, equal budget", "Verdict"]
    return markdown_table(head, rows)

"""What a cell does, written down and told: its record and telemetry on the first rank, events to whoever runs it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench.api import DataError, Prompt
from bench.budget import Ledger
from bench.config.job import CellJob
from bench.distributed.ranks import Ranks
from bench.models.encoding_cache.store import Counts
from bench.paths import portable
from bench.results.records.provenance import source_hashes
from bench.results.records.schema import Cell
from bench.results.records.writer import CellRecord
from bench.training.env import LOSS
from bench.training.evaluate import Frame, Judgement, SetJudgement

LOG_SHARE = 0.01  # of the budget between two logged steps

Post = Callable[[dict[str, Any]], None]


def refuse_other_cell(job: CellJob, state: Mapping[str, Any]) -> None:
    """Raise DataError for the state of a checkpoint of another cell, or of none."""
    if state.get("cell") != job.identity:
        raise DataError(f"expected a checkpoint of {job.identity}, got one of {state.get('cell', 'no cell')}")


class CellLog:
    """The log of one cell. Every rank may call it; the first one writes.

    Attributes:
        ledger: what training has spent; the cell puts in the one of its checkpoint.
        update, fraction: optimiser updates so far, and the share of the budget spent.
        encodings: what the cell asked the cache for, where it has one.
    """

    def __init__(self, job: CellJob, post: Post, ranks: Ranks) -> None:
        self.record = CellRecord(job.folder)
        self.ledger = Ledger()
        self.update, self.fraction = 0, 0.0
        self.encodings: Counts | None = None
        self.is_open = False
        self._job = job
        self._post = post
        self._writes = ranks.is_first
        self._settings = job.experiment.evaluation
        self._metrics: dict[str, list[float]] = {}
        self._last_logged = 0.0

    def post(self, event: str, **fields: Any) -> None:
        """Tell an event."""
        self._post({"cell": self._job.name, "event": event, **fields})

    def note(self, message: str) -> None:
        """Tell a message."""
        self.post("note", message=message)

    def evaluating(self, part: float) -> None:
        """Tell which share (0, 1] of an evaluation is done."""
        self.post("evaluate", fraction=self.fraction, update=self.update, part=part)

    @contextmanager
    def scoring(self, reward: str, part: str) -> Iterator[None]:
        """Tells the watchdog when a reward begins and ends; one that hangs cannot tell by itself."""
        self.post("score", reward=reward, part=part)
        try:
            yield
        finally:
            self.post("scored")

    # Training

    def step(self, stage: int, metrics: Mapping[str, float]) -> None:
        """One update of a stage; what it logged is recorded as a mean with those around it."""
        for name, value in metrics.items():
            self._metrics.setdefault(name, []).append(float(value))
        loss = metrics.get(LOSS)
        self.post("step", update=self.update, fraction=self.fraction, cost=self.ledger.cost, loss=loss)
        if self.fraction - self._last_logged >= LOG_SHARE:
            self.flush(stage)

    def flush(self, stage: int) -> None:
        """Record the means of the updates since the last time, if there are any."""
        if not self._metrics:
            return
        if self._writes:
            means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
            self.record.append("step", stage=stage, update=self.update, ledger=self.ledger.facts(), metrics=means)
            self._telemetry("step")
        self._metrics, self._last_logged = {}, self.fraction

    def refuse_other_record(self, sound: Sequence[str], state: Mapping[str, Any]) -> None:
        """Raise DataError for what `state_dict` gave in another cell, or after lines that are not among the `sound`."""
        refuse_other_cell(self._job, state)
        count = state["events"]
        if len(sound) < count or sound[count - 1] != state["record"]:
            raise DataError(f"the {count} lines of the record that it follows are not there as they were written")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold, JSON-able."""
        return {
            "ledger": self.ledger.state_dict(), "last_logged": self._last_logged, "metrics": self._metrics,
            "events": len(self.record.events()), "record": self.record.head, "cell": self._job.identity,
            "sources": self._late_sources(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; the record itself is cut by `CellRecord.truncate`."""
        self.ledger = Ledger.from_state(state["ledger"])
        self._last_logged, self._metrics = state["last_logged"], state["metrics"]

    # Evaluation

    def milestone(self, stage: int, judgement: Judgement) -> None:
        """Record an evaluation."""
        if not self._writes:
            return
        file = f"scores-{self.update:06d}.parquet"
        if any(getattr(event, "file", None) == file for event in self.record.events()):  # and it has to stay whole
            file = f"scores-{self.update:06d}-final.parquet"
        self.record.write_scores(file, judgement.frame)
        self.record.append(
            "milestone", stage=stage, update=self.update, fraction=min(1.0, self.fraction), ledger=self.ledger.facts(),
            guidance=self._settings.guidance, steps=self._settings.steps, file=file, scores=judgement.scores,
            diversity=judgement.diversity, drift=judgement.drift,
        )  # fmt: skip
        self._telemetry("milestone")
        self.post_scores({name: summary["mean"] for name, summary in judgement.scores.items()})

    def post_scores(self, means: Mapping[str, float]) -> None:
        """Tell the score of the headline among the means of an evaluation."""
        score = means.get(portable(self._job.experiment.task(self._job.task).primary))
        self.post("milestone", update=self.update, fraction=self.fraction, cost=self.ledger.cost, score=score)

    def prompt_set(self, judged: SetJudgement, in_training: int | None) -> None:
        """Record how a prompt set was judged; `in_training` of its prompts could train too (None: not counted)."""
        if not self._writes:
            return
        one = judged.of
        file = f"prompts-{one.name}.parquet"
        self.record.write_scores(file, judged.frame)
        self.record.append(
            "prompt_set", name=one.name, file=file, fingerprint=one.found.fingerprint, prompts=one.found.chosen,
            there=one.found.there, samples=one.settings.samples, guidance=self._settings.guidance,
            steps=self._settings.steps, in_training=in_training, scores=judged.scores,
        )  # fmt: skip

    def grid(self, frame: Frame | None) -> None:
        """Record the guidance x steps grid, where there is one."""
        if self._writes and frame is not None:
            self.record.write_scores("grid.parquet", frame)
            self.record.append("grid", file="grid.parquet")

    def pictures(self, png: bytes, prompts: Sequence[Prompt], tile: tuple[int, int]) -> None:
        """Record the row of sample pictures."""
        if not self._writes:
            return
        self.record.write_bytes("pictures.png", png)
        self.record.append(
            "pictures", file="pictures.png", tile=list(tile), prompt_indices=[p.index for p in prompts],
            captions=[p.text for p in prompts], guidance=self._settings.guidance, steps=self._settings.steps,
        )  # fmt: skip

    # The end

    def done(self, model: Mapping[str, str]) -> None:
        """End the record of a cell that is finished, and leaves the files of a `model`, with their hashes."""
        if self._writes:
            self._telemetry("end")
            late = self._late_sources()
            self.record.append("end", status="done", ledger=self.ledger.facts(), sources=late, model=dict(model))
        self.post("end", status="done", update=self.update, fraction=1.0)

    def failed(self, reason: str) -> None:
        """End the record of a cell with what went wrong."""
        try:
            if self.is_open and self._writes:
                self.record.append("end", status="failed", reason=reason, ledger=self.ledger.facts())
        except DataError as another:
            reason += f"; and its record could not be ended: {another}"
        self.post("end", status="failed", message=reason, fraction=self.fraction, update=self.update)

    def _late_sources(self) -> dict[str, str]:
        """What was imported since the record began: scorers bring some modules when they are loaded."""
        held = self.record.events()[0]
        assert isinstance(held, Cell)
        return {name: d for name, d in source_hashes({}).items() if name not in held.provenance.sources}

    def _telemetry(self, kind: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counts = self.encodings if kind == "end" else None
        self.record.telemetry(
            kind, update=self.update, seconds=self.ledger.seconds, cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss_mib=usage.ru_maxrss / 1024, time=datetime.now(UTC).isoformat(timespec="seconds"),
            encodings=asdict(counts) if counts else None,
        )  # fmt: skip

"""Typed, versioned schema of all that is stored under `results/`: events of a record, telemetry, experiment header.

Everything is strict: unknown kinds and fields fail, types are not converted, files of a newer schema are refused. JSON
has sorted keys and Python's shortest float repr, so that equal facts are equal bytes; NaN and infinities are refused.

Schema 2 has hashes (`bench.results.records.hashes`): of every line, of the files that it names, of the header. What was
recorded under schema 1 stays readable, and has none. Schema 3 has clusters of prompts in the score files, and the
hash of the registration in the first line of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_serializer
from pydantic.dataclasses import dataclass

from bench.api import DataError
from bench.config.reward_expression import parts_of
from bench.config.search import Search
from bench.reading import parse_json
from bench.registry import BASE

__all__ = [
    "BASE",
    "CLUSTER",
    "HELD_OUT",
    "LEDGER",
    "SCHEMA",
    "SCORE_COLUMNS",
    "Cell",
    "EncodingCounts",
    "End",
    "Event",
    "ExperimentHeader",
    "GridScores",
    "LedgerEntry",
    "Milestone",
    "PromptSetScores",
    "Provenance",
    "SampleGrid",
    "ScoreSummary",
    "ScorerInfo",
    "ScorerUse",
    "Scorers",
    "Step",
    "TaskInfo",
    "Telemetry",
    "dump",
    "parse_event",
    "parse_header",
    "parse_line",
    "parse_telemetry",
]

SCHEMA = 3
CLUSTER = "cluster"  # of a prompt: the lowest index of those of its split that state the same claim
SCORE_COLUMNS = {
    "prompt_index": "int32",
    CLUSTER: "int32",
    "category": "str",
    "split": "str",
    "guidance": "float32",
    "steps": "int32",
    "update": "int32",
}
HELD_OUT = "held_out"  # the split of prompts that no recorded mean is over
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    """Frozen, no unknown fields, no coercion between types (an integer may stand for a float)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


# Of what a record has by the dozen, as dataclasses with slots: models take several times the memory
_STRICT = ConfigDict(extra="forbid", strict=True)


class _Line(_Strict):
    """One line of a record. hash: `line_hash` of it, null in schema 1."""

    hash: str | None = None


class _FileLine(_Line):
    """A line that names a file of the cell's folder. sha256: its hash, null in schema 1."""

    file: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, config=_STRICT)
class LedgerEntry:
    """What training has spent so far, in every unit; evaluation is in none. Seconds stand in the telemetry.

    cost: forward-equivalents of the denoiser (one sample each), passes, decoding and rewards together. flops: measured.
    updates: optimiser updates. images: pictures generated in training. samples: clean samples drawn. forward, backward,
    decode_cost, reward_cost: the parts of `cost`. reward_calls: pictures scored in training; curation_reward_calls:
    pictures scored to select the training data. filter_cost, encoding_cost: what that and encoding the selected
    pictures take once, in the unit of `cost` and no part of it; null in records of before schema 3.
    """

    cost: Finite
    flops: Finite
    updates: Count
    images: Count
    samples: Count
    forward: Finite
    backward: Finite
    decode_cost: Finite
    reward_cost: Finite
    reward_calls: Count
    curation_reward_calls: Count
    skipped_updates: Count
    filter_cost: Finite | None = None
    encoding_cost: Finite | None = None


LEDGER = tuple(field.name for field in fields(LedgerEntry))


class Provenance(_Strict):
    """What made the numbers, as `bench.results.records.provenance` has it. commit is null outside a git checkout.

    sources: hashes of files by name, those of the user's own as `plugin/<file>` and `base/<file>`. covers: whether they
    are what the cell's process had `imported` when its record began, or, in older records, all of the `package`.
    """

    commit: str | None
    dirty: bool | None
    covers: Literal["package", "imported"] = "package"
    sources: dict[str, str]
    sources_hash: str
    versions: dict[str, str]
    python: str
    device: str
    dtype: str
    threads: int


class Cell(_Line):
    """First line of a record. `method` is the label the user gave, e.g. `soar+flowgrpo`; `config` the resolved one.

    registration: the hash of the file that said beforehand what is compared; null where none was there.
    """

    kind: Literal["cell"] = "cell"
    schema_: int = Field(default=SCHEMA, alias="schema")
    experiment: str
    task: str
    method: str
    seed: Count
    config: dict[str, Any]
    config_hash: str
    registration: str | None = None
    provenance: Provenance


class ScorerUse(_Strict):
    """One scorer in a cell: `checkpoint` is the hash of its weights (empty: it has none), `roles` what it did.

    standard: mean and deviation by which it was standardised within a weighted sum. where: what computed its scores:
    the process of the cell (`here`), another one with its settings, or a server.
    """

    version: str
    checkpoint: str = ""
    roles: tuple[Literal["training", "filter", "evaluation"], ...]
    standard: tuple[Finite, Finite] | None = None
    where: str = "here"


class Scorers(_Line):
    """Second line of a record: the scorers of the cell by name, those within weighted sums included."""

    kind: Literal["scorers"] = "scorers"
    scorers: dict[str, ScorerUse]


class Step(_Line):
    """One optimiser update: `update` counts from 1 over all stages, `ledger` is the state after it."""

    kind: Literal["step"] = "step"
    stage: Count = 0
    update: Count
    ledger: LedgerEntry
    metrics: dict[str, Finite]


@dataclass(frozen=True, slots=True, config=_STRICT)
class ScoreSummary:
    """Mean of one scorer over the `n` prompts that it judged, and by category; `abstained` of those it applies to."""

    mean: Finite
    n: Count
    abstained: Count = 0
    by_category: dict[str, Finite] = Field(default_factory=dict)


class Milestone(_FileLine):
    """One evaluation. fraction: share of the budget spent (0 to 1). guidance, steps: the sampler's settings.

    diversity: mean pairwise distance of image embeddings among samples of one prompt. drift: named distances from the
    base (`velocity`, `norm_ratio`, `path_kl`, and other diagnostics).
    """

    kind: Literal["milestone"] = "milestone"
    stage: Count = 0
    update: Count
    fraction: Annotated[float, Field(ge=0, le=1)]
    ledger: LedgerEntry
    guidance: Finite
    steps: Annotated[int, Field(ge=1)]
    scores: dict[str, ScoreSummary]
    diversity: Finite | None = None
    drift: dict[str, Finite] = {}


class GridScores(_FileLine):
    """The guidance x steps grid at the end lies in `file`."""

    kind: Literal["grid"] = "grid"


class PromptSetScores(_FileLine):
    """A prompt set at the end: `samples` pictures each of `prompts` out of `there`; `in_training` of them train too."""

    kind: Literal["prompt_set"] = "prompt_set"
    name: str
    fingerprint: str
    prompts: Annotated[int, Field(ge=1)]
    there: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    in_training: Count | None = None  # the base's record alone counts them
    guidance: Finite
    steps: Annotated[int, Field(ge=1)]
    scores: dict[str, ScoreSummary]


class SampleGrid(_FileLine):
    """One row of tiles in `file`: `tile` is (width, height) in pixels; one prompt and caption a tile, left to right."""

    kind: Literal["pictures"] = "pictures"
    tile: tuple[int, int]
    prompt_indices: tuple[int, ...]
    captions: tuple[str, ...]
    guidance: Finite
    steps: Annotated[int, Field(ge=1)]


class End(_Line):
    """Last line. A failed cell has a `reason` of one message; a cell without this line was interrupted.

    sources: hashes of what a finished cell imported after its record had begun. model: the files of the model that it
    left under checkpoint/, with the SHA-256 of each.
    """

    kind: Literal["end"] = "end"
    status: Literal["done", "failed"]
    reason: str | None = None
    ledger: LedgerEntry
    sources: dict[str, str] = {}
    model: dict[str, str] = {}


Event = Cell | Scorers | Step | Milestone | GridScores | PromptSetScores | SampleGrid | End
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class EncodingCounts(_Strict):
    """Texts and pictures that a cell needed encoded: `found` in the cache, and `made`."""

    found: Count
    made: Count


class Telemetry(_Strict):
    """Clock and memory at one point of a cell. `seconds`: training time so far; `time`: ISO 8601, UTC.

    encodings: at the end of a cell with a cache, the texts and pictures found there, and those made.
    Work lost to an interruption stays listed: the last line for an update counts. `host` stands in older lines alone:
    it is read and never written.
    """

    kind: Literal["step", "milestone", "end"]
    update: Count
    seconds: Finite
    cpu_seconds: Finite
    max_rss_mib: Finite
    host: Annotated[str | None, Field(exclude=True)] = None
    time: str
    encodings: EncodingCounts | None = None


class ScorerInfo(_Strict):
    """How to read one scorer. Written before the runs, so that margins cannot follow the results.

    margin: differences within +-margin are a tie; null states none, and then nothing can be called a tie.
    pair: the gold scorer that a proxy stands for (or null). range: null is no bound. title: a few words for tables.
    source: what it follows, and where it differs from that.
    """

    gold: bool
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    pair: str | None = None
    higher_is_better: bool = True
    range: tuple[Finite | None, Finite | None] = (0.0, 1.0)
    version: str = "1"
    title: str = ""
    source: str = ""


class TaskInfo(_Strict):
    """One task of an experiment: `reward` trains RL methods, `filter` selects the supervised methods' data.

    primary: the scorer of the headline (null: the gold scorer that the reward stands for). margins: where they differ
    from the scorers' own.
    """

    primary: str | None = None
    reward: str | None = None
    filter: str | None = None
    margins: dict[str, Finite] = {}
    scorers: tuple[str, ...] = ()
    title: str = ""

    @property
    def used(self) -> frozenset[str]:
        """The scorers that train or select, those within weighted sums included: none of them is held out."""
        return frozenset((*parts_of(self.reward), *parts_of(self.filter)))


class ExperimentHeader(_Strict):
    """`experiment.json`. `label` stands in the title of every table where it is not empty (e.g. `demonstration`).

    methods: in the order of the tables. budget: as the user gave it, e.g. `200k`. baseline: the method that
    differences are taken to (null: base). trials: tuning trials that each method was given. search: what drew the
    methods' settings, where something did.
    command: what runs the experiment again, with paths as `bench.paths.portable` has them. hash: of all else, null in
    schema 1.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    name: str
    label: str = ""
    question: str = ""
    config: dict[str, Any]
    config_hash: str
    tasks: dict[str, TaskInfo] = {}
    methods: tuple[str, ...] = ()
    scorers: dict[str, ScorerInfo] = {}
    budget: str | None = None
    baseline: str | None = None
    trials: Count | None = None
    search: Search | None = None
    command: str = ""
    hash: str | None = None

    @model_serializer(mode="wrap")
    def _without_no_search(self, plain: Callable[[ExperimentHeader], dict[str, Any]]) -> dict[str, Any]:
        """Without a search as before there were any, so that the hashes of older headers hold."""
        return {name: value for name, value in plain(self).items() if name != "search" or value is not None}

    def primary(self, task: str, among: Collection[str]) -> str | None:
        """A task's headline scorer: as configured, else the gold one that the reward stands for, else the reward.

        None where none of these is `among` the scorers at hand.
        """
        info = self.tasks.get(task, TaskInfo())
        described = self.scorers.get(info.reward) if info.reward in among and info.reward else None
        wanted = (info.primary, described.pair if described else None, info.reward)
        return next((name for name in wanted if name in among), None)


def parse_event(line: str, where: str = "event") -> Event:
    """One line of record.jsonl. `where` names file and line in messages.

    Raises DataError for anything but a known event with exactly its fields, and for records of a newer schema.
    """
    return parse_line(line, where)[0]


def parse_line(line: str, where: str = "event") -> tuple[Event, dict[str, Any]]:
    """As `parse_event`; and beside the event the values that the line holds, which its hash is of."""
    values = _parsed(line, where)
    try:
        return _EVENT.validate_json(line), values
    except ValidationError as error:
        raise DataError(_explain(error, where)) from error


def parse_telemetry(line: str, where: str = "telemetry") -> Telemetry:
    """One line of telemetry.jsonl; raises DataError as `parse_event` does."""
    try:
        return Telemetry.model_validate_json(line)
    except ValidationError as error:
        raise DataError(_explain(error, where)) from error


def parse_header(text: str, where: str = "header") -> ExperimentHeader:
    """The text of an `experiment.json`; raises DataError as `parse_event` does."""
    _parsed(text, where)
    try:
        return ExperimentHeader.model_validate_json(text)
    except ValidationError as error:
        raise DataError(_explain(error, where)) from error


def dump(event: BaseModel) -> dict[str, Any]:
    """An event or a header as plain JSON values, every default written out."""
    return event.model_dump(mode="json", by_alias=True)


def _parsed(text: str, where: str) -> Any:
    """The values of a text; raises DataError where it is no JSON, or of a newer schema."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}): the file is damaged") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise DataError(f"{where}: schema {schema} is newer than this bench reads ({SCHEMA}): update bench")
    return value


def _explain(error: ValidationError, where: str) -> str:
    problems = [f"{'.'.join(map(str, item['loc'])) or 'event'}: {item['msg']}" for item in error.errors()[:5]]
    more = error.error_count() - len(problems)
    return f"{where}: " + "; ".join(problems) + (f"; and {more} more" if more > 0 else "")

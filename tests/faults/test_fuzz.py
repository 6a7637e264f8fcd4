"""Whatever stands in records, headers, manifests, settings and command lines: one message, no traceback, no silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.api import BenchError
from bench.cli.experiment_options import read_experiment
from bench.cli.main import _HasTold, read_options
from bench.config.load import load_settings
from bench.config.settings import Experiment
from bench.results.records.reader import ExperimentResults
from bench.results.records.reader import read_experiment as read_results
from bench.results.records.writer import read_experiment_header
from bench.training.checkpoint import Checkpoints
from tests.support.synthetic_results import World, write_world

WORLD = World(tasks=("alignment",), seeds=1, methods=("sft",), prompts=4, milestone_prompts=4, grid=((), ()))
CELL = Path("alignment", "sft", "seed0")

# Values that no field has, or one of another kind
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("x" * 300), st.just(-1),
    st.just([]), st.just({}), st.just([[]] * 3), st.just({"a": None}), st.just(10**400), st.just("../../etc/passwd"),
    st.just("\ud800"), st.just("1e400"), st.just("nan"),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=30), st.sampled_from(["{", "[", "[" * 3000, '{"a":' * 3000, "9" * 5000, "\x00", "&a [*a]", "? :"])
)


def many(examples: int) -> Callable[[Any], Any]:
    """So many examples of a property."""
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, text: str) -> str:
    """A JSON text of which one part is another, gone, or named otherwise; or a text cut or spliced somewhere."""
    how = draw(st.sampled_from(["value", "remove", "rename", "cut", "splice", "other"]))
    if how == "other":
        return draw(TEXTS)
    if how in ("cut", "splice"):
        place = draw(st.integers(0, len(text) - 1))
        return text[:place] + (draw(TEXTS) + text[place:] if how == "splice" else "")
    value = json.loads(text)
    path = draw(st.sampled_from([place for place in places(value) if place]))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if how == "value":
        parent[path[-1]] = draw(ODD)
    elif how == "remove" or isinstance(parent, list):
        del parent[path[-1]]
    else:
        parent[draw(st.text(max_size=5))] = parent.pop(path[-1])
    return json.dumps(value)


def told(read: Callable[[], Any]) -> Any:
    """What a reader gives, or the one message that it raises: with words, and no part of a traceback."""
    try:
        return read()
    except BenchError as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return error


def same(one: str, other: str) -> bool:
    """Whether two texts hold the same JSON values."""
    try:
        return bool(json.loads(one) == json.loads(other)) and "NaN" not in one
    except (ValueError, RecursionError):
        return False


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("fuzz") / "results", WORLD)


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@many(750)
@given(data=st.data())
def test_a_changed_line_of_a_record_refuses_the_cell(results: Path, data: st.DataObject) -> None:
    path = results / CELL / "record.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(changed(lines[number]))
    text = "".join(f"{line}\n" for line in lines)
    try:
        write(path, text)
        found = told(lambda: read_results(results))
        assert isinstance(found, ExperimentResults)
        refused = [cell.name for cell in found.refused]
        is_same = len(text.splitlines()) == len(whole.splitlines()) and all(map(same, lines, whole.splitlines()))
        assert (refused == [] and is_same) or refused == [CELL.as_posix()]
        assert len(found.results) + len(refused) == 2
    finally:
        path.write_text(whole)


@many(400)
@given(data=st.data())
def test_a_changed_header_is_refused(results: Path, data: st.DataObject) -> None:
    path = results / "experiment.json"
    whole, header = path.read_text(), read_experiment_header(results)
    text = data.draw(changed(whole))
    try:
        write(path, text)
        found = told(lambda: read_experiment_header(results))
        assert isinstance(found, BenchError) or found == header  # where a field is gone that had its default
    finally:
        path.write_text(whole)


@many(500)
@given(data=st.data())
def test_a_changed_manifest_is_passed_over_and_said(tmp_path: Path, data: st.DataObject) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    for number in (1, 2):
        checkpoints.save(number, {"weight": torch.ones(3)}, {"update": number, "nested": {"a": [1.5, None]}})
    path = tmp_path / "checkpoint" / "00000002.json"
    whole = path.read_text()
    text = data.draw(changed(whole))
    write(path, text)
    saved, complaints = checkpoints.load()
    assert saved is not None
    if same(text, whole):
        assert saved.number == 2 and not complaints
    else:
        assert saved.number == 1 and len(complaints) == 1 and str(path) in complaints[0]
    shutil.rmtree(tmp_path / "checkpoint")


LINES = st.sampled_from([
    "extends: smoke", "extends: 3", "name: mine", "seeds: 2", "budget: 1k", "methods: [sft]", "methods: {a: 1}",
    "task: {reward: scenes-clip}", "task: 3", "tasks: [alignment, {}]", "train: {batch_size: x}", "evaluation:",
    "soar: {num_points: -1}", "  steps: 4", "  steps: [4",
    "- a", "a: &x [*x]", "a: *y", "? [a]", "'", "\t", "train: []",
])  # fmt: skip


@many(150)
@given(st.lists(st.one_of(LINES, TEXTS), max_size=5))
def test_a_file_of_settings_is_read_or_refused(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    write(path, "\n".join(lines))
    found = told(lambda: load_settings(path))
    assert isinstance(found, Experiment | BenchError)


OPTIONS = st.sampled_from([
    "--preset", "--methods", "--seeds", "--budget", "--name", "--config", "--tasks", "--soar.num_points", "--split",
    "--evaluation.guidance", "--train.clip_norm", "--task.reward", "--reward", "--data", "--model", "--nothing", "--",
    "-x", "--soar.train.learning_rate", "--evaluation.prompt_sets.a", "--scorers.jpeg.device", "--device",
    "--runtime.resolution",
])  # fmt: skip
VALUES = st.one_of(
    TEXTS, st.sampled_from([
        "smoke", "sft", "soar+", "sft,sft", "1", "-1", "1e400", "nan", "2k", "alignment", "null", "[1,2", "", "true",
        "../x", "/dev/zero", "~", "cuda:9", "a=b", "0.5*jpeg+", "99999999", "sft+soar",
    ]),
)  # fmt: skip


@many(200)
@given(st.lists(st.one_of(st.tuples(OPTIONS, VALUES), st.tuples(OPTIONS)), max_size=4))
def test_a_command_line_is_read_or_refused(given_options: list[tuple[str, ...]]) -> None:
    def read() -> Any:
        args = read_options("run", [part for option in given_options for part in option])
        args.given = []
        return read_experiment(args)

    try:
        found = told(read)
    except (_HasTold, OSError) as ended:  # `main` makes one line of a name that cannot be used
        assert isinstance(ended, _HasTold) or ended.filename is not None
    else:
        assert isinstance(found, Experiment | BenchError)

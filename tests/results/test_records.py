"""The record: round trips, strictness, torn lines, resume, frames, provenance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import DataError, NonFiniteError
from bench.canonical import canonical_json, config_hash
from bench.results.records.provenance import changed_sources, collect, commit_and_dirty, imported_files, source_hashes
from bench.results.records.reader import read_experiment
from bench.results.records.schema import SCHEMA, ExperimentHeader, Step, parse_event
from bench.results.records.writer import CellRecord, write_experiment_header
from tests.support.synthetic_results import World, ledger, provenance, start, write_world

SMALL = World(tasks=("alignment",), methods=("sft",), seeds=2, prompts=8, milestone_prompts=4, grid=((3.0,), (5,)))


def scores(update: int) -> dict[str, Any]:
    return {
        "prompt_index": np.arange(3),
        "cluster": [0, 1, 1],
        "category": ["colors", "text", "text"],
        "split": ["report"] * 3,
        "guidance": 3.0,
        "steps": 20,
        "update": update,
        "zeta": np.array([0.5, 1.0, 0.25]),
        "alpha": np.array([np.nan, 1.0, 0.0]),
    }


def opened(folder: Path) -> CellRecord:
    record = CellRecord(folder)
    start(record, SMALL, "alignment", "sft", 0)
    return record


def advance(record: CellRecord, first: int, last: int) -> None:
    """Updates first to last, a milestone at every even one."""
    for update in range(first, last + 1):
        record.append("step", update=update, ledger=ledger(3.0 * update, update), metrics={"loss": 1 / update})
        if update % 2 == 0:
            name = f"scores-{update:06d}.parquet"
            record.write_scores(name, scores(update))
            record.append(
                "milestone",
                update=update,
                fraction=update / 6,
                ledger=ledger(3.0 * update, update),
                guidance=3.0,
                steps=20,
                file=name,
                scores={"zeta": {"mean": 0.5, "n": 3, "by_category": {"text": 0.6}}},
                drift={"velocity": 0.1},
            )


def finish(record: CellRecord) -> None:
    record.write_scores("grid.parquet", scores(6))
    record.append("grid", file="grid.parquet")
    record.append("end", status="done", reason=None, ledger=ledger(18.0, 6))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "telemetry.jsonl"}


def test_round_trip(tmp_path: Path) -> None:
    record = opened(tmp_path)
    assert record.status() == "unfinished"
    advance(record, 1, 2)
    events = CellRecord(tmp_path).events()
    assert [event.kind for event in events] == ["cell", "step", "step", "milestone"]
    assert isinstance(events[1], Step) and events[1].metrics == {"loss": 1.0} and events[1].ledger.cost == 3.0
    finish(record)
    assert CellRecord(tmp_path).status() == "done"


def test_a_process_that_was_forked_writes_nothing(tmp_path: Path) -> None:
    record = opened(tmp_path)
    advance(record, 1, 2)
    before = contents(tmp_path)
    attempts: list[Callable[[], object]] = [
        lambda: record.append("step", update=3, ledger=ledger(9.0, 3), metrics={}),
        lambda: record.end_failed("in the fork"),
        lambda: record.write_scores("grid.parquet", scores(2)),
        lambda: record.write_bytes("pictures.png", b"png"),
        lambda: record.truncate(1),
        lambda: start(record, SMALL, "alignment", "sft", 0),
    ]
    for attempt in attempts:
        child = os.fork()
        if child == 0:
            told = ""
            try:
                attempt()
            except DataError as error:
                told = str(error)
            finally:
                os._exit(0 if f"is written by process {os.getppid()} alone" in told else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert contents(tmp_path) == before


def test_status_of_new_and_failed(tmp_path: Path) -> None:
    assert CellRecord(tmp_path / "none").status() == "new"
    record = opened(tmp_path)
    record.append("end", status="failed", reason="out of memory", ledger=ledger())
    assert record.status() == "failed"


def test_equal_facts_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = opened(tmp_path / name)
        advance(record, 1, 6)
        finish(record)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 5])
def test_killed_and_resumed_is_the_same_record(tmp_path: Path, kept: int) -> None:
    whole = opened(tmp_path / "whole")
    advance(whole, 1, 6)
    finish(whole)
    killed = opened(tmp_path / "killed")
    counts = [1]
    for update in range(1, 6):
        advance(killed, update, update)
        counts.append(len(killed.events()))
    with (tmp_path / "killed" / "record.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "upd')
    resumed = opened(tmp_path / "killed")
    resumed.truncate(counts[kept])
    advance(resumed, kept + 1, 6)
    finish(resumed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_truncate_drops_what_follows_training(tmp_path: Path) -> None:
    record = opened(tmp_path)
    advance(record, 1, 6)
    trained = len(record.events())
    finish(record)
    record.truncate(trained)
    assert record.status() == "unfinished" and not (tmp_path / "grid.parquet").exists()
    finish(record)
    record.truncate(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record.jsonl"]
    assert [event.kind for event in record.events()] == ["cell"]


def test_nothing_follows_the_end(tmp_path: Path) -> None:
    record = opened(tmp_path)
    finish(record)
    with pytest.raises(DataError, match="call truncate"):
        CellRecord(tmp_path).append("grid", file="grid.parquet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "stap"}, "stap.*step"),
        ({"colour": "red"}, "colour"),
        ({"metrics": {"loss": "0.5"}}, "valid number"),
        ({"update": 1.5}, "valid integer"),
        ({"update": -1}, "greater than or equal"),
        ({"ledger": {"cost": 1.0}}, "flops"),
    ],
)
def test_strictness(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"kind": "step", "update": 1, "ledger": ledger(), "metrics": {}}
    record = opened(tmp_path)
    with pytest.raises(DataError, match=message):
        record.append(**(good | fields))
    assert len(record.events()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, -np.inf])])
def test_non_finite_numbers_are_refused_by_name(tmp_path: Path, value: Any) -> None:
    with pytest.raises(NonFiniteError, match=r"metrics\.loss"):
        opened(tmp_path).append("step", update=1, ledger=ledger(), metrics={"loss": value})


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(DataError, match="newer"):
        parse_event(canonical_json({"kind": "cell", "schema": SCHEMA + 1, "anything": 1}))


def test_damage_is_named(tmp_path: Path) -> None:
    record = opened(tmp_path)
    advance(record, 1, 1)
    path = tmp_path / "record.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"kind": "step"', b'"kind" "step"'))
    with pytest.raises(DataError, match=r"record\.jsonl:2: not JSON"):
        record.events()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config_hash": "other"}, "config_hash"),
        (
            {"provenance": provenance(sources={"a.py": "other"})},
            "other code than the present, which differs in bench/api.py",
        ),
    ],
)
def test_other_sources_or_settings_do_not_continue_a_record(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    header = json.loads(canonical_json(opened(tmp_path).events()[0].model_dump(mode="json", by_alias=True)))
    CellRecord(tmp_path).start(header | {"provenance": provenance(commit=None, dirty=True)})
    with pytest.raises(DataError, match=message):
        CellRecord(tmp_path).start(header | change)


def test_scores_have_fixed_columns(tmp_path: Path) -> None:
    import pandas as pd

    record = opened(tmp_path)
    record.write_scores("scores-000001.parquet", scores(1))
    frame = pd.read_parquet(tmp_path / "scores-000001.parquet")
    assert list(frame) == [
        "prompt_index",
        "cluster",
        "category",
        "split",
        "guidance",
        "steps",
        "update",
        "alpha",
        "zeta",
    ]
    assert frame["zeta"].dtype == np.float32 and frame["steps"].dtype == np.int32 and np.isnan(frame["alpha"][0])
    with pytest.raises(DataError, match="category"):
        record.write_scores("x.parquet", {name: value for name, value in scores(1).items() if name != "category"})
    with pytest.raises(NonFiniteError, match="zeta"):
        record.write_scores("x.parquet", scores(1) | {"zeta": np.array([np.inf, 0, 0])})
    assert not list(tmp_path.glob("*x.parquet*"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_json_is_canonical(value: dict[str, Any]) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text
    assert "\n" not in text


def test_config_hash_ignores_order() -> None:
    assert config_hash({"a": 1, "b": {"c": 0.1, "d": 2}}) == config_hash({"b": {"d": 2, "c": 0.1}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_frames(tmp_path: Path) -> None:
    found = read_experiment(write_world(tmp_path, SMALL))
    assert found.cells[["task", "method", "seed", "status"]].values.tolist() == [
        ["alignment", "base", 0, "done"],
        ["alignment", "sft", 0, "done"],
        ["alignment", "sft", 1, "done"],
    ]
    assert found.milestones.query("method == 'sft' and seed == 1")["update"].tolist() == [156, 312, 468, 625]
    last = found.milestones.iloc[-1]
    assert last["cost"] == 60_000 and last["drift.velocity"] == 0.02 and last["seconds"] == 60.0
    assert set(found.scorers) >= {"scenes-geneval", "scenes-clip"}
    assert len(found.samples) == 3 * (8 + 8) + 2 * 3 * 4 and len(found.grid) == 3 * 8


def test_a_torn_line_is_reported(tmp_path: Path) -> None:
    folder = write_world(tmp_path, SMALL)
    path = folder / "alignment" / "sft" / "seed1" / "record.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    cells = read_experiment(folder).cells.set_index(["method", "seed"])
    assert bool(cells.loc[("sft", 1), "torn"]) and cells.loc[("sft", 1), "status"] == "unfinished"
    assert not cells.loc[("sft", 0), "torn"]
    CellRecord(path.parent)
    assert not read_experiment(folder).cells["torn"].any()


def test_missing_and_misplaced_files_are_named(tmp_path: Path) -> None:
    folder = write_world(tmp_path, SMALL)
    cell = folder / "alignment" / "sft" / "seed1"
    shutil.copytree(cell, folder / "alignment" / "sft" / "seed7")
    found = read_experiment(folder)
    assert found.refused_by_reason() == [
        ("alignment/sft/seed7", "it holds the record of alignment/sft/seed1: move it there")
    ]
    assert len(found.results) == 3
    shutil.rmtree(folder / "alignment" / "sft" / "seed7")
    (cell / "scores-000625.parquet").unlink()
    (refused,) = read_experiment(folder).refused
    assert refused.name == "alignment/sft/seed1" and "scores-000625.parquet is missing" in refused.reasons[0]


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    header = ExperimentHeader(name="x", config={"a": 1}, config_hash=config_hash({"a": 1}))
    write_experiment_header(tmp_path, header)
    write_experiment_header(tmp_path, header)
    with pytest.raises(DataError, match=r"other settings .* \(a is None, was 1\): give this one another"):
        write_experiment_header(tmp_path, header.model_copy(update={"config": {}, "config_hash": config_hash({})}))
    with pytest.raises(DataError, match=r"no experiment\.json"):
        read_experiment(tmp_path / "nowhere")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with some modules, of which this process has imported the first three."""
    names = ("bench/__init__.py", "bench/flow.py", "methods/sft.py", "bench/cli/run.py", "methods/soar.py")
    for name in (*names, "bench/assets/model.bin", "bench/assets/.hidden", "results/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    for name in names[:4]:
        module = ModuleType(name.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))
        module.__file__ = str(tmp_path / name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_provenance_needs_no_git(checkout: Path) -> None:
    made = collect("cpu", "float32", 1, {"a.py": "1"}, checkout)
    assert made.commit is None and made.dirty is None and made.versions["numpy"] and made.covers == "imported"


def test_sources_are_what_was_imported_and_the_assets_beside_it(checkout: Path) -> None:
    """Not the command line, through which no number passes; not a method that nobody asked for."""
    found = ["bench/__init__.py", "bench/assets/model.bin", "bench/flow.py", "methods/sft.py"]
    assert [path.as_posix() for path in imported_files(checkout)] == found
    assert sorted(source_hashes({}, root=checkout)) == found


def test_what_has_changed_among_recorded_sources_is_named(checkout: Path) -> None:
    own = checkout / "mine.py"
    own.write_text("mine")
    held = source_hashes({"plugin/mine.py": own, "base/revision": "abc"}, root=checkout)
    (checkout / "methods/soar.py").write_text("2\n")

    def changed(revision: str = "abc") -> list[str]:
        now = source_hashes({"plugin/mine.py": own, "base/revision": revision}, held, checkout, imported=False)
        return changed_sources(held, now)

    assert changed() == []
    (checkout / "methods/sft.py").write_text("2\n")
    (checkout / "bench/flow.py").unlink()
    own.write_text("other")
    assert changed("abd") == ["base/revision", "bench/flow.py", "methods/sft.py", "plugin/mine.py"]


def test_dirty_ignores_results(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "x")
    (checkout / "results/x.json").write_text("2\n")
    (checkout / "REPORT.md").write_text("2\n")
    commit, dirty = commit_and_dirty(checkout)
    assert commit is not None and len(commit) == 40 and dirty is False
    (checkout / "methods/new.py").write_text("2\n")
    assert commit_and_dirty(checkout)[1] is True

"""Prompt sets that judge: their settings, how they are found, read and cut, and what their scores are worth."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bench.api import ConfigError, DataError, Prompt
from bench.cli.list import listing
from bench.cli.main import main
from bench.config.load import load_settings
from bench.config.prompt_set import PromptSet
from bench.datasets.prompts.readers import locate_prompts, read_prompts
from bench.datasets.prompts.sets import among, first_of_each, load_set, load_sets, prompt_sets_table
from bench.models.policy import PipelinePolicy
from bench.parsing import Text
from bench.preflight.forecast.plan import evaluation_passes
from bench.results.records.reader import read_experiment
from bench.results.records.schema import ScorerInfo, dump
from bench.results.records.writer import CellRecord, read_experiment_header, write_experiment_header
from bench.results.report import main_table, tables
from bench.results.report.main_table import papers_table
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.score_tables import ALIKE
from bench.scoring.loading import load_scorers
from bench.training.context import TaskContext
from bench.training.evaluate import Evaluator
from tests.support.cells import experiment, world
from tests.support.synthetic_results import World, write_world

CLAIM = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}]}
QUIET = World(tasks=("alignment",), methods=("sft",), seeds=2, prompts=8, milestone_prompts=4, grid=((), ()))


def sets_of(**given: Any) -> dict[str, PromptSet]:
    return dict(
        load_settings("smoke", {f"evaluation.prompt_sets.{n}": v for n, v in given.items()}).evaluation.prompt_sets
    )


def written(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder / name)


def jpeg(path: str, **more: Any) -> PromptSet:
    return PromptSet(path=path, scorers=("jpeg",), **more)


# Settings


def test_published_sets_know_their_scorers() -> None:
    found = sets_of(geneval="a.jsonl", ocr="b.txt", drawbench="c.csv", mine={"path": "d.txt", "scorers": ["jpeg"]})
    assert {name: (one.path, one.scorers, one.samples) for name, one in found.items()} == {
        "geneval": ("a.jsonl", ("geneval",), 4),
        "ocr": ("b.txt", ("ocr",), 1),
        "drawbench": ("c.csv", ("pickscore", "clipscore", "hpsv2", "aesthetic", "imagereward"), 1),
        "mine": ("d.txt", ("jpeg",), 1),
    }


def test_a_set_of_a_preset_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: smoke\nevaluation: {prompt_sets: {ocr: a.txt}}\n")
    assert load_settings(tmp_path / "mine.yaml").evaluation.set_scorers == ("ocr",)
    assert not load_settings(tmp_path / "mine.yaml", {"evaluation.prompt_sets.ocr": None}).evaluation.prompt_sets


def test_settings_of_the_command_line_are_read_as_their_types() -> None:
    given = {"path": "7", "scorers": "jpeg,ocr", "prompts": "7"}
    e = load_settings("smoke", {f"evaluation.prompt_sets.mine.{name}": Text(value) for name, value in given.items()})
    assert dict(e.evaluation.prompt_sets) == {"mine": PromptSet(path="7", scorers=("jpeg", "ocr"), prompts=7)}
    assert (
        load_settings("smoke", {"evaluation.prompt_sets.ocr": Text("a.txt")}).evaluation.prompt_sets["ocr"].path
        == "a.txt"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mine": "a.txt"}, "mine.scorers: missing"),
        ({"mine": {"path": "a.txt", "scorers": ["jpg"]}}, "no reward 'jpg' is registered; did you mean 'jpeg'"),
        ({"ocr": {"path": "a.txt", "promts": 3}}, "promts: no such setting; did you mean 'prompts'"),
        ({"ocr": {"path": "a.txt", "samples": 0}}, "samples: should be greater than or equal to 1"),
        ({"Mine": "a.txt"}, "expected a name of small letters"),
        ({"ocr": 3}, "expected a path, or settings with one"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_set_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sets_of(**given)
    assert message in str(caught.value)


def test_tuning_sees_no_prompt_set() -> None:
    with pytest.raises(ConfigError, match=r"split tune: no tuning may see the prompts that are reported \(ocr\)"):
        load_settings("smoke", {"evaluation.prompt_sets.ocr": "a.txt", "evaluation.split": "tune"})


def test_experiments_without_sets_keep_their_identity() -> None:
    assert "prompt_sets" not in load_settings("smoke").evaluation.identity()
    assert "prompt_sets" not in load_settings("smoke").cell_config("alignment", "base")["evaluation"]


def test_the_listing_shows_their_settings() -> None:
    assert "--evaluation.prompt_sets.NAME.samples" in listing("prompt_set")


# Finding and reading


def test_a_set_that_is_not_there_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--evaluation.prompt_sets.ocr", "nowhere.txt"]) == 2
    error = capsys.readouterr().err
    assert "prompt set 'ocr': nowhere.txt: expected a file of prompts (.txt, .csv" in error
    assert "or leave it out by --evaluation.prompt_sets.ocr null" in error


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the hub's cache, as the hub's own library lays it out; gives the folder of its files."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "datasets--organisation--prompts"
    folder, revision = home / "snapshots" / ("0" * 40), home / "refs" / "main"
    folder.mkdir(parents=True)
    revision.parent.mkdir()
    revision.write_text("0" * 40)
    written(folder, "README.md", "about it")
    return folder


def test_a_fetched_data_set_is_found_by_its_id(fetched: Path) -> None:
    (fetched / "data").mkdir()
    written(fetched / "data", "test.txt", 'a sign that says "Open"')
    one = load_set("ocr", PromptSet(path="organisation/prompts", scorers=("ocr",)))
    assert [p.metadata for p in one.prompts] == [{"text": "Open"}]
    written(fetched, "train.csv", "prompt", "a dog")
    with pytest.raises(DataError, match=r"2 files that may hold prompts: name one of data/test\.txt, train\.csv by"):
        locate_prompts("organisation/prompts")
    assert locate_prompts("organisation/prompts", "train.csv").name == "train.csv"
    with pytest.raises(DataError, match=r"no file 'dev\.csv'"):
        locate_prompts("organisation/prompts", "dev.csv")


def test_a_data_set_that_was_not_fetched_names_the_command(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="run `python -m bench fetch --prompts organisation/other` first"):
        locate_prompts("organisation/other")
    assert main(["fetch", "--prompts", "organisation/other"]) == 2
    assert "HF_HUB_OFFLINE is set, so nothing can be fetched" in capsys.readouterr().err


def test_parquet_has_the_claims_of_its_lines(tmp_path: Path) -> None:
    rows = [
        {**CLAIM, "prompt": "a red car"},
        {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "b"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = written(tmp_path, "a.jsonl", *map(json.dumps, rows))
    assert read_prompts(tmp_path / "a.parquet") == read_prompts(Path(lines))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cannot read the prompts in .*cut\.parquet"):
        read_prompts(tmp_path / "cut.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_another_column_can_be_named(tmp_path: Path, name: str) -> None:
    lines = ["Caption,text", "a dog,b"] if name == "a.csv" else ['{"Caption": "a dog", "text": "b"}']
    path = written(tmp_path, name, *lines)
    assert [(p.text, p.metadata) for p in read_prompts(Path(path), "Caption")] == [("a dog", {"text": "b"})]
    with pytest.raises(DataError, match="expected a prompt under one of words"):
        read_prompts(Path(path), "words")


def test_fewer_prompts_are_of_all_categories() -> None:
    """GenEval's file has its categories one after another."""
    prompts = [Prompt(n, str(n), {"tag": tag}) for n, tag in enumerate("aaaabbbcc")]
    assert [p.index for p in first_of_each(prompts, 5)] == [0, 1, 4, 5, 7]
    assert [p.index for p in first_of_each(prompts, 8)] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert first_of_each(prompts, 9) == prompts


def test_a_set_is_its_prompts_not_its_file(tmp_path: Path) -> None:
    one = load_set("mine", jpeg(written(tmp_path, "a.txt", "a dog", "a cat")))
    other = load_set("mine", jpeg(written(tmp_path, "b.csv", "prompt", "a dog", "a cat")))
    assert one.settings.identity() == other.settings.identity()
    for changed in (["a dog", "a cow"], ["a cat", "a dog"], ["a dog"]):
        assert load_set("mine", jpeg(written(tmp_path, "a.txt", *changed))).found.fingerprint != one.found.fingerprint
        with pytest.raises(DataError, match="has changed since this run began"):
            load_set("mine", dataclasses.replace(one.settings, path=str(tmp_path / "a.txt")))


def test_a_set_has_to_fit_what_is_asked_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "a dog", 'the word "Open"')
    with pytest.raises(DataError, match=r"3 prompts asked for, but .*a\.txt has 2"):
        load_set("mine", jpeg(path, prompts=3))
    with pytest.raises(DataError, match=r"geneval can judge none of its 2 prompts .*prompt_sets\.mine\.scorers"):
        load_set("mine", PromptSet(path=path, scorers=("geneval",)))
    both = load_set("mine", PromptSet(path=path, scorers=("jpeg", "ocr"), prompts=2, samples=3))
    assert both.found.judged == {"jpeg": 2, "ocr": 1}
    assert "mine: 2 prompts, 3 pictures each, fingerprint" in prompt_sets_table([both])
    assert prompt_sets_table([both]).endswith("for jpeg, ocr (1 of them)")


def test_letter_case_and_spaces_make_no_other_prompt() -> None:
    prompts = [Prompt(0, "A  dog ", {}), Prompt(1, "a dogs", {})]
    assert among(prompts, ["a  Dog", "a cat"]) == 1 and among(prompts, []) == 0


# Judging


def test_passes_of_a_set_are_planned(tmp_path: Path) -> None:
    plain = load_settings("smoke").evaluation
    found = load_set("mine", jpeg(written(tmp_path, "a.txt", "a", "b", "c"), samples=2)).settings
    with_set = dataclasses.replace(plain, prompt_sets={"mine": found})
    # 3 prompts, 2 pictures each, two passes a step at a guidance other than 1
    assert evaluation_passes(with_set) - evaluation_passes(plain) == 3 * 2 * plain.steps * 2


@pytest.mark.slow
def test_the_embedded_world_is_judged_on_a_set(tiny_pipeline: Path, tmp_path: Path) -> None:
    place = world(tiny_pipeline)
    trained = place.prompts("train", ["single_object"], 1)[0].text
    path = written(tmp_path, "a.txt", "a red circle", trained, "two stars")
    e = experiment(tiny_pipeline, **{
        "evaluation.prompt_sets.mine": {"path": path, "scorers": ["jpeg"], "samples": 2},
        "evaluation.final_prompts": 4, "evaluation.held_out_prompts": 0, "evaluation.drift_states": 0,
    })  # fmt: skip
    scorers = load_scorers({*e.tasks[0].scorers, *e.evaluation.set_scorers})
    policy = PipelinePolicy.load(tiny_pipeline)
    context = TaskContext(place, e.tasks[0], policy, scorers)
    whole = Evaluator(context, e.evaluation)
    (judged,) = whole.prompt_sets(policy, 3)
    assert set(judged.scores) == {"jpeg"} and judged.scores["jpeg"]["n"] == 3
    assert judged.frame["split"].tolist() == ["set:mine"] * 3 and judged.frame["update"].tolist() == [3] * 3
    assert whole.in_training(judged.of.prompts) >= 1
    assert "jpeg" not in whole.judge(policy, 3, final=True).frame

    # a part of the set sees the same noise, and one sample is one of the two that were averaged
    path = written(tmp_path, "b.txt", "a red circle", trained)
    fewer = {"mine": PromptSet(path=path, scorers=("jpeg",), samples=1)}
    part = Evaluator(context, dataclasses.replace(e.evaluation, prompt_sets=fewer))
    (first,) = part.prompt_sets(policy, 3)
    assert not np.allclose(first.frame["jpeg"], judged.frame["jpeg"][:2], atol=1e-6)
    twice = dataclasses.replace(e.evaluation, prompt_sets={"mine": dataclasses.replace(fewer["mine"], samples=2)})
    (same,) = Evaluator(context, twice).prompt_sets(policy, 3)
    np.testing.assert_allclose(same.frame["jpeg"], judged.frame["jpeg"][:2], atol=0.01)


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_told_before_anything_trains(tiny_pipeline: Path, tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", " ".join(["circle"] * 40))
    e = experiment(tiny_pipeline, **{"evaluation.prompt_sets.mine": {"path": path, "scorers": ["jpeg"]}})
    scorers = load_scorers({*e.tasks[0].scorers, "jpeg"})
    with pytest.raises(DataError, match=r"'circle circle .*tokens, but the text encoders read 20: shorten it"):
        Evaluator(
            TaskContext(world(tiny_pipeline), e.tasks[0], PipelinePolicy.load(tiny_pipeline), scorers), e.evaluation
        )


# Reporting

PROXY = ScorerInfo(gold=False, margin=0.01, pair="scenes-ocr")
SCORES = {  # three prompts of one category and one of another
    ("base", 0): [0.0, 0.5, 1.0, 0.0],
    ("sft", 0): [1.0, 0.5, 1.0, 0.0],
    ("sft", 1): [0.5, 0.5, 1.0, 1.0],
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Synthetic results with GenEval's scores above, whose means are known."""
    folder = write_world(tmp_path_factory.mktemp("synthetic"), QUIET)
    for (method, seed), values in SCORES.items():
        record = CellRecord(folder / "alignment" / method / f"seed{seed}")
        end = record.events()[-1]
        record.truncate(len(record.events()) - 1)
        record.write_scores("prompts-geneval.parquet", {
            "prompt_index": range(4), "cluster": range(4), "category": ["colors"] * 3 + ["counting"],
            "split": ["set:geneval"] * 4, "guidance": 3.0, "steps": 20, "update": 1, "geneval": values,
        })  # fmt: skip
        summary = {"mean": float(np.mean(values)), "n": 4, "by_category": {}}
        record.append(
            "prompt_set", name="geneval", file="prompts-geneval.parquet", fingerprint="0" * 16, prompts=4, there=553,
            samples=4, guidance=3.0, steps=20, in_training=2 if method == "base" else None, scores={"geneval": summary},
        )  # fmt: skip
        record.append("end", status="done", ledger=dump(end)["ledger"])
    header = read_experiment_header(folder)
    write_experiment_header(folder, header.model_copy(update={"scorers": {**header.scorers, "geneval": PROXY}}))
    return Analysis(read_experiment(folder))


@pytest.mark.slow
def test_geneval_weighs_its_categories_alike(judged: Analysis) -> None:
    base = judged.row("alignment", "base", "geneval", "set:geneval", ALIKE)
    sft = judged.row("alignment", "sft", "geneval", "set:geneval", ALIKE)
    assert base is not None and sft is not None
    assert base.mean.mean == pytest.approx((0.5 + 0.0) / 2)
    # (2.5 / 3 + 0) / 2 and (2 / 3 + 1) / 2
    assert sft.mean.mean == pytest.approx((2.5 / 6 + 5 / 6) / 2)
    assert sft.differences["base"].interval.mean == pytest.approx((2.5 / 6 + 5 / 6) / 2 - 0.25)
    plain = judged.row("alignment", "base", "geneval", "set:geneval")
    assert plain is not None and plain.mean.mean == pytest.approx(1.5 / 4)
    assert judged.categories("alignment", "geneval", "set:geneval") == ("colors", "counting")


def test_the_main_table_shows_where_its_columns_come_from(judged: Analysis) -> None:
    assert judged.scorers("alignment") == tuple(name for name in judged.scorers("alignment") if name != "geneval")
    text = "\n\n".join(main_table.main_table_section(judged, "alignment"))
    assert "| Method | GenEval<br>geneval | OCR<br>empty |" in text
    assert "| base | 0.250 ± " in text and "| *Flow-GRPO on GenEval*<br>published, arXiv 2505.05470" in text
    assert "Empty, because this run has no such scorer: OCR (ocr)," in text
    (line, _) = tables.prompt_sets_section(judged, "alignment")
    assert "4 of 553 prompts, the mean of 4 pictures each" in line and line.endswith("training may use: 2.")


def test_every_published_row_has_its_source_and_figures() -> None:
    rows = {paper.name: paper for paper in papers_table().rows}
    assert all(paper.source.startswith("arXiv ") for paper in rows.values())
    names = ("geneval", "ocr", "pickscore", "clipscore", "hpsv2", "aesthetic", "imagereward")
    assert [column.scorer for column in papers_table().columns] == list(names)
    soar, sft = (" ".join(rows[f"{name}, 10k steps"].figure(one) for one in names) for name in ("SOAR", "SFT"))
    assert soar == "0.78 0.67 22.86 0.295 0.289 5.46 1.09"
    assert sft == "0.70 0.64 22.71 0.295 0.284 5.35 1.04"
    assert rows["Flow-GRPO on OCR"].figure("geneval") == "–"


def test_a_record_cut_back_loses_the_scores_of_its_sets(judged: Analysis, tmp_path: Path) -> None:
    folder = tmp_path / "seed0"
    shutil.copytree(judged.experiment.folder / "alignment" / "sft" / "seed0", folder)
    record = CellRecord(folder)
    record.truncate(len(record.events()) - 1)
    assert (folder / "prompts-geneval.parquet").exists()
    record.truncate(len(record.events()) - 1)
    assert not (folder / "prompts-geneval.parquet").exists()


@pytest.mark.slow
def test_nothing_is_shown_where_none_of_its_scorers_judged(tmp_path: Path) -> None:
    plain = Analysis(read_experiment(write_world(tmp_path, QUIET)))
    assert main_table.main_table_section(plain, "alignment") == tables.prompt_sets_section(plain, "alignment") == []
    assert load_sets({}) == []

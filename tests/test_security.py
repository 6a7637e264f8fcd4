"""What a stranger's results, checkpoints and texts can do: nothing but be read."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.api import BenchError, ConfigError, DataError
from bench.canonical import hash_file
from bench.cli.main import main
from bench.config.job import CellJob
from bench.datasets.pictures.inspection import InspectedPictures, copy_lists
from bench.experiments.cell import run_cell
from bench.experiments.detach import detach
from bench.experiments.grid import run_experiment
from bench.experiments.sample import load_checkpoint
from bench.experiments.status.tracking import tracker_of
from bench.files import remove_parts, write_whole
from bench.models.policy import PipelinePolicy
from bench.parsing import read_yaml
from bench.paths import inside
from bench.results import report
from bench.results.figures import draw_differences, draw_sample_grid
from bench.results.records.provenance import source_hashes
from bench.results.records.reader import read_experiment
from bench.results.records.writer import CellRecord, read_experiment_header
from bench.results.report.markdown import code, escape, markdown_table
from bench.training.checkpoint import Checkpoints
from bench.training.failure_dump import remove_failure_dump
from tests.support.cells import Events, experiment, world
from tests.support.synthetic_results import World, as_schema_1, build_world, write_world

ROOT = Path(__file__).resolve().parents[1]
SMALL = World(tasks=("alignment",), seeds=1, methods=("sft",), prompts=16, milestone_prompts=8, grid=((), ()))
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[a](http://evil.example) ![b](x) <http://evil.example> [c]: x",
    "a | b || `code` ``more`` *stars* __lines__ ~~gone~~",
    "# title\n\n- item\n1. one\n> quoted\n```\nfenced\n```\n---\n| a |\n|---|",
    "1. one",
    "- [ ] task",
    "=== ",
    "$\\frac{1}$ and $x^2 $$",
    "\\| \\` \\\\",
    "&lt;b&gt; &amp; &copy; @someone www.evil.example",
    "\x1b[31mred\x07 \u202etxet\u202c \x00",
)


# What the sources do not call


@cache
def nodes() -> tuple[tuple[str, ast.AST], ...]:
    """Every import and every call of ours: the place, and its node."""
    found = []
    for package in ("bench", "methods", "rewards"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return tuple(found)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of ours: the place, the function, and the call."""
    for place, node in nodes():
        if isinstance(node, ast.Call):
            yield place, ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, object]:
    return {word.arg: getattr(word.value, "value", None) for word in call.keywords if word.arg}


@pytest.mark.slow
def test_nothing_unpickles_or_evaluates() -> None:
    for place, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & PICKLES, place
    for place, function, call in calls():
        assert function not in ("eval", "exec", "compile", "__import__", "os.system"), place
        # The one-off conversion of published pickles alone, by the reader that builds tensors and calls nothing
        if function == "torch.load":
            assert place.startswith("rewards/convert.py") and keywords(call).get("weights_only") is True, place
        assert not function.endswith(("read_pickle", "to_pickle", "unsafe_load")), place
        assert not keywords(call).get("shell") and not keywords(call).get("allow_pickle"), place
        if function.startswith("yaml.load"):
            assert ast.unparse(call).endswith("Loader=_Loader)"), place


def test_no_code_comes_with_a_model_and_no_model_from_the_network_but_by_fetch() -> None:
    loads, downloads = 0, []
    for place, function, call in calls():
        words = keywords(call)
        assert not {"trust_remote_code", "custom_pipeline"} & set(words), place
        assert not re.search(r"hf_hub_download|urlopen|urlretrieve|requests\.", function), place
        if function.endswith("snapshot_download") and words.get("local_files_only") is not True:
            downloads.append(place)
        if function.endswith("from_pretrained"):
            loads += 1
            # Tokenizers, schedulers and configurations are JSON and text
            assert words.get("use_safetensors") is True or re.search("Tokenizer|Config|Scheduler", function), place
            # A checkpoint's folder is there for sure, its config.json was seen; everything else says so
            assert words.get("local_files_only") is True or place.startswith("bench/experiments/sample.py"), place
    assert loads >= 6
    assert [place.split(":")[0] for place in downloads] == ["bench/hub.py"]
    fetching = [place.split(":")[0] for place, function, _ in calls() if function.split(".")[-1].startswith("fetch_")]
    assert set(fetching) == {"bench/cli/fetch.py"}  # the command of that name


def test_a_settings_file_constructs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()


# Paths


@pytest.mark.parametrize("name", ["scores.parquet", "a/b/c.txt", "..name", "new"])
def test_a_path_inside_is_given(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "..\\x", "a\0b"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected one within that folder"):
        inside(tmp_path, name)


def test_links_are_refused_wherever_they_stand_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "real" / "link").symlink_to("file")
    (tmp_path / "way").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "way", "file").is_file()  # the folder itself is the user's own choice
    for name in ("real/link", "way/file", "way/new"):
        with pytest.raises(DataError, match="is a link: expected a file or a folder itself"):
            inside(tmp_path, name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("stranger"), SMALL)


@pytest.fixture
def theirs(built: Path, tmp_path: Path) -> Path:
    """A results folder with its report, as a stranger might send it; to be changed."""
    return Path(shutil.copytree(built, tmp_path / "theirs"))


def cell_of(folder: Path) -> Path:
    return folder / "results" / SMALL.name / "alignment" / "sft" / "seed0"


def refusal(folder: Path) -> str:
    """What building the report says; nothing outside the results may have changed."""
    try:
        refused = report.write_report(folder / "results", folder / "REPORT.md").refused
    except DataError as error:
        return str(error)
    assert str(folder) not in "".join(refused)
    return "\n".join(refused)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../seed0/pictures.png", "/etc/hostname", "sub/../../x"])
@pytest.mark.parametrize("kind", ["milestone", "pictures"])
def test_a_record_cannot_name_a_file_elsewhere(theirs: Path, kind: str, name: str) -> None:
    path = cell_of(theirs) / "record.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["kind"] == kind:
            event["file"] = name
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert repr(name) in refusal(theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "experiment.json",
        "alignment",
        "alignment/sft/seed0",
        "alignment/sft/seed0/record.jsonl",
        "alignment/sft/seed0/telemetry.jsonl",
        "alignment/sft/seed0/pictures.png",
        "figures",
        "figures/curves-alignment.png",
        "figures/samples-alignment.json",
    ],
)
def test_the_report_follows_no_link_and_writes_through_none(theirs: Path, tmp_path: Path, place: str) -> None:
    path, outside = theirs / "results" / SMALL.name / place, tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = {file: file.read_bytes() for file in [outside, *outside.rglob("*")] if file.is_file()}
    said = refusal(theirs)
    assert f"{path} is a link" in said or f"{path.name} is a link" in said
    assert {file: file.read_bytes() for file in [outside, *outside.rglob("*")] if file.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("place", ["REPORT.md", "results/report.json", f"results/{SMALL.name}"])
@pytest.mark.parametrize("command", ["report", "check", "status"])
def test_no_command_follows_a_link_out_of_the_results(
    theirs: Path, tmp_path: Path, command: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs / "results" / "report.json").write_text('{"units": ["cost"]}')
    path, outside = theirs / place, tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    if outside.is_dir():
        (outside / "figures" / "mine.png").write_bytes(b"my own")
    before = tree(outside)
    arguments = {"report": ["report"], "check": ["report", "--check"], "status": ["status"]}[command]
    reads = command != "status" or place == f"results/{SMALL.name}"
    assert main([*arguments, "--results", str(theirs / "results")]) == (2 if reads else 0)
    assert (f"bench: {path} is a link" in capsys.readouterr().err) == reads
    assert tree(outside) == before


def tree(place: Path) -> dict[Path, bytes]:
    """The files below, with what they hold."""
    return {file: file.read_bytes() for file in [place, *place.rglob("*")] if file.is_file()}


@pytest.mark.slow
def test_a_report_removes_what_it_made_and_nothing_else(theirs: Path) -> None:
    results, page = theirs / "results", theirs / "REPORT.md"
    folder = results / SMALL.name / "figures"
    made = {path.name for path in folder.iterdir()}
    (folder / "mine.png").write_bytes(b"my own")
    (folder / "notes.json").write_text("{}")
    for name in ("old", "edited"):  # figures of an earlier report
        (folder / f"{name}.png").write_bytes(b"made")
    manifest = json.loads((folder / "manifest.json").read_text())
    old = hash_file(folder / "old.png")
    listed = {**manifest["files"], "old.png": old, "edited.png": old, "gone.png": old}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": listed}))
    (folder / "edited.png").write_bytes(b"edited by hand")
    stale = [f"{folder / name} belongs to no figure" for name in ("edited.png", "gone.png", "old.png")]
    assert [line.split(" of these")[0] for line in report.check_report(results, page)] == stale
    report.write_report(results, page)
    assert {path.name for path in folder.iterdir()} == made | {"mine.png", "notes.json", "edited.png"}
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert report.check_report(results, page) == []
    manifest["files"]["../experiment.json"] = hash_file(folder.parent / "experiment.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "'../experiment.json': expected one within that folder" in refusal(theirs)
    assert (folder.parent / "experiment.json").is_file()


def test_a_report_replaces_no_file_of_the_users_own(tmp_path: Path) -> None:
    own = {"REPORT.md": b"# My own report\n", "data.bin": bytes(100)}
    for name, data in own.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name} was not written by `bench report`.*--report"):
            report.write_report(tmp_path / "results", tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    with pytest.raises(DataError, match="folder: expected a file, but it is something else"):
        report.write_report(tmp_path / "results", tmp_path / "folder")
    assert (tmp_path / "folder" / "kept").is_dir()
    (tmp_path / "empty.md").touch()
    report.require_place(tmp_path / "empty.md")
    report.require_place(tmp_path / "new.md")


@pytest.mark.parametrize("place", [".", "checkpoint", "failure", "failure/batch.json", "alignment", "other"])
def test_a_run_writes_and_removes_nothing_behind_a_link(tiny_pipeline: Path, tmp_path: Path, place: str) -> None:
    """The experiment, a cell's checkpoints, what a failure left, a task; and a cell that this run does not have."""
    e = experiment(tiny_pipeline, methods=["sft"])
    outside, folder = tmp_path / "outside", tmp_path / "results" / e.name
    cell = folder / "alignment" / "base" / "seed0"
    path = folder / {"alignment": place, ".": "", "other": "other"}.get(place, f"alignment/base/seed0/{place}")
    (outside / "soar" / "seed0").mkdir(parents=True)
    for name in ("00000001.json", "00000001.safetensors", ".run.1.part", "soar/seed0/record.jsonl", "batch.json"):
        (outside / name).write_text('{"torn')
    target = outside / "batch.json" if place.endswith(".json") else outside
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    before = tree(outside)
    with pytest.raises(DataError, match=f"{re.escape(str(path))} is a link"):
        if place in ("checkpoint", "failure", "failure/batch.json"):
            run_cell(CellJob(e, tmp_path / "results", "alignment", "base", 0), lambda event: None)
        else:
            run_experiment(e, tmp_path / "results", 1, Events())
    assert tree(outside) == before and cell.parent != outside


def test_a_damaged_end_of_a_run_takes_no_file_of_the_users_own(tmp_path: Path) -> None:
    for name in (".mine.part", "mine.part", ".record.jsonl.12.part"):
        (tmp_path / name).touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / ".link.1.part").symlink_to(tmp_path / "kept")
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.part", "mine.part", "kept"}
    with pytest.raises(DataError, match=r"cannot write .*kept"):
        write_whole(tmp_path / "kept", b"a file")  # a folder gives way to a folder alone
    assert (tmp_path / "kept").is_dir()
    checkpoints = Checkpoints(tmp_path / "kept")
    for name in ("00000012.json", "00000012.safetensors", "stage1.safetensors", "mine.safetensors", "1 note.json"):
        (checkpoints.folder / name).touch()
    checkpoints.clear()
    assert {path.name for path in checkpoints.folder.iterdir()} == {"mine.safetensors", "1 note.json"}
    remove_failure_dump(tmp_path)
    for name in ("batch.json", "batch.safetensors", "notes.txt"):
        write_whole(tmp_path / "failure" / name, b"")
    remove_failure_dump(tmp_path)
    assert {path.name for path in (tmp_path / "failure").iterdir()} == {"notes.txt"}


def test_lists_curves_and_logs_are_written_through_no_link(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "results" / "smoke"
    folder.mkdir(parents=True)
    for name in ("data", "tracking", "run.log"):
        (folder / name).symlink_to(tmp_path / "outside")
    (tmp_path / "results" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "cache").mkdir()
    for name in ("pictures.parquet", "left-out.csv"):
        (tmp_path / "cache" / name).touch()
    with pytest.raises(DataError, match="data is a link"):
        copy_lists(InspectedPictures((), (), tmp_path / "cache", 0), folder / "data")
    with pytest.raises(DataError, match="tracking is a link"):
        tracker_of(experiment(tiny_pipeline, track="tensorboard"), tmp_path / "results")
    for place in (folder, tmp_path / "results" / "linked"):
        with pytest.raises(DataError, match=r"(run\.log|linked) is a link"):
            detach(["list"], place)
    assert tree(tmp_path / "outside") == {}


def test_sources_that_a_record_names_are_looked_for_among_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "root" / "bench").mkdir(parents=True)
    for name in ("secret", "root/bench/api.py"):
        (tmp_path / name).write_text("1")
    named = ["bench/api.py", "../secret", str(tmp_path / "secret"), "bench/../../secret", "bench/none.py"]
    assert list(source_hashes({}, named, tmp_path / "root", imported=False)) == ["bench/api.py"]


def test_a_run_goes_on_through_no_link(theirs: Path, tmp_path: Path, tiny_pipeline: Path) -> None:
    cell, outside = cell_of(theirs), tmp_path / "outside"
    (cell / "record.jsonl").rename(outside)
    (cell / "record.jsonl").symlink_to(outside)
    with pytest.raises(DataError, match=r"record\.jsonl is a link"):
        CellRecord(cell)
    job = CellJob(experiment(tiny_pipeline, name=SMALL.name), theirs / "results", "alignment", "sft", 0)
    assert job.folder == cell
    cell.rename(tmp_path / "cell")
    cell.symlink_to(tmp_path / "cell")
    with pytest.raises(DataError, match="seed0 is a link"):
        job.folder  # noqa: B018


@pytest.mark.slow
def test_reading_a_header_and_records_needs_no_network(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection: {arguments}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    folder = theirs / "results" / SMALL.name
    assert read_experiment_header(folder).name == SMALL.name
    assert len(read_experiment(folder).results) == 2
    assert report.check_report(theirs / "results", theirs / "REPORT.md") == []


# Checkpoints


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def weights(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A checkpoint's folder, to be changed."""
    return Path(shutil.copytree(tiny_pipeline / "transformer", tmp_path / "cell" / "model"))


@pytest.mark.slow
def test_a_pickled_checkpoint_is_refused_unopened(tiny_pipeline: Path, weights: Path, tmp_path: Path) -> None:
    place = world(tiny_pipeline)
    assert load_checkpoint(place, weights.parent).transformer is not None
    (weights / "diffusion_pytorch_model.safetensors").unlink()
    (weights / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb(tmp_path / "ran")}))
    with pytest.raises(DataError, match=r"expected a config\.json with safetensors weights"):
        load_checkpoint(place, weights.parent)
    assert not (tmp_path / "ran").exists()


def test_a_pipeline_that_brings_code_or_pickles_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    brings_code = Path(shutil.copytree(tiny_pipeline, tmp_path / "code"))
    (brings_code / "mine.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\nclass Mine: ...\n")
    index = json.loads((brings_code / "model_index.json").read_text())
    (brings_code / "model_index.json").write_text(json.dumps({**index, "_class_name": ["mine", "Mine"]}))
    pickled = Path(shutil.copytree(tiny_pipeline, tmp_path / "pickled"))
    (pickled / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (pickled / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb(marker)}))
    for folder in (brings_code, pickled):
        with pytest.raises(BenchError, match="StableDiffusion3Pipeline"):
            PipelinePolicy.load(folder)
    assert not marker.exists()


def test_a_checkpoint_lies_in_its_folder(tiny_pipeline: Path, weights: Path, tmp_path: Path) -> None:
    place, file = world(tiny_pipeline), weights / "diffusion_pytorch_model.safetensors"
    index = weights / "diffusion_pytorch_model.safetensors.index.json"
    for text, message in (
        (json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}), "expected one within that folder"),
        ("{", "expected an index of safetensors files"),
    ):
        index.write_text(text)
        with pytest.raises(DataError, match=message):
            load_checkpoint(place, weights.parent)
    index.unlink()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        load_checkpoint(place, weights.parent)
    weights.rename(tmp_path / "far")
    weights.symlink_to(tmp_path / "far")
    with pytest.raises(DataError, match="model is a link"):
        load_checkpoint(place, weights.parent)


# Texts


def shown(markdown: str) -> str:
    """The text that a reader of GitHub's dialect sees; fails where there is anything but paragraphs of text."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"], markdown
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}, markdown
    return "".join(child.content for child in children)


def cells(markdown: str) -> list[list[str]]:
    """The cells of the one table, each of text or code alone."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    assert tokens[0].type == "table_open" and tokens[-1].type == "table_close", markdown
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special", "code_inline"}, markdown
            rows[-1].append("".join(child.content for child in children))
    return rows


def expected(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", " ".join(text.split()))


@pytest.mark.parametrize("text", EVIL)
def test_a_hostile_text_comes_out_as_text(text: str) -> None:
    assert shown(escape(text)) == expected(text)
    assert cells(markdown_table(["a", "b"], [[escape(text), "x"]]))[1] == [expected(text), "x"]
    assert "http://" not in escape(text) and "@" not in escape(text) and "www." not in escape(text)


@pytest.mark.slow
@given(st.text(st.one_of(st.sampled_from("\\`*_[]()|~$<>&#+-=!:;1. \n\t\"'"), st.characters()), min_size=1))
def test_any_text_comes_out_as_text(text: str) -> None:
    if expected(text):
        assert shown(escape(text)) == expected(text)
        assert cells(markdown_table(["a", "b"], [[escape(text), "x"]]))[1] == [expected(text), "x"]


@given(st.text(st.one_of(st.sampled_from("\\`|<>*_ \n"), st.characters())))
@example("a \\| b")
def test_code_stays_in_its_cell(text: str) -> None:
    (_, row) = cells(markdown_table(["a", "b"], [[code(text), code("x")]]))
    assert len(row) == 2 and row[1] == "x"
    # GitHub counts backslashes: an even number of them leaves the pipe to end the cell
    assert all(len(run) % 2 for run in re.findall(r"(\\*)\|", code(text)))
    if "|" not in text:
        assert row[0].strip() == expected(text).strip()


@pytest.mark.slow
def test_hostile_texts_are_drawn_as_they_are() -> None:
    """matplotlib would read $..$ as mathematics, and fail on what is none."""
    name = "a$\\frac{1}$"
    tiles = {name: [np.zeros((4, 4, 3), np.uint8)] * len(EVIL[:-1])}
    assert draw_sample_grid({"columns": [name], "captions": list(EVIL[:-1])}, tiles).startswith(b"\x89PNG")
    point = {"method": name, "mean": 0.1, "low": 0.0, "high": 0.2, "verdict": name, "few": False}
    panel = {"scorer": name, "kind": name, "margin": None, "better": "right", "points": [point]}
    assert draw_differences({"methods": [name], "baseline": name, "panels": [panel]}).startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_hostile_report_holds_text_alone(tmp_path: Path) -> None:
    """Captions, question, label and reason of a results folder, through the whole report and the terminal."""
    folder = write_world(tmp_path / "results", replace(SMALL, captions=EVIL, label=EVIL[0]))
    as_schema_1(folder)
    path = folder / "experiment.json"
    header = json.loads(path.read_text())
    header["question"], header["command"] = EVIL[3], EVIL[2]
    header["tasks"]["alignment"]["title"] = EVIL[10]
    path.write_text(json.dumps(header))
    report.write_report(tmp_path / "results", tmp_path / "REPORT.md")
    own, short = ((place / "REPORT.md").read_text() for place in (folder, tmp_path))
    text = f"{own}\n{short}"
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in tokens for child in token.children or []]
    html = [token.content for token in [*tokens, *inline] if token.type in ("html_block", "html_inline")]
    tags = {tag for content in html for tag in re.findall(r"</?\w+|<!--", content)}
    assert tags <= {"<!--", "<br", "<details", "</details", "<summary", "</summary"}
    links = {str(child.attrs["href"]) for child in inline if child.type == "link_open"}
    assert links == {f"results/{SMALL.name}/REPORT.md"}
    headings = [tokens[number + 1].content for number, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings and not [heading for heading in headings if heading.startswith(("title", "red"))]
    drawn = json.loads((folder / "figures" / "samples-alignment.json").read_text())["data"]["captions"]
    assert not set("\x1b\x00\u202e") & set("".join([text, report.terminal_table(folder), *drawn]))

"""The page of an experiment without a browser: what it says, how it is made, kept and refused."""

from __future__ import annotations

import base64
import fnmatch
import gzip
import io
import re
import tomllib
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from bench.api import DataError
from bench.results import report
from bench.results.records.reader import read_experiment
from bench.results.records.schema import SampleGrid
from bench.results.report.answer import answer
from bench.results.report.page import PAGE, gallery, page_differences, remove_page, write_page
from bench.results.report.page.document import FOLDER, PageDocument
from bench.results.report.page.gallery import picture_sources, read_galleries
from bench.results.report.page.score_table import table_rows
from bench.results.statistics.analysis import Analysis
from tests.support.synthetic_results import World, write_world

ROOT = Path(__file__).resolve().parents[3]
EVIL = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)> </article> ' `",
    "{{ 7 * 7 }} {% raw %} \u202e\x1b[31m </script><!--",
)
SMALL = World(seeds=2, prompts=48, milestone_prompts=24, captions=EVIL, grid=((1.0, 3.0), (5, 10)))
PLAIN = World(
    label="", tasks=("alignment",), seeds=4, prompts=1000, milestone_prompts=100, seed_sd=0.001, prompt_sd=0.02
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return Analysis(read_experiment(write_world(tmp_path_factory.mktemp("page"), SMALL)))


@pytest.fixture(scope="module")
def html(small: Analysis) -> str:
    return PageDocument(small).render().decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return Analysis(read_experiment(write_world(tmp_path_factory.mktemp("plain"), PLAIN)))


class Parsed(HTMLParser):
    """All elements with their attributes, and the text of each kind of element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag in ("meta", "link", "img", "input"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def of_class(self, tag: str, name: str) -> list[dict[str, str | None]]:
        return [found for found in self.all(tag) if name in (found.get("class") or "").split()]


def of_alignment(analysis: Analysis) -> gallery.Gallery:
    return next(found for found in read_galleries(analysis) if found.task == "alignment")


def hostile(analysis: Analysis) -> Analysis:
    """The same results with texts of a stranger's wherever one can stand."""
    head = analysis.experiment.header
    tasks = {name: info.model_copy(update={"title": EVIL[0]}) for name, info in head.tasks.items()}
    changed = head.model_copy(update={"question": EVIL[0], "label": EVIL[1], "budget": EVIL[2], "tasks": tasks})
    return Analysis(replace(analysis.experiment, header=changed.model_copy(update={"config": {"a": EVIL[0]}})))


@pytest.mark.slow
def test_texts_of_a_stranger_stay_texts(small: Analysis) -> None:
    html = PageDocument(hostile(small)).render().decode()
    page = Parsed(html)
    scripts = page.all("script")
    assert [script.get("type") for script in scripts] == 3 * ["application/octet-stream"] + [None]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert {"x"} & {found["src"] for found in page.all("img") if "src" in found} == set()
    assert EVIL[0] in "".join(page.texts["h1"])
    shown = [row["data-prompt"] for row in page.of_class("article", "row")][:3]
    assert shown == [EVIL[0], EVIL[1], "{{ 7 * 7 }} {% raw %} \ufffd\ufffd[31m </script><!--"]
    assert not set("\x1b\u202e") & set(html)


def test_nothing_is_asked_for_and_nothing_is_left_open(html: str) -> None:
    page = Parsed(html)
    places = [found[name] or "" for _, found in page.elements for name in ("src", "href") if name in found]
    assert places and [place[:60] for place in places if not place.startswith(("data:", "#"))] == []
    assert "url(" not in html and "@import" not in html and "://" not in re.sub(r"base64,[\w+/=]+", "", html)
    policy = next(m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data: blob:;") and "unsafe" not in policy
    for kind in ("script", "style"):
        text = next(text for text in re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.S))
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert page._open == [] and len(html) < 10_000_000


def test_every_control_and_picture_has_a_name(html: str) -> None:
    page = Parsed(html)
    assert all(
        found.get("alt") for found in page.all("img") if found.get("id") not in ("under", "over") and "src" in found
    )
    named = {found["id"] for found in page.all("select")} | {"prompt", "slider"}
    labels = re.findall(r"<label[^>]*>.*?</label>", html, re.S)
    assert all(any(f'id="{name}"' in label for label in labels) for name in named)
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1 and len(page.all("main")) == 1
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_the_answer_follows_the_truth(plain: Analysis) -> None:
    said = {sentence.lead: sentence.rest for sentence in answer(plain)}
    assert list(said) == ["Which method", "Over the base", "Price", "Elsewhere", "Undecided"]
    assert re.fullmatch(
        r"alignment: soar wins, by scenes-geneval \(gold\) soar has 0\.6\d\d, against sft \+0\.1\d\d .* better\.",
        said["Which method"],
    )
    assert re.fullmatch(
        r"alignment: soar \+0\.\d+ .* better, sft .*, flowgrpo † -0\.1\d\d \S+ \S+ worse\.", said["Over the base"]
    )
    assert "sft 625 updates (60 s), soar 267 updates (60 s) and flowgrpo 25 updates (60 s)" in said["Price"]
    assert said["Elsewhere"].endswith(
        "a proxy rises while gold falls for flowgrpo on alignment (scenes-clip against scenes-geneval)."
    )
    assert re.fullmatch(
        r"1 of the 5 comparisons by these headline scorers; alignment: sft minus base "
        r"\(true differences of 0\.0\d\d would probably have been seen\)\.",
        said["Undecided"],
    )


def test_the_answer_names_no_winner_where_none_is_shown(small: Analysis) -> None:
    said = answer(small)
    assert len(said) == 5 and "no winner" in said[0].rest and "is not shown to be better than" in said[0].rest
    assert "demonstration: its verdicts decide little" in next(s.rest for s in said if s.lead == "Price")
    assert re.match(r"\d+ of the 10 comparisons .*would probably have been seen\)", said[-1].rest)


def test_the_table_holds_the_scores(small: Analysis) -> None:
    rows = {(row["task"], row["method"], row["scorer"]): row for row in table_rows(small)}
    samples = small.experiment.samples
    last = samples[(samples["split"] == "report") & (samples["task"] == "alignment")]

    def mean(method: str) -> float:
        own = last[last["method"] == method]
        return float(own[own["update"] == own["update"].max()]["scenes-clip"].astype("float64").mean())

    row = rows["alignment", "soar", "scenes-clip"]
    assert row["mean"] == pytest.approx(mean("soar"), abs=1e-7)
    assert row["base"]["mean"] == pytest.approx(mean("soar") - mean("base"), abs=1e-7)
    assert row["baseline"]["mean"] == pytest.approx(mean("soar") - mean("sft"), abs=1e-7)
    assert row["base"]["text"].startswith("+0.0") and row["base"]["verdict"] in (
        "better",
        "slightly better",
        "undecided",
        "did not learn",
    )
    assert (row["kind"], row["is_used"], row["is_headline"]) == ("proxy", True, True)
    assert rows["alignment", "base", "scenes-clip"]["base"] is None
    assert rows["alignment", "flowgrpo †", "scenes-clip"]["baseline"]["sign"] in "▲△▼▽=?"
    assert len(rows) == 2 * 4 * 6


def test_pictures_and_what_gold_says_of_them(small: Analysis) -> None:
    first = of_alignment(small)
    assert (first.task, first.gold, first.kind, len(first.rows)) == ("alignment", "scenes-geneval", "gold", 3)
    assert first.note.startswith("The first 3 of 48 prompts, not chosen")
    row = first.rows[1]
    assert {m: [p.seed for p in of] for m, of in row.pictures.items()} == {"base": [0]} | {
        method: [0, 1] for method in ("sft", "soar", "flowgrpo")
    }
    one = row.pictures["soar"][1]
    scores = small.scores("alignment", "soar", "scenes-geneval")
    assert one.is_right == (scores.loc[1].xs(1, level="prompt_index").iloc[0] == 1)
    cell = next(
        c
        for c in small.experiment.results
        if (c.header.task, c.header.method, c.header.seed) == ("alignment", "soar", 1)
    )
    whole = np.asarray(Image.open(cell.folder / "pictures.png").convert("RGB"))
    assert (one.pixels == whole[:, 32:64]).all()
    sources, note = picture_sources([first])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[one].split(",")[1]))))
    assert note == "" and (shown == one.pixels).all()


def test_tags_find_who_was_right(small: Analysis) -> None:
    scores, names = {}, small.methods("alignment")
    for method in names:
        table = small.scores("alignment", method, "scenes-geneval")
        scores[method] = table.T.groupby(level="prompt_index").first().T
    for row in of_alignment(small).rows:
        values = {method: scores[method][row.index] for method in names}
        expected = {f"right-{n}" for n, method in enumerate(names) if (values[method] == 1).all()}
        expected |= {f"wrong-{n}" for n, method in enumerate(names) if (values[method] == 0).all()}
        right, wrong = (sum(tag.startswith(kind) for tag in expected) for kind in ("right", "wrong"))
        expected.add("all" if right == len(names) else "none" if wrong == len(names) else "split")
        assert set(row.tags) == expected


def test_a_gold_scorer_that_gives_numbers_has_a_best_one(small: Analysis) -> None:
    samples = small.experiment.samples.copy()
    samples["scenes-geneval"] = np.arange(len(samples), dtype=np.float32)
    row = of_alignment(Analysis(replace(small.experiment, samples=samples))).rows[0]
    means = {
        method: own[(own["update"] == own["update"].max())]["scenes-geneval"].mean()
        for method, own in samples.query("task == 'alignment' and split == 'report' and prompt_index == 0").groupby(
            "method", observed=True
        )
    }
    order = list(small.methods("alignment"))
    assert row.tags == (f"best-{order.index(max(means, key=means.__getitem__))}",)
    assert re.fullmatch(r"\d+\.\d+", row.pictures["soar"][0].verdict) and row.pictures["soar"][0].is_right is None


def test_many_pictures_are_made_smaller_and_said_to_be(small: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "ROOM", 3000)
    monkeypatch.setattr(gallery, "SMALLEST", 8)
    sources, note = picture_sources(read_galleries(small))
    assert "pixels, as WebP: the whole ones lie in pictures.png" in note
    assert all(source.startswith("data:image/webp;base64,") for source in sources.values())


def test_downloads_hold_the_scores_and_settings(small: Analysis, html: str) -> None:
    files = dict(re.findall(r'<script [^>]*class="file" data-name="synthetic-([\w.]+)"[^>]*>([\w+/=]+)</script>', html))
    samples = small.experiment.samples
    parquet = pd.read_parquet(io.BytesIO(base64.b64decode(files["scores.parquet"])))
    assert parquet["scenes-clip"].equals(samples["scenes-clip"]) and len(parquet.columns) == len(samples.columns)
    text = pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(files["scores.csv"]))))
    assert np.array_equal(text["scenes-ocr"].astype("float32"), samples["scenes-ocr"], equal_nan=True)
    assert list(text["method"]) == list(samples["method"])
    assert yaml.safe_load(base64.b64decode(files["settings.yaml"])) == small.experiment.header.config


@pytest.mark.slow
def test_a_page_is_the_same_again_and_is_left_as_it_is(small: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(small)
    first, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert write_page(small).stat().st_mtime_ns == stamp and page_differences(small) == []
    monkeypatch.chdir("/")
    path.unlink()
    assert write_page(Analysis(read_experiment(small.experiment.folder))).read_bytes() == first
    header = first.split(b"\n", 1)[0].decode()
    assert re.fullmatch(
        r"<!-- Generated by `python -m bench report`; .* data \w{16} made \w{16} page \w{16} -->", header
    )


@pytest.mark.slow
def test_check_tells_a_page_of_other_results_and_an_edited_one(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, tasks=("alignment",)))
    page, told = folder / PAGE, tmp_path / "REPORT.md"
    report.write_report(tmp_path / "results", told)
    whole = page.read_bytes()
    other = Analysis(read_experiment(folder))
    changed = other.experiment.samples.assign(**{"scenes-clip": other.experiment.samples["scenes-clip"] + 0.1})
    assert "shows other results" in page_differences(Analysis(replace(other.experiment, samples=changed)))[0]
    page.write_bytes(whole.replace(b"no winner", b"my winner", 1))
    assert [line for line in report.check_report(tmp_path / "results", told) if "not the page" in line]
    remove_page(folder)
    assert page.is_file(), "what was edited is not removed"
    report.write_report(tmp_path / "results", told)
    assert page.read_bytes() == whole and report.check_report(tmp_path / "results", told) == []
    page.unlink()
    assert report.check_report(tmp_path / "results", told) == []


@pytest.mark.slow
def test_a_page_replaces_nothing_of_the_users_and_follows_no_link(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, tasks=("alignment",)))
    page, outside = folder / PAGE, tmp_path / "mine.html"
    page.write_text("<h1>My own notes</h1>")
    with pytest.raises(DataError, match=r"report\.html was not written by `bench report`"):
        report.write_report(tmp_path / "results", tmp_path / "REPORT.md")
    assert page.read_text() == "<h1>My own notes</h1>" and not (tmp_path / "REPORT.md").exists()
    page.rename(outside)
    page.symlink_to(outside)
    with pytest.raises(DataError, match="is a link"):
        report.write_report(tmp_path / "results", tmp_path / "REPORT.md")
    assert outside.read_text() == "<h1>My own notes</h1>"


@pytest.mark.slow
def test_a_page_goes_when_its_experiment_is_reported_no_more(tmp_path: Path) -> None:
    results = tmp_path / "results"
    gone, kept = (write_world(results, replace(SMALL, name=name, tasks=("alignment",))) for name in ("gone", "kept"))
    report.write_report(results, tmp_path / "REPORT.md")
    assert (gone / PAGE).is_file()
    for record in gone.glob("*/*/*/record.jsonl"):
        record.write_text("no record\n")
    report.write_report(results, tmp_path / "REPORT.md")
    assert not (gone / PAGE).exists() and (kept / PAGE).is_file()


@pytest.mark.slow
def test_pages_of_the_committed_results_are_small() -> None:
    found = [Analysis(read_experiment(path.parent)) for path in (ROOT / "results").glob("*/experiment.json")]
    reported = [analysis for analysis in found if not analysis.is_tuning]
    assert reported and all(len(PageDocument(analysis).render()) < 10_000_000 for analysis in reported)


def test_an_experiment_without_pictures_or_curves_has_a_page(small: Analysis) -> None:
    bare = tuple(replace(cell, pictures=None) for cell in small.experiment.results if cell.header.method == "base")
    html = PageDocument(Analysis(replace(small.experiment, results=bare))).render().decode()
    assert "No pictures were recorded." in html and "No curves were recorded." in html
    assert Parsed(html)._open == []


def test_the_templates_are_packaged() -> None:
    text = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = text["tool"]["setuptools"]["package-data"]["bench"]
    names = [path.relative_to(ROOT / "bench").as_posix() for path in FOLDER.iterdir() if path.suffix != ".py"]
    missing = [n for n in names if "__pycache__" not in n and not any(fnmatch.fnmatch(n, p) for p in patterns)]
    assert len(names) >= 3 and missing == []


def test_sample_grids_of_other_prompts_stand_in_rows_of_their_own(small: Analysis) -> None:
    def moved(kept: SampleGrid) -> SampleGrid:
        return kept.model_copy(update={"prompt_indices": (1, 2, 3)})

    results = tuple(
        replace(cell, pictures=moved(cell.pictures)) if cell.pictures and cell.header.method == "sft" else cell
        for cell in small.experiment.results
    )
    rows = of_alignment(Analysis(replace(small.experiment, results=results))).rows
    assert [list(row.pictures) for row in rows] == [
        ["base", "soar", "flowgrpo"],
        ["base", "sft", "soar", "flowgrpo"],
        ["base", "sft", "soar", "flowgrpo"],
        ["sft"],
    ]

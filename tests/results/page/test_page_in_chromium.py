"""The page in a real headless Chromium, opened from the disk: it works by itself, and no request leaves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from bench.results.records.reader import read_experiment
from bench.results.report.page import write_page
from bench.results.statistics.analysis import Analysis
from tests.support.chromium import needs_chromium, opened_chromium
from tests.support.synthetic_results import World, write_world

pytestmark = [pytest.mark.slow, needs_chromium]
CAPTIONS = ("two red stars", "<script>throw 1</script>", "a blue circle", "a red cube")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = World(seeds=2, prompts=48, milestone_prompts=24, captions=CAPTIONS, grid=((1.0, 3.0), (5, 10)))
    return write_page(Analysis(read_experiment(write_world(tmp_path_factory.mktemp("browser"), world))))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with opened_chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Any, path: Path) -> Iterator[Any]:
    """The page, which at the end must have said nothing to the console and asked for nothing but itself."""
    said: list[str] = []
    asked: list[str] = []
    opened = chromium.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    opened.close()


def shown(page: Any, query: str) -> list[Any]:
    return [found for found in page.locator(query).all() if found.is_visible()]


def prompts(page: Any) -> list[str]:
    return [row.get_attribute("data-prompt") for row in shown(page, ".row")]


def saved(page: Any, button: Any) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        button.click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_the_first_screen_holds_the_answer(page: Any) -> None:
    answer = page.locator("#answer").bounding_box()
    assert answer["y"] + answer["height"] < 800 and page.locator(".answer li").count() >= 5
    assert page.locator("#table h2").bounding_box()["y"] < 800


def test_the_table_sorts_by_every_column_and_shows_all_scorers(page: Any) -> None:
    assert len(shown(page, "#scores tbody tr")) == 2 * 4 * 2
    page.check("#all-scorers")
    assert len(shown(page, "#scores tbody tr")) == 2 * 4 * 6
    for column in range(page.locator("#scores thead th").count()):
        head = page.locator("#scores thead th").nth(column)
        for order in ("ascending", "descending"):
            head.locator("button").focus()
            page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == order
            read = f"[...document.querySelectorAll('#scores tbody tr')].map(row => row.cells[{column}].dataset.sort)"
            keys = page.evaluate(read)
            present = [key for key in keys if key]
            assert keys == present + [""] * (len(keys) - len(present)), "what has no value stands last"
            numbers = (
                [float(key) for key in present] if column >= 4 and column % 2 == (0 if column == 4 else 1) else None
            )
            ordered = sorted(numbers or present, key=lambda key: key if numbers else key.casefold())
            assert (numbers or present) == (ordered if order == "ascending" else ordered[::-1])
    assert page.locator("#scores thead th[aria-sort=none]").count() == page.locator("#scores thead th").count() - 1


def test_the_curves_change_their_axis(page: Any) -> None:
    for unit in ("cost", "updates", "seconds", "images"):
        page.check(f"input[name=unit][value={unit}]")
        names = [found.get_attribute("data-name") for found in shown(page, ".curve img")]
        assert names == [f"curves-aesthetic-{unit}", f"curves-alignment-{unit}"]
        assert page.evaluate("[...document.querySelectorAll('.curve img')].every(found => found.naturalWidth > 100)")


def test_filters(page: Any) -> None:
    page.select_option("#task", label="alignment")
    assert prompts(page) == list(CAPTIONS) and page.inner_text("#count") == "4 of 4 prompts"
    page.keyboard.press("/")
    page.keyboard.type("RED st")
    assert prompts(page) == ["two red stars"]
    page.fill("#prompt", "")
    page.select_option("#category", "counting")
    assert prompts(page) == [CAPTIONS[1]]
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelector('#category').value === ''")
    page.select_option("#task", label="alignment")
    found = {}
    for value in page.eval_on_selector_all("#verdict option", "all => all.map(one => one.value)"):
        page.select_option("#verdict", value)
        found[value] = prompts(page)
        tags = [row.get_attribute("data-tags").split() for row in shown(page, ".row")]
        assert all(not value or value in of for of in tags)
    assert sorted(found["all"] + found["none"] + found["split"]) == sorted(CAPTIONS)
    page.select_option("#verdict", "")
    page.uncheck("#methods input[value=soar]")
    assert {cell.get_attribute("data-method") for cell in shown(page, ".cell")} == {"base", "sft", "flowgrpo"}


def test_the_slider_lays_one_picture_over_the_other(page: Any) -> None:
    page.select_option("#left", label="soar, seed 1")
    page.select_option("#right", label="base")
    page.select_option("#which", label="a blue circle")
    assert page.get_attribute("#over", "alt").startswith("soar, seed 1: a blue circle")
    assert page.get_attribute("#under", "alt").startswith("base: a blue circle")
    assert page.get_attribute("#over", "src") != page.get_attribute("#under", "src")
    page.focus("#slider")
    page.keyboard.press("Home")
    assert "100%" in page.evaluate("document.querySelector('#over').style.clipPath")
    page.keyboard.press("End")
    assert page.evaluate("document.querySelector('#over').style.clipPath").startswith("inset(0px 0%")


def test_a_picture_is_enlarged_and_keys_go_through_them(page: Any) -> None:
    first = shown(page, ".picture")[0]
    first.focus()
    page.keyboard.press("Enter")
    said = page.locator("#large p")
    assert said.inner_text().startswith("base: two red stars")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("sft ‡, seed 0: two red stars")
    page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("sft ‡, seed 0: <script>throw 1</script>")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert said.inner_text().startswith("flowgrpo †, seed 1: <script>")
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()


def test_a_blind_vote_hides_names_and_is_counted(page: Any) -> None:
    page.select_option("#task", label="alignment")
    page.click("#blind")
    rows = shown(page, ".row")
    for row in rows:
        assert [name.inner_text() for name in row.locator("figcaption").all()] == ["A", "B", "C", "D"]
        assert len([one for one in row.locator(".picture").all() if one.is_visible()]) == 4, "one seed of each"
        words = row.inner_text() + "".join(image.get_attribute("alt") for image in row.locator("img").all())
        assert not [name for name in ("sft", "soar", "flowgrpo", "base", "right", "wrong") if name in words]
    assert page.is_disabled("#verdict") and not page.locator("#compare").is_visible()
    for row in rows[:2]:
        row.locator("input[value=soar]").check()
    rows[2].locator(".nobody input").check()
    page.click("#tally")
    tally = {
        row.locator("td").nth(0).inner_text(): row.inner_text().split("\t")[1:]
        for row in shown(page, "#tally-table tbody tr")
    }
    assert tally == {
        "soar": ["2", "3"], "base": ["0", "3"], "sft": ["0", "3"], "flowgrpo": ["0", "3"], "no difference": ["1", "3"],
    }  # fmt: skip
    assert [name.inner_text() for name in rows[0].locator("figcaption").all()][:2] == ["base", "sft ‡"]
    name, data = saved(page, page.locator("#export"))
    votes = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert name == "votes.csv" and [(v["prompt"], v["best"]) for v in votes] == [
        (CAPTIONS[0], "soar"), (CAPTIONS[1], "soar"), (CAPTIONS[2], ""),
    ]  # fmt: skip
    assert sorted(votes[0]["order"].split(" | ")) == ["base", "flowgrpo", "sft", "soar"]


def test_downloads(page: Any, path: Path) -> None:
    samples = read_experiment(path.parent).samples
    name, data = saved(page, page.get_by_text("synthetic-scores.csv"))
    assert name == "synthetic-scores.csv" and len(pd.read_csv(io.BytesIO(data))) == len(samples)
    name, data = saved(page, page.get_by_text("synthetic-scores.parquet"))
    assert pd.read_parquet(io.BytesIO(data))["scenes-clip"].equals(samples["scenes-clip"])
    name, data = saved(page, page.get_by_text("synthetic-settings.yaml"))
    assert b"guidance: 3.0" in data
    page.click("#downloads summary")
    name, data = saved(page, page.get_by_text("curves-alignment-cost.svg"))
    assert name == "curves-alignment-cost.svg" and b"<svg" in data
    name, data = saved(page, page.get_by_text("proxy-gold.png"))
    assert name == "proxy-gold.png" and Image.open(io.BytesIO(data)).width > 800


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_page_fits_every_screen(chromium: Any, path: Path, width: int, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, .skip, dialog, script')
        && one.getBoundingClientRect().right > innerWidth + 1).length"""
    assert page.evaluate(outside) == 0
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    assert shot.width == width
    dark = shot.getpixel((2, 2))
    assert dark > 240 if scheme == "light" else dark < 40
    page.close()


def test_words_have_contrast(chromium: Any, path: Path) -> None:
    """WCAG 2, level AA: 4.5 for text, against the background of the page, in both schemes."""
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        words = "p, li, td, th, a, .verdict, .told, figcaption, caption, summary, label"
        read = f"""[...document.querySelectorAll('{words}')]
            .filter(one => one.offsetParent).map(one => getComputedStyle(one).color)"""
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        colours = set(page.evaluate(read))
        assert len(colours) >= 4
        for colour in colours:
            low, high = sorted([paper, luminance(colour)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, colour)
        page.close()


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_without_scripts_everything_is_shown(chromium: Any, path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("noscript").is_visible() and not page.locator("#filters").is_visible()
    assert page.locator(".row").last.is_visible() and page.locator("#scores tr.more").first.is_visible()
    context.close()


def test_it_prints(page: Any) -> None:
    page.emulate_media(media="print")
    for query in ("nav", "#filters", "#compare", "#downloads"):
        assert not page.locator(query).is_visible()
    assert page.locator("#scores").is_visible() and page.locator(".row").first.is_visible()
    assert page.pdf().startswith(b"%PDF")

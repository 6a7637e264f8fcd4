"""What the README and the pages say of results and files is so, and the README stays one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.registry import ROOT
from tests.support.documents import blocks, pages

README = ROOT / "README.md"
INTERVAL = re.compile(r"[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\]")


def named_files(page: Path) -> list[str]:
    """The files of this repository that a page links to or shows, as it names them."""
    return [name for name in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")) if name]


def test_the_readme_is_one_page_that_explains_its_words_first() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120
    words, commands = lines.index("## Words"), lines.index("## Run it")
    assert words < commands
    explained = "\n".join(lines[words:commands])
    assert [word for word in ("base", "budget", "gold", "proxy", "cell") if f"**{word}**" not in explained] == []


def test_the_readme_has_two_commands_that_the_check_reads() -> None:
    """`.ci/run` takes the last part of the first as the main job, and of the second as the tests."""
    first, second = (block.text.strip() for block in blocks("bash", page="README.md"))
    assert "\n" not in first + second
    assert first.split(" && ")[-1].startswith(".venv/bin/python -m bench run ")
    assert second.split(" && ")[-1].startswith(".venv/bin/python -m pytest ")


def test_every_interval_of_readme_and_pages_stands_in_a_report() -> None:
    written = (ROOT / "REPORT.md", *ROOT.glob("results/*/REPORT.md"))
    reports = "\n".join(path.read_text(encoding="utf-8") for path in written)
    found = [interval for page in pages() for interval in INTERVAL.findall(page.read_text(encoding="utf-8"))]
    assert len(found) >= 3
    assert [interval for interval in found if interval not in reports] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    assert [name for name in named_files(page) if not (page.parent / name).exists()] == []


def test_links_are_found() -> None:
    assert len(named_files(README)) >= 5

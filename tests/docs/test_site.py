"""The site builds without a warning and without the network, and holds all that `bench list` knows."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import registry
from bench.cli.commands import NAMES
from bench.cli.facts import BLOCKS, block_settings, named_settings, preset_summaries
from bench.config.built_in_tasks import TASKS
from tests.support.chromium import needs_chromium, opened_chromium
from tests.support.documents import pages

pytestmark = pytest.mark.slow
DOCS = registry.ROOT / "docs"

# `mkdocs`, for which every connection fails.
OFFLINE = """
import socket, sys
def refuse(*_): raise SystemExit("the build asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from this tree with warnings as errors: links and anchors that lead nowhere are among them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=registry.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loaded(HTMLParser):
    """What a page makes a browser load, and the anchors in it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(found.get("src") or "")
        if tag == "link" and found.get("rel") != "canonical":
            self.addresses.append(found.get("href") or "")


def read(page: Path) -> _Loaded:
    """A page of the site."""
    reader = _Loaded()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        addresses = [address for address in read(page).addresses if address]
        assert addresses
        assert [address for address in addresses if re.match(r"(\w+:)?//", address)] == [], page
        if page.name != "404.html":  # its addresses are a server's
            assert [name for name in addresses if not (page.parent / name.split("?")[0]).is_file()] == [], page


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", registry.names(registry.METHODS)),
        ("rewards", registry.names(registry.REWARDS)),
        ("settings", BLOCKS),
        ("presets", [*preset_summaries(), *(name for tasks in TASKS.values() for name in tasks)]),
        ("commands", NAMES),
    ],
)
def test_the_reference_has_every_name(site: Path, page: str, names: list[str]) -> None:
    assert set(names) <= read(site / "reference" / f"{page}.html").anchors


def test_the_reference_has_every_setting_with_its_help(site: Path) -> None:
    of_blocks = [(option, one) for name in BLOCKS for option, one in block_settings(name)]
    of_methods = [
        setting
        for name in registry.names(registry.METHODS)
        for setting in named_settings(registry.load_method(name).Config, name)
    ]
    for page, settings in (("settings", of_blocks), ("methods", of_methods)):
        html = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        text = " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())
        assert len(settings) > 40
        for option, setting in settings:
            facts, told = setting.facts(), setting.help.replace("`", "")
            assert f"{option} {facts} {told}".replace("`", "") in text, option


def test_every_page_is_in_the_navigation(site: Path) -> None:
    written = {path.relative_to(DOCS) for path in pages() if path.is_relative_to(DOCS)}
    shown = (site / "index.html").read_text(encoding="utf-8")
    assert [str(path) for path in written if f'href="{path.with_suffix(".html").as_posix()}"' not in shown] == []


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_disk_and_fits_the_screen(site: Path, width: int) -> None:
    """In Chromium: nothing is asked of elsewhere, nothing is complained of, and nothing hangs over the side."""
    with opened_chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 800})
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for name in ("index", "reference/methods", "reference/api", "how-to/rewards", "tutorial/method"):
            page.goto((site / f"{name}.html").as_uri())
            over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, name
            broken = "Array.from(document.images).filter(one => one.complete && !one.naturalWidth).length"
            assert page.evaluate(broken) == 0, name
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert complaints == []

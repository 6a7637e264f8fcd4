"""A headless Chromium, of the system: playwright's own would be a download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

_PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

needs_chromium = pytest.mark.skipif(_PATH is None, reason="no Chromium is installed: apt-get install chromium")


@contextmanager
def opened_chromium() -> Iterator[Any]:
    """A browser that asks nothing of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PATH, args=_ARGUMENTS)
        yield browser
        browser.close()

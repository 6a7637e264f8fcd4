"""What the README says of results stands in the reports."""

from __future__ import annotations

import re

from bench.registry import ROOT


def test_every_interval_of_the_readme_stands_in_a_report() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    report = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("results/*/REPORT.md"))
    found = re.findall(r"[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\]", readme)
    assert len(found) >= 3
    assert [interval for interval in found if interval not in report] == []


def test_every_file_that_the_readme_shows_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", readme)
    assert len(named) >= 5
    assert [name for pair in named for name in pair if name and not (ROOT / name).exists()] == []

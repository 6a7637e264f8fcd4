"""Measure every family against diffusers' own pipeline and write docs/models.md: `python -m tests.models.families`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.files import write_whole
from tests.models.families.conformance import DOCUMENT, measured, page, write_all


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(name, place) for name, place in write_all(Path(folder)).items()}
    write_whole(DOCUMENT, page(found).encode())


if __name__ == "__main__":
    main()

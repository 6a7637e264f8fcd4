"""The README, CONTRIBUTING and the pages of docs/, the blocks of code in them, and the command lines in these."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from bench.registry import ROOT


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and line, its language, and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """Its first line, which names the file where it is one."""
        return self.text.split("\n", 1)[0]

    @property
    def file(self) -> str | None:
        """The name of the file that it is, as its first line says."""
        match = re.fullmatch(r"# (\w+\.py)", self.first)
        return match[1] if match else None


def pages() -> list[Path]:
    """Every document that readers are sent to."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(*languages: str, page: str | None = None) -> list[Block]:
    """The blocks of these languages, of one page or of all."""
    found = []
    for path in pages():
        name = path.relative_to(ROOT).as_posix()
        for token in MarkdownIt().parse(path.read_text(encoding="utf-8")):
            if token.type == "fence" and token.map and token.info in languages and page in (None, name):
                found.append(Block(name, token.map[0] + 2, token.info, token.content))
    return found


def file_blocks() -> dict[str, str]:
    """The text of each file that a page shows whole."""
    return {block.file: block.text for block in blocks("python") if block.file}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the blocks for a shell, as words, with its place."""
    for block in blocks("sh", "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if words := shlex.split(part, comments=True):
                    yield str(block), words


def mentioned() -> Iterator[tuple[str, list[str]]]:
    """Every `bench ...` and `python -m ...` in a sentence of a page or of the notebook, as words, with its place."""
    for name, text in _prose():
        tokens = MarkdownIt().parse(text)
        for token in (child for one in tokens for child in one.children or ()):
            if token.type == "code_inline" and re.match(r"(python -m|bench) \w", token.content):
                yield name, shlex.split(token.content)


def _prose() -> Iterator[tuple[str, str]]:
    for path in pages():
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        yield path.relative_to(ROOT).as_posix(), "\n\n".join(parts)

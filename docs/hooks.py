"""What the site holds beside the pages in docs/: the README, CONTRIBUTING, the notebook, and the reference of the code.

Links in the pages are those of the repository, so that they can be followed there; here they become the site's. A page
of the reference holds `<!-- methods -->` or the like where its part is written from what `bench list` knows.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from bench import registry
from bench.cli.commands import NAMES
from bench.cli.facts import (
    BLOCKS,
    PRESETS,
    block_settings,
    docstring,
    method_facts,
    named_settings,
    preset_summaries,
    reward_facts,
)
from bench.cli.main import parser_of
from bench.cli.setting import Setting
from bench.config.built_in_tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "tutorial/smoke.md": "docs/tutorial/smoke.ipynb",
}
_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")
_NAME = re.compile(r"<code>(-?-?[\w.-]{1,40})</code>")
_SPECIAL = re.compile(r"(`[^`]*`)|([*_<>\[\]#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere, and the pictures of results that pages show; leave out the notebook itself."""
    texts = {name: _page_text(ROOT / place) for name, place in ELSEWHERE.items()}
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    texts |= {file.src_uri: file.content_string for file in files.documentation_pages() if file.src_uri not in texts}
    for target in sorted(set(_pictures(texts))):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Bring in the part of the reference that a page asks for, and turn its links into the site's."""
    for name, part in PARTS.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(part()))
    return _LINK.sub(lambda match: _link(match, page.file.src_uri), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Mark names that a line must not end within: browsers break after each hyphen."""
    return _NAME.sub(r'<code class="name">\1</code>', html)


def _page_text(path: Path) -> str:
    """A page's Markdown, that of a notebook from its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([*parts, f"This page is a notebook: [{path.name}]({path.name})."])


def _repository_path(page: str, target: str) -> str:
    """What a link of a page leads to, as a path in the repository."""
    folder = posixpath.dirname(ELSEWHERE.get(page, f"docs/{page}"))
    return posixpath.normpath(posixpath.join(folder, target))


def _pictures(texts: dict[str, str]) -> Iterator[str]:
    """The pictures outside docs/ that pages show, as paths in the repository and in the site."""
    for page, text in texts.items():
        for shown, _, target in _LINK.findall(text):
            if shown and ":" not in target and not (path := _repository_path(page, target)).startswith("docs/"):
                yield path


def _link(match: re.Match[str], page: str) -> str:
    """One link of a page as the site has it; text alone where it leads to a file of the repository that is no page."""
    shown, text, target = match.groups()
    place, sign, anchor = target.partition("#")
    if not place or ":" in place:
        return match[0]
    path = _repository_path(page, place)
    if not (ROOT / path).exists():
        return match[0]  # MkDocs says so
    pages = {where: name for name, where in ELSEWHERE.items()}
    if path in pages and page != pages[path]:
        path = pages[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif not shown:
        return text
    return f"{shown}[{text}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{sign}{anchor})"


def prose(text: str) -> str:
    """A docstring as Markdown: its signs stand for themselves, what is indented is a block of code."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("    "):
            parts.append(f"```text\n{paragraph}\n```")
        else:
            parts.append(_plain(paragraph))
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text whose signs are no Markdown's, but for `code`."""
    return _SPECIAL.sub(lambda match: match[1] or f"&#{ord(match[2])};", text)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {_plain(text)}" for name, text in facts)


def _settings(settings: list[tuple[str, Setting]]) -> str:
    """A list of options with their help."""
    return "\n\n".join(
        f"`{option}` {_plain(setting.facts())}\n:   {_plain(setting.help)}" for option, setting in settings
    )


def _methods() -> Iterator[str]:
    for name in registry.names(registry.METHODS):
        cls = registry.load_method(name)
        yield f"\n## {name}\n\n{prose(docstring(cls))}\n\n{_facts(method_facts(cls))}\n"
        if settings := named_settings(cls.Config, name):
            yield f"\n{_settings(settings)}\n"


def _rewards() -> Iterator[str]:
    for name in registry.names(registry.REWARDS):
        cls = registry.load_reward(name)
        yield f"\n## {name}\n\n{prose(docstring(cls))}\n\n{_facts(reward_facts(cls))}\n"


def _blocks() -> Iterator[str]:
    for name in BLOCKS:
        yield f"\n## {name}\n\n{_settings(block_settings(name))}\n"


def _presets() -> Iterator[str]:
    for name in preset_summaries():
        yield f"\n## {name}\n\n```yaml\n{(PRESETS / f'{name}.yaml').read_text(encoding='utf-8').rstrip()}\n```\n"


def _tasks() -> Iterator[str]:
    for world, tasks in TASKS.items():
        for name, task in tasks.items():
            facts = [(field, _told(value)) for field, value in task.items() if field != "title"]
            yield f"\n### {name}\n\n{task['title']}, of the world `{world}`\n\n{_facts(facts)}\n"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(value) if isinstance(value, list) else "none" if value is None else str(value)


def _commands() -> Iterator[str]:
    with _eighty_columns():
        for name in NAMES:
            yield f"\n## {name}\n\n```text\n{parser_of(name).format_help().rstrip()}\n```\n"


@contextmanager
def _eighty_columns() -> Iterator[None]:
    """argparse fills the lines of its help to the width that this variable says."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


PARTS = {
    "methods": _methods,
    "rewards": _rewards,
    "settings": _blocks,
    "presets": _presets,
    "tasks": _tasks,
    "commands": _commands,
}

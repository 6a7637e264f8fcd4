"""What there is to choose from, read from the source text of the plugins: nothing is imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from bench.plugin_code import source_file
from bench.registry import registered


@dataclass(frozen=True)
class PluginEntry:
    """One registered plugin, or a command. `problem` says why its source cannot be read; then `summary` is empty.

    `needs` are those that the class itself declares.
    """

    name: str
    summary: str
    paper: str
    file: str
    problem: str = ""
    needs: tuple[str, ...] = ()


def entries(group: str) -> list[PluginEntry]:
    """The registered plugins of a group, by name, with the first line of their docstrings."""
    return [describe(name, found) for name, found in registered(group).items()]


def describe(name: str, found: tuple[EntryPoint, ...]) -> PluginEntry:
    """What the source says of one name: the class of a plugin, or the whole module where no class is registered."""
    if len(found) > 1:
        return PluginEntry(name, "", "", "", "registered several times: " + ", ".join(entry.value for entry in found))
    entry = found[0]
    file = source_file(entry.module)
    if file is None:
        return PluginEntry(name, "", "", "", f"module {entry.module} cannot be found; install again (pip install -e .)")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, OSError, UnicodeDecodeError) as error:
        return PluginEntry(name, "", "", str(file), f"{type(error).__name__}: {error}")
    if entry.attr is None:
        return PluginEntry(name, (ast.get_docstring(tree) or "").split("\n", 1)[0], "", str(file))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            text = ast.get_docstring(node) or ast.get_docstring(tree) or ""
            return PluginEntry(
                name, text.split("\n", 1)[0], _text(node, "paper") or _text(node, "source"), str(file),
                needs=_keywords(_assigned(node, "needs")),
            )  # fmt: skip
    return PluginEntry(name, "", "", str(file), f"defines no class {entry.attr}")


def _text(node: ast.ClassDef, name: str) -> str:
    """The text that a class body assigns to a name, or nothing."""
    value = _assigned(node, name)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _keywords(value: ast.expr | None) -> tuple[str, ...]:
    """What a call sets to true by name."""
    found = value.keywords if isinstance(value, ast.Call) else []
    return tuple(str(k.arg) for k in found if isinstance(k.value, ast.Constant) and k.value.value is True)


def _assigned(node: ast.ClassDef, name: str) -> ast.expr | None:
    """What a class body assigns to a name."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named:
            return value
    return None

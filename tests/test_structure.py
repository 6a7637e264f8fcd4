"""The plan of the package: wings that import downwards only, no circle among modules, and no plugin known by name."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bench", "methods", "rewards", "pretrain")
# From the ground up. Modules of bench/ itself are the ground; those that nothing in bench imports are doors, on top.
WINGS = (
    "config",
    "results",
    "distributed",
    "datasets",
    "models",
    "scoring",
    "training",
    "experiments",
    "preflight",
    "cli",
)

Graph = Mapping[str, frozenset[str]]


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "templates" in parts:
                continue  # texts that `bench new` writes
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(sources: Mapping[str, str]) -> Graph:
    """The modules that each one imports, wherever the import stands: at the top, in a function, for types only."""
    return {name: frozenset(_imported(name, text, sources)) for name, text in sources.items()}


def _imported(name: str, text: str, known: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: imports are absolute here"
            named = [
                inner if (inner := f"{node.module}.{alias.name}") in known else str(node.module) for alias in node.names
            ]
        else:
            continue
        yield from (target for target in named if target in known and target != name)


def upwards(imports: Graph) -> list[str]:
    """Every import of bench that runs up, as `lower -> higher`."""
    used = {target for targets in imports.values() for target in targets if target.startswith("bench")}

    def floor(module: str) -> int:
        wing = module.split(".")[1] if "." in module else ""
        if wing in WINGS:
            return 1 + WINGS.index(wing)
        return 0 if module in used or module == "bench" else len(WINGS) + 1

    return sorted(
        f"{module} -> {target}"
        for module, targets in imports.items()
        for target in targets
        if module.startswith("bench") and (not target.startswith("bench") or floor(target) > floor(module))
    )


def circles(imports: Graph) -> list[list[str]]:
    """The groups of modules that import each other, directly or by others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in imports[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in index:
            visit(module)
    return found


def _ours() -> Graph:
    return graph({name: path.read_text(encoding="utf-8") for name, path in modules().items()})


@pytest.mark.slow
def test_every_module_of_ours_that_is_imported_exists() -> None:
    """Inside functions too, where only a run would tell."""
    known, places = modules(), [*modules().items(), *((str(p), p) for p in (ROOT / "tests").rglob("*.py"))]
    missing = [
        f"{name}:{node.lineno} {node.module}"
        for name, path in places
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES and node.module not in known
    ]
    assert missing == []


def test_every_folder_of_the_package_is_a_wing() -> None:
    folders = {path.name for path in (ROOT / "bench").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(WINGS)


@pytest.mark.slow
def test_imports_run_down() -> None:
    assert upwards(_ours()) == []


@pytest.mark.slow
def test_no_modules_import_each_other() -> None:
    assert circles(_ours()) == []


def test_an_import_that_runs_up_is_seen() -> None:
    sources = {
        "bench": "",
        "bench.api": "",
        "bench.config": "def late():\n    from bench.cli.main import main\n",
        "bench.cli": "",
        "bench.cli.main": "from bench import api, config\nimport bench.door",
        "bench.front": "from bench.cli.main import main\n",
        "bench.door": "import bench.cli\n",
    }
    assert upwards(graph(sources)) == ["bench.config -> bench.cli.main", "bench.door -> bench.cli"]


def test_a_circle_is_seen() -> None:
    sources = {"bench.a": "import bench.b", "bench.b": "from bench import c", "bench.c": "import bench.a", "bench": ""}
    assert circles(graph(sources)) == [["bench.a", "bench.b", "bench.c"]]


def plugin_names() -> frozenset[str]:
    """The names of our methods and rewards, without those that are plain words for something else in the harness.

    GenEval and OCR are formats of prompts that `bench prompts` writes as well, and the assets of the embedded world
    hold folders `aesthetic` and `ocr`.
    """
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    names = frozenset((*groups["bench.methods"], *groups["bench.rewards"]))
    return names - {"geneval", "ocr", "aesthetic"}


def literals(text: str) -> Iterator[tuple[int, str]]:
    """Line and value of every string literal, those that stand alone (docstrings) and parts of f-strings aside."""
    nodes = list(ast.walk(ast.parse(text)))
    aside = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    aside |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in aside:
            yield node.lineno, node.value


def named_plugins(sources: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Every literal of bench that is a plugin's name, as `module:line 'name'`."""
    return [
        f"{module}:{line} {value!r}"
        for module, text in sources.items()
        if module.split(".")[0] == "bench"
        for line, value in literals(text)
        if value in names
    ]


@pytest.mark.slow
def test_the_harness_names_no_plugin() -> None:
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules().items()}
    assert named_plugins(sources, plugin_names()) == []


@pytest.mark.slow
def test_the_harness_imports_no_plugin() -> None:
    plugins = ("methods", "rewards")
    named = [
        f"{module} -> {target}"
        for module, targets in _ours().items()
        if module.split(".")[0] == "bench"
        for target in targets
        if target.split(".")[0] in plugins
    ]
    assert named == []


def test_a_plugin_that_is_named_is_seen() -> None:
    text = '"""sft"""\nA = {"sft": f"sft{1}"}\ndef f(x="soar"):\n    """soar"""\n    return x == "sft-low"\n'
    names = {"sft", "soar"}
    assert named_plugins({"bench.a": text, "methods.sft": text}, names) == ["bench.a:2 'sft'", "bench.a:3 'soar'"]
    assert {"sft", "scenes-clip", "jpeg"} <= plugin_names()

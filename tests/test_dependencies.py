"""What plugins may import, and what has to stay light: read from the imports of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.test_structure import modules

DEVICE = {"bench.models", "bench.device"}
APART = {"bench.scoring.workers", "bench.scoring.workers.pinned_environment", "bench.scoring.workers.worker_process"}
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "trl"}


@cache
def imports(path: Path, *, at_load: bool) -> set[str]:
    """Dotted names that a module imports; `at_load` leaves out functions and TYPE_CHECKING blocks."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative import")
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing_only or (at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


MODULES = modules()


def ours(name: str, *, at_load: bool = False) -> set[str]:
    """The modules of ours that a module imports."""
    return {found for found in imports(MODULES[name], at_load=at_load) if found in MODULES}


def reaches(name: str) -> dict[str, str]:
    """Every top-level package that loading a module loads, with the module of ours that imports it."""
    packages: dict[str, str] = {}
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for found in imports(MODULES[current], at_load=True):
            if found in MODULES:
                waiting += [found, *(p for p in (found.rpartition(".")[0],) if p in MODULES)]
            packages.setdefault(found.split(".")[0], current)
    return packages


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("methods.")])
def test_methods_import_the_contract_the_maths_and_methods_they_extend(name: str) -> None:
    allowed = {"bench", "bench.api", "bench.flow", "methods"}
    assert {found for found in ours(name) if found not in allowed and not found.startswith("methods.")} == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("rewards.")])
def test_rewards_import_the_contract_the_maths_and_their_world(name: str) -> None:
    own = ("bench.datasets.scenes", "bench.datasets.prompts", "rewards")
    outside = {found for found in ours(name) if not found.startswith(own)}
    assert outside <= {
        "bench",
        "bench.api",
        "bench.features",
        "bench.files",
        "bench.flow",
        "bench.reading",
        "bench.datasets",
        *DEVICE,
        *APART,
    }


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in MODULES
        if name.startswith(("bench.results.statistics", "bench.results.figures", "bench.results.report"))
    ]
    + [
        "bench.api",
        "bench.config.load",
        "bench.results.records.writer",
        "bench.results.records.reader",
        "bench.results.records.cell_reader",
        "bench.results.records.verification",
    ]
    + [name for name in MODULES if name.startswith("bench.cli.") and "templates" not in name]
    + [
        "bench.experiments.status.progress",
        "bench.experiments.detach",
        "bench.experiments.status.tracking",
    ]
    + ["bench.preflight.conformance.check"]
    + ["bench.hub", "bench.datasets.worlds", "bench.experiments.sample"]
    + [f"bench.preflight.forecast.{name}" for name in ("cards", "measured", "plan", "render")],
)
def test_what_reads_results_or_options_loads_no_model_library(name: str) -> None:
    loaded = reaches(name)
    assert {package: loaded[package] for package in HEAVY if package in loaded} == {}


def test_what_only_reads_results_never_imports_torch_at_all() -> None:
    readers = [
        name
        for name in MODULES
        if name.startswith(("bench.results.statistics", "bench.results.figures", "bench.results.report"))
    ]
    assert readers
    for name in readers:
        assert not {found.split(".")[0] for found in imports(MODULES[name], at_load=False)} & HEAVY, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--preset", "sd35-medium", "--gpu", "h1000"],
        ["sample", "/no/such/cell"],
        ["sample", "--prompts", "/no/such/file"],
        ["sample", "--model", "/no/such/folder"],
        ["sample", "--world", "no-such-world"],
    ],
)
def test_a_mistake_is_told_before_a_model_library_is_imported(command: list[str]) -> None:
    program = f"import sys; from bench.cli.main import main; print(main({command!r}), *{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] and done.stderr.startswith("bench: ")


def test_no_reader_of_results_imports_the_whole_of_scipys_statistics() -> None:
    for name in MODULES:
        if name.startswith("bench.results"):
            assert "scipy.stats" not in imports(MODULES[name], at_load=False), name

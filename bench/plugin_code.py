"""The source of plugins: where it lies, reading it, and one hash of all that a plugin brings with it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from hashlib import blake2b
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from threading import RLock
from traceback import FrameSummary
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parent.parent
_HARNESS = "bench"
_PARSING = RLock()  # CPython 3.11 counts the depth of a tree once for all threads: two at a time can fail


def source_file(module: str) -> Path | None:
    """The file of a module, without importing it or its parents; None where there is none."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))  # by part: no parent is imported
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin)


def own_file(cls: type) -> Path | None:
    """The source file of a plugin that does not come with this package; None for those that do."""
    path = Path(inspect.getfile(cls)).resolve()
    inside = any(path.is_relative_to(ROOT / package) for package in (_HARNESS, "methods", "rewards"))
    return None if inside else path


def place_of(frames: Iterable[FrameSummary], files: Collection[str] = ()) -> str:
    """FILE:LINE of the last frame that is in one of the `files`, and then of the last of all; empty without any.

    Frames of the harness and of the import system are no place.
    """
    others = [frame for frame in frames if not is_ours(frame.filename)]
    own = [frame for frame in others if frame.filename in files]
    return ", in ".join(dict.fromkeys(f"{frame.filename}:{frame.lineno}" for frame in (*own[-1:], *others[-1:])))


def is_ours(file: str) -> bool:
    """Whether the code of this file is the harness's own, or the import system's."""
    return "importlib" in file or Path(file).is_relative_to(ROOT / _HARNESS)


def import_file(file: Path) -> ModuleType:
    """The module of a plugin's file, imported once.

    Raises:
        Exception: whatever the file raises; then it can be imported again.
    """
    name = f"bench_plugin_{file.stem}_{blake2b(str(file).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file, loader=_Uncached(name, str(file)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Uncached(SourceFileLoader):
    """Compiles what the file holds: Python's own cache takes a file of the same size and second for unchanged."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@cache
def code_hash(cls: type) -> str:
    """16 hex digits of all of `code_files`, and of the pins of a reward's environment: scores depend on them.

    They are hashed as they were when this was first asked of the class, which the registry does at the import.
    """
    pins: Path | None = getattr(cls, "environment", None)
    whole = blake2b(digest_size=8)
    for path in [*code_files(cls), *(sorted(path for path in pins.iterdir() if path.is_file()) if pins else ())]:
        whole.update(blake2b(path.read_bytes()).digest())
    return whole.hexdigest()


def code_files(cls: type) -> list[Path]:
    """The files that the code of a method or a reward stands in, in the order in which they name each other.

    Those are of the class and of what it extends, of what they import, in functions too, from their own package or, of
    a file in none, from its folder. None are of the harness itself.
    """
    from bench.api import Method, Reward

    found: dict[Path, None] = {}
    for base in cls.__mro__:
        if issubclass(base, Method | Reward) and base.__module__.split(".")[0] != _HARNESS:
            _follow(base.__module__, found)
    return list(found)


def _follow(module: str, found: dict[Path, None]) -> None:
    """Add the file of an imported module, and those that it leads to."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return
    path = Path(file).resolve()
    home = path.parents[module.count(".") + (path.name == "__init__.py")]
    todo = [path]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = None
            todo += [inner for name in _imports(path, home) if (inner := _module_file(home, name)) is not None]


def _imports(path: Path, home: Path) -> Iterator[str]:
    """What a file could import from its own package, or from its folder `home` where it is in none."""
    package = path.relative_to(home).parent.parts
    try:
        with _PARSING:
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # told by the import, if there is one
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            names = [".".join(filter(None, [*above, node.module, alias.name])) for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != _HARNESS and (not package or parts[0] == package[0]):
                yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _module_file(home: Path, name: str) -> Path | None:
    stem = home.joinpath(*name.split("."))
    return next((path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)

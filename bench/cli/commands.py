"""The commands by name: ours, one module each in this package, and those that other packages add.

A package adds one by the entry-point group `bench.commands`: its name, and a module of the shape of ours. Listing reads
the modules' docstrings and imports none; the module of a command is imported when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
from importlib.metadata import EntryPoint
from typing import Protocol, cast

from bench.cli.catalogue import describe
from bench.registry import ROOT, declared, registered
from bench.suggest import hint

GROUP = "bench.commands"
# In the order of `bench --help`.
NAMES = (
    "run", "status", "report", "verify", "replay", "plan", "fetch", "rehearse", "list", "new", "check", "curate",
    "sample", "score", "serve-rewards", "reward-env", "prompts", "cache", "doctor",
)  # fmt: skip


class Command(Protocol):
    """The shape of a command's module; the first line of its docstring is its help."""

    EPILOG: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its options; where the defaults hold `dotted`, options like --train.x are taken, too."""

    def run(self, args: argparse.Namespace) -> int:
        """Do its work; returns the exit status."""


def summaries() -> dict[str, str]:
    """One line about each command."""
    described = [describe(name, found) for name, found in _entries().items()]
    return {entry.name: f"BROKEN: {entry.problem}" if entry.problem else entry.summary for entry in described}


def load_command(name: str) -> Command:
    """The module of a command.

    Raises:
        ConfigError: there is no such command.
        PluginError: it is registered several times, cannot be imported, or has another shape.
    """
    known = _entries()
    if name not in known:
        from bench.api import ConfigError

        if name in declared(GROUP):
            raise ConfigError(
                f"command {name!r} stands in pyproject.toml but is not installed: run `pip install -e .` in {ROOT}"
            )
        raise ConfigError(f"no command {name!r}{hint(name, known)}")
    if name in NAMES and len(known[name]) == 1:
        return cast(Command, importlib.import_module(known[name][0].module))
    return _added(name, known[name])


def _added(name: str, found: tuple[EntryPoint, ...]) -> Command:
    """The module of a command that another package brings."""
    from bench.api import PluginError
    from bench.plugin_errors import import_errors

    what = f"command {name!r} ({', '.join(entry.value for entry in found)})"
    if len(found) > 1:
        raise PluginError(f"{what} is registered {len(found)} times: uninstall all packages but one that add it")
    with import_errors(what):
        module = importlib.import_module(found[0].module)
    missing = [part for part in ("__doc__", "EPILOG", "add_arguments", "run") if getattr(module, part, None) is None]
    if missing:
        raise PluginError(
            f"{what}: expected a module with a docstring, EPILOG, add_arguments and run; it lacks {', '.join(missing)}"
        )
    return cast(Command, module)


def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    own = {name: (EntryPoint(name, f"{__package__}.{name.replace('-', '_')}", GROUP),) for name in NAMES}
    added = registered(GROUP)
    return {name: (*own.get(name, ()), *added.get(name, ())) for name in (*own, *added)}

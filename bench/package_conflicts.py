"""Detects a foreign package that stands in the way of one of ours: `methods` and `rewards` are common names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

OURS = ("methods", "rewards")
_HOME = Path(__file__).resolve().parents[1]


def package_conflicts(home: Path = _HOME) -> list[str]:
    """One sentence for each of our packages that an import would not find, or would find elsewhere."""
    found = []
    for name in OURS:
        expected = home / name
        spec = importlib.util.find_spec(name)
        if spec is None:
            found.append(
                f"package {name!r} cannot be found; it belongs in {expected}: install again (pip install -e .)"
            )
            continue
        places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if not places and spec.origin:
            places = [Path(spec.origin).resolve()]
        if expected not in places:
            foreign = ", ".join(map(str, places))
            found.append(
                f"package {name!r} would be imported from {foreign}, which hides ours in {expected}: rename or "
                "uninstall the other one, or run from another directory"
            )
    return found


def refuse_package_conflicts() -> None:
    """Make sure that `methods` and `rewards` are ours.

    Raises:
        ConfigError: a foreign package of that name comes first, or ours is missing.
    """
    problems = package_conflicts()
    if problems:
        from bench.api import ConfigError

        raise ConfigError("; ".join(problems))

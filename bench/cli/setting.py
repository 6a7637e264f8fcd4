"""Settings as the command line shows them, read from the fields of a settings dataclass: the one place that has them.

A field is `name: Annotated[type, Option(help, effect=..., metavar=..., bounds)] = default`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

_SIGNS = {"Ge": (">=", "ge"), "Gt": (">", "gt"), "Le": ("<=", "le"), "Lt": ("<", "lt")}
_SHOWN = 40  # letters of what was given
_EFFECTS = {
    "numbers": "",
    "cell": "changes only the cells it is set for",
    "report": "changes no number",
    "run": "changes no number",
}


@dataclass(frozen=True)
class Setting:
    """One field: what `bench.api.Option` says of it, its default in words (`required` where there is none), its bounds.

    A setting of an experiment without `metavar` has no option of its own at the top level.
    """

    name: str
    help: str
    default: str
    bounds: tuple[str, ...]
    effect: str
    metavar: str

    @property
    def option(self) -> str:
        """Its option at the top level."""
        return f"--{self.name.replace('_', '-')}"

    def facts(self) -> str:
        """Default, bounds and effect, as `bench list` has them behind the help."""
        told = ", ".join((self.default, *self.bounds))
        return "; ".join(part for part in (told, _EFFECTS[self.effect]) if part)


def settings_in(config: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in its order.

    Raises:
        PluginError: it is no dataclass, or a type it names cannot be found.
    """
    from bench.parsing import field_types

    types, found = field_types(config), {}
    for field in dataclasses.fields(config):
        if field.name not in types:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = Setting(field.name, default=_told(default), **_annotated(types[field.name]))
    return found


def number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """Reads an option that is a number from `least` to `most`; an argparse `type`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what} from {least:,} to {most:,}, got {text[:_SHOWN]!r}")
        return value

    return read


def like(config: type, name: str) -> Callable[[str], Any]:
    """Reads an option that stands for a field of a settings dataclass, within its bounds; an argparse `type`."""

    def read(text: str) -> Any:
        from bench.parsing import Problems, Text, validate

        problems = Problems()
        found = validate(config, {name: Text(text)}, "", problems)
        if found is None:
            raise argparse.ArgumentTypeError(problems.messages[0].removeprefix(f"{name}: "))
        return getattr(found, name)

    return read


def _told(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(default):
        return f"see bench list {type(default).__name__.lower()}"
    return f"default {_written(default)}"


def _written(default: Any) -> str:
    """A default as it would be written on the command line."""
    if isinstance(default, list | tuple):
        return ",".join(map(str, default)) if len(default) > 1 else f"[{''.join(map(str, default))}]"
    if isinstance(default, bool):
        return str(default).lower()
    return "null" if default is None else str(default) or '""'


def _annotated(annotation: Any) -> dict[str, Any]:
    """Help, bounds, effect and metavar of an annotated type."""
    found: dict[str, Any] = {"help": "", "effect": "numbers", "metavar": ""}
    bounds: list[str] = []
    for note in getattr(annotation, "__metadata__", ()):
        found["help"] = getattr(note, "description", None) or found["help"]
        extra = getattr(note, "json_schema_extra", None)
        marks = extra if isinstance(extra, dict) else {}
        found |= {name: marks[name] for name in ("effect", "metavar") if name in marks}
        for bound in getattr(note, "metadata", ()):
            if type(bound).__name__ in _SIGNS:
                sign, attribute = _SIGNS[type(bound).__name__]
                bounds.append(f"{sign} {getattr(bound, attribute)}")
    inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if get_origin(inner) is Literal:
        bounds.append(f"one of {', '.join(map(str, get_args(inner)))}")
    return {**found, "bounds": tuple(bounds)}

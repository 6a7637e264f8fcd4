"""Strict reading of settings: YAML files, texts of the command line, and dataclasses that collect every error at once.

Unknown names fail with the nearest known one. Nothing is converted between types, except that an integer may stand for
a real number, and that a text from the command line is read as the type its field has.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bench.api import ConfigError, Effect, PluginError
from bench.reading import MOST_YAML_BYTES, parse_yaml, read_text
from bench.suggest import hint

T = TypeVar("T")

_LEAST, _MOST = 1e-30, 1e30  # of a number's size, for float32 to hold it and its neighbours
_TYPE_TAGS = ("str", "int", "float", "bool", "none")


class Text(str):
    """A text from the command line, whose type is that of the field it is for."""


class Problems:
    """Collects what is wrong, so that the user hears of everything at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, path: str, message: str) -> None:
        """One problem at a dotted path."""
        full = f"{path}: {message}" if path else message
        if full not in self.messages:
            self.messages.append(full)

    def raise_if_any(self, subject: str) -> None:
        """Raise one ConfigError with all problems, if there are any."""
        if not self.messages:
            return
        if len(self.messages) == 1:
            raise ConfigError(f"{subject}: {self.messages[0]}")
        lines = "".join(f"\n  - {message}" for message in self.messages)
        raise ConfigError(f"{subject}: {len(self.messages)} problems{lines}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, holds a key twice, or is not a mapping with texts as keys.
    """
    try:
        content = parse_yaml(read_text(path, MOST_YAML_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a valid YAML file: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected `name: value` lines, got {type(content).__name__}")
    return content


def parse_text(annotation: Any, text: str) -> Any:
    """What a text of the command line means for a field of this type.

    `4` is a number for a number and a text for a text; a list is `a,b` or `[a, b]`. A text that fits the type in no way
    comes back as YAML reads it: `validate` then says what is wrong with it.
    """
    value = _scalar(text)
    words = split_list(text)
    listed = [_scalar(word) for word in words]
    for candidate in (value, listed, words, text):
        if _fits(annotation, candidate):
            return candidate
    return listed if "," in text and isinstance(value, str) else value


def split_list(text: str) -> list[str]:
    """The parts of a list of the command line, `a,b` or `a, b`."""
    return [part.strip() for part in text.split(",")]


def _scalar(text: str) -> Any:
    """What YAML makes of a text; the text itself where it is no YAML."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _why_unusable(value: Any) -> str:
    """Why a value can be no setting, whatever its type: float32 has to hold its numbers, and a file its texts."""
    if isinstance(value, Mapping):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif value is None or isinstance(value, bool):
        return ""
    elif isinstance(value, int | float):
        usable = value == 0 or _LEAST <= abs(value) <= _MOST
        return "" if usable else f"expected 0 or a number between {_LEAST:g} and {_MOST:g} in size, got {shown(value)}"
    elif isinstance(value, str):
        usable = not any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value)
        return "" if usable else f"expected a text that can be stored, got {shown(value)}"
    else:
        return f"expected numbers, texts, lists or mappings, got a {type(value).__name__}"
    return next(filter(None, map(_why_unusable, parts)), "")


def _fits(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):
        return False
    return not _why_unusable(value)


def field_types(cls: type) -> dict[str, Any]:
    """The fields of a dataclass with their types, annotations kept.

    Raises:
        PluginError: `cls` is no dataclass, or a type it names cannot be found.
    """
    if not dataclasses.is_dataclass(cls):
        raise PluginError(f"{cls.__qualname__} has to be a dataclass: decorate it with @dataclass(frozen=True)")
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise PluginError(f"{cls.__qualname__}: {error}; its types have to be importable at module level") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def option_effects(cls: type) -> dict[str, Effect]:
    """What a change of each field of a settings dataclass changes, by the field's `Option`."""
    found: dict[str, Effect] = {}
    for name, marks in _option_marks(cls).items():
        if len(marks) != 1:
            raise PluginError(f"{cls.__qualname__}.{name}: expected one Option(...) in its annotation")
        found[name] = marks[0]["effect"]
    return found


def values_before(cls: type) -> dict[str, Any]:
    """Of the options that have come later to a settings dataclass, the value that everything had before."""
    marks = _option_marks(cls)
    return {name: mark["before"] for name in marks for mark in marks[name] if "before" in mark}


def without_later(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a settings dataclass, less those that everything had before there were their options."""
    before = values_before(cls)
    return {name: value for name, value in values.items() if name not in before or value != before[name]}


def _option_marks(cls: type) -> dict[str, list[dict[str, Any]]]:
    """What the `Option`s of each field say besides help and bounds."""
    found = {}
    for name, annotation in field_types(cls).items():
        marks = [getattr(note, "json_schema_extra", None) for note in getattr(annotation, "__metadata__", ())]
        found[name] = [mark for mark in marks if mark]
    return found


def validate(
    cls: type[T], values: Mapping[str, Any], path: str, problems: Problems, elsewhere: tuple[str, ...] = ()
) -> T | None:
    """An instance of a dataclass from plain values, or None with every problem added to `problems`.

    `path` is the dotted place of the values in the settings. A value of type `Text` is read as its field's type wants.
    Problems of the fields named in `elsewhere` have been told already.
    """
    types = field_types(cls)
    prefix = f"{path}." if path else ""
    before = len(problems.messages)
    for name in values:
        if name not in types:
            problems.add(f"{prefix}{name}", f"no such setting{hint(name, types)}")
    known = {name: _typed(types[name], value) for name, value in values.items() if name in types}
    unusable = {name: reason for name, value in known.items() if (reason := _why_unusable(value))}
    for name, reason in unusable.items():
        problems.add(f"{prefix}{name}", reason)
        del known[name]
    try:
        instance = TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if not detail["loc"] or detail["loc"][0] not in (*elsewhere, *unusable):
                problems.add(*_explain(detail, prefix, known))
        return None
    return instance if len(problems.messages) == before else None


def _typed(annotation: Any, value: Any) -> Any:
    """A value, or those of a mapping, with what the command line gave read as its type wants."""
    if isinstance(value, Text):
        return parse_text(annotation, value)
    bare = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if isinstance(value, Mapping) and get_origin(bare) is dict:
        return {name: _typed(get_args(bare)[1], item) for name, item in value.items()}
    return value


def read_dataclass(cls: type[T], path: Path) -> T:
    """An instance of a dataclass from a YAML file.

    Raises:
        ConfigError: what `read_yaml` refuses, or everything that is wrong with the values.
    """
    problems = Problems()
    found = validate(cls, read_yaml(path), "", problems)
    problems.raise_if_any(str(path))
    assert found is not None
    return found


def validate_rest(cls: type[T], values: Mapping[str, Any], ready: Mapping[str, Any], problems: Problems) -> T | None:
    """As `validate`, for a dataclass some of whose fields are `ready`: validated already, and taken as they are."""
    checked = dict(ready)
    for name, annotation in field_types(cls).items():
        if name in ready or name not in values:
            continue
        given = values[name]
        value = _typed(annotation, given)
        if reason := _why_unusable(value):
            problems.add(name, reason)
            continue
        try:
            checked[name] = TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problems.add(*_explain({**detail, "loc": (name, *detail["loc"])}, "", values))
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in checked and name not in values and not has_default:
            problems.add(name, "missing, and it has no default")
    return None if problems.messages else cls(**checked)


def _explain(detail: Any, prefix: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Dotted path and message of one of pydantic's errors."""
    names = [str(part) for part in detail["loc"] if not _is_type_tag(part)]
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] in ("missing", "missing_argument"):
        return f"{prefix}{'.'.join(names)}", "missing, and it has no default"
    message = message.removeprefix("Input ").removesuffix(".")
    if detail["type"] != "value_error":
        message = f"{message}, got {shown(detail['input'])}"
    if not names:
        return prefix.removesuffix("."), message
    return f"{prefix}{'.'.join(names)}", message


def _is_type_tag(part: object) -> bool:
    """Whether pydantic put a member of a union into the path (`tuple[str, ...]`)."""
    return isinstance(part, str) and ("[" in part or part in _TYPE_TAGS or part.startswith("constrained-"))


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unique(names: Iterable[str], path: str, problems: Problems) -> None:
    """Add a problem for every name that stands in a list twice."""
    listed = list(names)
    for name in dict.fromkeys(listed):
        if listed.count(name) > 1:
            problems.add(path, f"{name!r} is listed {listed.count(name)} times")

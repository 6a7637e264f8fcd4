"""The one reader of what users hand over: files that are files, and JSON and YAML of bounded size, depth and numbers.

What cannot be read raises OSError (its `strerror` is the reason) or ValueError (its text is the reason): whoever reads
says which file it was, what was expected of it, and how to mend it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

MIB = 2**20
MOST_BYTES = 64 * MIB  # of a JSON document, or of one line of a listing
MOST_YAML_BYTES = MIB // 4  # its parser takes a second for a tenth of a MiB
MOST_DEPTH = 50  # lists and mappings within each other
MOST_DIGITS = 20  # of a whole number: those of 64 bits have no more
MOST_VALUES = 100_000  # of a YAML file, each counted as often as an alias repeats it

# What a number of more digits, one that is infinite, or a deep document has; in a text without it there is none.
_UNUSUAL = re.compile(rf"\d{{{MOST_DIGITS + 1}}}|\d[eE]\+?\d{{3}}|NaN|Infinity")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file; never waits for one that may not come.

    Raises:
        OSError: it cannot be read, is no file but a folder, a pipe or a device, or has more than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is opened without its writer
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file may be called so: {error}", str(path)) from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, f"expected a file, but it is {kind_of(about.st_mode)}", str(path))
        if about.st_size > most:
            told = f"it has {about.st_size:,} bytes, of which at most {most:,} are read here"
            raise OSError(errno.EFBIG, told, str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def kind_of(mode: int) -> str:
    """What a place of this `st_mode` is called that is no file."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, without the mark that some editors put before it.

    Raises:
        OSError: as `read_file` does.
        ValueError: it is no UTF-8 text.
    """
    return as_text(read_file(path, most))


def read_json(path: Path) -> Any:
    """What a JSON file says; raises as `read_file` and `parse_json` do."""
    return parse_json(read_file(path))


def as_text(data: bytes) -> str:
    """UTF-8 bytes as text, without the mark that some editors put before it.

    Raises:
        ValueError: they are none; said so where they look like UTF-16, as some programs of Windows write it.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if looks_like_utf16(data):
            raise ValueError("not UTF-8 text: it looks like UTF-16, so save it as UTF-8") from error
        raise ValueError(f"not UTF-8 text: byte {data[error.start]:#04x} at {error.start}") from error


def looks_like_utf16(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 begin as text of two bytes a letter does."""
    return data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:64]


def parse_json(text: str | bytes) -> Any:
    """What a JSON document says.

    Raises:
        ValueError: it is none, or too large, or holds what is no finite number, too long a number, or too deep a list.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text):,} bytes, of which at most {MOST_BYTES:,} are read here")
    whole = as_text(text) if isinstance(text, bytes) else text
    hooks: dict[str, Any] = {}
    if _UNUSUAL.search(whole):
        hooks = {"parse_int": _whole_number, "parse_float": _finite, "parse_constant": _finite}
    try:
        value = json.loads(whole, **hooks)
    except RecursionError as error:
        raise _too_deep() from error
    if whole.count("[") + whole.count("{") > MOST_DEPTH:
        _refuse_depth(value, None)
    return value


def parse_yaml(text: str) -> Any:
    """What a YAML document says: 1e-5 is a number, there are no dates, and a key stands once.

    Raises:
        ValueError: it is none, or as `parse_json` does; infinities are let through, for whoever checks the setting.
    """
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"{len(text):,} characters, of which at most {MOST_YAML_BYTES:,} are read here")
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise _too_deep() from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (LookupError, AttributeError, TypeError, OverflowError) as error:  # what PyYAML raises on a tag of its own
        raise ValueError(f"a value does not fit its tag ({type(error).__name__}: {error})") from error
    _refuse_depth(value, MOST_VALUES)
    return value


class _Loader(yaml.SafeLoader):
    """YAML with 1e-5 as a number, without dates, and with duplicate keys refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own class attribute)
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":float", ":merge"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """PyYAML's own, after a look at the keys."""
        keys = Counter(repr(self.construct_object(key, deep=True)) for key, _ in node.value)
        repeated = sorted(key for key, count in keys.items() if count > 1)
        if repeated:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(repeated)} given twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """PyYAML's own, of a number that is not too long."""
        _refuse_digits(str(node.value))
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*\.[\d_]*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|\d[\d_]*e[-+]?\d+|\.(?:inf|nan))$", re.I),
    list("-+0123456789."),
)


def _whole_number(text: str) -> int:
    _refuse_digits(text)
    return int(text)


def _refuse_digits(text: str) -> None:
    if len(text.lstrip("+-")) > MOST_DIGITS:
        raise ValueError(f"a whole number of more than {MOST_DIGITS} digits: {text[:MOST_DIGITS]}...")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:MOST_DIGITS]} is no finite number")
    return value


def _too_deep() -> ValueError:
    return ValueError(f"lists and mappings stand more than {MOST_DEPTH} deep in each other")


def _refuse_depth(value: Any, most: int | None) -> None:
    """Raise ValueError where a value is too deep, endless, or of more than `most` parts."""
    level, depth, count = [value], 0, 0
    while containers := [item for item in level if isinstance(item, dict | list | tuple | set)]:
        level = list(islice(_parts(containers), most and most + 1))
        depth, count = depth + 1, count + len(level)
        if depth > MOST_DEPTH:
            raise _too_deep()
        if most is not None and count > most:
            raise ValueError(f"more than {most:,} values")


def _parts(containers: Iterable[Any]) -> Iterator[Any]:
    for container in containers:
        yield from container.values() if isinstance(container, dict) else container

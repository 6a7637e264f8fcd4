"""What users hand over: files that are files, and JSON and YAML whose size, depth and numbers are bounded."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reading import (
    MOST_BYTES,
    MOST_DEPTH,
    MOST_YAML_BYTES,
    as_text,
    parse_json,
    parse_yaml,
    read_file,
    read_json,
)

ROOT = Path(__file__).resolve().parents[1]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 16)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "deep in each other"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "more than 50 deep"),
        ('{"a": ' * 60 + "1" + "}" * 60, "more than 50 deep"),
        ("9" * 21, "a whole number of more than 20 digits: 99999999999999999999..."),
        ("-" + "9" * 5000, "a whole number of more than 20 digits"),
        ("1e400", "1e400 is no finite number"),
        ('{"a": [NaN]}', "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        (b"\xff\xfe{\0}\0", "it looks like UTF-16, so save it as UTF-8"),
        (b'"caf\xe9"', "not UTF-8 text: byte 0xe9 at 4"),
        ("{", "Expecting property name"),
        (" " * (MOST_BYTES + 1), "at most 67,108,864 are read here"),
    ],
)
def test_json_that_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("...", r"\.\.\.")):
        parse_json(text)


def test_json_that_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5e-3, null]}') == {"a": [1, 0.0025, None]}
    assert parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH) is not None
    assert parse_json('"NaN, Infinity, 1e400 and 999999999999999999999999"').startswith("NaN")
    assert parse_json("[18446744073709551615, 1e308]") == [2**64 - 1, 1e308]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 3000, "deep in each other"),
        ("a: " + "[" * 60 + "]" * 60, "more than 50 deep"),
        ("&a [*a]", "deep in each other"),
        (BOMB, "more than 100,000 values"),
        ("budget: " + "9" * 5000, "more than 20 digits"),
        ("a: 1\nb: 2\na: 3", "line 1: 'a' given twice"),
        ("a: !!timestamp x", "does not fit its tag"),
        ("a: !!bool perhaps", "does not fit its tag"),
        ("a: !!int ''", "does not fit its tag"),
        ("a: !!int x", "invalid literal"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: \0", "special characters are not allowed"),
        (f"a: {'x' * MOST_YAML_BYTES}", "at most 262,144 are read here"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


def test_yaml_that_is_read() -> None:
    text = "a: 1e-5\nb: &b [1, 2]\nc: *b\nd: 2026-01-02\ne: 1_000\n"
    assert parse_yaml(text) == {"a": 1e-5, "b": [1, 2], "c": [1, 2], "d": "2026-01-02", "e": 1000}


@given(st.text(alphabet="[]{}:,-?&*!|>'\"% #\n\t\\ab01.e", max_size=60))
def test_nothing_else_than_a_reason_comes_of_any_text(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    """Nobody ever writes into this pipe: to open it as a file would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "expected a file, but it is a pipe"),
        (tmp_path, "expected a file, but it is a folder"),
        (Path("/dev/zero"), "expected a file, but it is a device"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "no file may be called so: embedded null byte"),
    ):
        with pytest.raises(OSError) as caught:
            read_file(path)
        assert caught.value.strerror == reason


def test_a_file_has_a_most(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[1]")
    assert read_file(path, 3) == b"[1]" and read_json(path) == [1]
    with pytest.raises(OSError, match="it has 3 bytes, of which at most 2 are read here"):
        read_file(path, 2)


def test_a_mark_before_a_text_is_none_of_it() -> None:
    assert as_text(b"\xef\xbb\xbfa") == "a"


# What our own processes and settings wrote a moment ago, and never touched a disk or a user.
OURS = {
    "bench/reading.py",
    "bench/config/settings.py",
    "bench/config/prompt_set.py",
    "bench/training/checkpoint.py",  # what it has just written
    "bench/experiments/replay.py",
    "bench/models/encoding_cache/store.py",  # its own cache, checked by its hash
    "bench/datasets/scenes/proxies.py",  # embedded assets
    "bench/models/lora.py",  # what it has just written
    "bench/preflight/forecast/measured.py",
    "bench/scoring/workers/worker_main.py",
    "bench/scoring/workers/worker_process.py",
    "bench/scoring/server/reward_client.py",  # of bounded length; scores may be NaN there
}


def test_nobody_else_reads_json_or_yaml() -> None:
    found = set()
    for package in ("bench", "methods", "rewards"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if called.startswith(("json.load", "yaml.")) and "dump" not in called:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == OURS

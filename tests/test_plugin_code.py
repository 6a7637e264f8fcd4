"""The hash of a plugin's source: of all that it brings with it, as it was imported, and of nothing else."""

from __future__ import annotations

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.plugin_code import code_files, code_hash
from rewards.imagereward import PINS, ImageReward

REWARD = """
from bench.api import Reward
import shade
import json

class Bright(Reward):
    name = "bright"

    def load(self):
        from tools.deep import below

    def __call__(self, images, prompts, metadata):
        return shade.depth() + FACTOR
"""
FILES = {
    "bright.py": REWARD.replace("FACTOR", "1"),
    "shade.py": "def depth():\n    return 1\n",
    "tools/__init__.py": "",
    "tools/deep.py": "from . import deeper\nfrom .deeper import below\nimport shade\n",
    "tools/deeper.py": "below = 1\n",
    "tools/unused.py": "",
    "json/__init__.py": "",
    "unrelated.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "json" / "__init__.py").unlink()  # a folder of that name is no module
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def forget(*names: str) -> None:
    for module in [m for m in sys.modules if m.startswith(("bench_plugin_bright", *names))]:
        del sys.modules[module]


def loaded(folder: Path) -> Any:
    forget("shade", "tools")
    return registry.load_reward(str(folder / "bright.py"))


def test_it_follows_imports_from_beside_the_file_and_no_others(folder: Path) -> None:
    found = {path.relative_to(folder).as_posix() for path in code_files(loaded(folder))}
    assert found == {"bright.py", "shade.py", "tools/__init__.py", "tools/deep.py", "tools/deeper.py"}


@pytest.mark.parametrize("name", ["bright.py", "shade.py", "tools/deeper.py", "tools/__init__.py"])
def test_each_of_them_changes_it(name: str, folder: Path) -> None:
    before = code_hash(loaded(folder))
    with (folder / name).open("a") as file:
        file.write("# other\n")
    assert code_hash(loaded(folder)) != before


@pytest.mark.parametrize("name", ["unrelated.py", "tools/unused.py"])
def test_nothing_else_does(name: str, folder: Path) -> None:
    before = code_hash(loaded(folder))
    (folder / name).write_text("# other\n")
    assert code_hash(loaded(folder)) == before


def test_it_is_that_of_what_was_imported(folder: Path) -> None:
    expected, reward = code_hash(loaded(folder)), loaded(folder)
    (folder / "bright.py").write_text("# gone\n")  # before anybody asks for the hash
    assert code_hash(reward) == expected


def test_it_does_not_depend_on_where_the_file_lies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    for name in FILES:
        if (folder / name).exists():
            (other / name).parent.mkdir(exist_ok=True)
            (other / name).write_bytes((folder / name).read_bytes())
    assert code_hash(loaded(folder)) == code_hash(loaded(other))


def test_a_package_is_followed_within_itself() -> None:
    names = [path.name for path in code_files(registry.load_reward("pickscore"))]
    assert names[0] == "pickscore.py" and {"_clip.py", "_clip_model.py", "_weights.py"} <= set(names)
    assert not {"api.py", "aesthetic.py", "numpy"} & set(names)


def test_the_pins_of_an_environment_count(tmp_path: Path) -> None:
    for path in PINS.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())

    class Elsewhere(ImageReward):
        environment = tmp_path

    class Edited(Elsewhere):
        pass

    before = code_hash(Elsewhere)
    (tmp_path / "worker.py").write_text("# other\n")
    assert code_hash(Edited) != before


def test_an_edit_of_the_same_size_in_the_same_second_runs(folder: Path) -> None:
    """Python's cache of compiled files would take the old one."""
    path = folder / "bright.py"
    results = []
    for factor in "12":
        path.write_text(REWARD.replace("FACTOR", factor))
        os.utime(path, (1_000_000_000, 1_000_000_000))
        results.append(loaded(folder)()(None, None, None))
    assert results == [2, 3]


class Knot:
    """Garbage that runs Python where it is collected, so that another thread can come in between."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(300))


def test_threads_that_ask_at_once_get_the_same_files() -> None:
    """CPython 3.11 fails with a SystemError where two threads build a syntax tree at once and garbage is collected."""
    expected, often, pause = code_files(ImageReward), gc.get_threshold(), sys.getswitchinterval()

    def asked(_: int) -> list[Path]:
        for _ in range(100):
            Knot()
        return code_files(ImageReward)

    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(files == expected for files in pool.map(asked, range(400)))
    finally:
        gc.set_threshold(*often)
        sys.setswitchinterval(pause)

"""Finding plugins: by name, module and file; what goes wrong gets one message that names plugin and origin."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bench import package_conflicts as conflicts
from bench import registry
from bench.api import ConfigError, Method, PluginError, Reward
from bench.cli import catalogue
from bench.plugin_code import source_file

HEAD = "from dataclasses import dataclass; from typing import Annotated\nfrom bench.api import Method, Option, Reward\n"
GOOD = 'class Good(Method):\n    """Does good."""\n    name = "good"\n    def step(self, env): ...\n'
CONFIG = GOOD + "    @dataclass(frozen=True)\n    class Config:\n"
BRIGHT = 'class Bright(Reward):\n    name = "bright"\n    def __call__(self, images, prompts, metadata): ...\n'


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[EntryPoint, ...]]:
    """The registered plugins, to be changed for one test."""
    table: dict[str, tuple[EntryPoint, ...]] = {}
    monkeypatch.setattr(registry, "registered", lambda group: table)
    monkeypatch.setattr(catalogue, "registered", lambda group: table)
    return table


def write(folder: Path, text: str, name: str = "plugin.py") -> str:
    path = folder / name
    path.write_text(HEAD + text)
    return str(path)


def refused(spec: str) -> str:
    with pytest.raises((ConfigError, PluginError)) as caught:
        registry.load_method(spec)
    return str(caught.value)


def test_built_ins_are_found_by_name() -> None:
    for name in ("sft", "soar", "flowgrpo"):
        method = registry.load_method(name)
        assert issubclass(method, Method) and method.name == name
    assert issubclass(registry.load_reward("scenes-geneval"), Reward)
    assert set(registry.names(registry.METHODS)) >= {"sft", "soar", "flowgrpo"}


def test_the_installed_entry_points_are_those_of_pyproject() -> None:
    for group in (registry.METHODS, registry.REWARDS):
        assert set(registry.declared(group)) <= set(registry.names(group))


def test_files_and_modules(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert registry.load_method(path).__name__ == "Good"
    assert registry.load_method(path) is registry.load_method(f"{path}:Good")
    assert registry.load_method("methods.sft:SFT") is registry.load_method("sft")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no subclass of bench.api.Method"),
        (GOOD + GOOD.replace("Good", "Better"), "defines several (Good, Better): say which, as in"),
        ("from methods.sft import SFT\n", "defines no subclass"),
        ("import no_such_module\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module' ("),
        ("def f(:\n", "cannot be imported: SyntaxError"),
        ("1 / 0\n", "plugin.py:3)"),
        ("class Lazy(Method):\n    name = 'lazy'\n", "Lazy does not define step()"),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
        (
            "import os\nos._exit(7)\n",
            "cannot be imported: ProcessExit: os._exit(7) would end this process without a word",
        ),
        (
            "from os import _exit\ntry:\n    _exit(3)\nexcept Exception:\n    pass\n",
            "ProcessExit: os._exit(3) would end",
        ),
        (GOOD.replace('"good"', '"a+b"'), "Good.name 'a+b' is not a word of letters, digits"),
        (GOOD.replace('"good"', '"../good"'), "Good.name '../good' is not a word of letters, digits"),
        (GOOD.replace('name = "good"', "pass"), "Good.name None is not a word of letters, digits"),
        (GOOD.replace('"good"', '"base"'), "Good.name 'base' has a meaning of its own"),
        (GOOD.replace('"good"', '"sft"'), "its name 'sft' is that of a registered method (methods.sft:SFT of post-"),
        (GOOD + "    needs = 'data'\n", "Good.needs has to be a bench.api.Needs, got 'data'"),
        (GOOD + "    class Config: ...\n", "Config has to be a dataclass"),
        (GOOD + "    @dataclass\n    class Config: ...\n", "Config has to be a dataclass, @dataclass(frozen=True)"),
        (GOOD + "    @dataclass(frozen=True)\n    class Config:\n        train: int = 1\n", "field named train"),
        (
            f"{CONFIG}        a: 'Nowhere' = 1\n",
            "Config: name 'Nowhere' is not defined; its types have to be importable",
        ),
        (
            f"{CONFIG}        a: int = 0.5\n",
            "a default breaks its own type or bounds: Config.a: should be a valid integer",
        ),
        (
            f"{CONFIG}        a: Annotated[int, Option('', ge=1)] = 0\n",
            "Config.a: should be greater than or equal to 1",
        ),
        (f"{CONFIG}        a: object() = 0\n", "Config has a type that cannot be read from text"),
    ],
)
def test_broken_files_get_one_message(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    assert message in refused(path) and path in refused(path)


def test_os_exit_is_pythons_own_again_after_an_import(tmp_path: Path) -> None:
    """Also what the module took for itself, and what it forks or calls later, end a process as ever."""
    before = os._exit
    text = "import os\nfrom os import _exit\nif os.fork() == 0:\n    _exit(0)\nassert os.wait()[1] == 0\n"
    method = registry.load_method(write(tmp_path, text + GOOD))
    assert os._exit is before  # not one more call around it after each import
    for end in (os._exit, sys.modules[method.__module__]._exit):  # type: ignore[attr-defined]
        child = os.fork()
        if child == 0:
            end(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


def test_a_process_that_an_import_forks_does_not_come_back(tmp_path: Path) -> None:
    path = write(tmp_path, f"import os\nos.fork()\n{GOOD}")
    code = f"from bench.registry import load_method; load_method({path!r}); print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "loaded\n" and "a process that it forked came back: end it by os._exit()" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no subclass of bench.api.Reward"),
        (BRIGHT.replace("bright", "steps"), "Bright.name 'steps' has a meaning of its own"),
        (BRIGHT.replace("bright", "scenes-clip"), "is that of a registered reward (rewards.scenes_clip:ScenesClip of"),
        (BRIGHT + "    range = (1.0, 1.0)\n", "Bright.range has to be two numbers, the lowest and the highest score"),
        (BRIGHT + "    range = 1.0\n", "Bright.range has to be two numbers"),
    ],
)
def test_broken_rewards_get_one_message(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PluginError) as caught:
        registry.load_reward(path)
    assert message in str(caught.value) and path in str(caught.value)


def test_a_file_may_be_the_registered_plugin_itself() -> None:
    assert registry.load_method(str(registry.ROOT / "methods" / "sft.py")).name == "sft"


def test_messages_name_distribution_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, tuple[EntryPoint, ...]]
) -> None:
    """Two installed distributions, as an installer leaves them."""
    for number, text in enumerate(("import no_such_module\n", GOOD), 1):
        write(tmp_path, text, f"module{number}.py")
        info = tmp_path / f"pack{number}-{number}.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pack{number}\nVersion: {number}.0\n")
        (info / "entry_points.txt").write_text(f"[bench.methods]\ngood = module{number}:Good\n")
    monkeypatch.syspath_prepend(tmp_path)
    first, second = sorted(metadata.entry_points(group="bench.methods", name="good"), key=lambda entry: entry.value)
    entries["good"] = (first, second)
    both = "module1:Good of pack1 1.0; module2:Good of pack2 2.0; uninstall all but one"
    assert f"'good' is registered 2 times: {both}" in refused("good")
    entries["good"] = (first,)
    assert "method 'good' (module1:Good of pack1 1.0) cannot be imported: ModuleNotFoundError" in refused("good")
    entries["good"] = (second,)
    assert registry.load_method("good").name == "good"
    mine = write(tmp_path, GOOD, "mine.py")
    assert "its name 'good' is that of a registered method (module2:Good of pack2 2.0)" in refused(mine)


def test_missing_things_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "no method 'sor' is registered; did you mean 'soar'?" in refused("sor")
    assert "there is no such file" in refused("nowhere.py")
    assert "has no 'Goood'; did you mean 'Good'?" in refused(f"{path}:Goood")
    assert "dataclass is not a subclass of bench.api.Method" in refused(f"{path}:dataclass")
    assert "cannot be imported: ModuleNotFoundError" in refused("no.such.module:Class")
    assert "cannot be imported: ValueError" in refused(":Class")


def test_clashes_and_wrong_names_are_refused(entries: dict[str, tuple[EntryPoint, ...]]) -> None:
    entries["sft"] = (EntryPoint("sft", "methods.sft:SFT", "g"), EntryPoint("sft", "other.sft:SFT", "g"))
    entries["straight"] = (EntryPoint("straight", "methods.sft:SFT", "g"),)
    assert "registered 2 times: methods.sft:SFT" in refused("sft") and "other.sft:SFT" in refused("sft")
    assert "registered as 'straight', but its class says 'sft'" in refused("straight")


def test_declared_but_not_installed(entries: dict[str, tuple[EntryPoint, ...]]) -> None:
    assert "stands in pyproject.toml but is not installed: run `pip install -e .`" in refused("sft")


def test_listing_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict) -> None:
    package = tmp_path / "fat"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "plugin.py").write_text("1 / 0\n" + HEAD + GOOD.replace("class", "x: str = 'y'\nclass", 1))
    (package / "broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, module in (("good", "plugin:Good"), ("bad", "broken:Bad"), ("ugly", "missing:X"), ("odd", "plugin:Odd")):
        entries[name] = (EntryPoint(name, f"fat.{module}", "g"),)
    found = {entry.name: entry for entry in catalogue.entries("g")}
    assert found["good"].summary == "Does good." and found["good"].file == str(package / "plugin.py")
    assert "SyntaxError" in found["bad"].problem
    assert "fat.missing cannot be found" in found["ugly"].problem
    assert found["odd"].problem == "defines no class Odd"
    assert "fat" not in sys.modules


def test_every_built_in_says_what_it_is() -> None:
    for group in (registry.METHODS, registry.REWARDS):
        for entry in catalogue.entries(group):
            if Path(entry.file).is_file():
                assert entry.summary and not entry.problem, entry
    assert {entry.name: entry.paper for entry in catalogue.entries(registry.METHODS)}["soar"] == "arXiv 2604.12617"


def test_a_foreign_package_that_shadows_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("")
    command = [
        sys.executable,
        "-c",
        "from bench.package_conflicts import refuse_package_conflicts; refuse_package_conflicts()",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"package 'methods' would be imported from {tmp_path / 'methods'}, which hides ours" in result.stderr
    assert "'rewards'" not in result.stderr


def test_our_own_packages_shadow_nothing(tmp_path: Path) -> None:
    assert conflicts.package_conflicts() == []
    assert len(conflicts.package_conflicts(tmp_path)) == 2


def test_a_module_inside_a_folder_without_init_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apart_space" / "inner").mkdir(parents=True)
    path = write(tmp_path / "apart_space" / "inner", GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_file("apart_space.inner.plugin") == Path(path)
    assert source_file("apart_space.inner.another") is None
    assert not any(name.startswith("apart_space") for name in sys.modules)
    assert registry.load_method("apart_space.inner.plugin:Good").name == "good"

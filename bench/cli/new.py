"""Write a new method or reward that works, to be changed.

It is one file or a package of its own. The templates are valid Python, read by the same linters as all the rest; names
are filled in by replacement.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shlex
from pathlib import Path

from bench import registry
from bench.api import ConfigError

EPILOG = """Examples:
  bench new min_snr
  bench new sharpness --reward
  bench new min_snr --package --into .."""

TEMPLATES = Path(__file__).with_name("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("name", metavar="NAME", help="of the method or reward; letters, digits, '-' and '_'")
    parser.add_argument("--reward", action="store_true", help="a reward instead of a method")
    parser.add_argument(
        "--package", action="store_true", help="an installable package with its entry point and a test of its own"
    )
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder")


def run(args: argparse.Namespace) -> int:
    """Print where it lies, and what to do next; returns 0."""
    print(create(args.name, args.into, reward=args.reward, package=args.package))
    return 0


def create(name: str, folder: Path, *, reward: bool = False, package: bool = False) -> str:
    """Write a new plugin into `folder`; returns what to tell the user: where it is, and what to do next.

    Raises:
        ConfigError: the name cannot be a plugin's or is taken, something of that name is there already, the folder
            cannot be written, or a package would lie within the harness's own tree.
    """
    group = registry.REWARDS if reward else registry.METHODS
    _check_name(group, name)
    try:
        return _write_package(group, name, folder) if package else _write_file(group, name, folder)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} is there already: remove it, or choose another name") from error
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}; --into chooses another folder") from error


def _check_name(group: str, name: str) -> None:
    from bench.config.resolver import FIELDS

    problem = registry.name_problem(group, name)
    if problem is None and keyword.iskeyword(_title(name)):
        problem = f"would be the class {_title(name)}, which is a word of Python"
    if problem is None and name in FIELDS:
        problem = "is the name of a setting"
    if problem is None and name in registry.names(group):
        problem = "is registered already"
    if problem:
        raise ConfigError(f"{name!r} {problem}: choose another name")


def _write_file(group: str, name: str, folder: Path) -> str:
    path = folder / f"{name}.py"
    if not path.exists() and importlib.util.find_spec(name) is not None:
        raise ConfigError(f"a module {name!r} exists already, and {path} would hide it: choose another name")
    _write(path, _filled(_template(group), name))
    return f"wrote {path.resolve()}: it works as it stands, and its comments tell the contract\n{_next(group, path)}"


def _write_package(group: str, name: str, folder: Path) -> str:
    home = folder / f"bench-{name.replace('_', '-')}"
    if home.resolve().is_relative_to(registry.ROOT):
        raise ConfigError(
            f"{home.resolve()} lies within the harness's own tree, {registry.ROOT}, but a package stands by itself: "
            "choose a folder outside, as in --into .."
        )
    home.mkdir()
    (home / "tests").mkdir()
    metadata = (TEMPLATES / "package" / "pyproject.toml").read_text(encoding="utf-8")
    test = (TEMPLATES / "package" / "test_my_plugin.py").read_text(encoding="utf-8")
    module = name.replace("-", "_")
    _write(home / "pyproject.toml", _filled(metadata.replace(registry.METHODS, group), name))
    _write(home / f"bench_{module}.py", _filled(_template(group), name))
    _write(home / "tests" / f"test_{module}.py", _filled(test, name))
    return (
        f"wrote {home.resolve()}: pyproject.toml, bench_{module}.py, tests/test_{module}.py\n"
        "The harness sees it when it is installed, and not before:\n"
        f"  python -m pip install -e {shlex.quote(str(home))}\n{_next(group, name)}"
    )


def _next(group: str, plugin: str | Path) -> str:
    """The two commands after this one."""
    spec = plugin if isinstance(plugin, str) or plugin.is_absolute() else f"./{plugin}"
    name = plugin if isinstance(plugin, str) else plugin.stem
    use = ["--methods" if group == registry.METHODS else "--reward", str(spec)]
    commands = (["check", str(spec)], ["run", *use, "--name", name])
    return "\n".join(["Next:", *(f"  python -m bench {shlex.join(command)}" for command in commands)])


def _template(group: str) -> str:
    file = "method.py" if group == registry.METHODS else "reward.py"
    return (TEMPLATES / file).read_text(encoding="utf-8")


def _filled(text: str, name: str) -> str:
    """A template with the plugin's names in the place of its own; modules and distributions have theirs of the name."""
    for placeholder, value in {
        "bench_my_plugin": f"bench_{name.replace('-', '_')}",
        "bench-my-plugin": f"bench-{name.replace('_', '-')}",
        "my_plugin": name,
        "MyPlugin": _title(name),
    }.items():
        text = text.replace(placeholder, value)
    return text


def _title(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", name))


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)

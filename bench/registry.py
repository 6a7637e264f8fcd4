"""Finds methods and rewards: by name (entry points), by `package.module:Class`, or by `path/to/file.py[:Class]`.

Where a reward is named so, a function in trl's calling convention may stand in the place of the class.

Listing reads the source of the plugins and imports none of them; a plugin is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from bench.plugin_code import ROOT, code_hash, import_file, source_file
from bench.suggest import hint

if TYPE_CHECKING:
    from bench.api import Method, Reward

T = TypeVar("T")

METHODS = "bench.methods"
REWARDS = "bench.rewards"
BASE = "base"  # what the untouched model is called where a method's name stands
_KIND = {METHODS: "method", REWARDS: "reward"}
_RESERVED_FIELDS = ("method", "train")
# Names that mean something else where a plugin's name stands: the untouched model, and the columns beside the scores.
_RESERVED_NAMES = {
    METHODS: (BASE,),
    REWARDS: (
        "task",
        "method",
        "seed",
        "prompt_index",
        "category",
        "split",
        "guidance",
        "steps",
        "update",
        "file",
        "prompt",
        "problem",
    ),
}


def is_foreign(spec: str) -> bool:
    """Whether a plugin is named by its module or its file, and not by the name it is registered under."""
    return ":" in spec or spec.endswith(".py")


def is_name(text: str) -> bool:
    """Whether a plugin, or a setting of one, may be called so: it becomes an option and a folder's name."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,99}", text) is not None


def name_problem(group: str, name: object) -> str | None:
    """Why nothing of this group may be called so, as the end of a sentence; None where it may."""
    if not isinstance(name, str) or not is_name(name):
        return "is not a word of letters, digits, '-' and '_' with a letter first, 100 of them at most"
    if name in _RESERVED_NAMES[group]:
        return "has a meaning of its own in results"
    return None


@cache
def registered(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, sorted; a name with several entry points is a clash."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        if entry.value not in [other.value for other in found.get(entry.name, [])]:
            found.setdefault(entry.name, []).append(entry)
    return {name: tuple(found[name]) for name in sorted(found)}


def names(group: str) -> tuple[str, ...]:
    """The registered names of a group (`METHODS` or `REWARDS`)."""
    return tuple(registered(group))


def load_method(spec: str) -> type[Method]:
    """The method class of a name, `package.module:Class` or `path/to/file.py[:Class]`.

    Raises:
        ConfigError: there is no such method or file.
        PluginError: it cannot be imported, clashes with another one, or breaks the contract of `bench.api`.
    """
    from bench.api import Method, Needs, PluginError

    cls, origin = _load(METHODS, spec, Method)  # type: ignore[type-abstract]
    if not isinstance(cls.needs, Needs):
        raise PluginError(f"{origin}: {cls.__name__}.needs has to be a bench.api.Needs, got {cls.needs!r}")
    _check_config(cls, origin)
    return cls


def load_reward(spec: str) -> type[Reward]:
    """The reward class of a name, `package.module:Class` or `path/to/file.py[:Class]`; raises as `load_method` does.

    A function in trl's convention becomes a class (`bench.trl.reward_class`).
    """
    from bench.api import PluginError, Reward

    cls, origin = _load(REWARDS, spec, Reward)  # type: ignore[type-abstract]
    try:
        low, high = map(float, cls.range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise PluginError(
            f"{origin}: {cls.__name__}.range has to be two numbers, the lowest and the highest score, got {cls.range!r}"
        )
    return cls


def refuse_equal_names(specs: Iterable[str]) -> None:
    """Refuse rewards that could not be told apart: scores, files and pages go by a reward's own name.

    Raises:
        ConfigError: two of the `specs` (names, modules or files; no sums) have one name; and what `load_reward` raises.
    """
    from bench.api import ConfigError

    known: dict[str, tuple[str, type[Reward]]] = {}
    for spec in dict.fromkeys(specs):
        cls = load_reward(spec)
        other, theirs = known.setdefault(cls.name, (spec, cls))
        if other != spec:
            mend = "they are the same: leave one out" if theirs is cls else "rename one of them"
            raise ConfigError(f"{other} and {spec}: expected a name for each, got {cls.name!r} twice; {mend}")


def load_plugin(spec: str) -> type[Method] | type[Reward]:
    """The method or reward class of a name, module or file.

    Raises:
        ConfigError: there is neither a method nor a reward of that name.
        PluginError: as `load_method` does.
    """
    from bench.api import ConfigError, PluginError

    if is_foreign(spec):
        module, attribute, _ = _module(METHODS, spec)
        if inspect.isfunction(getattr(module, attribute or "", None)):
            return load_reward(spec)
        try:
            return load_method(spec)
        except PluginError:  # told again, and for methods, unless it is a reward
            with contextlib.suppress(PluginError):
                return load_reward(spec)
            raise
    for group, load in ((METHODS, load_method), (REWARDS, load_reward)):
        if spec in registered(group) or spec in declared(group):
            return load(spec)
    known = [*names(METHODS), *names(REWARDS)]
    raise ConfigError(f"no method or reward {spec!r} is registered{hint(spec, known)} (a file: path/to/{spec}.py)")


def origin_of(group: str, spec: str) -> str:
    """A plugin for messages: kind, name, and where it comes from (entry point with distribution and version, or file).

    Raises:
        ConfigError, PluginError: nothing, or too much, is registered under that name.
    """
    if not is_foreign(spec):
        return f"{_KIND[group]} {spec!r} ({_described(_entry_point(group, spec))})"
    module, _, _ = spec.rpartition(":")
    file = None if module.endswith(".py") or spec.endswith(".py") else source_file(module)
    return f"{_KIND[group]} {spec!r}" + (f" ({file})" if file else "")


def _load(group: str, spec: str, base: type[T]) -> tuple[type[T], str]:
    """The class of a plugin, checked for what methods and rewards have in common, and its origin for messages."""
    from bench.api import PluginError

    module, attribute, origin = _module(group, spec)
    if attribute is None:
        found = _only_class(module, spec, origin, base)
    elif not hasattr(module, attribute):
        raise PluginError(f"{origin}: {_place(module)} has no {attribute!r}{hint(attribute, _choices(group, module))}")
    else:
        found = getattr(module, attribute)
    if group == REWARDS and inspect.isfunction(found):
        from bench.trl_functions import reward_class

        found = reward_class(found)
    if not inspect.isclass(found) or not issubclass(found, base):
        raise PluginError(f"{origin}: {attribute} is not a subclass of bench.api.{base.__name__}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{origin}: {found.__name__} does not define {', '.join(missing)}()")
    _check_name(group, spec, found, origin)
    code_hash(found)  # type: ignore[arg-type] # of what was imported, whatever its files become
    return found, origin


def _check_name(group: str, spec: str, cls: Any, origin: str) -> None:
    from bench.api import PluginError

    name: Any = getattr(cls, "name", None)
    problem = name_problem(group, name)
    if problem:
        raise PluginError(f"{origin}: {cls.__name__}.name {name!r} {problem}")
    if not is_foreign(spec) and name != spec:
        raise PluginError(f"{origin}: registered as {spec!r}, but its class says {name!r}")
    if is_foreign(spec):
        _refuse_taken_name(group, name, cls, origin)


def _refuse_taken_name(group: str, name: str, cls: Any, origin: str) -> None:
    """A file or module may have the name of a registered plugin only if it is that plugin, by file and class."""
    from bench.api import PluginError

    for entry in registered(group).get(name, ()):
        file, own = source_file(entry.module), inspect.getsourcefile(cls)
        if entry.attr != cls.__name__ or file is None or own is None or not file.samefile(own):
            raise PluginError(
                f"{origin}: its name {name!r} is that of a registered {_KIND[group]} ({_described(entry)}): "
                "give the class another name"
            )


def _check_config(cls: type[Method], origin: str) -> None:
    """Refuse a Config that the command line could not show, set or check."""
    from pydantic import PydanticUserError

    from bench.api import PluginError
    from bench.parsing import Problems, field_types, validate

    config = cls.Config
    if not is_dataclass(config) or not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"{origin}: Config has to be a dataclass, @dataclass(frozen=True)")
    taken = [field.name for field in fields(config) if field.name in _RESERVED_FIELDS]
    if taken:
        raise PluginError(f"{origin}: Config may not have a field named {' or '.join(taken)}")
    try:
        types = field_types(config)
    except PluginError as error:
        raise PluginError(f"{origin}: {error}") from error
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    problems = Problems()
    try:
        validate(config, defaults, "Config", problems, elsewhere=tuple(set(types) - set(defaults)))
    except PydanticUserError as error:
        raise PluginError(f"{origin}: Config has a type that cannot be read from text: {error.message}") from error
    if problems.messages:
        raise PluginError(f"{origin}: a default breaks its own type or bounds: {'; '.join(problems.messages)}")


def _module(group: str, spec: str) -> tuple[ModuleType, str | None, str]:
    """The imported module, the name of the class in it where one is given, and the plugin's origin for messages."""
    from bench.package_conflicts import refuse_package_conflicts

    target, _, attribute = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if target.endswith(".py"):
        return _import_file(group, target), attribute or None, origin_of(group, spec)
    refuse_package_conflicts()
    origin = origin_of(group, spec)
    if target != spec:
        return _import(target, origin), attribute, origin
    entry = _entry_point(group, spec)
    return _import(entry.module, origin), entry.attr, origin


def _entry_point(group: str, name: str) -> EntryPoint:
    from bench.api import ConfigError, PluginError

    kind, found = _KIND[group], registered(group)
    if name not in found:
        if name in declared(group):
            raise ConfigError(
                f"{kind} {name!r} stands in pyproject.toml but is not installed: run `pip install -e .` in {ROOT}"
            )
        raise ConfigError(f"no {kind} {name!r} is registered{hint(name, found)} (a file: path/to/{name}.py)")
    if len(found[name]) > 1:
        origins = "; ".join(_described(entry) for entry in found[name])
        raise PluginError(f"{kind} {name!r} is registered {len(found[name])} times: {origins}; uninstall all but one")
    return found[name][0]


def _described(entry: EntryPoint) -> str:
    """`methods.sft:SFT of post-training-bench 0.1.0`."""
    made = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown distribution"
    return f"{entry.value} of {made}"


def declared(group: str) -> dict[str, str]:
    """The entry points in the pyproject.toml of a source checkout, installed or not."""
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        return {}
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return dict(project.get("entry-points", {}).get(group, {}))


def _import_file(group: str, path: str) -> ModuleType:
    from bench.api import ConfigError
    from bench.plugin_errors import import_errors

    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"{_KIND[group]} {path!r}: there is no such file")
    with import_errors(f"{_KIND[group]} {path!r}"):
        return import_file(file)


def _import(name: str, origin: str) -> ModuleType:
    from bench.plugin_errors import import_errors

    with import_errors(origin):
        return importlib.import_module(name)


def _only_class(module: ModuleType, spec: str, origin: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that a file defines."""
    from bench.api import PluginError

    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        functions = [n for n in _choices(REWARDS, module) if inspect.isfunction(getattr(module, n))]
        functions = functions if base.__name__ == "Reward" else []
        told = f" (a function in trl's convention is named too, as in {spec}:{functions[0]})" if functions else ""
        raise PluginError(f"{origin} defines no subclass of bench.api.{base.__name__}{told}")
    listed = ", ".join(cls.__name__ for cls in found)
    raise PluginError(f"{origin} defines several ({listed}): say which, as in {spec}:{found[0].__name__}")


def _choices(group: str, module: ModuleType) -> list[str]:
    """The names of what a module defines itself that a plugin may be: classes, and functions for rewards."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return [n for n, v in own.items() if inspect.isclass(v) or (group == REWARDS and inspect.isfunction(v))]


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)

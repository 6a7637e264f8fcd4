"""Finds methods and rewards: by name (entry points), by `package.module:Class`, or by `path/to/file.py[:Class]`.

Listing reads the source of the plugins and imports none of them; a plugin is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import tomllib
import traceback
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from bench.suggest import hint

if TYPE_CHECKING:
    from bench.api import Method, Reward

T = TypeVar("T")

METHODS = "bench.methods"
REWARDS = "bench.rewards"
ROOT = Path(__file__).resolve().parent.parent
_KIND = {METHODS: "method", REWARDS: "reward"}
_RESERVED_FIELDS = ("method", "train")


def is_foreign(spec: str) -> bool:
    """Whether a plugin is named by its module or its file, and not by the name it is registered under."""
    return ":" in spec or spec.endswith(".py")


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
    from bench.api import Method, PluginError

    cls = _load(METHODS, spec, Method)  # type: ignore[type-abstract]
    config = cls.Config
    if not is_dataclass(config) or not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"method {cls.name!r} ({spec}): Config has to be a dataclass, @dataclass(frozen=True)")
    taken = [field.name for field in fields(config) if field.name in _RESERVED_FIELDS]
    if taken:
        raise PluginError(f"method {cls.name!r} ({spec}): Config may not have a field named {' or '.join(taken)}")
    return cls


def load_reward(spec: str) -> type[Reward]:
    """The reward class of a name, `package.module:Class` or `path/to/file.py[:Class]`; raises as `load_method` does."""
    from bench.api import Reward

    return _load(REWARDS, spec, Reward)  # type: ignore[type-abstract]


def load_plugin(spec: str) -> type[Method] | type[Reward]:
    """The method or reward class of a name, module or file.

    Raises:
        ConfigError: there is neither a method nor a reward of that name.
        PluginError: as `load_method` does.
    """
    from bench.api import ConfigError, PluginError

    if is_foreign(spec):
        try:
            return load_method(spec)
        except PluginError:  # told again, and for methods, unless it is a reward
            with contextlib.suppress(PluginError):
                return load_reward(spec)
            raise
    for group, load in ((METHODS, load_method), (REWARDS, load_reward)):
        if spec in registered(group) or spec in _declared(group):
            return load(spec)
    known = [*names(METHODS), *names(REWARDS)]
    raise ConfigError(f"no method or reward {spec!r} is registered{hint(spec, known)} (a file: path/to/{spec}.py)")


def _load(group: str, spec: str, base: type[T]) -> type[T]:
    from bench.api import PluginError

    kind = _KIND[group]
    module, attribute = _module(group, spec)
    if attribute is None:
        found = _only_class(module, spec, kind, base)
    elif not hasattr(module, attribute):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise PluginError(f"{kind} {spec!r}: {_place(module)} has no {attribute!r}{hint(attribute, classes)}")
    else:
        found = getattr(module, attribute)
    if not inspect.isclass(found) or not issubclass(found, base):
        raise PluginError(
            f"{kind} {spec!r} ({_place(module)}): {attribute} is not a subclass of bench.api.{base.__name__}"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise PluginError(
            f"{kind} {spec!r} ({_place(module)}): {found.__name__} does not define {', '.join(missing)}()"
        )
    _check_name(kind, spec, found, module)
    return found


def _check_name(kind: str, spec: str, cls: Any, module: ModuleType) -> None:
    from bench.api import PluginError

    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name or set(name) & set("+,:./ "):
        raise PluginError(
            f"{kind} {spec!r} ({_place(module)}): {cls.__name__}.name has to be a word without '+', ',', ':', '.', '/' "
            f"or spaces, got {name!r}"
        )
    if not is_foreign(spec) and name != spec:
        raise PluginError(f"{kind} {spec!r} ({_place(module)}): registered as {spec!r}, but its class says {name!r}")


def _module(group: str, spec: str) -> tuple[ModuleType, str | None]:
    """The imported module, and the name of the class in it where one is given."""
    from bench.shadow import check_shadow

    target, _, attribute = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if target.endswith(".py"):
        return _import_file(group, target), attribute or None
    check_shadow()
    if target != spec:
        return _import(group, target, f"{_KIND[group]} {spec!r}"), attribute
    entry = _entry_point(group, spec)
    origin = f"{_KIND[group]} {spec!r} ({entry.value}, {_distribution(entry)})"
    return _import(group, entry.module, origin), entry.attr


def _entry_point(group: str, name: str) -> EntryPoint:
    from bench.api import ConfigError, PluginError

    kind, found = _KIND[group], registered(group)
    if name not in found:
        if name in _declared(group):
            raise ConfigError(
                f"{kind} {name!r} stands in pyproject.toml but is not installed: run `pip install -e .` in {ROOT}"
            )
        raise ConfigError(f"no {kind} {name!r} is registered{hint(name, found)} (a file: path/to/{name}.py)")
    if len(found[name]) > 1:
        origins = ", ".join(f"{entry.value} ({_distribution(entry)})" for entry in found[name])
        raise PluginError(f"{kind} {name!r} is registered {len(found[name])} times: {origins}; uninstall all but one")
    return found[name][0]


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown distribution"


def _declared(group: str) -> dict[str, str]:
    """The entry points in the pyproject.toml of a source checkout, installed or not."""
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        return {}
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return dict(project.get("entry-points", {}).get(group, {}))


def _import(group: str, name: str, origin: str) -> ModuleType:
    from bench.api import PluginError

    try:
        return importlib.import_module(name)
    except Exception as error:  # a plugin's module may raise anything at all
        raise PluginError(f"{origin} cannot be imported: {_blame(error)}") from error


def _import_file(group: str, path: str) -> ModuleType:
    from bench.api import ConfigError, PluginError

    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"{_KIND[group]} {path!r}: there is no such file")
    name = f"bench_plugin_{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a plugin's module may raise anything at all
        del sys.modules[name]
        raise PluginError(f"{_KIND[group]} {path!r} cannot be imported: {_blame(error)}") from error
    return module


def _blame(error: Exception) -> str:
    """The error in one line, with the place that raised it."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f"{message} ({outside[-1].filename}:{outside[-1].lineno})" if outside else message


def _only_class(module: ModuleType, spec: str, kind: str, base: type[T]) -> type[T]:
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
        raise PluginError(f"{kind} {spec!r} defines no subclass of bench.api.{base.__name__}")
    listed = ", ".join(cls.__name__ for cls in found)
    raise PluginError(f"{kind} {spec!r} defines several ({listed}): say which, as in {spec}:{found[0].__name__}")


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)

"""List methods, rewards, tasks, models and presets, or show one with its settings.

The overview reads sources and imports no plugin; one method or reward is imported.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.cli.catalogue import PluginEntry, entries
from bench.cli.setting import settings_in
from bench.config.built_in_tasks import TASKS
from bench.families import families
from bench.suggest import hint

if TYPE_CHECKING:
    from bench.api import Method, Reward

EPILOG = """Examples:
  bench list
  bench list soar
  bench list alignment
  bench list models
  bench list quick
  bench list train"""

_PRESETS = Path(__file__).parents[1] / "config" / "presets"
_GROUPS = {"methods": registry.METHODS, "rewards": registry.REWARDS}
_SETTINGS = ("train", "evaluation", "runtime", "experiment", "task", "data", "prompt_set", "scorers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "what", nargs="?", metavar="WHAT",
        help="methods, rewards, tasks, models, presets, or the name or file of one of them; "
        f"{', '.join(_SETTINGS[:-1])} or {_SETTINGS[-1]} for their settings; nothing for an overview",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    print(listing(args.what))
    return 0


def listing(what: str | None = None) -> str:
    """The overview, one of its parts (methods, rewards, tasks, models, presets), or all about one name.

    Raises:
        ConfigError: there is nothing of that name.
        PluginError: the method or reward of that name cannot be imported.
    """
    if what is None:
        parts = [_plugins("methods"), _plugins("rewards"), _tasks(), _models(), _presets()]
        return "\n\n".join([*parts, f"bench list NAME shows one of them; settings: bench list {', '.join(_SETTINGS)}"])
    if what in _GROUPS:
        return _plugins(what)
    if what in _PARTS:
        return _PARTS[what]()
    return _one(what)


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _plugins(kind: str) -> str:
    found = entries(_GROUPS[kind])
    if not found:
        return f"{kind}\n  none are registered: install the package (pip install -e .)"
    return _table(
        kind,
        (
            (entry.name, f"BROKEN: {entry.problem}" if entry.problem else _summary(entry, methods=kind == "methods"))
            for entry in found
        ),
    )


def _summary(entry: PluginEntry, *, methods: bool) -> str:
    facts = [f"{entry.paper or 'no paper given'}; needs {', '.join(entry.needs) or 'nothing'}"] if methods else []
    return "\n      ".join([f"{entry.summary} [{_short(entry.file)}]", *facts])


def _short(file: str) -> str:
    """The file, relative to the checkout or the site-packages folder it lies in."""
    path = Path(file)
    return str(path.relative_to(registry.ROOT)) if path.is_relative_to(registry.ROOT) else file


def _tasks() -> str:
    rows = []
    for world, tasks in TASKS.items():
        for name, task in tasks.items():
            trains = f"trains on {task['reward']}" if task["reward"] else "trains without a reward"
            rows.append((name, f"{task['title']}; {trains}, judged by {task['primary']} [{world}]"))
    return _table("tasks", rows)


def _presets() -> str:
    rows = []
    for path in sorted(_PRESETS.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        rows.append((path.stem, first.removeprefix("#").strip()))
    return _table("presets", rows)


def _models() -> str:
    """Families of models, and what each needs."""
    rows = []
    for family in families():
        rows.append((family.name, f"{family.models} [{family.pipeline}]"))
        rows += [("", f"{fact}: {getattr(family, fact)}") for fact in ("guidance", "schedule")]
        rows.append(("", f"LoRA targets: {', '.join(family.lora_targets)}"))
    return _table("models", rows)


def _family(family: Any) -> str:
    facts = [
        (fact, getattr(family, fact))
        for fact in ("models", "pipeline", "latents", "conditioning", "time", "guidance", "schedule", "source")
    ]
    facts += [("encoders", ", ".join(family.encoders)), ("LoRA targets", ", ".join(family.lora_targets))]
    facts += [("text length", f"{family.text_length} tokens"), ("options", ", ".join(sorted(family.options)) or "none")]
    return "\n\n".join(
        [f"model family {family.name}\n{textwrap.indent(_docstring(family), '  ')}", _table("facts", facts)]
    )


_PARTS = {"tasks": _tasks, "models": _models, "presets": _presets}


def _one(name: str) -> str:
    """All that has this name: a method, reward, task, preset or block of settings, or several of them."""
    found = list(_named(name))
    if found:
        return "\n\n".join(found)
    from bench.api import ConfigError

    known = [
        *registry.names(registry.METHODS), *registry.names(registry.REWARDS), *(t for w in TASKS.values() for t in w),
        *(path.stem for path in _PRESETS.glob("*.yaml")), *(family.name for family in families()), *_GROUPS, *_PARTS,
        *_SETTINGS,
    ]  # fmt: skip
    raise ConfigError(f"nothing is named {name!r}{hint(name, known)}")


def _named(name: str) -> Iterator[str]:
    if registry.is_foreign(name) or name in (*registry.names(registry.METHODS), *registry.names(registry.REWARDS)):
        yield _plugin(registry.load_plugin(name))
    for tasks in TASKS.values():
        if name in tasks:
            yield _table(f"task {name}", ((field, str(value)) for field, value in tasks[name].items()))
    for family in families():
        if name in (family.name, family.pipeline):
            yield _family(family)
    if (_PRESETS / f"{name}.yaml").is_file():
        yield (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
    if name in _SETTINGS:
        yield _settings(name)


def _plugin(cls: type[Method] | type[Reward]) -> str:
    from bench.api import Method

    return _method(cls) if issubclass(cls, Method) else _reward(cls)


def _method(cls: type[Method]) -> str:
    needs = [name for name, needed in vars(cls.needs).items() if needed]
    head = [f"method {cls.name}", textwrap.indent(_docstring(cls), "  ")]
    facts = [("paper", cls.paper or "none given"), ("needs", ", ".join(needs) or "nothing")]
    return "\n\n".join(["\n".join(head), _table("facts", facts), _options(cls.Config, cls.name)])


def _reward(cls: type[Reward]) -> str:
    low, high = cls.range
    bounds = "no bounds" if math.isinf(low) and math.isinf(high) else f"{low:g} to {high:g}"
    facts = [
        ("kind", "gold: computed exactly from the picture" if cls.gold else "proxy: learned"),
        ("range", f"{bounds}, {'higher' if cls.higher_is_better else 'lower'} is better"),
        ("gradient", "with one" if cls.differentiable else "none"),
        ("version", cls.version),
        ("source", cls.source or "none given"),
    ]
    return "\n\n".join([f"reward {cls.name}\n{textwrap.indent(_docstring(cls), '  ')}", _table("facts", facts)])


def _docstring(cls: type) -> str:
    return textwrap.dedent(cls.__doc__ or "no description").strip().replace("\n    ", "\n")


def _settings(name: str) -> str:
    from bench.config.pictures import Data
    from bench.config.prompt_set import PromptSet
    from bench.config.scorer_process import ScorerProcess
    from bench.config.settings import Evaluation, Experiment, Runtime, Train
    from bench.config.task import Task

    blocks: dict[str, tuple[type, str]] = {
        "train": (Train, "train"), "evaluation": (Evaluation, "evaluation"), "runtime": (Runtime, "runtime"),
        "experiment": (Experiment, ""), "task": (Task, "task"), "data": (Data, "data"),
        "prompt_set": (PromptSet, "evaluation.prompt_sets.NAME"),
        "scorers": (ScorerProcess, "scorers.NAME"),
    }  # fmt: skip
    return _options(*blocks[name])


def _options(config: type, prefix: str) -> str:
    """The options of a settings dataclass: name, default, bounds, effect and help.

    Without `prefix` they are those of an experiment: blocks, and what only a preset may say, have no option themselves.
    """
    rows = []
    for setting in settings_in(config).values():
        option = f"--{prefix}.{setting.name}" if prefix else setting.option if setting.metavar else setting.name
        rows.append((option, f"{setting.help} ({setting.facts()})"))
    return _table("settings", rows) if rows else "settings\n  none of its own"

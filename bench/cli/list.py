"""List methods, rewards, tasks, models and presets, or show one with its settings.

The overview reads sources and imports no plugin; one method or reward is imported.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.cli.catalogue import PluginEntry, entries
from bench.cli.facts import (
    BLOCKS,
    PRESETS,
    block_settings,
    docstring,
    method_facts,
    named_settings,
    preset_summaries,
    reward_facts,
)
from bench.cli.setting import Setting
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

_GROUPS = {"methods": registry.METHODS, "rewards": registry.REWARDS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "what", nargs="?", metavar="WHAT",
        help="methods, rewards, tasks, models, presets, or the name or file of one of them; "
        f"{', '.join(BLOCKS[:-1])} or {BLOCKS[-1]} for their settings; nothing for an overview",
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
        return "\n\n".join([*parts, f"bench list NAME shows one of them; settings: bench list {', '.join(BLOCKS)}"])
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
    return _table("presets", preset_summaries().items())


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
        [f"model family {family.name}\n{textwrap.indent(docstring(family), '  ')}", _table("facts", facts)]
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
        *preset_summaries(), *(family.name for family in families()), *_GROUPS, *_PARTS,
        *BLOCKS,
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
    if (PRESETS / f"{name}.yaml").is_file():
        yield (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
    if name in BLOCKS:
        yield _options(block_settings(name))


def _plugin(cls: type[Method] | type[Reward]) -> str:
    from bench.api import Method

    return _method(cls) if issubclass(cls, Method) else _reward(cls)


def _method(cls: type[Method]) -> str:
    head = "\n".join([f"method {cls.name}", textwrap.indent(docstring(cls), "  ")])
    return "\n\n".join([head, _table("facts", method_facts(cls)), _options(named_settings(cls.Config, cls.name))])


def _reward(cls: type[Reward]) -> str:
    head = "\n".join([f"reward {cls.name}", textwrap.indent(docstring(cls), "  ")])
    return "\n\n".join([head, _table("facts", reward_facts(cls))])


def _options(settings: list[tuple[str, Setting]]) -> str:
    """Each option with its help, default, bounds and effect."""
    rows = [(option, f"{setting.help} ({setting.facts()})") for option, setting in settings]
    return _table("settings", rows) if rows else "settings\n  none of its own"

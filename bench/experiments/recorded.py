"""What a record names beyond its folder: plugins and a base. A record is data, a stranger's maybe: nothing in it runs.

Registered plugins are this installation's own. Any other is imported only where the user gives it again, by
`--plugin`; whatever path the record has for it is not followed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench import registry
from bench.api import DataError
from bench.canonical import hash_file
from bench.config.job import CellJob
from bench.config.reward_expression import is_sum, parts_of, scorers_of_task
from bench.paths import ELSEWHERE, expanded, portable


def replay_command(job: CellJob) -> str:
    """The command that replays a cell, with what its record does not bring."""
    experiment, task = job.experiment, job.experiment.task(job.task)
    sources = [stage.source for stage in experiment.stages(job.label)]
    plugins = [name for name in dict.fromkeys([*sources, *sorted(scorers_of_task(task))]) if registry.is_foreign(name)]
    options = [word for name in plugins for word in ("--plugin", name)]
    if experiment.model is not None and not _is_found(portable(experiment.model)):
        options += ["--model", experiment.model]
    options += [] if experiment.data is None else experiment.data.options()
    return shlex.join(["python", "-m", "bench", "replay", str(job.folder), *options])


def recorded_model(model: str | None, cell: Path) -> str | None:
    """The base that the record of `cell` names, as its path here or its hub id; None where it names none.

    Raises:
        DataError: it lies neither in the working folder nor in the user's, for all that the record says.
    """
    if model is None:
        return None
    if not _is_found(model):
        raise DataError(
            f"{cell} was made from the base {portable(model)}, and no path that a record names is followed out of the "
            "working folder or your own: say where that base lies, by --model"
        )
    return expanded(model)


def _is_found(model: str) -> bool:
    """Whether a path that a record has for a base is followed: within the working folder, or the user's."""
    pure = PurePosixPath(model)
    return not (model.startswith(ELSEWHERE) or pure.is_absolute() or ".." in pure.parts)


def with_given_plugins(
    config: Mapping[str, Any], given: Sequence[str], held: Mapping[str, str], cell: Path
) -> tuple[dict[str, Any], list[str]]:
    """The recorded `config` of a cell with the plugins that the user gives, and what is to be told of them.

    `held` are the hashes of its sources. A given file stands for the recorded one of its name, whatever its folder.

    Raises:
        DataError: a plugin is neither registered nor given, or one is given that the record does not name.
    """
    try:
        stages, task = [dict(stage) for stage in config.get("stages", [])], dict(config["task"])
        judges = [task["primary"], *task["scorers"]]
        every = [*(s["source"] for s in stages), *judges, *parts_of(task["reward"]), *parts_of(task["select"])]
        named = dict.fromkeys(name for name in every if registry.is_foreign(name))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{cell}: its record has no settings that can be run again ({error!r}): restore it") from error
    use = {name: spec for name in named if (spec := _given_for(name, given)) is not None}
    _refuse_others(named, use, given, cell)
    for stage in stages:
        stage["source"] = use.get(stage["source"], stage["source"])
    task |= {role: _renamed(task[role], use) for role in ("primary", "reward", "select")}
    task["scorers"] = [_renamed(name, use) for name in task["scorers"]]
    task["margins"] = {_renamed(name, use): margin for name, margin in task.get("margins", {}).items()}
    return {**config, "stages": stages, "task": task}, _differences(use.values(), held)


def _given_for(recorded: str, given: Sequence[str]) -> str | None:
    """What the user gives in the place of a recorded plugin, with the class that the record names."""
    target, attribute = _split(recorded)
    for spec in given:
        file, own = _split(spec)
        is_same = target == file or (file.endswith(".py") and Path(target).name == Path(file).name)
        if is_same and own in ("", attribute):
            return f"{file}:{attribute}" if attribute else file
    return None


def _split(spec: str) -> tuple[str, str]:
    """File or module of a plugin, and the class in it where one is named."""
    target, colon, attribute = spec.rpartition(":")
    return (target, attribute) if colon else (spec, "")


def _refuse_others(named: Iterable[str], use: Mapping[str, str], given: Sequence[str], cell: Path) -> None:
    missing = [portable(name) for name in named if name not in use]
    if missing:
        raise DataError(
            f"{cell} names the plugin {', '.join(missing)}, which is not registered here, and nothing runs because a "
            "results folder says so: look at its file, then give it by --plugin FILE"
        )
    files = {_split(spec)[0] for spec in use.values()}
    unused = [spec for spec in given if _split(spec)[0] not in files]
    if unused:
        there = ", ".join(map(portable, named)) or "none that is not registered"
        raise DataError(f"--plugin {unused[0]}: {cell} names no such plugin, but {there}: leave it out")


def _renamed(spec: str | None, use: Mapping[str, str]) -> str | None:
    """A reward, or a weighted sum of rewards, with the given plugins in it."""
    if spec is None or not is_sum(spec):
        return None if spec is None else use.get(spec, spec)
    for name, new in use.items():
        spec = re.sub(rf"(?<=[*\s]){re.escape(name)}(?=[+)\s]|$)", lambda _, new=new: new, spec)  # type: ignore[misc]
    return spec


def _differences(specs: Iterable[str], held: Mapping[str, str]) -> list[str]:
    """A line for each given plugin whose file is not the recorded one."""
    lines = []
    for target in dict.fromkeys(_split(spec)[0] for spec in specs):
        file = Path(target) if target.endswith(".py") else registry.source_file(target)
        if file is None or not file.is_file():
            continue  # told when it is loaded
        digest, recorded = hash_file(file), held.get(f"plugin/{file.name}", "none")
        if digest != recorded:
            lines.append(f"--plugin {target} is another file than was recorded: its hash is {digest}, not {recorded}")
    return lines

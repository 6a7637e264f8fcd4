"""From merged, raw settings to a typed `Experiment`, with everything that is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import registry
from bench.api import ConfigError, DataError, PluginError
from bench.config.architectures import BY_NAME
from bench.config.built_in_tasks import TASKS, WORLDS
from bench.config.consistency import check_together
from bench.config.pictures import Data
from bench.config.prompt_set import read_sets
from bench.config.reward_expression import is_sum, parts_of
from bench.config.scorer_process import read_scorer_processes
from bench.config.settings import (
    BASE,
    MOST_SEEDS,
    Chain,
    Evaluation,
    Experiment,
    Runtime,
    StageSettings,
    Train,
    configured,
)
from bench.config.task import Task
from bench.families import family_of, pipeline_of, refuse_other_pipeline
from bench.hub import is_hub_id, locate_model
from bench.parsing import Problems, Text, parse_text, shown, unique, validate, validate_rest
from bench.suggest import hint

FIELDS = tuple(field.name for field in dataclasses.fields(Experiment))
_LONGEST_LABEL = 200
_RESERVED = ("extends", "task", "reward")
_BLOCKS = ("tasks", "methods", "runtime", "train", "evaluation", "data", "scorers", "search")

Block = dict[str, Any]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Block:
    """`above` over `below`: mappings are merged, everything else is replaced."""
    merged = dict(below)
    for name, value in above.items():
        held = merged.get(name)
        both = isinstance(held, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(held, value) if both else value  # type: ignore[arg-type]
    return merged


def _pipeline(model: object) -> str:
    """The class of pipeline of a model folder, or of a fetched one; raises DataError where it is not here."""
    return str(pipeline_of(locate_model(str(model))))


class Resolver:
    """Turns merged, raw settings into an `Experiment`, and collects what is wrong on the way."""

    def __init__(self, raw: Block, overrides: Block, problems: Problems) -> None:
        """`overrides` are what of `raw` was asked for beyond presets and files, which may say more than is used."""
        self.raw = raw
        self.overrides = overrides
        self.problems = problems
        self.used: set[str] = set()
        self.sources: dict[str, str] = {}

    def experiment(self) -> Experiment | None:
        """The experiment, or None where there are problems."""
        world = self.raw.get("world", "images" if self.raw.get("data") is not None else "scenes")
        if world not in WORLDS:
            self.problems.add("world", f"no such world: {world!r}{hint(str(world), WORLDS)}")
        self._check_model(self.raw.get("model"), str(self.raw.get("weights", "stored")))
        runtime = validate(Runtime, self._block("runtime"), "runtime", self.problems)
        train = validate(Train, self._targets() | self._block("train"), "train", self.problems)
        evaluation = self._evaluation()
        tasks = self._tasks(str(world))
        data = self._data(str(world), runtime or Runtime())
        chains = self._chains(train or Train())
        self._unknown_blocks(str(world))
        values = {name: self.raw[name] for name in FIELDS if name in self.raw and name not in _BLOCKS}
        values |= {"world": world, "seeds": self._seeds()}
        values["baseline"] = self._baseline([chain.label for chain in chains])
        of_sets, requested = evaluation.set_scorers if evaluation else (), self.overrides.get("scorers", {})
        scorers = read_scorer_processes(self._block("scorers"), tasks, of_sets, requested, self.problems)
        ready: dict[str, Any] = {"tasks": tuple(tasks), "methods": tuple(chains), "scorers": scorers, "data": data}
        ready |= {"runtime": runtime, "train": train, "evaluation": evaluation, "search": self.raw.get("search")}
        experiment = validate_rest(Experiment, values, ready, self.problems)
        if experiment is not None:
            check_together(experiment, self.problems)
        return None if self.problems.messages else experiment

    def _check_model(self, model: Any, weights: str) -> None:
        """Whether there may be such a model; whether one of the hub was fetched is told when it is loaded."""
        if weights == "random":
            if model not in BY_NAME:
                known = hint(str(model), BY_NAME)
                self.problems.add("model", f"{model!r} is no architecture that random weights are known for{known}")
            return
        if not isinstance(model, str) or model == "null":
            return
        if (Path(model) / "model_index.json").is_file():
            try:
                refuse_other_pipeline(Path(model))
            except DataError as error:
                self.problems.add("model", str(error))
        elif Path(model).exists() or not is_hub_id(model):
            self.problems.add("model", f"{model} is no checkpoint folder in the diffusers format (no model_index.json)")

    def _targets(self) -> Block:
        """The family's own LoRA targets, of a model whose family is known before it is loaded."""
        model = self.raw.get("model")
        if not isinstance(model, str):
            return {}
        try:
            family = family_of(BY_NAME[model].pipeline if model in BY_NAME else _pipeline(model))
        except DataError:  # told where the model is looked for
            return {}
        return {"lora_targets": list(family.lora_targets)}

    def _block(self, name: str) -> Block:
        """A mapping of the settings, empty where there is none."""
        block = self.raw.get(name)
        if block is None:
            return {}
        if not isinstance(block, Mapping):
            self.problems.add(name, f"expected settings (`{name}.something: value`), got {block!r}")
            return {}
        return dict(block)

    def _evaluation(self) -> Evaluation | None:
        """How methods are judged, with the prompt sets complete."""
        block = self._block("evaluation")
        if "prompt_sets" in block:
            block["prompt_sets"] = read_sets(block["prompt_sets"], self.problems)
            for name, one in block["prompt_sets"].items():
                self._check_scorers(f"evaluation.prompt_sets.{name}", {"scorers": one["scorers"]})
        return validate(Evaluation, block, "evaluation", self.problems)

    def _data(self, world: str, runtime: Runtime) -> Data | None:
        """The user's pictures, of the size and with the captions that the model is run with."""
        if self.raw.get("data") is None:
            return None
        if world != "images":
            self.problems.add("data", f"given, but world {world!r} has no use for it: leave out one of the two")
        shared = {"resolution": runtime.resolution, "text_length": runtime.text_length if runtime.t5 else 0}
        block = self._block("data")
        for name in shared.keys() & block.keys():
            self.problems.add(f"data.{name}", f"the same in training and sampling: set runtime.{name} instead")
        return validate(Data, shared | block, "data", self.problems)

    def _list(self, name: str) -> Sequence[Any]:
        value = self.raw.get(name)
        if isinstance(value, Text):
            value = parse_text(tuple[str, ...], value)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, Sequence) or not value:
            self.problems.add(name, f"expected a list with at least one name, got {value!r}")
            return ()
        return value

    def _seeds(self) -> Any:
        """A number of seeds stands for 0, 1, ...; a list is taken as it is."""
        value = self.raw.get("seeds", 1)
        if isinstance(value, Text):
            value = parse_text(int | tuple[int, ...], value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_SEEDS:
            return list(range(value))
        if isinstance(value, list):
            if len(value) <= MOST_SEEDS:  # the list's own bound tells of more
                unique([str(seed) for seed in value], "seeds", self.problems)
            return value
        wanted = f"expected a number of seeds (3) or a list of them (0,1,2 or [4]), {MOST_SEEDS} at most"
        self.problems.add("seeds", f"{wanted}, got {shown(value)}")
        return [0]

    def _baseline(self, labels: Sequence[str]) -> str:
        """What differences are taken to: the method that was asked for, else the one a preset or file names, else base.

        A method of a preset or file that does not run here gives way to the base; one that was asked for has to run.
        """
        named = self.raw.get("baseline")
        if named is None or named in (*labels, BASE):
            return BASE if named is None else str(named)
        known = {*registry.names(registry.METHODS), *(name for name in self.raw if self._is_labelled(name))}
        if labels and ("baseline" in self.overrides or not known.issuperset(str(named).split("+"))):
            self.problems.add("baseline", f"{named!r} is not among the methods{hint(str(named), [*labels, BASE])}")
        return BASE

    def _tasks(self, world: str) -> list[Task]:
        """The tasks in their order, changed by the blocks `task` and the task's own."""
        built_in = TASKS.get(world, {})
        tasks = []
        for entry in self._list("tasks"):
            name = str(entry.get("name")) if isinstance(entry, Mapping) else entry
            if isinstance(entry, Mapping):
                values = dict(entry)
            elif entry in built_in:
                values = {"name": entry, **built_in[entry]}
            else:
                self.problems.add("tasks", f"no task {entry!r} in world {world!r}{hint(str(entry), built_in)}")
                continue
            self.used.add(name)
            values = self._changed(values, name, world)
            self._check_scorers(f"task {name}", values)
            task = validate(Task, values, name if self._block(name) else "task", self.problems)
            tasks += [task] if task is not None else []
        unique([task.name for task in tasks], "tasks", self.problems)
        return tasks

    def _changed(self, task: Block, name: str, world: str) -> Block:
        """A task under `reward` and the blocks `task` and its own, which say more; but the command line goes first."""
        blocks = merge(self._block("task"), self._block(name))
        if self.overrides.get("reward") is None:
            return merge(self._rewarded(task, world), blocks)
        asked = [
            block for block in (self.overrides.get("task"), self.overrides.get(name)) if isinstance(block, Mapping)
        ]
        changed = self._rewarded(merge(task, blocks), world)
        changed |= {"primary": blocks["primary"]} if "primary" in blocks else {}
        for block in asked:
            changed = merge(changed, block)
        return changed

    def _rewarded(self, task: Block, world: str) -> Block:
        """A task under the setting `reward`: what trains, what selects where something does, and judges (its parts).

        On the user's own pictures the first part is the headline too; a task of the embedded world keeps its own.
        """
        reward = self.raw.get("reward")
        if reward is None:
            return task
        try:
            parts = parts_of(str(reward))
        except ConfigError:  # told by the check of the scorers
            return task | {"reward": reward}
        judges = task.get("scorers", ())
        judges = parse_text(tuple[str, ...], judges) if isinstance(judges, Text) else judges
        others = [name for name in (judges if isinstance(judges, list | tuple) else ()) if name not in parts]
        changed = {"reward": reward, "scorers": [*parts, *others]}
        changed |= {"select": reward} if task.get("select") else {}
        changed |= {"primary": parts[0]} if world == "images" else {}
        return task | changed

    def _check_scorers(self, place: str, values: Block) -> None:
        """The names of rewards in raw settings; registered ones are imported when they are used."""
        known = registry.names(registry.REWARDS)
        scorers = values.get("scorers", ())
        listed = parse_text(tuple[str, ...], scorers) if isinstance(scorers, Text) else scorers
        judges = [name for name in (listed if isinstance(listed, list) else ()) if isinstance(name, str)]
        for name in filter(is_sum, judges):
            self.problems.add(place, f"scorers: {name!r} is a weighted sum, which judges nothing: list its parts")
        requested = [name for name in judges if not is_sum(name)]
        for spec in (values.get("reward"), values.get("select")):
            try:
                requested += parts_of(spec) if isinstance(spec, str) and spec != "null" else ()
            except ConfigError as error:
                self.problems.add(place, str(error))
        for name in dict.fromkeys(requested):
            if registry.is_foreign(name):
                self._check_foreign_scorer(place, name)
            elif name not in known:
                self.problems.add(place, f"no reward {name!r} is registered{hint(name, known)}")

    def _check_foreign_scorer(self, place: str, spec: str) -> None:
        """Import a reward that is named by its file or module: a worker would tell of a mistake only later."""
        try:
            registry.load_reward(spec)
        except (ConfigError, PluginError) as error:
            self.problems.add(place, str(error))

    def _chains(self, train: Train) -> list[Chain]:
        chains = []
        for entry in self._list("methods"):
            parts = [part.strip() for part in str(entry).split("+")]
            if not all(parts) and len(parts) > 1:
                self.problems.add("methods", f"{shown(entry)}: expected a name on both sides of every +, as in a+b")
                continue
            stages = [self._stage(part, train) for part in parts]
            built = tuple(stage for stage in stages if stage is not None)
            label = "+".join(stage.name for stage in built)
            if len(label) > _LONGEST_LABEL:
                self.problems.add("methods", f"{shown(label)}: {len(label)} letters become a folder's name: give fewer")
            elif len(built) == len(stages):
                chains.append(Chain(label=label, stages=built))
        unique([chain.label for chain in chains], "methods", self.problems)
        return chains

    def _stage(self, requested: str, train: Train) -> StageSettings | None:
        """One method with its block of settings; `requested` is a name, a label of a block, or a file."""
        alias = self._block(requested).get("method") if requested in self.raw and requested not in FIELDS else None
        source = requested if alias is None else str(alias)
        try:
            method = registry.load_method(source)
        except (ConfigError, PluginError) as error:
            self.problems.add("methods", str(error))
            return None
        name = method.name if alias is None else requested
        self._check_label(name, source)
        block = self._block(name)
        exceptions = block.pop("train", None) or {}
        block.pop("method", None)
        before = len(self.problems.messages)
        own = Problems()
        config = validate(method.Config, block, name, own)
        for message in own.messages:
            self.problems.add("", f"{message} (a setting of {registry.origin_of(registry.METHODS, source)})")
        special = validate(Train, exceptions, f"{name}.train", self.problems)
        if len(self.problems.messages) > before or config is None or special is None:
            return None
        try:
            configured(method, config)
        except (ConfigError, PluginError) as error:
            self.problems.add("", str(error))
            return None
        train = dataclasses.replace(train, **{field: getattr(special, field) for field in exceptions})
        return StageSettings(name=name, source=source, config=config, train=train)

    def _check_label(self, name: str, source: str) -> None:
        """A label names one method, and becomes a folder."""
        self.used.add(name)
        if not registry.is_name(name):
            self.problems.add("methods", f"label {name!r}: expected letters, digits, '-' and '_', a letter first")
        other = self.sources.setdefault(name, source)
        if other != source:
            self.problems.add(
                "methods", f"{other!r} and {source!r} are both named {name!r}: give one of the classes another name"
            )

    def _is_labelled(self, name: str) -> bool:
        """Whether a block of this name is a setting of a method under a label of its own."""
        block = self.raw.get(name)
        return isinstance(block, Mapping) and "method" in block

    def _unknown_blocks(self, world: str) -> None:
        """Names at the top level that are neither fields nor blocks; overrides of methods that do not run."""
        methods = registry.names(registry.METHODS)
        known = {*FIELDS, *_RESERVED, *TASKS.get(world, {}), *methods, *self.used}
        for name, value in self.raw.items():
            if value is None and any(name in tasks for tasks in TASKS.values()):
                continue  # a block of the preset below, taken back for another world
            if name not in known and not self._is_labelled(name):
                self.problems.add(name, f"no such setting, task or method{hint(name, sorted(known))}")
            elif name in self.overrides and name not in self.used and name not in (*FIELDS, *_RESERVED):
                self.problems.add(
                    name, f"settings given, but it does not run; it would with --methods or --tasks {name}"
                )
            elif name in self.used and name in (*FIELDS, *_RESERVED):
                self.problems.add(name, "a method or task may not have the name of a setting")

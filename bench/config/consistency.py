"""What no single setting of an experiment can tell: which of them go together."""

from __future__ import annotations

from pathlib import Path

from bench import registry
from bench.config.reward_expression import is_sum, parts_of, read_sum, scorers_of_task
from bench.config.settings import Experiment
from bench.config.task import Task
from bench.parsing import Problems


def check_together(experiment: Experiment, problems: Problems) -> None:
    """Add what is wrong with settings that are right one by one to `problems`."""
    _check_bfloat16(experiment, problems)
    _check_shard(experiment, problems)
    _check_files(experiment, problems)
    for chain in experiment.methods:
        shares = experiment.split
        if isinstance(shares, tuple) and len(chain.stages) not in (1, len(shares)):
            problems.add("split", f"{len(shares)} shares, but {chain.label!r} has {len(chain.stages)} stages")
        needs = [registry.load_method(stage.source).needs for stage in chain.stages]
        needs_reward = any(each.reward for each in needs)
        differentiates = any(each.reward_gradient for each in needs)
        ranks = any(each.pairs for each in needs) and experiment.world != "images"  # whose pairs are ranked
        at_once = max(stage.build().prompts_at_once for stage in chain.stages)
        for task in experiment.tasks:
            _check_groupwise(task, problems)
            if needs_reward and task.reward is None:
                problems.add(f"task {task.name}", f"has no reward to train on, and {chain.label!r} needs one")
            if ranks:
                _check_pairs(task, chain.label, problems)
            if differentiates and task.reward is not None:
                _check_gradient(experiment, task, chain.label, problems)
            if at_once > task.train_prompts:
                problems.add(
                    f"task {task.name}", f"train_prompts {task.train_prompts}, but {chain.label!r} takes {at_once} "
                    "different ones at once: give it fewer, or the task more",
                )  # fmt: skip


def _check_groupwise(task: Task, problems: Problems) -> None:
    """What scores whole groups trains, and neither judges nor selects."""
    for spec in filter(None, (task.select, *task.scorers)):
        grouped = is_sum(spec) and read_sum(spec).grouped
        if grouped or any(registry.load_reward(part).groupwise for part in parts_of(spec)):
            problems.add(
                f"task {task.name}", f"{spec!r} scores a group of pictures of one prompt at once, which a method "
                "makes: it trains, by --task.reward, and neither selects nor judges",
            )  # fmt: skip


def _check_pairs(task: Task, label: str, problems: Problems) -> None:
    """What ranks the pictures of pairs scores them one by one."""
    parts = parts_of(task.reward) if task.reward else ()
    if not parts or any(registry.load_reward(part).groupwise for part in parts):
        problems.add(
            f"task {task.name}", f"{label!r} trains on pairs of pictures, which a reward of single pictures has to "
            f"rank, and the task has {f'{task.reward}, of groups' if parts else 'none'}: name one by --task.reward",
        )  # fmt: skip


def _check_gradient(experiment: Experiment, task: Task, label: str, problems: Problems) -> None:
    """A reward whose gradient is taken has one, and is computed in the process that trains."""
    parts = parts_of(task.reward)
    without = [name for name in parts if not registry.load_reward(name).differentiable]
    if is_sum(str(task.reward)) and read_sum(str(task.reward)).grouped:
        without.append(f"a sum within groups ({task.reward})")
    if without:
        problems.add(
            f"task {task.name}", f"{label!r} takes the gradient of the reward, and {', '.join(without)} has none: name "
            "a differentiable one by --reward (bench list NAME says which are)",
        )  # fmt: skip
    apart = [name for name in parts if name in experiment.scorers and experiment.scorers[name].process]
    if experiment.reward_server is not None or apart:
        problems.add(
            f"task {task.name}", f"{label!r} takes the gradient of the reward, which other processes cannot give: "
            "leave out --reward-server and --scorers.NAME.process for it",
        )  # fmt: skip


def _check_files(experiment: Experiment, problems: Problems) -> None:
    """Plugins of one file name: records, which hold no folders, could not tell them apart."""
    rewards = [s for t in experiment.tasks for s in scorers_of_task(t, experiment.evaluation.set_scorers)]
    methods = [stage.source for chain in experiment.methods for stage in chain.stages]
    first: dict[str, Path] = {}
    for spec in filter(registry.is_foreign, (*methods, *sorted(rewards))):
        path = Path(spec if spec.endswith(".py") else spec.rpartition(":")[0])
        other = first.setdefault(path.name, path)
        if path.suffix == ".py" and other.resolve() != path.resolve():
            problems.add("", f"{other} and {path} have one name, by which records know them: rename one")


def _check_shard(experiment: Experiment, problems: Problems) -> None:
    """What cannot be shared out."""
    stages = [stage for chain in experiment.methods for stage in chain.stages]
    lora = sorted({stage.name for stage in stages if stage.train.adaptation == "lora"})
    if experiment.shard and lora:
        problems.add(
            "shard", f"true is for weights that are trained wholly, and {', '.join(lora)} trains LoRA adapters: "
            "leave that out of --methods here, and run it alone with the same --name and without --shard",
        )  # fmt: skip
    old = sorted({stage.name for stage in stages if registry.load_method(stage.source).needs.old})
    if experiment.shard and old:
        problems.add(
            "shard", f"true shares out one policy, and {', '.join(old)} keeps an old one beside it: leave that out of "
            "--methods here, and run it alone with the same --name and without --shard",
        )  # fmt: skip
    if experiment.shard and experiment.runtime.compile:
        problems.add("shard", "true does not go with compiled blocks: set runtime.compile to false")


def _check_bfloat16(experiment: Experiment, problems: Problems) -> None:
    """Weights held in bfloat16 cannot take small updates, and float32 passes cannot use them."""
    trains = [experiment.train, *(stage.train for chain in experiment.methods for stage in chain.stages)]
    if experiment.runtime.denoiser_weights == "float32":
        return
    if any(train.adaptation == "full" for train in trains[1:]):
        problems.add(
            "runtime.denoiser_weights", "bfloat16 is for LoRA alone: weights that are trained wholly stay float32; "
            "set train.adaptation to lora, or this to float32",
        )  # fmt: skip
    if any(train.precision == "float32" for train in trains):
        problems.add("runtime.denoiser_weights", "bfloat16 needs train.precision bfloat16 for every method")

"""How a scorer runs in a process of its own: `--scorers.NAME.device cuda:1` and the like."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

from bench import registry
from bench.api import ConfigError, Option, Reward
from bench.config.reward_expression import scorers_of_task
from bench.config.task import Task
from bench.parsing import Problems, validate
from bench.suggest import hint

_MIB = {"MiB": 1, "GiB": 1024}


def _memory_size(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d{0,6}[MG]iB", text):
        raise ValueError(f"expected a size like 8GiB or 500MiB, got {text!r}")
    return text


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ScorerProcess:
    """A scorer in a worker process of its own: a block `scorers.NAME`, of which one setting is enough."""

    process: Annotated[bool, Option("in a worker process; false takes back what a preset says")] = True
    device: Annotated[
        str, Option("auto (the scorer's choice), cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    ] = "auto"
    threads: Annotated[int, Option("threads of the worker process", ge=1, le=1024)] = 1
    memory: Annotated[
        str | None,
        Option("most that it may allocate in main memory: 8GiB, 500MiB; null: no limit"),
        AfterValidator(_memory_size),
    ] = None

    @property
    def memory_mib(self) -> int | None:
        """The limit in MiB."""
        return None if self.memory is None else int(self.memory[:-3]) * _MIB[self.memory[-3:]]

    def __str__(self) -> str:
        limit = f", at most {self.memory}" if self.memory else ""
        return f"process, device {self.device}, threads {self.threads}{limit}"

    def require_device(self, name: str) -> None:
        """Refuse a device that this process does not see, for the scorer `name`.

        Raises:
            ConfigError: that.
        """
        if self.device.startswith("cuda") and int(self.device.partition(":")[2] or 0) >= (count := _gpu_count()):
            raise ConfigError(
                f"scorers.{name}.device {self.device}: expected one of the {count} CUDA devices that torch sees here: "
                "choose another, or cpu"
            )

    def variables(self, reward: type[Reward]) -> dict[str, str]:
        """The environment variables that give the worker this device and the module path of this process.

        The worker sees the one GPU that it is meant to use, or none: so a scorer that takes a GPU where there is one
        needs to know nothing of the setting. One with an environment of its own reads variables of its own.

        Raises:
            ConfigError: this process sees fewer GPUs than the setting's number.
        """
        found = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}  # noqa: PTH100 - "" is here
        found["LOCAL_RANK"] = "0"  # the worker takes the first of the GPUs that it sees
        if self.device == "cpu":
            found["CUDA_VISIBLE_DEVICES"] = ""
        elif ":" in self.device:
            found["CUDA_VISIBLE_DEVICES"] = _visible_gpu(int(self.device.split(":")[1]))
        elif (rank := int(os.environ.get("LOCAL_RANK", "0"))) and rank < _gpu_count():  # torchrun: one each
            found["CUDA_VISIBLE_DEVICES"] = _visible_gpu(rank)
        if reward.environment is not None:
            prefix = f"BENCH_{reward.name.upper().replace('-', '_')}"
            found[f"{prefix}_THREADS"] = str(self.threads)
            if self.device != "auto":
                found[f"{prefix}_DEVICE"] = self.device.split(":")[0]
        return found


def read_scorer_processes(
    block: Mapping[str, Any], tasks: Sequence[Task], set_scorers: Iterable[str], explicit: Any, problems: Problems
) -> dict[str, ScorerProcess]:
    """The blocks of `scorers` by the name of a scorer of the tasks or of the prompt sets (`set_scorers`).

    What is wrong with them goes to `problems`. A preset may name registered scorers that are not used; those that
    are `explicit`, named beyond the preset, may not.
    """
    if not block or problems.messages:  # what tasks use is known only where they have no problems
        return {}
    found: dict[str, ScorerProcess] = {}
    used = _scorer_names(tasks, set_scorers)
    for name, values in block.items():
        if name not in used and name not in explicit and name in registry.names(registry.REWARDS):
            continue
        if name not in used:
            problems.add(f"scorers.{name}", f"no task and no prompt set uses a scorer of that name{hint(name, used)}")
        elif not isinstance(values, Mapping):
            problems.add(f"scorers.{name}", f"expected settings (`scorers.{name}.device: cpu`), got {values!r}")
        else:
            process = validate(ScorerProcess, values, f"scorers.{name}", problems)
            found |= {} if process is None else {name: process}
    return found


def _scorer_names(tasks: Iterable[Task], set_scorers: Iterable[str]) -> set[str]:
    """The names of the scorers of tasks and of prompt sets; those of files and modules as their classes say."""
    specs = {*set_scorers, *(name for task in tasks for name in scorers_of_task(task))}
    return {registry.load_reward(spec).name if registry.is_foreign(spec) else spec for spec in specs}


def _gpu_count() -> int:
    from torch import cuda

    return cuda.device_count()


def _visible_gpu(number: int) -> str:
    """The GPU of this number as the driver calls it, where only some are visible here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    names = [name for name in visible.split(",") if name.strip()]
    if number >= len(names):
        raise ConfigError(
            f"device cuda:{number}: expected one of the {len(names)} GPUs that this process sees "
            f"(CUDA_VISIBLE_DEVICES is {visible!r}): choose another"
        )
    return names[number].strip()

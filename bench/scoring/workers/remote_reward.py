"""Rewards whose scores come from elsewhere: declared as they are here, computed in a process of their own."""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import BenchError, Reward
from bench.config.scorer_process import ScorerProcess
from bench.scoring.workers.call_queue import CallQueue
from bench.scoring.workers.messages import message_value, unpack_scores
from bench.scoring.workers.worker_process import SECONDS, WorkerProcess

_DECLARED = (
    "name", "version", "range", "higher_is_better", "gold", "source", "reads_prompts", "examples", "expected_failures"
)  # fmt: skip
_WORKER = Path(__file__).with_name("reward_worker.py")
# In what a process says when the system gives it no more memory, and how it ends then
_SHORT = ("MemoryError", "allocate memory", "bad_alloc", "SIGKILL", "SIGABRT", "SIGSEGV", "out of memory")


class RemoteReward(Reward):
    """Stands for a reward class of this machine, whose scores come from elsewhere.

    Calls are worked off in order; between `submit` and its result the caller goes on, and must not change the
    pictures.
    """

    is_served: ClassVar[bool] = False

    def __init__(self, cls: type[Reward]) -> None:
        self.reward_class = cls
        for name in _DECLARED:
            setattr(self, name, getattr(cls, name))
        self.applies = cls.applies  # type: ignore[method-assign]
        self.fingerprint = ""

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """Where the scores come from, as the record has it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""

    @abc.abstractmethod
    def _scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray: ...

    @abc.abstractmethod
    def _flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float: ...

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        """Send pictures; what this returns waits for their scores, and raises what went wrong."""
        return self._line.begin(partial(self._scores, images, prompts, metadata))

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) as the reward gives them there."""
        return self.submit(images, prompts, metadata)()

    def measure_worker_flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        """FLOPs of one picture, counted where it is scored."""
        return self._line.begin(partial(self._flops, image, prompt, metadata))()

    @cached_property
    def _line(self) -> CallQueue:
        return CallQueue()


class ProcessReward(RemoteReward):
    """A reward in a worker process of its own. After a call that failed, the next one starts another process."""

    def __init__(
        self, spec: str, cls: type[Reward], apart: ScorerProcess, seconds: float | None = SECONDS, *,
        load_seconds: float | None = SECONDS, journal: Path | None = None, options: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`spec` names the class as settings do; `seconds` bounds a call; `journal` is `reward_worker`'s.

        `options` of the command give it more time, and more memory.
        """
        super().__init__(cls)
        self._time_option, self._memory_option = options or ("--reward-seconds", f"--scorers.{self.name}.memory")
        self._spec, self._apart, self._journal = spec, apart, journal
        self._seconds, self._load_seconds = seconds, load_seconds
        self._process: WorkerProcess | None = None

    @property
    def where(self) -> str:
        """Its settings."""
        return str(self._apart)

    def load(self) -> None:
        """Start the process and load the reward there.

        Raises:
            BenchError: what the reward raises, or the process does not start, or hangs.
        """
        self.close()
        self._process = WorkerProcess(
            self.name, Path(sys.executable), _WORKER, threads=self._apart.threads, memory_mib=self._apart.memory_mib,
            seconds=self._load_seconds, variables=self._apart.variables(self.reward_class),
        )  # fmt: skip
        journal = None if self._journal is None else str(self._journal)
        about = self._asked("load", spec=self._spec, device=self._apart.device, journal=journal)
        self.fingerprint = about["fingerprint"]
        self._process.seconds = self._seconds

    def close(self) -> None:
        """End the process; a call that waits for it fails."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def begin(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]], request: Sequence[str]
    ) -> Callable[[], Any]:
        """As `submit`, for a request (id, digest) that the journal knows; the scores stay packed."""
        words = {"prompts": list(prompts), "metadata": [dict(m) for m in metadata], "request": list(request)}
        return self._line.begin(partial(self._asked, "score", images, **words))

    def _scores(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        words = {"prompts": list(prompts), "metadata": [dict(m) for m in metadata]}
        return unpack_scores(self._asked("score", images, **words))

    def _flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        return float(self._asked("measure", image[None], prompt=prompt, metadata=dict(metadata)))

    def _asked(self, function: str, images: np.ndarray | None = None, **words: Any) -> Any:
        if self._process is None:
            self.load()
            assert self._process is not None
        try:
            answer = self._process.call(function, images, **words)
        except BenchError as error:
            self._process = None
            raise type(error)(self._mended(str(error))) from error
        return message_value(answer, self._mended)

    def _mended(self, message: str) -> str:
        """The message, with what to try."""
        if "hangs:" in message:
            return f"{message}. Mend the reward, or give it more time ({self._time_option})"
        if self._apart.memory is not None and any(word in message for word in _SHORT):
            return f"{message}; its memory is limited to {self._apart.memory}: raise {self._memory_option}"
        return message

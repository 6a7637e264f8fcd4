"""Rewards that are declared in this process and computed in another one, while the caller goes on."""

from __future__ import annotations

import abc
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, TypeVar

import numpy as np

from bench.api import BenchError, PluginError, Reward
from bench.config.scorer_process import ScorerProcess
from bench.plugin_code import code_hash
from bench.scoring.workers.messages import decode_result, decode_scores
from bench.scoring.workers.worker_process import SECONDS, WorkerLimits, WorkerProcess

T = TypeVar("T")

_DECLARED = (
    "name", "version", "range", "higher_is_better", "gold", "stands_for", "source", "reads_prompts", "examples",
    "expected_failures", "groupwise",
)  # fmt: skip
_WORKER_FILE = Path(__file__).with_name("reward_worker.py")
# In what a process says when the system gives it no more memory, and how it ends then
_OUT_OF_MEMORY = ("MemoryError", "allocate memory", "bad_alloc", "SIGKILL", "SIGABRT", "SIGSEGV", "out of memory")

_QueuedCall = tuple[Future[Any], Callable[[], Any]]


class CallQueue:
    """Runs calls one after another, in their order, in a thread that ends with this object.

    The thread never keeps the process alive, as that of an executor would.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_QueuedCall | None] = SimpleQueue()
        threading.Thread(target=_run_calls, args=(self._calls,), daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Callable[[], T]:
        """Queue a call; what this returns waits for it, and returns or raises what it did."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future.result

    def __del__(self) -> None:
        self._calls.put(None)


def _run_calls(calls: SimpleQueue[_QueuedCall | None]) -> None:
    while (queued := calls.get()) is not None:
        future, call = queued
        try:
            future.set_result(call())
        except BaseException as error:  # raised where the result is waited for
            future.set_exception(error)
        del queued, future, call  # so that nothing lives on because this thread waits


class RemoteReward(Reward):
    """Has the declarations of `reward_class`, a class of this process, and scores that another process computes.

    Calls run in order; between `submit` and its result the caller goes on, and must not change the pictures. `code` is
    the hash of the reward's source, which has to be the same there.
    """

    is_served: ClassVar[bool] = False

    def __init__(self, reward_class: type[Reward]) -> None:
        self.reward_class = reward_class
        for name in _DECLARED:
            setattr(self, name, getattr(reward_class, name))
        self.applies = reward_class.applies  # type: ignore[method-assign]
        self.fingerprint = ""
        self.code = code_hash(reward_class)

    @property
    @abc.abstractmethod
    def placement(self) -> str:
        """Where the scores are computed, as the record has it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release what it holds."""

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
        return self._queue.submit(partial(self._scores, images, prompts, metadata))

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) as the reward gives them there."""
        return self.submit(images, prompts, metadata)()

    def measure_worker_flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        """FLOPs of one picture, counted where it is scored."""
        return self._queue.submit(partial(self._flops, image, prompt, metadata))()

    @cached_property
    def _queue(self) -> CallQueue:
        return CallQueue()


@dataclass(frozen=True)
class LimitOptions:
    """The command-line options that give a worker more time and more memory, for messages."""

    seconds: str
    memory: str


class ProcessReward(RemoteReward):
    """A reward in a worker process of its own. After a call that failed, the next one starts another process."""

    def __init__(
        self, spec: str, reward_class: type[Reward], settings: ScorerProcess, *,
        call_seconds: float | None = SECONDS, load_seconds: float | None = SECONDS, options: LimitOptions | None = None,
    ) -> None:  # fmt: skip
        """`spec` names the class as settings do; the seconds bound a call and `load`, None does not."""
        super().__init__(reward_class)
        self._spec, self._settings = spec, settings
        self._limits = WorkerLimits(settings.threads, settings.memory_mib, call_seconds, load_seconds)
        self._options = options or LimitOptions("--reward-seconds", f"--scorers.{self.name}.memory")
        self._process: WorkerProcess | None = None

    @property
    def placement(self) -> str:
        """Its settings."""
        return str(self._settings)

    def load(self) -> None:
        """Start the process and load the reward there.

        Raises:
            BenchError: what the reward raises, or the process does not start, or hangs.
        """
        self.close()
        self._start()

    def close(self) -> None:
        """End the process; a call that waits for it fails."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def _scores(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        arguments = {"prompts": list(prompts), "metadata": [dict(m) for m in metadata]}
        process = self._process or self._start()
        return decode_scores(self._result(partial(process.call, "score", images, **arguments)))

    def _flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        process = self._process or self._start()
        return float(
            self._result(partial(process.call, "measure", image[None], prompt=prompt, metadata=dict(metadata)))
        )

    def _start(self) -> WorkerProcess:
        variables = self._settings.variables(self.reward_class)
        process = WorkerProcess(self.name, Path(sys.executable), _WORKER_FILE, self._limits, variables)
        try:
            loaded = self._result(partial(process.load, spec=self._spec, device=self._settings.device))
            if loaded["code"] != self.code:
                raise PluginError(
                    f"reward {self.name!r}: expected the source that this run began with, but its file, or one beside "
                    "it that it imports, has changed since: start again"
                )
        except BenchError:
            process.close()
            raise
        self.fingerprint, self._process = loaded["fingerprint"], process
        return process

    def _result(self, call: Callable[[], Any]) -> Any:
        """The result of a call of the process, which a failure has ended."""
        try:
            message = call()
        except BenchError as error:
            self._process = None
            raise type(error)(self._with_advice(str(error))) from error
        return decode_result(message, self._with_advice)

    def _with_advice(self, message: str) -> str:
        """The message, with what to try."""
        if "hangs:" in message:
            return f"{message}. Mend the reward, or give it more time ({self._options.seconds})"
        if self._settings.memory is not None and any(word in message for word in _OUT_OF_MEMORY):
            return f"{message}; its memory is limited to {self._settings.memory}: raise {self._options.memory}"
        return message

"""Rewards that tests run in other processes: one with a network, one that fails as its prompt says, one that counts."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import DataError, Reward


class Network(Reward):
    """A small network with fixed weights; its fingerprint says under which settings it runs."""

    name = "network"
    version = "3"
    range = (-1.0, 1.0)

    def load(self) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn((8, 3, 3, 3), generator=generator)
        self.fingerprint = f"threads {torch.get_num_threads()}, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        import torch

        x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
        found = torch.nn.functional.conv2d(x, self.weights).flatten(1).mean(1)
        return torch.tanh(found * torch.tensor([float(len(prompt)) for prompt in prompts])).numpy()


class Fickle(Reward):
    """The brightness of a picture, and whatever its prompt says."""

    name = "fickle"
    range = (0.0, 0.1)
    higher_is_better = False

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Any:
        scores = images.mean((1, 2, 3)) / 2550
        word, _, number = prompts[0].partition(" ")
        if word == "raise":
            raise KeyError("no such luck")
        if word == "refuse":
            raise DataError("fickle: expected another prompt")
        if word == "exit":
            os._exit(3)
        if word == "vanish":
            ctypes.CDLL(None)._exit(3)
        if word == "orphan":
            if os.fork() == 0:
                time.sleep(float(number))
                os._exit(0)
            ctypes.CDLL(None)._exit(3)
        if word == "return" and os.fork() == 0:
            return scores
        if word == "draw":
            images[0] = 0
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "sleep":
            time.sleep(float(number))
        if word == "hold":
            return [len(bytearray(int(number) << 20)) * 0.0 for _ in prompts]
        results: dict[str, Any] = {
            "fewer": scores[1:], "one": scores[0], "nan": np.full(len(images), np.nan), "text": ["good"] * len(images),
            "nothing": None, "far": scores + 1, "ragged": [[0.5] * (1 + number % 2) for number in range(len(images))],
        }  # fmt: skip
        return results.get(word, scores)


class Counting(Reward):
    """The brightness of a picture; writes the prompts of each batch to a file when it has scored them."""

    name = "counting"
    range = (0.0, 255.0)
    seconds: ClassVar[float] = 0.01

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        time.sleep(self.seconds)
        with Path(os.environ["COUNTING_FILE"]).open("a", encoding="utf-8") as file:
            file.write("".join(f"{prompt}\n" for prompt in prompts))
        return images.mean((1, 2, 3))


class Slow(Reward):
    """Is loaded once there is a certain file."""

    name = "slow"

    def load(self) -> None:
        while not Path(os.environ["SLOW_FILE"]).exists():
            time.sleep(0.01)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return images.mean((1, 2, 3)) / 255


class Mortal(Reward):
    """Ends its process in the second call."""

    name = "mortal"
    calls: ClassVar[int] = 0

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        type(self).calls += 1
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return images.mean((1, 2, 3)) / 255

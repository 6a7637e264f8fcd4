"""A reward with its checks and its measured cost: what stands between a plugin's scores and the harness."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.api import NonFiniteError, PluginError, Reward
from bench.device import present_device
from bench.plugin_code import code_hash
from bench.plugin_errors import plugin_errors
from bench.scoring.workers.remote_reward import RemoteReward

# Of torch.from_numpy: the pictures that it would change are a copy, which nobody else looks at
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)

Guard = Callable[[str, str], AbstractContextManager[None]]
Pending = Callable[[], np.ndarray]  # waits for scores


def without_none(given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores as an array, NaN in the place of each None, and where those were; what is no such array stays as it is."""
    raw = np.asarray(given)
    if raw.dtype != object or raw.ndim != 1 or not all(v is None or isinstance(v, Real) for v in raw):
        return raw, np.zeros(raw.shape, bool)
    abstained = np.array([value is None for value in raw], bool)
    return np.array([np.nan if value is None else float(value) for value in raw]), abstained


def unguarded(reward: str, part: str) -> AbstractContextManager[None]:
    """Surrounds what a reward does by nothing. `part` says what it does: `load()` or `one call`."""
    return nullcontext()


class Scorer:
    """Calls a reward, refuses what its declaration does not allow, and knows the FLOPs of one picture."""

    def __init__(self, reward: Reward, flops: float = 0.0, guard: Guard = unguarded) -> None:
        self.reward = reward
        self.flops = flops
        self.gradient_flops = 0.0  # of one picture's score with gradient, and its backward pass
        self._guard = guard

    @property
    def name(self) -> str:
        """The reward's registered name."""
        return self.reward.name

    @property
    def fingerprint(self) -> str:
        """What the scores depend on besides the version: the reward's own hash of its weights, where it has some."""
        return str(getattr(self.reward, "fingerprint", ""))

    @property
    def code(self) -> str:
        """The hash of the reward's source, which is the same wherever it is computed."""
        return self.reward.code if isinstance(self.reward, RemoteReward) else code_hash(type(self.reward))

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The scores (B,) of each part in the last call, where the reward is a sum of several."""
        return dict(getattr(self.reward, "latest", {}))

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Checked scores (B,) float32 as the reward gives them, NaN where it abstains by None.

        Raises:
            PluginError: the reward raises, or gives a wrong shape, no numbers, or a value outside the declared range.
            NonFiniteError: it gives NaN or infinity.
        """
        return self.submit(images, prompts, metadata)()

    def submit(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Pending:
        """Begin to score; what this returns waits, and returns or raises what a call does.

        A reward in another process scores meanwhile, one in this process is done. It is handed a copy that can only be
        read: whatever it does to its pictures, its neighbours see them as they were.
        """
        part = f"on {len(images)} pictures"
        handed = np.frombuffer(images.tobytes(), images.dtype).reshape(images.shape)
        with self._guard(self.name, "one call"), self._plugin_errors(part):
            pending = self.reward.submit(handed, list(prompts), list(metadata))

        def result() -> np.ndarray:
            with self._plugin_errors(part):
                raw, abstained = without_none(pending())
            return self._checked(raw, abstained, images, prompts)

        return result

    def _checked(
        self, raw: np.ndarray, abstained: np.ndarray, images: np.ndarray, prompts: Sequence[str]
    ) -> np.ndarray:
        if raw.shape != (len(images),) or raw.dtype.kind not in "fiub":
            raise PluginError(
                f"reward {self.name!r}: expected {len(images)} scores for {len(images)} pictures, "
                f"got {raw.dtype} of shape {raw.shape}: mend what its __call__ returns"
            )
        scores = raw.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(scores) & ~abstained)
        if len(bad):
            raise NonFiniteError(
                f"reward {self.name!r}: expected finite scores, but {len(bad)} of {len(scores)} are NaN or infinite, "
                f"the first for the prompt {prompts[bad[0]]!r}: mend its __call__, or let applies() leave such prompts "
                "out, or give None for a picture that cannot be judged"
            )
        low, high = self.reward.range
        given = raw[~abstained]
        if given.size and (given.min() < low or given.max() > high):
            raise PluginError(
                f"reward {self.name!r} declares the range {low} to {high} but gave {given.min()} to {given.max()}: "
                "mend its scores or its range"
            )
        return scores

    def training_scores_with_gradient(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Scores (B,) of pictures float32 (B, 3, H, W) in [0, 1], turned so that higher is better, with gradient.

        Raises:
            PluginError: the reward is not differentiable, raises, or gives a wrong shape or a graph that is cut.
        """
        if not self.reward.differentiable:
            raise PluginError(f"reward {self.name!r}: its gradient was asked for, and it is not differentiable")
        with self._guard(self.name, "one call"), self._plugin_errors(f"on {len(images)} pictures, with gradient"):
            scores = self.reward.scores(images, list(prompts), list(metadata))
        if scores.shape != (len(images),) or (images.requires_grad and not scores.requires_grad):
            raise PluginError(
                f"reward {self.name!r}: expected scores ({len(images)},) with a gradient to the pictures, got shape "
                f"{tuple(scores.shape)}, {'with' if scores.requires_grad else 'without'} one: mend its scores()"
            )
        return scores.float() if self.reward.higher_is_better else -scores.float()

    def training_scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Scores turned so that higher is better."""
        return self.submit_training_scores(images, prompts, metadata)()

    def submit_training_scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Pending:
        """Begin what `training_scores` does, as `submit` does."""
        pending = self.submit(images, prompts, metadata)
        return pending if self.reward.higher_is_better else lambda: -pending()

    def where_it_applies(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Scores (B,) float32, NaN for the prompts that the reward cannot judge, and where it abstains."""
        return self.submit_where_it_applies(images, prompts, metadata)()

    def submit_where_it_applies(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Pending:
        """Begin what `where_it_applies` does, as `submit` does."""
        scores = np.full(len(images), np.nan, np.float32)
        with self._plugin_errors("in applies()"):
            chosen = [i for i, m in enumerate(metadata) if self.reward.applies(m)]
        if not chosen:
            return lambda: scores
        pending = self.submit(images[chosen], [prompts[i] for i in chosen], [metadata[i] for i in chosen])

        def result() -> np.ndarray:
            scores[chosen] = pending()
            return scores

        return result

    def _plugin_errors(self, part: str) -> AbstractContextManager[None]:
        return plugin_errors(f"reward {self.name!r} {part}", type(self.reward))

    def measure(self, image: np.ndarray, prompt: str, metadata: Mapping[str, object]) -> None:
        """Count the FLOPs of scoring one picture uint8 (H, W, 3); a scorer without a network has none.

        What another process of the reward's counts is added.
        """
        # The fused attention kernels of the CPU are not in torch's table of FLOPs; the plain one is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self(image[None], [prompt], [metadata])
        self.flops = float(counter.get_total_flops()) + self.reward.measure_worker_flops(image, prompt, metadata)

    def measure_gradient(self, image: np.ndarray, prompt: str, metadata: Mapping[str, object]) -> None:
        """Count the FLOPs of one picture's score with gradient, and of the way back, as `measure` does without."""
        x = torch.from_numpy(image[None]).permute(0, 3, 1, 2).to(present_device()).float().div(255).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.enable_grad():
            self.training_scores_with_gradient(x, [prompt], [metadata]).sum().backward()
        self.gradient_flops = float(counter.get_total_flops())

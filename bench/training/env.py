"""What a method touches: data and random numbers, a metered model, the reward, and the optimiser.

The environment meters everything by what really runs; a plugin never declares its own cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import flow, rng
from bench.api import Batch, Condition, DataError, NonFiniteError, PluginError, Prompt, Rollouts
from bench.config.settings import Train
from bench.datasets.dataset import BucketedDataset, Dataset, SampleOrder
from bench.device import memory_told
from bench.models.flops import PassFlops
from bench.models.velocity import Policy, Reference, branches, guided
from bench.paths import portable
from bench.scoring.scorer import Pending, Scorer
from bench.training.context import Metering
from bench.training.optimizer import Optimizer
from bench.training.update_log import UpdateLog, means

LOSS = "loss"  # among the metrics of an update: the weighted sum of its terms


class SampleDraw:
    """Data, prompts and noise of one stage, keyed by global index; its whole state is two counters."""

    def __init__(
        self, policy: Policy, metering: Metering, train: Train, seed: int,
        dataset: Dataset | BucketedDataset | None = None, prompts: Sequence[Prompt] = (),
    ) -> None:  # fmt: skip
        self._policy = policy
        self._metering = metering
        self._train = train
        self._seed = seed
        self._dataset = dataset
        counts = dataset.counts if isinstance(dataset, BucketedDataset) else [len(dataset or ())]
        self._order = SampleOrder(seed, counts, train.batch_size)
        self._prompts = prompts
        self.samples_drawn = 0
        self.prompts_drawn = 0
        self.latest: Batch | None = None

    def batches(self) -> Iterator[Batch]:
        """The micro-batches of this rank's share of the next global batch."""
        if self._dataset is None:
            raise PluginError("this method draws clean data but does not say so: set needs = Needs(data=True)")
        size, pictures = self._train.batch_size, 1 if self._dataset.rejected is None else 2
        step = max(1, self._train.micro_batch // pictures)
        self._metering.limit.reserve(images=pictures * size)
        index = np.arange(self.samples_drawn, self.samples_drawn + size)
        self.samples_drawn += size
        self._metering.ledger.samples += pictures * size
        own = index[self._metering.ranks.local_slice(size)]
        for start in range(0, len(own), step):
            self.latest = self._batch(self._dataset, own[start : start + step])
            yield self.latest

    def _batch(self, dataset: Dataset | BucketedDataset, index: np.ndarray) -> Batch:
        rows = np.array([self._order.row(int(i)) for i in index])
        _, metadata = dataset.rows(rows)
        texts = dataset.drawn(rows, lambda: rng.uniform(self._seed, "caption", index))
        if self._train.caption_dropout:
            dropped = rng.uniform(self._seed, "caption_dropout", index) < self._train.caption_dropout
            texts = ["" if d else t for d, t in zip(dropped, texts, strict=True)]
        z0 = self._latents(dataset.moments(rows), self.noise(index, "vae"))
        rejected = None
        if dataset.rejected is not None:
            rejected = self._latents(dataset.rejected(rows), self.noise(index, "vae.rejected"))
        return Batch(z0, self._policy.encode(texts), texts, metadata, index, rejected)

    def _latents(self, moments: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        mean, std = (t.to(self._policy.device) for t in moments)
        return mean + std * noise

    def prompts(self, count: int) -> tuple[list[Prompt], np.ndarray]:
        """This rank's share of the next `count` distinct prompts, in a fresh order each epoch.

        The order is that of trl's RepeatSampler: whole groups of `count` per epoch, the incomplete tail dropped.
        """
        per_epoch = len(self._prompts) // count
        if per_epoch == 0:
            raise DataError(f"{count} different prompts asked for at once, but there are {len(self._prompts)}")
        if self.prompts_drawn % count:
            raise PluginError(f"prompts({count}) after {self.prompts_drawn} prompts: ask for the same number each time")
        epoch, group = divmod(self.prompts_drawn // count, per_epoch)
        order = rng.permutation(self._seed, "prompt_order", epoch, len(self._prompts))
        own = np.arange(count)[self._metering.ranks.local_slice(count)]
        index = self.prompts_drawn + own
        self.prompts_drawn += count
        return [self._prompts[i] for i in order[group * count + own]], index

    def noise(self, index: np.ndarray, name: str = "z1", shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (B, *S) float32, S as the samples' latents have it, or `shape`."""
        shape = shape or self._latent_shape(index)
        return torch.from_numpy(rng.normal(self._seed, name, index, shape)).to(self._policy.device)

    def _latent_shape(self, index: np.ndarray) -> tuple[int, ...]:
        if not isinstance(self._dataset, BucketedDataset):
            return self._policy.latent_shape
        buckets = {self._order.bucket(int(i)) for i in index}
        if len(buckets) != 1:
            raise PluginError(
                f"noise for samples of {len(buckets)} updates, whose pictures have different sizes: ask for those of "
                "one batch at a time, or give the shape"
            )
        return self._dataset.shapes[buckets.pop()]

    def uniform(self, index: np.ndarray, name: str) -> Tensor:
        """Uniform on [0, 1) (B,) float32."""
        # float32 rounds the largest doubles below one up to one
        values = np.minimum(rng.uniform(self._seed, name, index).astype(np.float32), np.float32(1 - 2**-24))
        return torch.from_numpy(values).to(self._policy.device)

    def sigma(self, index: np.ndarray, name: str = "sigma") -> Tensor:
        """Logit-normal(0, 1) through the shifted schedule, (B,) float32 in (0, 1)."""
        normal = torch.from_numpy(rng.normal(self._seed, name, index, ())).to(self._policy.device)
        return flow.shift_sigma(torch.sigmoid(normal), self._policy.shift)


class MeteredModel:
    """The policy, every pass of which is charged to the ledger before it runs.

    Of several ranks each charges as if all did the same; the mean over ranks, taken by `TrainingEnv.settle`, is then
    what all of them have spent. Within a phase the rank with most work decides what still fits: the budget holds, and
    where shares are unequal a run may end an update earlier than that of one process.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Reference | None,
        metering: Metering,
        passes: Mapping[tuple[int, ...], PassFlops],
        old: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        """`passes` are the FLOPs of one sample by the shape of its latent: of all shapes that it is trained on.

        Inside `old()` the policy is the old one.
        """
        self._policy = policy
        self._reference = reference
        self._old = old
        self._ledger = metering.ledger
        self._limit = metering.limit
        self._ranks = metering.ranks
        self._passes = {shape: flops.times(metering.ranks.size) for shape, flops in passes.items()}
        self.unit = metering.unit
        self._owed = 0.0  # FLOPs of backward passes to come
        self.latent_shape = policy.latent_shape
        self.device = policy.device
        self.shift = policy.shift

    def velocity(self, x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """Predicted velocity (B, *S); its backward pass is charged when gradient flows through it."""
        flops = self._flops(x)
        backward = len(x) * (flops.backward_through if x.requires_grad else flops.backward)
        self._charge_forward(len(x) * flops.forward, self._owed + backward if torch.is_grad_enabled() else 0.0)
        v = self._policy.velocity(x, sigma, cond)
        if v.requires_grad:
            self._owed += backward
            v.register_hook(lambda _: self._charge_backward(backward))
        return v

    def velocity_branches(self, x: Tensor, sigma: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """The unconditional and the conditional velocity."""
        return branches(self.velocity, self.null, x, sigma, cond)

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float) -> Tensor:
        """`guide` of both branches."""
        return guided(self, self.velocity, x, sigma, cond, scale)

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u), renormalised where the model's family does that."""
        return self._policy.guide(v_u, v_c, scale)

    def reference_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float = 1.0) -> Tensor:
        """The frozen model at stage entry, without gradient."""
        if self._reference is None:
            raise PluginError("this method asks for the reference model but does not say so: Needs(reference=True)")
        return guided(self, self._reference_pass, x, sigma, cond, scale)

    def _reference_pass(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        assert self._reference is not None
        self._charge_forward(len(x) * self._flops(x).reference, 0.0)
        return self._reference.velocity(x, sigma, cond)

    @torch.no_grad()
    def old_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float = 1.0) -> Tensor:
        """The old policy, without gradient."""
        if self._old is None:
            raise PluginError("this method asks for the old policy but does not say so: set needs = Needs(old=True)")
        with self._old():
            return self.guided_velocity(x, sigma, cond, scale)

    def reference_tensors(self) -> dict[str, Tensor]:
        """Weights of the frozen model at stage entry, by name; none where the method needs none."""
        return {f"reference.{k}": t for k, t in self._reference.tensors().items()} if self._reference else {}

    def null(self, cond: Condition) -> Condition:
        """The empty prompt's conditioning."""
        return self._policy.null(cond)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Text to conditioning; each text once, as with a cache of embeddings, so it is not charged."""
        return self._policy.encode(prompts)

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,)."""
        return self._policy.sigmas(steps)

    def decode(self, z0: Tensor) -> np.ndarray:
        """Latents to pictures, charged as VAE decoding."""
        self._charge_decode(z0, self._flops(z0).decode)
        return self._policy.decode(z0.detach())

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents to pictures in [0, 1]; the way back is charged at once, where gradient flows into the latents."""
        flops = self._flops(z0)
        self._charge_decode(z0, flops.decode + (flops.decode_backward if z0.requires_grad else 0.0))
        return self._policy.decode_with_gradient(z0)

    def _charge_decode(self, z0: Tensor, of_one: float) -> None:
        flops, images = len(z0) * of_one, len(z0) * self._ranks.size
        self._limit.reserve(cost=flops / self.unit, flops=flops, images=images)
        self._ledger.decode_cost += flops / self.unit
        self._ledger.flops += flops
        self._ledger.images += images

    def _flops(self, x: Tensor) -> PassFlops:
        """Of one sample, of all ranks."""
        shape = tuple(x.shape[1:])
        if shape not in self._passes:
            raise PluginError(
                f"a pass of latents of shape {shape}, whose cost is not known: expected the shape of a batch or of "
                f"model.latent_shape, {' or '.join(map(str, self._passes))}"
            )
        return self._passes[shape]

    def forget_graphs(self) -> None:
        """No backward pass is owed any more: the step's graphs are gone."""
        self._owed = 0.0
        self._ranks.forget_graphs()

    def _charge_forward(self, flops: float, owed: float) -> None:
        """Charge a forward pass, if the backward passes that are owed (FLOPs) would still fit after it."""
        need = flops + owed
        self._limit.reserve(cost=need / self.unit, flops=need)
        self._ledger.forward += flops / self.unit
        self._ledger.flops += flops

    def _charge_backward(self, flops: float) -> None:
        self._owed -= flops
        self._ledger.backward += flops / self.unit
        self._ledger.flops += flops


class TrainingEnv:
    """One stage of one cell: implements `bench.api.Env`."""

    def __init__(
        self, draw: SampleDraw, model: MeteredModel, optimizer: Optimizer, reward: Scorer | None, metering: Metering,
        train: Train,
    ) -> None:  # fmt: skip
        self.draw = draw
        self.model = model
        self.batch_size = train.batch_size
        self.micro_batch = train.micro_batch
        self.rollouts: Rollouts | None = None
        self.optimizer = optimizer
        self._reward = reward
        self._ledger = metering.ledger
        self._limit = metering.limit
        self._ranks = metering.ranks
        self.log = UpdateLog()
        self.updates_in_step = 0
        self.skipped_in_a_row = 0

    def score(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The task's training reward (B,) float32, charged."""
        return self.submit(images, prompts, metadata)()

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        """Begin to score, charged at once; what this returns gives the scores."""
        if self._reward is None:
            raise PluginError("this method asks for a reward but does not say so: set needs = Needs(reward=True)")
        if self.scores_groups and len(set(prompts)) > 1:
            raise PluginError(
                f"reward {self._reward.name!r} scores a whole group of one prompt at once, and the method gave it "
                f"pictures of {len(set(prompts))} prompts: ask env.scores_groups, or train on another reward"
            )
        self._reserve_scores(len(images), self._reward.flops)
        waiting = self._reward.submit_training_scores(images, prompts, metadata)
        self._charge_scores(len(images), self._reward.flops)
        return partial(self._scored, self._reward, waiting)

    @property
    def scores_groups(self) -> bool:
        """Whether the reward scores whole groups only."""
        return self._reward is not None and self._reward.reward.groupwise

    def score_with_gradient(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """The task's training reward (B,) with gradient; the way back is charged at once."""
        if self._reward is None:
            raise PluginError("this method asks for a reward but does not say so: set needs = Needs(reward=True)")
        self._reserve_scores(len(images), self._reward.gradient_flops)
        scores = self._reward.training_scores_with_gradient(images, prompts, metadata)
        self._charge_scores(len(images), self._reward.gradient_flops)
        return scores

    def _reserve_scores(self, count: int, of_one: float) -> None:
        flops = count * self._ranks.size * of_one
        self._limit.reserve(cost=flops / self.model.unit, flops=flops)

    def _charge_scores(self, count: int, of_one: float) -> None:
        calls = count * self._ranks.size
        self._ledger.reward_cost += calls * of_one / self.model.unit
        self._ledger.flops += calls * of_one
        self._ledger.reward_calls += calls

    def _scored(self, reward: Scorer, waiting: Pending) -> np.ndarray:
        """The scores that were waited for, their parts logged."""
        scores = waiting()
        for part, values in reward.parts.items():
            judged = values[~np.isnan(values)]
            if len(judged):
                self.log.add(f"reward.{portable(part)}", torch.from_numpy(judged).to(self.model.device))
        return scores

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in order."""
        return self._ranks.all_gather(rows)

    def settle(self) -> None:
        """Agree with the other ranks on what has been spent."""
        self._ledger.agree(self._ranks.all_gather_object("settle", self._ledger.state_dict()))

    def backward(self, terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        """Accumulate the gradient of the weighted terms."""
        total: Tensor | None = None
        for name, (weight, loss) in terms.items():
            self._refuse_reserved(name)
            if loss.ndim != 1:
                raise PluginError(f"loss {name!r}: expected one value per sample (b,), got shape {tuple(loss.shape)}")
            self.log.add_loss(name, loss, self.draw.latest)
            if weight:
                term = weight * loss.sum() / count
                total = term if total is None else total + term
        if total is not None:
            self.log.add_total(total)
            with memory_told(
                "the backward pass", "lower --train.micro_batch, or say --train.gradient_checkpointing true"
            ):
                self._ranks.backward(total)

    def update(self, metrics: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Clip, step, and return the total loss and the means of everything logged.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite; the weights are untouched.
        """
        self.updates_in_step += 1
        for name, values in (metrics or {}).items():
            self._refuse_reserved(name)
            if not isinstance(values, Tensor) or values.ndim != 1:
                raise PluginError(f"metric {name!r}: expected a tensor with one value per sample (b,), got {values!r}")
            self.log.add(name, values)
        self.settle()
        self._limit.reserve(updates=1)
        self._ranks.sum_gradients(self.optimizer.parameters)
        norm = self.optimizer.gradient_norm()
        told = self._ranks.all_gather_object("log", self.log.fetch(norm))
        complaint = next((rank.complaint for rank in told if rank.complaint is not None), None)
        if complaint is not None:
            raise NonFiniteError(complaint)
        if not math.isfinite(told[0].norm):
            raise NonFiniteError(f"gradient norm {told[0].norm}: the loss is finite but its gradient is not")
        with memory_told("the optimiser's state", "say --train.adaptation lora"):
            self.optimizer.step(norm, self._limit.fraction)
        self._ledger.updates += 1
        self.skipped_in_a_row = 0
        self._begin_update()
        return {**means(told), LOSS: sum(rank.total for rank in told), "gradient_norm": told[0].norm}

    def skip_update(self, reason: str) -> dict[str, float]:
        """No gradient this time; counted."""
        self.updates_in_step += 1
        self.optimizer.zero_grad()
        self._ledger.skipped_updates += 1
        self.skipped_in_a_row += 1
        told = self._ranks.all_gather_object("log", self.log.fetch())
        self._begin_update()
        return means(told)

    def update_old(self, decay: float) -> None:
        """Let the old policy follow."""
        if not 0 <= decay <= 1:
            raise PluginError(f"update_old({decay}): expected a number from 0, all of the trained weights, to 1, none")
        if not self.optimizer.keeps_old:
            raise PluginError("this method updates an old policy but does not say so: set needs = Needs(old=True)")
        self.optimizer.update_old(decay)

    def abandon(self) -> None:
        """Drop the gradient of a step that the budget cut short."""
        self.optimizer.zero_grad()
        self._begin_update()

    def _begin_update(self) -> None:
        self.log.clear()
        self.model.forget_graphs()

    @staticmethod
    def _refuse_reserved(name: str) -> None:
        if name == LOSS:
            raise PluginError(
                f"{LOSS!r} is the sum of all terms, which is logged by itself: give this one another name"
            )

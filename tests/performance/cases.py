"""What is timed: a method's update in the harness, its bare passes, and the same update written straightforwardly.

All three take the same samples through the same weights of one stage. `bare` is what no implementation of the method
can leave out: its passes, clipping and AdamW, decoding and reward. `straightforward` is how the methods' authors write
their loops, in code of our own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import flow
from bench.api import Method
from bench.config.settings import Train
from bench.models.text_condition import TextCondition
from bench.preflight.conformance.fixtures import Fixtures
from bench.training.stage import Stage
from methods.flowgrpo import FlowGRPO
from methods.sft import SFT
from methods.soar import SOAR

ROLLOUTS = {"num_groups": 2, "sampling_steps": 10, "window": 5, "epsilon": 1e-3}


@dataclass(frozen=True)
class Case:
    """A method with settings: what one repetition makes is one phase, of one update or of all that a rollout serves.

    `batches` is the size of a micro-batch in batches: what one pass may hold.
    """

    name: str
    method: type[Method]
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 1

    def stage(self, fixtures: Fixtures, batch: int, pictures: int) -> Stage:
        """Entered on the base, with batches of so many samples, or rollout phases of so many pictures.

        The learning rate leaves the weights about where they are.
        """
        settings = Train(
            **{"batch_size": batch, "micro_batch": batch * self.batches, "learning_rate": 1e-7, **self.train}
        )
        groups = {"num_generations": pictures // 2} if self.method.needs.reward else {}
        return fixtures.stage(self.method, {**groups, **self.options}, settings)


def _flowgrpo(name: str, adaptation: str, beta: float) -> Case:
    return Case(name, FlowGRPO, {**ROLLOUTS, "beta": beta}, {"adaptation": adaptation})


CASES = (
    Case("sft", SFT),
    Case("soar, 1 point", SOAR, {"num_points": 1}),
    Case("soar, 6 points", SOAR, {"num_points": 6}, batches=3),
    _flowgrpo("flowgrpo", "full", 0.0),
    _flowgrpo("flowgrpo, KL", "full", 0.004),
    _flowgrpo("flowgrpo, LoRA", "lora", 0.0),
    _flowgrpo("flowgrpo, LoRA, KL", "lora", 0.004),
)


def harness(stage: Stage) -> Callable[[], None]:
    """One phase as the runner makes it."""

    def phase() -> None:
        stage.advance()
        while stage.env.rollouts is not None and stage.env.rollouts.used < stage.env.rollouts.updates:
            stage.advance()

    return phase


class Loop:
    """What loops outside of the harness work with: a stage's weights, some of its samples, and an optimiser."""

    def __init__(self, stage: Stage, fused: bool) -> None:
        self.stage = stage
        self.policy = stage.policy
        self.config: Any = stage.method.config
        self.size = stage.env.batch_size
        self.micro = stage.env.micro_batch
        self.parameters = stage.env.optimizer.parameters
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-7, weight_decay=1e-2, fused=fused or None)
        self.reference: Any = stage.env.model._reference
        if stage.method.needs.reward:
            self.prompts, _ = stage.env.draw.prompts(self.config.num_groups)
            self.size = self.config.num_groups * self.config.num_generations
            self.texts = [p.text for p in self.prompts for _ in range(self.config.num_generations)]
            self.metadata = [p.metadata for p in self.prompts for _ in range(self.config.num_generations)]
            self.cond = self.policy.encode(self.texts)
            self.z0 = torch.randn(self.size, *self.policy.latent_shape)
        else:
            batches = list(stage.env.draw.batches())
            self.z0 = torch.cat([b.z0 for b in batches])
            self.cond = TextCondition.cat([b.cond for b in batches])
        self.sigma = torch.rand(self.size)

    def rows(self, count: int) -> list[slice]:
        """Slices of `micro` rows at most."""
        return [slice(first, min(first + self.micro, count)) for first in range(0, count, self.micro)]

    def update(self) -> None:
        """Clip and step."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def reward(self, z0: Tensor, rows: slice) -> np.ndarray:
        """Scores of the pictures."""
        scorer: Any = self.stage.env._reward
        return scorer.submit_training_scores(self.policy.decode(z0), self.texts[rows], self.metadata[rows])()


# The bare passes


def bare(stage: Stage) -> Callable[[], None]:
    """The passes of one phase with what has to follow them."""
    loop = Loop(stage, fused=True)
    return {"sft": _bare_sft, "soar": _bare_soar, "flowgrpo": _bare_flowgrpo}[stage.method.name](loop)


def _with_gradient(loop: Loop, x: Tensor, cond: TextCondition, sigma: Tensor) -> None:
    loop.policy.velocity(x, sigma, cond).square().mean().backward()


def _bare_sft(loop: Loop) -> Callable[[], None]:
    def phase() -> None:
        for rows in loop.rows(loop.size):
            _with_gradient(loop, loop.z0[rows], loop.cond[rows], loop.sigma[rows])
        loop.update()

    return phase


def _bare_soar(loop: Loop) -> Callable[[], None]:
    null, points = loop.policy.null(loop.cond), torch.arange(loop.size).repeat(loop.config.num_points)

    def phase() -> None:
        for rows in loop.rows(loop.size):
            _with_gradient(loop, loop.z0[rows], loop.cond[rows], loop.sigma[rows])
            with torch.no_grad():
                loop.policy.velocity(loop.z0[rows], loop.sigma[rows], null[rows])
        for part in points.split(loop.micro):
            _with_gradient(loop, loop.z0[part], loop.cond[part], loop.sigma[part])
        loop.update()

    return phase


def _bare_flowgrpo(loop: Loop) -> Callable[[], None]:
    c, null = loop.config, loop.policy.null(loop.cond)
    pairs = loop.size * c.window
    of = torch.arange(pairs) // c.window

    @torch.no_grad()
    def guided(model: Any, rows: Any) -> None:
        cond = TextCondition.cat([null[rows], loop.cond[rows]])
        model.velocity(torch.cat([loop.z0[rows]] * 2), torch.cat([loop.sigma[rows]] * 2), cond)

    def phase() -> None:
        for rows in loop.rows(loop.size):
            for _ in range(c.sampling_steps):
                guided(loop.policy, rows)
            loop.reward(loop.z0[rows], rows)
        if c.beta:
            for part in loop.rows(pairs):
                guided(loop.reference, of[part])
        for number, trained in enumerate(of.chunk(c.updates)):
            for rows in trained.split(loop.micro):
                if number:
                    with torch.no_grad():
                        loop.policy.velocity(loop.z0[rows], loop.sigma[rows], null[rows])
                _with_gradient(loop, loop.z0[rows], loop.cond[rows], loop.sigma[rows])
            loop.update()

    return phase


# The straightforward way


def straightforward(stage: Stage) -> Callable[[], None]:
    """One phase as the method's authors have it."""
    loop = Loop(stage, fused=False)
    return {"sft": _plain_sft, "soar": _plain_soar, "flowgrpo": _plain_flowgrpo}[stage.method.name](loop)


def _plain_sft(loop: Loop) -> Callable[[], None]:
    def phase() -> None:
        for rows in loop.rows(loop.size):
            z0, cond = loop.z0[rows], loop.cond[rows]
            z1, sigma = torch.randn_like(z0), torch.sigmoid(torch.randn(len(z0)))
            z = flow.interpolate(z0, z1, sigma)
            loss = (loop.policy.velocity(z, sigma, cond) - (z1 - z0)).square().mean()
            (loss * len(z0) / loop.size).backward()
            loss.item()
        loop.update()

    return phase


def _plain_soar(loop: Loop) -> Callable[[], None]:
    """As in Tencent-Hunyuan/HY-SOAR: the rollout's guided step has a conditional pass of its own, points stay in one
    graph until the only backward pass."""
    c, null, shift = loop.config, loop.policy.null(loop.cond), loop.policy.shift

    def phase() -> None:
        for rows in loop.rows(loop.size):
            z0, cond = loop.z0[rows], loop.cond[rows]
            z1, s0 = torch.randn_like(z0), flow.shift_sigma(torch.sigmoid(torch.randn(len(z0))), shift)
            z = flow.interpolate(z0, z1, s0)
            total = (loop.policy.velocity(z, s0, cond) - (z1 - z0)).square().flatten(1).mean(1).sum()
            with torch.no_grad():
                both = TextCondition.cat([null[rows], cond])
                v_u, v_c = loop.policy.velocity(torch.cat([z, z]), torch.cat([s0, s0]), both).chunk(2)
                s1 = flow.rollout_sigma(s0, shift, c.rollout_steps)
                zhat = flow.euler_step(z, v_u + c.guidance * (v_c - v_u), s0, s1)
            for _ in range(c.num_points):
                s_prime = s1 + (1 - s1) * torch.rand(len(z0))
                z_prime = flow.renoise(zhat, z1, s1, s_prime)
                target = (z_prime - z0) / s_prime[:, None, None, None]
                aux = (loop.policy.velocity(z_prime, s_prime, cond) - target).square().flatten(1).mean(1).sum()
                total = total + c.weight * aux
            loss = total / (loop.size * (1 + c.weight * c.num_points))
            loss.backward()
            loss.item()
        loop.update()

    return phase


def _plain_flowgrpo(loop: Loop) -> Callable[[], None]:
    """As in yifan123/flow_grpo: both branches in one pass, one trained step after the other, the reference beside each.

    A gradient graph spans both branches, and the unconditional one is detached after it.
    """
    c, null = loop.config, loop.policy.null(loop.cond)
    sigmas = loop.policy.sigmas(c.sampling_steps)

    def both(model: Any, x: Tensor, s: Tensor, rows: Any) -> tuple[Tensor, Tensor]:
        cond = TextCondition.cat([null[rows], loop.cond[rows]])
        v_u, v_c = model.velocity(torch.cat([x, x]), torch.cat([s, s]), cond).chunk(2)
        return v_u, v_c

    def phase() -> None:
        start = int(torch.randint(c.sampling_steps // 2 - c.window + 1, ()))
        window = range(start, start + c.window)
        states, log_probs, rewards = [], [], []
        with torch.no_grad():
            for rows in loop.rows(loop.size):
                x = torch.randn_like(loop.z0[rows])
                path, log_p = [x], []
                for i, (s, s_next) in enumerate(itertools.pairwise(sigmas)):
                    v_u, v_c = both(loop.policy, x, s.expand(len(x)), rows)
                    v = v_u + c.guidance * (v_c - v_u)
                    if i in window:
                        mean, std = flow.sde_mean_std(x, v, s, s_next, c.noise_level, sigmas[1])
                        x = mean + std * torch.randn_like(x)
                        log_p.append(flow.log_prob(x, mean, std))
                    else:
                        x = flow.euler_step(x, v, s, s_next)
                    path.append(x)
                states.append(torch.stack(path, 1))
                log_probs.append(torch.stack(log_p, 1))
                rewards.append(loop.reward(x, rows))
        path, old = torch.cat(states), torch.cat(log_probs)
        r = torch.from_numpy(np.concatenate(rewards)).view(c.num_groups, c.num_generations)
        advantage = ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)).flatten().clamp(-5, 5)
        for part in torch.arange(loop.size).chunk(c.updates):
            for rows in part.split(loop.micro):
                for k, i in enumerate(window):
                    x, s, s_next = path[rows, i], sigmas[i].expand(len(rows)), sigmas[i + 1].expand(len(rows))
                    v_u, v_c = both(loop.policy, x, s, rows)
                    v = v_u.detach() + c.guidance * (v_c - v_u.detach())
                    mean, std = flow.sde_mean_std(x, v, s, s_next, c.noise_level, sigmas[1])
                    ratio = (flow.log_prob(path[rows, i + 1], mean, std) - old[rows, k]).exp()
                    a = advantage[rows]
                    loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - c.epsilon, 1 + c.epsilon)).mean()
                    if c.beta:
                        with torch.no_grad():
                            u_ref, c_ref = both(loop.reference, x, s, rows)
                        v_ref = u_ref + c.guidance * (c_ref - u_ref)
                        mean_ref, _ = flow.sde_mean_std(x, v_ref, s, s_next, c.noise_level, sigmas[1])
                        loss = loss + c.beta * ((mean - mean_ref) ** 2 / (2 * std**2)).mean()
                    (loss * len(rows) / (len(part) * c.window)).backward()
                    loss.item()
            loop.update()

    return phase

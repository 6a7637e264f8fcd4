"""Flow-GRPO: policy gradient on SDE sampling paths with group-relative advantages. arXiv 2505.05470."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench import flow
from bench.api import Condition, ConfigError, Env, Method, Needs, Option, PluginError, Rollouts
from methods._groups import Groups

__all__ = ["FlowGRPO"]


class FlowGRPO(Method):
    """PPO on the denoising steps of the model's own samples, each scored against its group of the same prompt.

    A window of SDE steps per group, placed at random in the first half, is trained; the other steps are ODE steps
    (Flow-GRPO-Fast). `window` = `sampling_steps` - 1 is plain Flow-GRPO. The last step is always an ODE step.

    Variants are settings. Flow-GRPO-Fast as its authors run it: `guidance` 1, `same_latent`, `noise` cps,
    `scale_rewards` batch, `beta` 0. MixGRPO (arXiv 2507.21802): `window_order` sliding, which moves the window over all
    steps and begins anew, where the paper's stays at the end. DanceGRPO (arXiv 2505.07818): `noise` dance,
    `noise_level` .3, `same_latent`, `beta` 0, `guidance` 1; it trains any 60 % of the steps, which has no setting.
    GRPO-Guard (arXiv 2510.22319): `ratio_normalisation`, with a clip range of its own (2e-6 there); the loss of a step
    is divided by its |d|.

    Source: Flow-GRPO, arXiv 2505.05470; the window from its reference code. Deviations from that code: the
    KL keeps |d| (`flow.gaussian_kl`), the last step adds no noise, advantages use the group's deviation (the paper).
    As there, no gradient goes through the unconditional branch, unless `detach_unconditional` is off. Steps of the
    window go together as far as a micro-batch holds them; the reference's velocities are computed once per rollout
    phase, and the unconditional ones not again for the first update, whose policy is the one that sampled.

    Precision: in bfloat16 rounding adds to the KL, about 7e-5 at guidance 3 on the embedded base, as much as a policy
    near its reference has; no ratio leaves the clip range, but one in twenty does at guidance 4.5.
    """

    name: ClassVar[str] = "flowgrpo"
    paper: ClassVar[str] = "arXiv 2505.05470"
    needs: ClassVar[Needs] = Needs(reward=True, log_prob=True, reference=True)
    small: ClassVar[Mapping[str, Any]] = {
        "num_groups": 2, "num_generations": 3, "sampling_steps": 3, "window": 1, "epsilon": 1e-5,
        "window_order": "sliding", "window_every": 1,
    }  # fmt: skip
    inert: ClassVar[Mapping[str, str]] = {"drop_zero_groups": "acts on groups whose rewards are all equal"}

    @dataclass(frozen=True)
    class Config:
        """Names as in trl. Defaults suit latents of 1,024 dimensions; the paper's values (SD3.5-Medium) in brackets."""

        num_groups: Annotated[int, Option("prompts per rollout phase [48]", ge=1, le=10**6)] = 4
        num_generations: Annotated[int, Option("pictures per prompt [24; 12 and 6 collapsed]", ge=2, le=10**6)] = 24
        updates: Annotated[int, Option("updates one pass over a rollout phase is cut into [2]", ge=1, le=10**6)] = 2
        num_iterations: Annotated[int, Option("passes over each rollout phase [1]", ge=1, le=10**6)] = 1
        sampling_steps: Annotated[int, Option("T: steps of training-time sampling [10]", ge=2, le=10**4)] = 10
        window: Annotated[int, Option("trained SDE steps per picture, at most T - 1 [T - 1; Fast: 1 to 3]", ge=1)] = 2
        guidance: Annotated[float, Option("guidance scale in sampling and training [4.5]", ge=0, le=1000)] = 3.0
        noise_level: Annotated[float, Option("a: noise level of the SDE [0.7]", gt=0)] = 0.7
        # The log-ratio is a mean over D dimensions and scales as D^-1/2: 1e-4 at D = 65,536 is 8e-4 at D = 1,024.
        epsilon: Annotated[float, Option("clip range of the ratio [1e-4 at D = 65,536; scale by D^-1/2]", gt=0)] = 8e-4
        # The reference code's .04 and .01 lack |d| of about .1: .004 and .001 in the paper's formula, used here.
        beta: Annotated[float, Option("KL coefficient, with |d| as in the paper [.004; preference .001]", ge=0)] = 0.004
        scale_rewards: Annotated[Literal["group", "batch", "none"], Option("what divides advantages [group]")] = "group"
        advantage_eps: Annotated[float, Option("added to that deviation [1e-4, also trl's]", gt=0)] = 1e-4
        advantage_clip: Annotated[float, Option("largest |advantage| [5]", gt=0)] = 5.0
        loss_type: Annotated[Literal["grpo", "reinforce"], Option("clipped or unclipped ratio [grpo]")] = "grpo"
        detach_unconditional: Annotated[
            bool, Option("no gradient through v_u, as in the reference code", before=False)
        ] = True
        drop_zero_groups: Annotated[bool, Option("leave out groups whose rewards are all equal [yes]")] = True
        noise: Annotated[
            flow.Noise, Option("of a trained step: Flow-GRPO's SDE, DanceGRPO's, or CPS [sde]", before="sde")
        ] = "sde"
        window_order: Annotated[
            Literal["random", "sliding"], Option("where a window begins: MixGRPO's slides [random]", before="random")
        ] = "random"
        window_every: Annotated[
            int, Option("rollout phases until a sliding window moves by one step [25]", ge=1, le=10**6, before=25)
        ] = 25
        same_latent: Annotated[bool, Option("one initial latent for all of a group [no; Fast: yes]", before=False)] = (
            False
        )
        ratio_normalisation: Annotated[bool, Option("GRPO-Guard's ratio and weight of a step", before=False)] = False

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.window >= config.sampling_steps:
            raise ConfigError(
                f"flowgrpo.window {config.window}: expected at most {config.sampling_steps - 1}, one less than "
                f"flowgrpo.sampling_steps, because the last step is an ODE step and has no log-probability"
            )
        if config.noise == "cps" and config.noise_level > 1:
            raise ConfigError(f"flowgrpo.noise_level {config.noise_level}: expected at most 1 with noise cps")

    @property
    def prompts_at_once(self) -> int:
        """`num_groups`."""
        return self.config.num_groups

    @torch.no_grad()
    def collect(self, env: Env) -> Rollouts:
        """Sample `num_generations` pictures of each of `num_groups` prompts, score them, and form advantages.

        `order` numbers the samples that are kept over all processes: it says which update a sample belongs to.
        """
        c = self.config
        groups = Groups.drawn(env, c.num_groups, c.num_generations)
        start = self.window_starts(env, groups.prompt_index)[groups.owner]
        pieces: list[dict[str, Tensor]] = []

        def sample(rows: slice) -> Tensor:
            pieces.append(self.sample(env, groups.cond[rows], groups.index[rows], start[rows]))
            return pieces[-1].pop("z0")

        r = groups.scored(env, sample)
        tensors = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
        advantage = flow.group_advantages(r, c.advantage_eps, c.scale_rewards)
        kept = (flow.varied_groups(r) | (not c.drop_zero_groups)).repeat_interleave(c.num_generations)
        kept &= ~r.isnan().flatten()

        own = torch.from_numpy(groups.index % len(kept)).to(r.device)
        tensors["advantage"] = advantage.clamp(-c.advantage_clip, c.advantage_clip).flatten()[own]
        tensors["order"] = (kept.cumsum(0) - 1)[own]
        tensors = {key: value[kept[own]] for key, value in tensors.items()}
        cond = groups.cond[kept[own].nonzero().flatten()]
        if c.beta > 0:
            tensors["v_ref"] = self.reference(env, tensors["x"], tensors["step"], cond)
        return Rollouts(tensors, cond, c.updates * c.num_iterations, flow.reward_metrics(r))

    def window_starts(self, env: Env, prompt_index: np.ndarray) -> Tensor:
        """The step at which the window of each prompt's group begins (prompts,) int64."""
        c = self.config
        if c.window_order == "sliding":
            phase = int(prompt_index[0]) // c.num_groups
            place = phase // c.window_every % (c.sampling_steps - c.window)
            return torch.full((len(prompt_index),), place, device=env.model.device)
        places = max(c.sampling_steps // 2 - c.window, 0) + 1
        return (env.draw.uniform(prompt_index, "window") * places).long()

    def sample(self, env: Env, cond: Condition, index: np.ndarray, start: Tensor) -> dict[str, Tensor]:
        """Clean latents z0 (B, *S) of new samples and their windows, which begin at step `start` (B,).

        A window is x and x_next (B, window, *S), log_prob and step (B, window), v_u (B, window, *S) where the
        unconditional branch has no gradient, and mean (B, window, *S) where ratios are normalised.
        """
        c, sigmas = self.config, env.model.sigmas(self.config.sampling_steps).to(env.model.device)
        first_of_group = index - index % c.num_generations if c.same_latent else index
        path, log_probs, means, unconditional = [env.draw.noise(first_of_group, "rollout")], [], [], []
        first, last = int(start.min()), int(start.max()) + c.window
        for i in range(c.sampling_steps):
            x, (s, s_next) = path[-1], sigmas[i : i + 2]
            v, v_u = self.velocities(env, x, s.expand(len(x)), cond)
            x_next, log_p = flow.euler_step(x, v, s, s_next), torch.zeros(len(x), device=x.device)
            mean = x_next
            if first <= i < last:
                inside = (start <= i) & (i < start + c.window)
                mean, std = flow.noisy_step(c.noise, x, v, s, s_next, c.noise_level, sigmas[1])
                noisy = mean + std * env.draw.noise(index, f"sde{i}")
                x_next = torch.where(flow.align(inside, x), noisy, x_next)
                log_p = flow.log_prob(x_next, mean, std)
            path.append(x_next)
            log_probs.append(log_p)
            means.append(mean)
            unconditional.append(v_u)
        states, rows = torch.stack(path, 1), torch.arange(len(start), device=start.device)[:, None]
        steps = start[:, None] + torch.arange(c.window, device=start.device)
        window = {
            "z0": path[-1],
            "x": states[rows, steps],
            "x_next": states[rows, steps + 1],
            "log_prob": torch.stack(log_probs, 1)[rows, steps],
            "step": steps,
        }
        if c.ratio_normalisation:
            window["mean"] = torch.stack(means, 1)[rows, steps]
        if c.detach_unconditional and c.guidance != 1:
            window["v_u"] = torch.stack(unconditional, 1)[rows, steps]
        return window

    def velocities(self, env: Env, x: Tensor, sigma: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """The guided velocity and the unconditional one (B, *S); the former twice where guidance is 1."""
        if self.config.guidance == 1:
            v = env.model.velocity(x, sigma, cond)
            return v, v
        v_u, v_c = env.model.velocity_branches(x, sigma, cond)
        return env.model.guide(v_u, v_c, self.config.guidance), v_u

    def reference(self, env: Env, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        """Guided velocities of the reference (B, window, *S) at states x (B, window, *S) of the sampling steps."""
        sigmas, out = env.model.sigmas(self.config.sampling_steps).to(env.model.device), torch.empty_like(x)
        for places in self.places(torch.arange(len(x), device=x.device), env.micro_batch):
            s = sigmas[step[places]]
            out[places] = env.model.reference_velocity(x[places], s, cond[places[0]], self.config.guidance)
        return out

    def places(self, rows: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
        """Row and step of the window of all trained steps of these rollouts, `most` at a time."""
        window = self.config.window
        both = rows.repeat_interleave(window), torch.arange(window, device=rows.device).repeat(len(rows))
        return list(zip(*(numbers.split(most) for numbers in both), strict=True)) if len(rows) else []

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update: mean over samples and window of the clipped surrogate + beta KL to the reference."""
        c, rollouts = self.config, env.rollouts
        if rollouts is None:
            raise PluginError("flowgrpo.step was called before collect: there are no rollouts to learn from")
        part = (rollouts.tensors["order"] % c.updates == rollouts.used % c.updates).nonzero().flatten()
        count = len(env.gather(part)) * c.window
        if count == 0:
            return env.skip_update("every group's rewards are all equal, so there is no advantage to learn from")
        sigmas = env.model.sigmas(c.sampling_steps).to(env.model.device)
        clip = c.epsilon if c.loss_type == "grpo" else math.inf
        log: dict[str, list[Tensor]] = defaultdict(list)
        t = rollouts.tensors
        for places in self.places(part, env.micro_batch):
            x, i, cond, advantage = (
                t["x"][places],
                t["step"][places],
                rollouts.cond[places[0]],
                t["advantage"][places[0]],
            )
            s, s_next = sigmas[i], sigmas[i + 1]
            v_u = t["v_u"][places] if "v_u" in t and rollouts.used == 0 else None
            v = self.trained_velocity(env, x, s, cond, v_u)
            mean, std = flow.noisy_step(c.noise, x, v, s, s_next, c.noise_level, sigmas[1])
            log_ratio = flow.log_prob(t["x_next"][places], mean, std) - t["log_prob"][places]
            if c.ratio_normalisation:
                log_ratio = flow.normalised_log_ratio(log_ratio, mean, t["mean"][places], std)
            policy = flow.ppo_loss(log_ratio, advantage, clip)
            terms = {"policy": (1.0, policy / (s - s_next) if c.ratio_normalisation else policy)}
            if c.beta > 0:
                v_ref = t["v_ref"][places]
                mean_ref, _ = flow.noisy_step(c.noise, x, v_ref, s, s_next, c.noise_level, sigmas[1])
                terms["kl"] = (c.beta, flow.gaussian_kl(mean, mean_ref, std))
                log["norm_ratio"].append(v.detach().flatten(1).norm(dim=1) / v_ref.flatten(1).norm(dim=1))
            log["ratio"].append(log_ratio.detach().exp())
            log["clip_fraction"].append((log["ratio"][-1] - 1).abs().gt(c.epsilon).float())
            env.backward(terms, count)
        return env.update({key: torch.cat(values) for key, values in log.items()})

    def trained_velocity(self, env: Env, x: Tensor, sigma: Tensor, cond: Condition, v_u: Tensor | None) -> Tensor:
        """The guided velocity (B, *S) with its gradient; `v_u` is the unconditional one where it is known."""
        c = self.config
        if c.guidance == 1 or not c.detach_unconditional:
            return self.velocities(env, x, sigma, cond)[0]
        if v_u is None:
            with torch.no_grad():
                v_u = env.model.velocity(x, sigma, env.model.null(cond))
        return env.model.guide(v_u, env.model.velocity(x, sigma, cond), c.guidance)

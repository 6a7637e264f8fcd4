"""my_plugin: supervised fine-tuning whose loss is weighted by the noise level.

It works as it stands: change `step` until it is your method. Comments say what the harness expects; delete them.

Symbols, as in all methods (bench/api.py has the legend): z0 clean latent, z1 noise, sigma noise level (0 is data, 1 is
noise), z = (1 - sigma) z0 + sigma z1, v velocity, whose target is z1 - z0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench import flow  # the mathematics of rectified flow: tensors in, tensors out
from bench.api import Env, Method, Needs, Option  # the contract; a plugin imports nothing else of the harness

__all__ = ["MyPlugin"]


class MyPlugin(Method):
    """Flow matching with a weight: sigma^power |v(z) - (z1 - z0)|^2, mean over dimensions and samples.

    Source: the paper with arXiv number and equation, then every deviation from its code.
    """

    name: ClassVar[str] = "my_plugin"  # in tables, folders and options
    paper: ClassVar[str] = ""  # such as "arXiv 2209.03003"
    # data: clean latents with captions. The others: reward (env.score and training prompts), log_prob (stochastic
    # sampling), reference (the frozen model at the start). What is not asked for is not there.
    needs: ClassVar[Needs] = Needs(data=True)

    @dataclass(frozen=True)
    class Config:
        """Every field is an option, `--my_plugin.<field>`: its help, bounds and default are checked and shown."""

        power: Annotated[float, Option("exponent of the loss weight sigma^power; 0 is SFT", ge=0)] = 1.0

    config: Config

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update: any number of env.backward, then exactly one env.update."""
        # The batch comes in pieces that fit into memory, and their gradients add up.
        for batch in env.draw.batches():
            # Random numbers belong to a sample's index and never come from torch's own generator: so a resumed run
            # sees the same ones, and methods that draw the same things can be compared number by number.
            z1 = env.draw.noise(batch.index)  # (B, *S), as batch.z0
            sigma = env.draw.sigma(batch.index)  # (B,); flow.align(sigma, z) multiplies with (B, *S)
            z = flow.interpolate(batch.z0, z1, sigma)
            # Every pass is metered against the budget, backward passes too: a method declares no cost of its own.
            v = env.model.velocity(z, sigma, batch.cond)
            loss = flow.per_sample_mse(v, flow.velocity_target(batch.z0, z1))  # (B,): one loss a sample, no mean yet
            # Terms are {name: (weight, loss (B,))}, logged by their names; `count` is the size of the whole batch.
            env.backward({"base": (1.0, sigma**self.config.power * loss)}, count=env.batch_size)
        return env.update()

    # A method that learns from its own samples also has `collect(env) -> Rollouts`: methods/flowgrpo.py shows it.
    # What else has to survive a restart goes through `state_dict` and `load_state_dict`; most methods have nothing.

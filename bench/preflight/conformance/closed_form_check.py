"""The check on the closed-form task: a method that works finds an answer that is known."""

from __future__ import annotations

from typing import Any

from bench.api import Method
from bench.budget import Budget, Ledger, Limit
from bench.config.settings import Train
from bench.datasets import mixture as closed_form
from bench.datasets.dataset import Dataset
from bench.datasets.mixture import REWARDED, ClosedFormPolicy, Moments, NearRewardedMode, RewardedMode
from bench.models.flops import PassFlops
from bench.preflight.conformance.check import CheckSuite, Mismatch, NotApplicable
from bench.preflight.conformance.fixtures import MethodSubject
from bench.scoring.scorer import Scorer
from bench.training.context import Metering
from bench.training.env import MeteredModel, SampleDraw, TrainingEnv
from bench.training.optimizer import Optimizer
from bench.training.stage import Stage

SUITE = CheckSuite[MethodSubject]()

SAMPLES = 256  # of each prompt
# A method that learns from data starts with means that are off by .5, deviations by 30 % and masses by .15, and has to
# come within these of the data's moments, sampled from the same noise.
DATA_UPDATES = 150
MEAN_BOUND, DEVIATION_BOUND, MASS_BOUND = 0.2, 0.2, 0.1
# A method that learns from a reward starts with the data's law, in which the rewarded mode has a mass of .25. It is
# judged where it has gained enough: what it does to the law beyond that is a matter of its rate and its budget.
REWARD_UPDATES = (20, 40, 80)
MASS_GAIN, OFF_SUPPORT_BOUND, SPREAD_BOUND = 0.08, 0.02, 0.5


def closed_form_stage(
    method: Method, policy: ClosedFormPolicy, updates: int, data: Dataset | None = None, **train: Any
) -> Stage:
    """A method on the closed-form task: the harness's own environment around a policy that is a formula.

    `updates` is the budget, which the averaged weights (`ema_half_life`) follow. `data` is trained on instead of the
    exact law of the task.
    """
    settings = Train(**{"batch_size": 64, "micro_batch": 64, "weight_decay": 0.0, **train})
    ledger = Ledger()
    metering = Metering(ledger, Limit(Budget(updates, "updates"), ledger), unit=1.0)
    law = closed_form.pairs if method.needs.pairs else closed_form.dataset
    dataset = (data or law()) if method.needs.data else None
    prompts = closed_form.prompts(256) if method.needs.reward else []
    draw = SampleDraw(policy, metering, settings, 0, dataset, prompts)
    reference = policy.frozen_copy() if method.needs.reference else None
    passes = {tuple(policy.latent_shape): PassFlops(1.0, 2.0, 2.0, 1.0, 1.0, 1.0)}
    optimizer = Optimizer(list(policy.field.parameters()), settings, keeps_old=method.needs.old)
    model = MeteredModel(policy, reference, metering, passes, optimizer.old_weights if method.needs.old else None)
    judge = NearRewardedMode() if method.needs.reward_gradient else RewardedMode()
    reward = Scorer(judge) if method.needs.reward else None
    env = TrainingEnv(draw, model, optimizer, reward, metering, settings)
    # Of its policy a stage asks only in checkpoints and at its end what a pipeline alone has; neither happens here.
    return Stage(method, env, metering.limit, policy)  # type: ignore[arg-type]


def trained_moments(method: Method, policy: ClosedFormPolicy, updates: int, **train: Any) -> Moments:
    """The moments of what the averaged policy samples after `updates` updates."""
    stage = closed_form_stage(method, policy, updates, **train)
    for _ in range(updates):
        stage.advance()
    with stage.averaged():
        return Moments.of(policy.sample(SAMPLES))


@SUITE.check("closed-form", "a wrong sign, weight or target lowers its own loss; only a known answer tells")
def closed_form_task(subject: MethodSubject) -> None:
    """Moments near the data's from data alone; from a reward or pairs more mass on the rewarded mode, no collapse."""
    needs = subject.method.needs
    if not (needs.data or needs.reward):
        raise NotApplicable("the method needs neither data nor a reward")
    method = subject.method(subject.method.Config())
    if needs.reward or needs.pairs:
        policy = ClosedFormPolicy.astray() if needs.data and not needs.pairs else ClosedFormPolicy.exact()
        _require_gain(method, policy)
    else:
        _require_moments(
            trained_moments(
                method, ClosedFormPolicy.astray(), DATA_UPDATES,
                learning_rate=0.02, ema_half_life=0.15, caption_dropout=0.1,
            )
        )  # fmt: skip


def _require_moments(found: Moments) -> None:
    exact = Moments.of(ClosedFormPolicy.exact().sample(SAMPLES))
    errors = {
        "means": (float((found.mean - exact.mean).norm(dim=1).max()), MEAN_BOUND),
        "deviations (relative)": (float((found.deviation / exact.deviation - 1).abs().max()), DEVIATION_BOUND),
        "masses": (float((found.mass - exact.mass).abs().max()), MASS_BOUND),
    }
    wrong = {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    if wrong:
        raise Mismatch(
            f"the data's {', '.join(f'{name} to {bound}' for name, (_, bound) in wrong.items())} "
            f"after {DATA_UPDATES} updates",
            ", ".join(f"{name} off by {error:.2g}" for name, (error, _) in wrong.items()),
        )


def _require_gain(method: Method, policy: ClosedFormPolicy) -> None:
    exact = Moments.of(ClosedFormPolicy.exact().sample(SAMPLES))
    stage = closed_form_stage(method, policy, REWARD_UPDATES[-1], learning_rate=0.02)
    for update in range(1, REWARD_UPDATES[-1] + 1):
        stage.advance()
        if update in REWARD_UPDATES:
            found = Moments.of(policy.sample(SAMPLES))
            gain = float((found.mass - exact.mass)[:, REWARDED].mean())
            if gain >= MASS_GAIN:
                break
    spread = float(found.deviation[REWARDED] / exact.deviation[REWARDED])
    if not (gain >= MASS_GAIN and found.off_support <= OFF_SUPPORT_BOUND and spread >= SPREAD_BOUND):
        raise Mismatch(
            f"{MASS_GAIN} more mass on the rewarded mode within {REWARD_UPDATES[-1]} updates, then at most "
            f"{OFF_SUPPORT_BOUND} off the support and a spread of at least {SPREAD_BOUND} of the data's",
            f"{gain:+.3f}, {found.off_support:.3f} and {spread:.2f}",
        )

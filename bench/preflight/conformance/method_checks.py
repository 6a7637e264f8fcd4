"""The checks of a method: its loss, its update, its settings, what it may not touch, and what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from bench.api import ConfigError, Needs
from bench.parsing import Problems, field_types, validate
from bench.preflight.conformance.check import CheckSuite, Mismatch, NotApplicable
from bench.preflight.conformance.fixtures import BATCH, UPDATES, MethodSubject, for_each_adaptation
from bench.preflight.conformance.observers import count_passes, moved_random_states, record_gradients
from bench.training.checkpoint import Checkpoints
from bench.training.stage import Stage

SUITE = CheckSuite[MethodSubject]()

FLOAT32_RATIO = 1e-5
# Flow-GRPO clips at 1e-4 with 65,536 dimensions; the log-ratio is a mean over dimensions, so its size goes as D^-1/2.
PAPER_CLIP_RANGE, PAPER_DIMENSIONS = 1e-4, 65_536
MICRO_BATCH_TOLERANCE = 1e-5  # some hundred times float32's rounding: sums in another order, over all the layers
LEDGER_TOLERANCE = 1e-9  # both count the same products; the ledger adds them up in floating point
STOPS = (1, 2)  # within the rollouts of the smallest settings that serve two updates, and after them
LAST = 4


@SUITE.check("loss-gradients", "a term whose graph was cut trains nothing, while its curve still looks alive")
def loss_gradients(subject: MethodSubject) -> None:
    """Every term of weight other than 0 has a gradient in some update."""
    stage = subject.stage()
    parameters, backward = stage.env.optimizer.parameters, stage.env.backward
    alive: dict[str, bool] = {}

    def watched(terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        for name, (weight, loss) in terms.items():
            if weight:
                alive[name] = alive.get(name, False) or _has_gradient(loss, parameters)
        backward(terms, count)

    stage.env.backward = watched  # type: ignore[method-assign]
    _advance(stage, UPDATES)
    if not alive:
        raise Mismatch("at least one loss term of weight other than 0", f"none in {UPDATES} updates")
    dead = sorted(name for name, has in alive.items() if not has)
    if dead:
        raise Mismatch(f"a gradient from every loss term within {UPDATES} updates", f"none from {', '.join(dead)}")


def _has_gradient(loss: Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    if not loss.requires_grad:
        return False
    found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.any()) for g in found)


@SUITE.check("one-update", "methods are compared per update, and a second optimiser step in one counts for nothing")
def one_update(subject: MethodSubject) -> None:
    """Each step, of several micro-batches, takes exactly one step of one optimiser."""
    stage = subject.stage(micro_batch=BATCH // 2)
    for update in range(UPDATES):
        with record_gradients() as seen:
            stage.advance()
        if len(seen) != 1:
            raise Mismatch("1 optimiser update in each step", f"{len(seen)} in step {update + 1}")


@SUITE.check(
    "replayed-ratio",
    "sampling and training that disagree on a log-probability clip or push at random before anything was learned",
    Needs(log_prob=True),
)
def replayed_ratio(subject: MethodSubject) -> None:
    """While the weights stand still, the ratio of every update is 1 in float32."""
    _replay(subject, "float32", FLOAT32_RATIO)


@SUITE.check(
    "replayed-ratio-bfloat16",
    "rounding that is as large as the clip range clips at random; half of the clip range is the most it may take",
    Needs(log_prob=True),
)
def replayed_ratio_bfloat16(subject: MethodSubject) -> None:
    """The same with the model's passes in bfloat16, to half of the clip range of Flow-GRPO."""
    dimensions = torch.Size(subject.fixtures.policy.latent_shape).numel()
    _replay(subject, "bfloat16", 0.5 * PAPER_CLIP_RANGE * (PAPER_DIMENSIONS / dimensions) ** 0.5)


def _replay(subject: MethodSubject, precision: str, bound: float) -> None:
    # At this learning rate no float32 weight moves, so that the second update of a buffer has to replay it too.
    stage = subject.stage(precision=precision, learning_rate=1e-30, weight_decay=0.0)
    update = 0
    while update == 0 or (stage.env.rollouts is not None and stage.env.rollouts.used < stage.env.rollouts.updates):
        update += 1
        metrics = stage.advance() or {}
        if "ratio" not in metrics:
            raise Mismatch("a metric `ratio`, the mean probability ratio of the update", f"only {sorted(metrics)}")
        if not abs(metrics["ratio"] - 1) <= bound:
            raise Mismatch(f"a replayed ratio of 1 +- {bound:.1g} in {precision}", f"{metrics['ratio']:.7f}")


@SUITE.check("micro-batches", "a loss normalised by the micro-batch changes with the memory of the machine")
@for_each_adaptation
def micro_batches(subject: MethodSubject) -> None:
    """Micro-batches of 1, 2 and 4 give the same gradient, from the same rollouts where there are any."""
    whole = subject.stage(clip_norm=1e9)
    # Sampled once: another batch shape rounds otherwise, which can carry a pixel over to the next grey level.
    rollouts = whole.method.collect(whole.env) if whole.method.collects() else None
    found: dict[int, Tensor] = {}
    for size in (BATCH, BATCH // 2, 1):
        stage = subject.stage(clip_norm=1e9, micro_batch=size)
        stage.env.rollouts = None if rollouts is None else dataclasses.replace(rollouts)
        with record_gradients() as seen:
            stage.method.step(stage.env)
        if len(seen) != 1:
            raise Mismatch(f"one update with micro-batches of {size}", f"{len(seen)}")
        found[size] = seen[0]
    for size in (BATCH // 2, 1):
        error = float((found[size] - found[BATCH]).norm() / found[BATCH].norm())
        if not error <= MICRO_BATCH_TOLERANCE:
            raise Mismatch(
                f"the gradient of one batch of {BATCH} from micro-batches of {size}, to {MICRO_BATCH_TOLERANCE:g}",
                f"a relative difference of {error:.2g}; `count` in env.backward is that of the whole update",
            )


@SUITE.check("config-fields", "a setting that is accepted and ignored is tuned for days")
def config_fields(subject: MethodSubject) -> None:
    """Changing any field of Config changes gradient, metrics or ledger, unless the field is declared inert."""
    types = field_types(subject.method.Config)
    if not types:
        raise NotApplicable("the method has no settings")
    unknown = sorted(set(subject.method.inert) - set(types))
    if unknown:
        raise Mismatch("fields of Config in `inert`", ", ".join(unknown))
    problems = Problems()
    config = validate(subject.method.Config, subject.method.small, subject.method.name, problems)
    problems.raise_if_any(f"method {subject.method.name!r}, small")
    before = _fingerprint(subject, {})
    acting = (name for name in types if name not in subject.method.inert)
    idle = [name for name in acting if not _acts(subject, name, types[name], getattr(config, name), before)]
    if idle:
        raise Mismatch("every field of Config to act, or a reason in `inert`", f"no effect of {', '.join(idle)}")


def _acts(subject: MethodSubject, name: str, annotation: Any, value: Any, before: Any) -> bool:
    for other in alternatives(annotation, value):
        try:
            if _fingerprint(subject, {name: other}) != before:
                return True
        except ConfigError:  # out of the field's bounds, or against another field: the next one may fit
            continue
    return False


def alternatives(annotation: Any, value: Any) -> list[Any]:
    """Other values that a field may have: both sides of a number, the other choices, the opposite of a truth."""
    inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if isinstance(value, bool):
        return [not value]
    if get_origin(inner) is Literal:
        return [choice for choice in get_args(inner) if choice != value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value]
    if isinstance(value, float):
        return [value * 1.5, value / 10, value * 10, value + 0.5]
    raise ConfigError(f"settings of type {type(value).__name__} cannot be varied: declare the field in `inert`")


def _fingerprint(subject: MethodSubject, options: Mapping[str, Any]) -> Any:
    """Gradients, metrics and ledger of a few updates."""
    stage = subject.stage(options)
    with record_gradients() as seen:
        metrics = _advance(stage, UPDATES)
    return [g.numpy().tobytes() for g in seen], metrics, stage.limit.ledger.facts()


@SUITE.check("global-random-state", "one call of a global generator ties the result to call order, and resume breaks")
def global_random_state(subject: MethodSubject) -> None:
    """The global states of torch, numpy and Python are the same after a few updates."""
    stage = subject.stage()
    with moved_random_states() as moved:
        _advance(stage, UPDATES)
    if moved:
        raise Mismatch("random numbers from env.draw alone", f"the global state of {', '.join(moved)} has changed")


@SUITE.check("ledger", "a pass that is not charged is a head start that no table shows")
@for_each_adaptation
def ledger(subject: MethodSubject) -> None:
    """FLOPs, pictures and updates in the ledger equal an independent count of what ran."""
    stage = subject.stage()
    with count_passes(subject.fixtures.policy) as count, record_gradients() as seen:
        _advance(stage, 2)
    charged = stage.limit.ledger
    if abs(charged.flops - count.flops) > LEDGER_TOLERANCE * count.flops:
        raise Mismatch(f"{count.flops:.6g} FLOPs in the ledger, as counted", f"{charged.flops:.6g}")
    if (charged.images, charged.updates) != (count.pictures, len(seen)):
        raise Mismatch(
            f"{count.pictures} pictures and {len(seen)} updates in the ledger, as counted",
            f"{charged.images} and {charged.updates}",
        )


@SUITE.check("frozen-parts", "a VAE, a text encoder or a reference that drifts moves the goal for every later step")
@for_each_adaptation
def frozen_parts(subject: MethodSubject) -> None:
    """VAE, text encoders, the weights under adapters, and the reference are bit-identical after a few updates."""
    stage = subject.stage()
    parts = {name: list(part.state_dict().values()) for name, part in subject.fixtures.frozen_parts.items()}
    weights = subject.fixtures.policy.transformer.parameters()
    parts["the weights under the adapters"] = [weight for weight in weights if not weight.requires_grad]
    before = {name: _bytes(tensors) for name, tensors in parts.items()}
    reference = _reference(stage)
    _advance(stage, UPDATES)
    changed = [name for name, tensors in parts.items() if _bytes(tensors) != before[name]]
    if _reference(stage) != reference:
        changed.append("reference")
    if changed:
        raise Mismatch("frozen parts as they were loaded", f"other weights in {', '.join(changed)}")


def _bytes(tensors: list[Tensor]) -> list[bytes]:
    return [t.detach().cpu().numpy().tobytes() for t in tensors]


def _reference(stage: Stage) -> bytes | None:
    """What the reference answers at a fixed state, where the method has one."""
    if not stage.method.needs.reference:
        return None
    x = torch.ones(1, *stage.env.model.latent_shape, device=stage.env.model.device)
    sigma = torch.full((1,), 0.5, device=x.device)
    return stage.env.model.reference_velocity(x, sigma, stage.env.model.encode([""])).cpu().numpy().tobytes()


def _advance(stage: Stage, updates: int) -> list[dict[str, float] | None]:
    return [stage.advance() for _ in range(updates)]


@SUITE.check(
    "state-round-trip", "a checkpoint that forgets a counter or the rollouts is found out days later, when it is needed"
)
def state_round_trip(subject: MethodSubject) -> None:
    """State and tensors, the rollout buffer included, come back from a checkpoint as they were stored."""
    with tempfile.TemporaryDirectory() as folder:
        stage = subject.stage()
        stage.advance()
        tensors, state = _snapshot(stage)
        Checkpoints(Path(folder)).save(1, tensors, state)
        loaded = _restored(subject, Path(folder))
        again, state_again = _snapshot(loaded)
    different = [name for name in tensors.keys() | again.keys() if not _same(tensors.get(name), again.get(name))]
    different += [name for name in state if state[name] != state_again[name]]
    if different:
        raise Mismatch("the state that was stored", f"another one in {', '.join(sorted(different))}")


@SUITE.check("resume", "a run that was interrupted has to be the run that was not, or its record means nothing")
@for_each_adaptation
def resume(subject: MethodSubject) -> None:
    """Weights, moments, metrics and ledger after an interruption equal those of the uninterrupted run bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        stage = subject.stage()
        metrics = []
        for update in range(1, LAST + 1):
            metrics.append(stage.advance())
            if update in STOPS:
                Checkpoints(Path(folder) / str(update)).save(update, *_snapshot(stage))
        whole, _ = _snapshot(stage)
        for stop in STOPS:
            resumed = _restored(subject, Path(folder) / str(stop))
            again = [resumed.advance() for _ in range(LAST - stop)]
            tensors, _ = _snapshot(resumed)
            different = [name for name in whole if not _same(whole[name], tensors.get(name))]
            if different or again != metrics[stop:]:
                raise Mismatch(
                    f"the uninterrupted run bit for bit after a resume at update {stop}",
                    f"{len(different)} of {len(whole)} tensors and {'the same' if again == metrics[stop:] else 'other'}"
                    " metrics: does state_dict hold all that the method keeps?",
                )


def _snapshot(stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {name: t.detach().clone() for name, t in stage.tensors().items()}, stage.state_dict()


def _restored(subject: MethodSubject, folder: Path) -> Stage:
    """A new stage, with a new method, that goes on from the checkpoint in a folder."""
    saved, complaints = Checkpoints(folder).load()
    if saved is None:
        raise Mismatch("a readable checkpoint", "; ".join(complaints) or "none")
    stage = subject.stage()
    stage.load(saved.tensors, saved.state)
    return stage


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)

"""The training loop that all pre-training stages share: schedule, averaging, checkpoint, resume, log.

A stage supplies a model, an optimiser and a function from a `Step` to a loss. Everything random in a step comes from
its generator, which is keyed by (seed, stage, step, rank), so a resumed run continues exactly as an uninterrupted one
and there is no generator state to lose. Several processes average their gradients and see different samples.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.rng import stream_key
from pretrain.parallel import process_place


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast: warm-up, constant, linear decay to zero over the last `decay` share of the samples."""

    samples: int
    batch: int
    lr: float
    warmup: int = 100  # steps
    decay: float = 0.5
    ema: float = 0.999
    seed: int = 0
    minutes: float = float("inf")  # wall clock of one call; a checkpoint is left for the next
    clip: float = 1.0

    def rate(self, samples: int, step: int) -> float:
        """The learning rate after so many samples and steps."""
        left = (self.samples - samples) / max(self.decay * self.samples, 1.0)
        return self.lr * min(1.0, (step + 1) / self.warmup, max(left, 0.0))


@dataclass(frozen=True)
class TrainingStep:
    """One step's place in the run: its number, its generator, and the samples that this process takes."""

    number: int
    first: int  # samples seen before, by all processes
    batch: int
    rank: int
    ranks: int
    generator: torch.Generator

    def indices(self, count: int) -> Tensor:
        """`batch` indices below `count`, drawn with replacement."""
        return torch.randint(count, (self.batch,), generator=self.generator)


def keyed_generator(seed: int, stage: str, step: int, rank: int = 0) -> torch.Generator:
    """The generator of one step of one process."""
    return torch.Generator().manual_seed(stream_key(seed, f"{stage}/{step}/{rank}") >> 1)


class PretrainingLoop:
    """One stage's run. `ema` holds the averaged weights by name, which are what is exported."""

    def __init__(
        self,
        stage: str,
        folder: Path,
        log: Path,
        plan: TrainingPlan,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.stage, self.plan, self.model, self.optimizer = stage, plan, model, optimizer
        self.path, self.log = folder / f"{stage}.safetensors", log / f"{stage}.jsonl"
        self.step = self.samples = 0
        self.cpu_seconds = 0.0
        self.ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.rank, self.ranks = process_place()
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._stopped = False
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if self.path.exists():
            self._load()

    def run(
        self, loss_of: Callable[[TrainingStep], dict[str, Tensor]], *, every: int = 50, save_every: float = 120.0
    ) -> bool:
        """Train to the plan's end or its limit; the loss is the entry "loss" of what `loss_of` returns.

        Returns whether the plan's end was reached.
        """
        began = saved = time.monotonic()
        cpu = time.process_time()
        with self._stop_signal():
            while self.samples < self.plan.samples and not self._should_stop(began):
                decaying = self.samples + self._stride > (1 - self.plan.decay) * self.plan.samples
                if decaying and self.plan.rate(self.samples, 10**9) == self.plan.lr:
                    self._save(self.path.with_name(f"{self.stage}-stable.safetensors"))
                self._one(loss_of)
                self.cpu_seconds += (time.process_time() - cpu) * self.ranks
                cpu = time.process_time()
                if self.step % every == 0:
                    self._report()
                if time.monotonic() - saved > save_every:
                    self._save(self.path)
                    saved = time.monotonic()
        self._save(self.path)
        return self.samples >= self.plan.samples

    @property
    def _stride(self) -> int:
        return self.plan.batch * self.ranks

    def _one(self, loss_of: Callable[[TrainingStep], dict[str, Tensor]]) -> None:
        generator = keyed_generator(self.plan.seed, self.stage, self.step, self.rank)
        place = TrainingStep(self.step, self.samples, self.plan.batch, self.rank, self.ranks, generator)
        rate = self.plan.rate(self.samples, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        values = loss_of(place)
        self.optimizer.zero_grad()
        values["loss"].backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self._parameters, self.plan.clip)
        self.optimizer.step()
        self.step += 1
        self.samples += self._stride
        # Early on the average follows closely, or it would remember the initial weights.
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        self._average_weights(keep)
        self._summed += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()

    @torch.no_grad()
    def _average_weights(self, keep: float) -> None:
        current = self.model.state_dict()
        floats = [name for name, tensor in self.ema.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.ema[n] for n in floats], [current[n] for n in floats], 1 - keep)
        for name in self.ema.keys() - set(floats):
            self.ema[name].copy_(current[name])

    def _average_gradients(self) -> None:
        if self.ranks == 1:
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.ranks
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))

    def _should_stop(self, began: float) -> bool:
        stop = self._stopped or time.monotonic() - began > 60 * self.plan.minutes
        if self.ranks > 1:
            # All processes must leave at the same step, or one waits for ever.
            flag = torch.tensor(float(stop))
            dist.all_reduce(flag)
            stop = bool(flag)
        return stop

    @contextlib.contextmanager
    def _stop_signal(self) -> Iterator[None]:
        def stop(*_: object) -> None:
            self._stopped = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _report(self) -> None:
        means = {name: round(total / self._summed, 5) for name, total in self._sums.items()}
        self._sums.clear()
        self._summed = 0
        if self.rank == 0:
            place = {
                "step": self.step,
                "samples": self.samples,
                "lr": round(self.plan.rate(self.samples, self.step), 7),
            }
            record = {**place, **means, "cpu_seconds": round(self.cpu_seconds, 1)}
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{self.stage} " + " ".join(f"{k} {v}" for k, v in record.items()), flush=True)

    def _save(self, path: Path) -> None:
        if self.rank:
            return
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
        state = {"step": self.step, "samples": self.samples, "cpu_seconds": self.cpu_seconds, "seed": self.plan.seed}
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        # The state travels inside the same file, so that one rename makes both new.
        save_file({k: v.detach().clone() for k, v in tensors.items()}, half, metadata={"state": json.dumps(state)})
        half.replace(path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if state["seed"] != self.plan.seed:
            raise ValueError(f"{self.path} was made with seed {state['seed']}, not {self.plan.seed}: remove it")
        self.step, self.samples, self.cpu_seconds = state["step"], state["samples"], state["cpu_seconds"]
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.ema = parts["ema"]
        whole = self.optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            number, _, key = name.partition("/")
            whole["state"].setdefault(int(number), {})[key] = tensor
        self.optimizer.load_state_dict(whole)
        self._forget_later_records()

    def _forget_later_records(self) -> None:
        if self.log.exists() and self.rank == 0:
            kept = [line for line in self.log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            self.log.write_text("".join(line + "\n" for line in kept))


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights that a checkpoint holds."""
    with safe_open(path, "pt") as file:
        return {n.removeprefix("ema/"): file.get_tensor(n) for n in file.keys() if n.startswith("ema/")}  # noqa: SIM118


def checkpoint_progress(path: Path) -> dict[str, float]:
    """Step, samples, CPU seconds and seed of a checkpoint."""
    with safe_open(path, "pt") as file:
        return dict(json.loads(file.metadata()["state"]))

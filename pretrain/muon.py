"""Muon: momentum whose update is orthogonalised, for weight matrices and convolution kernels; Adam for the rest.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
kellerjordan.github.io/posts/muon), with the scale of Moonshot's variant (arXiv 2502.16982, equation 4) so that one
learning rate serves Adam and Muon. Deviation: convolution kernels are taken as (out, in * height * width) matrices, as
in the author's CIFAR-10 runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.parallel import process_place

# Coefficients of the odd quintic whose iteration drives all singular values towards 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix to (rows, columns), approximately: singular values in about [0.7, 1.2]."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon on the parameters of `hidden`, AdamW on those of `rest`, with one learning rate.

    An orthogonal update has root mean square 1 / sqrt(max(rows, columns)); times scale sqrt(max(rows, columns)) and
    with a scale of 0.2 it has that of a typical Adam update.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        lr: float,
        *,
        scale: float = 0.2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        groups = [{"params": list(hidden), "muon": True}, {"params": list(rest), "muon": False}]
        defaults = {"lr": lr, "scale": scale, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; the loss of the closure that computes them, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            gradients = {p: p.grad for p in group["params"] if p.grad is not None}
            torch._foreach_mul_(list(gradients), 1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                self._muon(gradients, group)
            else:
                for parameter, gradient in gradients.items():
                    self._adam(parameter, gradient, group)
        return loss

    def _muon(self, gradients: dict[nn.Parameter, Tensor], group: dict) -> None:
        """Processes that average their gradients share the work: each orthogonalises every ranks-th matrix."""
        rank, ranks = process_place()
        updates = [self._momentum(p, gradient, group["momentum"]) for p, gradient in gradients.items()]
        for number, update in enumerate(updates):
            updates[number] = orthogonalise(update) if number % ranks == rank else torch.zeros_like(update)
        if ranks > 1:
            flat = torch.cat([update.flatten() for update in updates])
            dist.all_reduce(flat)
            pieces = flat.split([update.numel() for update in updates])
            updates = [piece.view_as(update) for piece, update in zip(pieces, updates, strict=True)]
        for parameter, update in zip(gradients, updates, strict=True):
            scale = group["scale"] * max(update.shape) ** 0.5
            parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: nn.Parameter, gradient: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum, as a matrix."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum).flatten(1)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["steps"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        low, high = group["betas"]
        state["steps"] += 1
        state["mean"].lerp_(gradient, 1 - low)
        state["square"].mul_(high).addcmul_(gradient, gradient, value=1 - high)
        steps = float(state["steps"])
        root = (state["square"] / (1 - high**steps)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - low**steps))


def split_parameters(model: nn.Module, outer: Iterable[str] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for Muon and for Adam: matrices and kernels, save embeddings and names that hold one of `outer`."""
    skipped = tuple(outer)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            named = any(part in name for part in skipped)
            inner = parameter.ndim >= 2 and id(parameter) not in embeddings and not named
            (hidden if inner else rest).append(parameter)
    return hidden, rest

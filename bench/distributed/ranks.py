"""Several processes that train one cell together: what they tell each other, and nothing else.

Each process, a rank, works on its own samples of the same global batch. Ranks meet at fixed points: to add up
gradients, to gather rows, to agree on what was spent. Every meeting begins with a word of each rank on what it came
for, so that a rank that failed is heard by all, and ranks that went different ways are told so instead of waiting for
ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bench import api
from bench.api import BenchError, BudgetExhausted, ConfigError, PluginError
from bench.distributed.dtensors import is_sharded
from bench.distributed.launch import RankInfo

BUCKET = 2**24  # elements of gradients added up at once
PATIENCE = timedelta(hours=12)  # a lost rank is noticed by its connection; this is for one that hangs
PASS = "a pass"  # the meeting before a pass of shared out weights, which every rank makes (`bench.distributed`)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


class PassCompanion(Protocol):
    """Makes passes of shared out weights that other ranks need, and backward passes through them."""

    def join_pass(self, step: Any) -> None:
        """Make along the pass that they came for."""

    def backward(self, total: Tensor) -> None:
        """A backward pass together with the others."""

    def forget_graphs(self) -> None:
        """No backward pass is to come."""


class Ranks:
    """One process on its own: every meeting is with itself. `ProcessGroup` is the same for several.

    rank: this process among `size`, counted from 0. companion: set where weights are shared out.
    """

    rank = 0
    size = 1
    companion: PassCompanion | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one rank that writes records and checkpoints."""
        return self.rank == 0

    def leave(self) -> None:
        """The last thing that a rank does."""

    def all_gather_object(self, what: str, value: _Value) -> list[_Value]:
        """Every rank's value, in the order of ranks; `what` names the meeting.

        Raises:
            BenchError: what another rank failed of.
            PluginError: another rank came for something else.
        """
        return [value]

    def backward(self, total: Tensor) -> None:
        """The backward pass from a scalar; all ranks take it at once where they share out the weights."""
        if self.companion is None:
            total.backward()
        else:
            self.companion.backward(total)

    def forget_graphs(self) -> None:
        """No backward pass is to come of any forward pass so far."""
        if self.companion is not None:
            self.companion.forget_graphs()

    @contextmanager
    def guard_pass(self) -> Iterator[None]:
        """Surrounds a pass that all ranks make; what is raised inside, the others cannot hear."""
        yield

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows (b, ...) of all ranks in their order, (B, ...); a rank may bring none."""
        return rows

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place. A parameter without gradient on every rank stays without."""

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """What one rank raises inside, as a BenchError, all raise."""
        yield

    def local_slice(self, count: int) -> slice:
        """This rank's share of `count` rows; shares differ by one at most.

        Raises:
            ConfigError: there are fewer rows than ranks.
        """
        if count < self.size:
            raise ConfigError(
                f"{self.size} processes cannot share {count}: expected a batch size and a number of groups of at least "
                f"{self.size}; raise them, or start fewer processes"
            )
        short, longer = divmod(count, self.size)
        start = self.rank * short + min(self.rank, longer)
        return slice(start, start + short + (self.rank < longer))

    def map_items(self, items: Sequence[_Item], begin: Callable[[_Item], Callable[[], _Result]]) -> list[_Result]:
        """What `begin` of every item in order leads to, each by one rank and told to all.

        `begin` returns what ends its work; that is called once the next item has begun.
        """
        own, ends = [], deque[Callable[[], _Result]]()
        for item in items[self.rank :: self.size]:
            ends.append(begin(item))
            if len(ends) > 1:
                own.append(ends.popleft()())
        own += [end() for end in ends]
        told = self.all_gather_object("share", own)
        return [told[i % self.size][i // self.size] for i in range(len(items))]

    def first_rank_first(self, work: Callable[[], _Result]) -> _Result:
        """`work` by the first rank, and then by the others, which find what it left in a cache."""
        if not self.is_first:
            self.all_gather_object("turn", None)
            return work()
        result = work()
        self.all_gather_object("turn", None)
        return result


SINGLE_PROCESS = Ranks()


class ProcessGroup(Ranks):
    """The ranks of one cell, over gloo (and nccl for tensors of a GPU)."""

    def __init__(self, place: RankInfo) -> None:
        self.rank = place.rank
        self.size = place.size
        self._has_failed = False
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, store=dist.PrefixStore(place.key, place.store()), rank=place.rank, world_size=place.size,
            timeout=PATIENCE,
        )  # fmt: skip

    def leave(self) -> None:
        """End the group."""
        dist.destroy_process_group()

    def all_gather_object(self, what: str, value: _Value) -> list[_Value]:
        """As `Ranks.all_gather_object`."""
        words = self._exchange((what, value))
        while passes := {step for word, step in words if word == PASS}:
            if len(passes) > 1:
                raise self._different_ways(sorted(map(str, passes)))
            if what == PASS:
                return [value]
            assert self.companion is not None
            self.companion.join_pass(*passes)
            words = self._exchange((what, value))
        different = sorted({word for word, _ in words})
        if len(different) > 1:
            raise self._different_ways(different)
        return [value for _, value in words]

    def _different_ways(self, met: Sequence[str]) -> PluginError:
        self._has_failed = True  # on every rank, so nobody has to be told
        return PluginError(
            f"the {self.size} processes went different ways and met for {' and '.join(met)}: a method has to call "
            "gather, backward and update alike on every process"
        )

    @contextmanager
    def guard_pass(self) -> Iterator[None]:
        """As `Ranks.guard_pass`."""
        try:
            yield
        except Exception as error:  # whatever it is, it is raised again below; first the others must come to know
            self._has_failed = True  # they wait for this pass, and hear of it when the connection ends
            if isinstance(error, dist.DistError) or "/gloo/" in str(error):
                raise self._lost_another(error) from error
            raise

    def all_gather(self, rows: Tensor) -> Tensor:
        """As `Ranks.all_gather`."""
        counts = self.all_gather_object("gather", len(rows))
        if not any(counts):
            return rows
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        padded = sent.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = sent
        received = [torch.empty_like(padded) for _ in counts]
        self._told(lambda: dist.all_gather(received, padded.contiguous()))
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(rows.dtype)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """As `Ranks.sum_gradients`."""
        plain = [p for p in parameters if not is_sharded(p)]  # those of parts were added up in the backward pass
        present = self.all_gather_object("update", [p.grad is not None for p in plain])
        gradients = []
        for parameter, *has in zip(plain, *present, strict=True):
            if any(has):
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            self._told(partial(dist.all_reduce, flat))
            for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """As `Ranks.raise_together`."""
        self._has_failed = False
        try:
            yield
            self.all_gather_object("end", None)
        except BenchError as error:
            if not self._has_failed:
                self._exchange(_Failure(type(error).__name__, str(error)))
            raise

    def _exchange(self, word: Any) -> list[Any]:
        """Every rank's word; raises what the others failed of."""
        words: list[Any] = [None] * self.size
        self._told(lambda: dist.all_gather_object(words, word))
        failures = [(rank, word) for rank, word in enumerate(words) if isinstance(word, _Failure)]
        if failures:
            self._has_failed = True
            # A budget that ends is no failure: where another rank failed, all have failed
            rank, failure = min(failures, key=lambda item: item[1].kind == BudgetExhausted.__name__)
            if rank != self.rank:
                raise failure.error(rank, self.size)
        return words

    def _told(self, collective: Callable[[], object]) -> None:
        """Run a collective; a rank that is gone becomes one message."""
        try:
            collective()
        except (RuntimeError, dist.DistError) as error:
            self._has_failed = True
            raise self._lost_another(error) from error

    def _lost_another(self, error: Exception) -> BenchError:
        return BenchError(
            f"process {self.rank} of {self.size} has lost another one: its own message says why ({error})"
        )


class _Failure:
    """Travels in place of a value: what a rank failed of."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        self.message = message

    def error(self, rank: int, size: int) -> BenchError:
        """The same error, for the other ranks."""
        kind = getattr(api, self.kind, BenchError)
        return kind(f"process {rank} of {size}: {self.message}")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type, of about `BUCKET` elements in all."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket

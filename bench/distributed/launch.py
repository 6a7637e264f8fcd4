"""Where a process stands among those that torchrun has started.

Under such a launcher every process is a `bench run` of its own with a worker of its own for each cell; the workers of
one cell train it together (`bench.distributed.ranks`). The first process decides which cell is next and writes
everything down, the others follow it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.api import ConfigError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_RETRY_SECONDS = 0.1
_END = "end"


@dataclass(frozen=True)
class RankInfo:
    """One process among `size`: its rank over all machines and on its own, and where all of them meet.

    hosts: whether this process keeps the meeting place, where the launcher does not. key: what is being met for.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    hosts: bool
    key: str

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ, *, shard: bool = False) -> RankInfo | None:
        """As the launcher says; None where this process was started on its own.

        Raises:
            ConfigError: the launcher says only a part of it; or this process is on its own, and is to share weights.
        """
        if int(environment.get("WORLD_SIZE", "1")) == 1:
            refuse_alone(shard, 1)
            return None
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is missing: start with torchrun, "
                "or unset WORLD_SIZE"
            )
        rank = int(environment["RANK"])
        has_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(
            rank=rank, size=int(environment["WORLD_SIZE"]), local_rank=int(environment.get("LOCAL_RANK", rank)),
            host=environment["MASTER_ADDR"], port=int(environment["MASTER_PORT"]), hosts=rank == 0 and not has_store,
            key=f"bench/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        )  # fmt: skip

    def store(self) -> TCPStore:
        """The keys and values that all processes share."""
        from torch.distributed import TCPStore

        return TCPStore(self.host, self.port, is_master=self.hosts, wait_for_workers=False)

    def for_cell(self, number: int) -> RankInfo:
        """The place of this process's worker in the `number`-th cell of the run."""
        return replace(self, hosts=False, key=f"{self.key}/{number}")


def refuse_alone(shard: bool, size: int) -> None:
    """Make sure that there is somebody to share weights with, among `size` processes.

    Raises:
        ConfigError: this process is on its own, and is to share.
    """
    if shard and size == 1:
        raise ConfigError(
            "--shard shares weights out over several processes, but this is one on its own: start with "
            "`torchrun --nproc-per-node N -m bench run ...`, or leave it out"
        )


class Team:
    """The processes of one run. The first one leads: `begin` and `end`; the others see the same by `cells`."""

    def __init__(self, place: RankInfo) -> None:
        self.place = place
        self._store = place.store()
        self._number = 0

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.place.rank == 0

    def begin(self, cell: str) -> RankInfo:
        """Tell the others which cell is next; the place of this process's worker in it."""
        self._store.set(self._key(), cell)
        return self._next()

    def end(self) -> None:
        """Tell the others that there is no further cell; where this process keeps the meeting place, wait for them."""
        self._store.set(self._key(), _END)
        if self.place.hosts:
            self._store.wait([self._left(rank) for rank in range(1, self.place.size)])

    def cells(self) -> Iterator[tuple[str, RankInfo]]:
        """The cells that the first process begins, each with the place of this process's worker in it."""
        while True:
            while not self._store.check([self._key()]):
                time.sleep(_RETRY_SECONDS)
            cell = self._store.get(self._key()).decode()
            if cell == _END:
                self._store.set(self._left(self.place.rank), "")
                return
            yield cell, self._next()

    def _key(self) -> str:
        return f"{self.place.key}/cell/{self._number}"

    def _left(self, rank: int) -> str:
        return f"{self.place.key}/left/{rank}"

    def _next(self) -> RankInfo:
        place = self.place.for_cell(self._number)
        self._number += 1
        return place

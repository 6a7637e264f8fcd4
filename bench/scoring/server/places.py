"""Places of those who have not sent all that they are to send: a new one gets in, whoever has been silent gives way."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Places:
    """At most `count` places, of which one client (an address) has `per_client` at most.

    Where none is free, the one that was not heard for longest gives way: the client's own, where it has as many as one
    may have, else of the client that has the most. So whoever sends gets in, however many say nothing.
    """

    def __init__(self, count: int, per_client: int) -> None:
        self._count, self._per_client = count, per_client
        self._taken: dict[Hashable, tuple[str, Callable[[], None]]] = {}  # the one that was heard last comes last

    def take(self, who: Hashable, client: str, give_way: Callable[[], None]) -> None:
        """Take a place; `give_way` is called when another one needs it."""
        own = self._of(client)
        if len(own) >= self._per_client:
            self._end(own[0])
        elif len(self._taken) >= self._count:
            clients = {name for name, _ in self._taken.values()}
            self._end(max((self._of(name) for name in sorted(clients)), key=len)[0])
        self._taken[who] = client, give_way

    def heard(self, who: Hashable) -> None:
        """It has sent something."""
        if who in self._taken:
            self._taken[who] = self._taken.pop(who)

    def leave(self, who: Hashable) -> None:
        """Its place is free, if it still has one."""
        self._taken.pop(who, None)

    def _of(self, client: str) -> list[Hashable]:
        return [who for who, (name, _) in self._taken.items() if name == client]

    def _end(self, who: Hashable) -> None:
        _, give_way = self._taken.pop(who)
        give_way()

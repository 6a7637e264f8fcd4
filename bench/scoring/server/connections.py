"""Connections that have not sent the head of a request yet, and so no token: bounded in time and in number."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from bench.scoring.server.places import Places


def bounded_protocol(seconds: float, count: int, per_client: int) -> type[H11Protocol]:
    """uvicorn's protocol, which closes a connection whose next head has not come after `seconds`.

    At most `count` connections wait so, `per_client` of one address: the oldest gives way to a new one, so that whoever
    sends a head at once gets in however many say nothing.
    """
    places = Places(count, per_client)
    timers: dict[H11Protocol, asyncio.TimerHandle] = {}

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            wait(self)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:  # a request has begun
                forget(self)

        def on_response_complete(self) -> None:
            super().on_response_complete()  # which takes up the next request, where that has come already
            if self.cycle.response_complete and not self.transport.is_closing():
                wait(self)

        def connection_lost(self, exc: Exception | None) -> None:
            forget(self)
            super().connection_lost(exc)

    def wait(connection: H11Protocol) -> None:
        places.take(connection, connection.client[0] if connection.client else "", lambda: close(connection))
        timers[connection] = connection.loop.call_later(seconds, close, connection)

    def forget(connection: H11Protocol) -> None:
        places.leave(connection)
        if connection in timers:
            timers.pop(connection).cancel()

    def close(connection: H11Protocol) -> None:
        forget(connection)
        connection.transport.abort()

    return BoundedProtocol

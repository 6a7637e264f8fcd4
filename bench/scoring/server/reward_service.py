"""The HTTP service: which request is let in, and its response. Scoring happens in the scorers' own processes.

    GET  /health                 {"result": "ok"}; the only one that needs no token
    GET  /rewards                every scorer with version, range, fingerprint, ..., and the limits of a request
    POST /rewards/NAME/score     a body of `scoring_request`; scores encoded by `bench.scoring.workers.messages`
    POST /rewards/NAME/flops     the same with one picture; the FLOPs of scoring it

Every response is JSON: {"result": ...} with status 200, or {"error": kind of error, "message": text} with another.
Nothing is kept of a request: one that comes again is scored again, with the same scores.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.api import BenchError, ConfigError, PluginError
from bench.scoring.server.places import Places
from bench.scoring.server.scoring_request import RequestLimits, ScoringRequest, decode_request, mebibytes
from bench.scoring.workers.messages import encode_error, encode_scores
from bench.scoring.workers.remote_reward import ProcessReward

MAX_CONCURRENT = 32  # requests that are scored at once; others are told that the server is busy
MAX_BODIES = 32  # that are read at once, before any of them has one of those places; a silent one gives way
BODY_SECONDS = 10.0  # that a body may take whatever its size, and beyond them BYTES_PER_SECOND at least
BYTES_PER_SECOND = 8192

Handler = Callable[[Request], Awaitable[Any]]


class RequestRefused(Exception):
    """A request that is not let in: the status, and a message that says what was expected."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RewardService:
    """Serves loaded scorers by name; `hosts` are the host names that requests may be for, empty: any."""

    def __init__(
        self, rewards: Mapping[str, ProcessReward], limits: RequestLimits, token: str | None, hosts: Collection[str]
    ) -> None:
        self._rewards = rewards
        self._limits = limits
        self._token = token
        self._hosts = hosts
        self._admitted = 0  # requests that are being worked on
        self._bodies = Places(MAX_BODIES, MAX_BODIES)

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        return Starlette(
            routes=[
                Route("/health", partial(self._respond, self._health, is_open=True)),
                Route("/rewards", partial(self._respond, self._describe)),
                Route("/rewards/{name}/score", partial(self._respond, self._score), methods=["POST"]),
                Route("/rewards/{name}/flops", partial(self._respond, self._flops), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _no_such_page, Exception: _unexpected},
        )

    async def _respond(self, handler: Handler, request: Request, *, is_open: bool = False) -> Response:
        """The result of the handler, or why the request is refused."""
        try:
            self._require_own_host(request)
            if not is_open:
                self._require_token(request)
                self._require_place()
            return _json({"result": await handler(request)})
        except RequestRefused as error:
            return _error(error.status, ConfigError(str(error)))
        except BenchError as error:
            return _error(500 if isinstance(error, PluginError) else 422, error)

    def _require_own_host(self, request: Request) -> None:
        """Refuse what is meant for another host, and what a page of another site has a browser post here."""
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0].strip("[]")
        if self._hosts and name not in self._hosts:
            expected = " or ".join(sorted(self._hosts))
            raise RequestRefused(421, f"expected a request for the host {expected}, got {name!r}")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if request.method == "POST" and (is_foreign or site not in ("same-origin", "none")):
            raise RequestRefused(403, f"expected a client of this server, got a page of another site, {origin or site}")

    def _require_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), (self._token or "").encode())
        if self._token is not None and not is_known:
            told = "expected the token that the server was started with (Authorization: Bearer TOKEN): set "
            raise RequestRefused(401, f"{told}BENCH_REWARD_TOKEN to it")

    def _require_place(self) -> None:
        """Refuse a request that none of the places for scoring is free for, if possible before its body is read."""
        if self._admitted >= MAX_CONCURRENT:
            raise RequestRefused(503, f"expected at most {MAX_CONCURRENT} requests at once: send it again later")

    @contextmanager
    def _admission(self) -> Iterator[None]:
        """One of the places for scoring, of a request that has come whole."""
        self._require_place()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def _health(self, request: Request) -> str:
        return "ok"

    async def _describe(self, request: Request) -> dict[str, Any]:
        rewards = {name: describe_reward(reward) for name, reward in self._rewards.items()}
        return {"rewards": rewards, "limits": dataclasses.asdict(self._limits)}

    async def _score(self, request: Request) -> dict[str, Any]:
        reward, batch = await self._batch(request)
        with self._admission():
            return encode_scores(await run_sync(reward.submit(batch.images, batch.prompts, batch.metadata)))

    async def _flops(self, request: Request) -> float:
        reward, batch = await self._batch(request)
        one = batch.images[0], batch.prompts[0], batch.metadata[0]
        with self._admission():
            return await run_sync(partial(reward.measure_worker_flops, *one))

    async def _batch(self, request: Request) -> tuple[ProcessReward, ScoringRequest]:
        """The scorer that a request names, and its pictures."""
        name = request.path_params["name"]
        if name not in self._rewards:
            raise RequestRefused(404, f"no scorer {name!r} is served here, only {', '.join(self._rewards)}")
        batch = decode_request(await self._body(request))
        if len(batch.images) > self._limits.pictures:
            raise RequestRefused(413, f"expected at most {self._limits.pictures} pictures, got {len(batch.images)}")
        reward = self._rewards[name]
        now = {"version": reward.version, "fingerprint": reward.fingerprint, "code": reward.code}
        if batch.scorer != now:
            told = f"{name}: expected {batch.scorer}, but the server has {now} by now: start the run again"
            raise RequestRefused(409, told)
        return reward, batch

    async def _body(self, request: Request) -> bytes:
        """The body, as far and as long as the limits let it come."""
        limit, body, begin = self._limits.bytes, bytearray(), anyio.current_time()
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            raise _too_large(limit, int(declared) if declared.isdecimal() else None)
        has_given_way = False

        def give_way() -> None:
            nonlocal has_given_way
            has_given_way = True
            scope.cancel()

        def seconds() -> float:
            return min(self._limits.seconds, BODY_SECONDS + len(body) / BYTES_PER_SECOND)

        with anyio.CancelScope(deadline=begin + seconds()) as scope:
            self._bodies.take(request, request.client.host if request.client else "", give_way)
            try:
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise _too_large(limit, None)
                    self._bodies.heard(request)
                    scope.deadline = begin + seconds()
            finally:
                self._bodies.leave(request)
        if scope.cancelled_caught:
            raise _not_whole(len(body), None if has_given_way else seconds())
        return bytes(body)


def describe_reward(reward: ProcessReward) -> dict[str, Any]:
    """What a client has to know of a scorer; a range without bound has null there."""
    low, high = (float(bound) if math.isfinite(bound) else None for bound in reward.range)
    return {
        "version": reward.version, "fingerprint": reward.fingerprint, "code": reward.code, "range": [low, high],
        "higher_is_better": reward.higher_is_better, "reads_prompts": reward.reads_prompts, "gold": reward.gold,
        "source": reward.source,
    }  # fmt: skip


def _too_large(limit: int, size: int | None) -> RequestRefused:
    """A body of `size` bytes, None where nobody has said how many."""
    came, mend = ("more", "a larger --max-mb") if size is None else (f"{size:,}", f"--max-mb {mebibytes(size)}")
    told = f"expected a body of at most {limit:,} bytes, got {came}"
    return RequestRefused(413, f"{told}: send fewer pictures at once; a single one needs {mend}")


def _not_whole(came: int, seconds: float | None) -> RequestRefused:
    """A body of which so many bytes came in time; seconds None: until another one needed its place."""
    if seconds is None:
        told = f"expected at most {MAX_BODIES} bodies at once, and this one said nothing for longest after {came:,}"
        return RequestRefused(503, f"{told} bytes: send it again")
    told = f"expected the whole body within {round(seconds, 1):g} s, got {came:,} bytes"
    return RequestRefused(408, f"{told}: send at least {BYTES_PER_SECOND:,} bytes a second, or fewer pictures at once")


def _error(status: int, error: BenchError) -> Response:
    return _json(encode_error(error), status)


def _json(content: Any, status: int = 200) -> Response:
    """Python's JSON, which has NaN, so that a scorer that gives it is refused by the client."""
    return Response(json.dumps(content), status, media_type="application/json")


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    pages = "GET /health, GET /rewards, POST /rewards/NAME/score, POST /rewards/NAME/flops"
    told = f"{request.method} {request.url.path}: {error.detail}; expected one of {pages}"
    return _error(error.status_code, ConfigError(told))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _error(500, PluginError(f"unexpected error in the server: {type(error).__name__}: {error}"))

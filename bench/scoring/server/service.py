"""The HTTP service: which request is let in, and what it is answered. Scoring happens in the scorers' own processes.

    GET  /health                 {"given": "ok"}; the only one that needs no token
    GET  /rewards                every scorer with version, range, fingerprint, ..., and the limits
    POST /rewards/NAME/score     a body of `wire`; the packed scores of `bench.scoring.workers.messages`
    POST /rewards/NAME/flops     the same with one picture; the FLOPs of scoring it

Every answer is JSON: {"given": ...} with status 200, or {"refused": kind of error, "message": text} with another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.api import BenchError, PluginError
from bench.scoring.server.wire import REQUEST_ID, ScoringRequest, decode_request, mebibytes
from bench.scoring.workers.messages import answer_message
from bench.scoring.workers.remote_reward import ProcessReward

Work = Callable[[Request], Awaitable[Any]]


@dataclass(frozen=True)
class Limits:
    """Of one request: pictures, bytes of its body, and seconds for its body to arrive and for its scoring each."""

    pictures: int = 256
    bytes: int = 256 << 20
    seconds: float = 600.0


class Refusal(Exception):
    """A request that is not let in: the status, and a message that says what was expected."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """Serves loaded scorers by name; `hosts` are the names by which the server may be asked for, empty: any."""

    def __init__(
        self, rewards: Mapping[str, ProcessReward], limits: Limits, token: str | None, hosts: Collection[str]
    ) -> None:
        self._rewards = rewards
        self._limits = limits
        self._token = token
        self._hosts = hosts

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        return Starlette(
            routes=[
                Route("/health", partial(self._answer, self._health, is_open=True)),
                Route("/rewards", partial(self._answer, self._about)),
                Route("/rewards/{name}/score", partial(self._answer, self._score), methods=["POST"]),
                Route("/rewards/{name}/flops", partial(self._answer, self._flops), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _no_such_page, Exception: _unexpected},
        )

    async def _answer(self, work: Work, request: Request, *, is_open: bool = False) -> Response:
        """What `work` gives, or why the request is refused."""
        try:
            self._admit(request, is_open)
            return _json({"given": await work(request)})
        except Refusal as error:
            return _refused(error.status, "ConfigError", str(error))
        except BenchError as error:
            status = 500 if isinstance(error, PluginError) else 422
            return _json(answer_message(partial(_raise, error)), status)

    def _admit(self, request: Request, is_open: bool) -> None:
        host = request.headers.get("host", "").rsplit(":", 1)[0].strip("[]")
        if self._hosts and host not in self._hosts:
            raise Refusal(421, f"expected to be asked for as {' or '.join(sorted(self._hosts))}, got {host!r}")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._token is not None and not is_open and not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refusal(401, "expected the token that the server was started with: set BENCH_REWARD_TOKEN to it")

    async def _health(self, request: Request) -> str:
        return "ok"

    async def _about(self, request: Request) -> dict[str, Any]:
        limits = {"pictures": self._limits.pictures, "bytes": self._limits.bytes, "seconds": self._limits.seconds}
        return {"rewards": {name: described(reward) for name, reward in self._rewards.items()}, "limits": limits}

    async def _score(self, request: Request) -> Any:
        reward, batch, digest = await self._batch(request)
        key = request.headers.get(REQUEST_ID, "")
        if not re.fullmatch(r"[A-Za-z0-9-]{8,64}", key):
            raise Refusal(400, f"expected an id of 8 to 64 letters, digits and '-' in {REQUEST_ID}, got {key!r}")
        return await run_sync(reward.begin(batch.images, batch.prompts, batch.metadata, (key, digest)))

    async def _flops(self, request: Request) -> Any:
        reward, batch, _ = await self._batch(request)
        return await run_sync(
            partial(reward.measure_worker_flops, batch.images[0], batch.prompts[0], batch.metadata[0])
        )

    async def _batch(self, request: Request) -> tuple[ProcessReward, ScoringRequest, str]:
        """The scorer that is asked, its pictures, and the digest of the whole request."""
        name = request.path_params["name"]
        if name not in self._rewards:
            raise Refusal(404, f"no scorer {name!r} is served here, only {', '.join(self._rewards)}")
        body = await self._body(request)
        batch = decode_request(body)
        if len(batch.images) > self._limits.pictures:
            raise Refusal(413, f"expected at most {self._limits.pictures} pictures, got {len(batch.images)}")
        reward = self._rewards[name]
        now = {"version": reward.version, "fingerprint": reward.fingerprint}
        if batch.scorer != now:
            raise Refusal(409, f"{name}: expected {batch.scorer}, but the server has {now} by now: start the run again")
        return reward, batch, hashlib.blake2b(name.encode() + b"\0" + body, digest_size=16).hexdigest()

    async def _body(self, request: Request) -> bytes:
        """The body, as far as the limits let it come."""
        limit, body = self._limits.bytes, bytearray()
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            raise _too_large(limit, int(declared) if declared.isdecimal() else None)
        try:
            with anyio.fail_after(self._limits.seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise _too_large(limit, None)
        except TimeoutError:
            told = f"expected the whole body within {self._limits.seconds:g} s, got {len(body):,} bytes"
            raise Refusal(408, told) from None
        return bytes(body)


def described(reward: ProcessReward) -> dict[str, Any]:
    """What a client has to know of a scorer; a range without bound has null there."""
    low, high = (float(bound) if math.isfinite(bound) else None for bound in reward.range)
    return {
        "version": reward.version, "fingerprint": reward.fingerprint, "range": [low, high],
        "higher_is_better": reward.higher_is_better, "reads_prompts": reward.reads_prompts, "gold": reward.gold,
        "source": reward.source,
    }  # fmt: skip


def _too_large(limit: int, size: int | None) -> Refusal:
    """A body of `size` bytes, None where nobody has said how many."""
    came, mend = ("more", "a larger --max-mb") if size is None else (f"{size:,}", f"--max-mb {mebibytes(size)}")
    told = f"expected a body of at most {limit:,} bytes, got {came}"
    return Refusal(413, f"{told}: send fewer pictures at once; a single one needs {mend}")


def _raise(error: BenchError) -> None:
    raise error


def _refused(status: int, kind: str, message: str) -> Response:
    return _json({"refused": kind, "message": message}, status)


def _json(content: Any, status: int = 200) -> Response:
    """Python's JSON, which has NaN, so that a scorer that gives it is told so by the client."""
    return Response(json.dumps(content), status, media_type="application/json")


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    pages = "GET /health, GET /rewards, POST /rewards/NAME/score, POST /rewards/NAME/flops"
    told = f"{request.method} {request.url.path}: {error.detail}; expected one of {pages}"
    return _refused(error.status_code, "ConfigError", told)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _refused(500, "PluginError", f"unexpected error in the server: {type(error).__name__}: {error}")

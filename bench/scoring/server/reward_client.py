"""A reward whose scores a server computes: a request whose response was lost is sent, and scored, again."""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from bench.api import BenchError, ConfigError, Reward
from bench.scoring.server.scoring_request import TOKEN_VARIABLE, RequestLimits, encode_request, mebibytes
from bench.scoring.workers.messages import decode_result, decode_scores
from bench.scoring.workers.remote_reward import RemoteReward
from bench.scoring.workers.worker_process import SECONDS

CONTACT_SECONDS = 5.0  # that a server may be away at the first request
CONNECT_SECONDS = 10.0  # that it may take to accept a connection: it does so even while it loads
OUTAGE_SECONDS = 60.0  # that a server may be away later on
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_LONGEST_RESPONSE = 64 << 20
_BUSY = 503
_MUST_AGREE = ("version", "range", "higher_is_better", "reads_prompts")


class RewardServerError(BenchError):
    """The reward server cannot be reached, or its response is not what it should be."""


class RewardServer:
    """A reward server at `url`, with the token of $BENCH_REWARD_TOKEN where that is set.

    `seconds` bounds the wait for its list of scorers, which it gives once they are loaded; None does not.
    """

    def __init__(self, url: str, seconds: float | None = SECONDS) -> None:
        self.url, self._seconds = url.rstrip("/"), seconds
        parts = urlsplit(self.url)
        try:
            self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"--reward-server {url}: {error}") from error
        if parts.scheme not in ("http", "https") or not self._host or parts.path or parts.query or parts.username:
            raise ConfigError(f"--reward-server {url}: expected http://HOST:PORT, as `serve-rewards` prints it")

    @property
    def rewards(self) -> dict[str, dict[str, Any]]:
        """The scorers by name, with what the server declares of each."""
        return self._description["rewards"]

    @property
    def limits(self) -> RequestLimits:
        """What one request may hold."""
        return RequestLimits(**self._description["limits"])

    @cached_property
    def _description(self) -> dict[str, Any]:
        return self.request("GET", "/rewards", seconds=self._seconds, outage=CONTACT_SECONDS)

    def request(
        self, method: str, path: str, body: bytes | None = None, *, seconds: float | None,
        outage: float = OUTAGE_SECONDS,
    ) -> Any:  # fmt: skip
        """The result of a request, within `seconds` in all (None: however long).

        A connection that is refused or lost is tried again, after longer and longer pauses of `outage` seconds in all
        at most: the server may then score the same pictures twice, and gives the same scores. A server that is busy is
        tried again until `seconds` are over.

        Raises:
            RewardServerError: it does not respond in time, is busy all the time, or does not respond in JSON.
            BenchError: what it says of the request, or of the scorer.
        """
        pause, begin, away = _FIRST_PAUSE, time.monotonic(), 0.0
        while True:
            left = None if seconds is None else max(_FIRST_PAUSE, begin + seconds - time.monotonic())
            problem: Exception | None = None
            try:
                status, content = self._send(method, path, body, left)
                if status != _BUSY:
                    return self._result(status, content)
                away = 0.0
            except (OSError, http.client.HTTPException) as error:
                problem = error
                away += pause
            now = time.monotonic()
            if seconds is not None and now + pause > begin + seconds:
                raise self._timed_out(f"{method} {path}", seconds, problem)
            if away > outage:
                raise RewardServerError(
                    f"reward server {self.url} cannot be reached, for {now - begin:.0f} s by now ({problem}): expected "
                    "`python -m bench serve-rewards` there; start it, then give the same command again"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _send(self, method: str, path: str, body: bytes | None, seconds: float | None) -> tuple[int, bytes]:
        """One try: status and content of the response."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connecting = CONNECT_SECONDS if seconds is None else min(seconds, CONNECT_SECONDS)
        connection = kind(str(self._host), self._port, timeout=connecting)
        headers = {"Content-Type": "application/octet-stream"}
        if token := os.environ.get(TOKEN_VARIABLE):
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.connect()
            connection.sock.settimeout(seconds)
            with suppress(ConnectionError):  # it may respond, and close, before it has read the whole body
                connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read(_LONGEST_RESPONSE)
            if response.length and len(content) < _LONGEST_RESPONSE:  # which read(size) does not tell
                raise http.client.IncompleteRead(content, response.length)
            return response.status, content
        finally:
            connection.close()

    def _result(self, status: int, content: bytes) -> Any:
        try:
            message = json.loads(content)
            if not isinstance(message, Mapping) or not {"result", "error"} & set(message):
                raise ValueError("neither result nor error")
        except (ValueError, RecursionError) as error:
            raise RewardServerError(
                f"reward server {self.url}: expected a response in JSON, got {content[:80]!r} with status {status} "
                f"({error}): is this the address that `serve-rewards` printed?"
            ) from error
        return decode_result(message, lambda text: f"reward server {self.url}: {text}")

    def _timed_out(self, request: str, seconds: float, problem: Exception | None) -> RewardServerError:
        """That the time is over; without a `problem` the server was busy."""
        if problem is None:
            return RewardServerError(
                f"reward server {self.url} is busy: it has not let in {request} within {seconds:g} s; send "
                "requests from fewer workers, or give it more time (--reward-seconds of `run`)"
            )
        return RewardServerError(
            f"reward server {self.url} has not responded to {request} within {seconds:g} s ({problem}): look whether "
            "it still loads its scorers, or one of them hangs, or give it more time (--reward-seconds of `run`)"
        )


class ServedReward(RemoteReward):
    """A reward that a server computes. Its class is known here too, and has to be the same: only weights may be there.

    Every part of a batch is one request. One whose response was lost, as when the server was killed and started anew,
    is scored again: a scorer of one version and checkpoint gives the same pictures the same scores. What scoring costs
    is counted by the caller, once for each picture.
    """

    is_served: ClassVar[bool] = True

    def __init__(self, reward_class: type[Reward], server: RewardServer, seconds: float | None) -> None:
        """`seconds` bounds a request, all tries included."""
        super().__init__(reward_class)
        self._server, self._seconds = server, seconds

    @property
    def placement(self) -> str:
        """Not which server: another one with the same scorer is as good."""
        return "server"

    def load(self) -> None:
        """Take over the fingerprint of the server's scorer.

        Raises:
            ConfigError: the server's is another version than the one here, or has other code.
        """
        there = self._server.rewards[self.name]
        bounds = [float(bound) if math.isfinite(bound) else None for bound in self.range]
        here = {name: getattr(self, name) for name in _MUST_AGREE} | {"range": bounds}
        if changed := [name for name in _MUST_AGREE if there.get(name) != here[name]]:
            name = changed[0]
            raise ConfigError(
                f"reward server {self._server.url}: expected {self.name} with {name} {here[name]}, as it is here, but "
                f"it has {there.get(name)} there: install the same version in both places"
            )
        if there.get("code") != self.code:
            raise ConfigError(
                f"reward server {self._server.url}: expected {self.name} with the source that it has here (hash "
                f"{self.code}), but it has another there ({there.get('code')}): put the same files in both places, and "
                "start the server again"
            )
        self.fingerprint = str(there["fingerprint"])

    def close(self) -> None:
        """Nothing is held."""

    def _scores(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        parts = []
        for rows in self._parts(images):
            body = self._body(images[rows], prompts[rows], metadata[rows])
            parts.append(decode_scores(self._post("score", body)))
            if parts[-1].shape != (len(images[rows]),):
                return parts[-1]  # what is not one score for each picture is refused as such
        return np.concatenate(parts)

    def _flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        return float(self._post("flops", self._body(image[None], [prompt], [metadata])))

    def _post(self, page: str, body: bytes) -> Any:
        return self._server.request("POST", f"/rewards/{self.name}/{page}", body, seconds=self._seconds)

    def _body(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> bytes:
        """The body of a request.

        Raises:
            ConfigError: it holds one picture, and is larger than the server lets in.
        """
        scorer = {"version": self.version, "fingerprint": self.fingerprint, "code": self.code}
        body = encode_request(images, prompts, metadata, scorer)
        limit = self._server.limits.bytes
        if len(images) == 1 and len(body) > limit:
            raise ConfigError(
                f"reward server {self._server.url}: expected at most {limit:,} bytes at once, but one picture of shape "
                f"{images[0].shape} has {len(body):,} with its prompt: start it with --max-mb {mebibytes(len(body))}"
            )
        return body

    def _parts(self, images: np.ndarray) -> Iterator[slice]:
        """Rows that one request may hold, a quarter of its bytes left to the prompts."""
        limits = self._server.limits
        fits = 3 * limits.bytes // 4 // max(1, images[0].nbytes)
        size = max(1, min(limits.pictures, fits))
        return (slice(start, start + size) for start in range(0, len(images), size))

"""A reward whose scores a server gives: asked again after a loss, answered once."""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from bench.api import BenchError, ConfigError, Reward
from bench.scoring.server.wire import REQUEST_ID, TOKEN_VARIABLE, encode_request, mebibytes
from bench.scoring.workers.messages import message_value, unpack_scores
from bench.scoring.workers.remote_reward import RemoteReward
from bench.scoring.workers.worker_process import SECONDS

CONTACT_SECONDS = 5.0  # that a server may be away when it is asked for the first time
CONNECT_SECONDS = 10.0  # that it may take to accept a connection: it does so even while it loads
OUTAGE_SECONDS = 60.0  # that a server may be away later on
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_LONGEST_ANSWER = 64 << 20
_BUSY = 503
_AGREED = ("version", "range", "higher_is_better", "reads_prompts")


class RewardServerError(BenchError):
    """The reward server cannot be reached, or answers with something else than it should."""


class Server:
    """A reward server at `url`, asked with the token of $BENCH_REWARD_TOKEN where that is set.

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

    @cached_property
    def about(self) -> dict[str, Any]:
        """`rewards` by name with what the server says of them, and its `limits`."""
        return self.ask("GET", "/rewards", seconds=self._seconds, outage=CONTACT_SECONDS)

    @property
    def rewards(self) -> dict[str, dict[str, Any]]:
        """The scorers by name."""
        return self.about["rewards"]

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, seconds: float | None,
        outage: float = OUTAGE_SECONDS,
    ) -> Any:  # fmt: skip
        """What the server gives, within `seconds` in all (None: however long).

        A connection that is refused or lost is tried again, after longer and longer pauses of `outage` seconds in all
        at most, as one request with one id: the server scores it once. A server that is busy is asked again until
        `seconds` are over.

        Raises:
            RewardServerError: it does not answer in time, is busy all the time, or does not answer in JSON.
            BenchError: what it says of the request, or of the scorer.
        """
        request, pause = uuid.uuid4().hex, _FIRST_PAUSE
        begin, away = time.monotonic(), 0.0
        while True:
            left = None if seconds is None else max(_FIRST_PAUSE, begin + seconds - time.monotonic())
            problem: Exception | None = None
            try:
                status, answer = self._once(method, path, body, request, left)
                if status != _BUSY:
                    return self._read(status, answer)
                away = 0.0
            except (OSError, http.client.HTTPException) as error:
                problem = error
                away += pause
            now = time.monotonic()
            if seconds is not None and now + pause > begin + seconds:
                raise self._late(f"{method} {path}", seconds, problem)
            if away > outage:
                raise RewardServerError(
                    f"reward server {self.url} cannot be reached, for {now - begin:.0f} s by now ({problem}): expected "
                    "`python -m bench serve-rewards` there; start it, then give the same command again"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _late(self, request: str, seconds: float, problem: Exception | None) -> RewardServerError:
        """That the time is over; without a `problem` the server was busy."""
        if problem is None:
            return RewardServerError(
                f"reward server {self.url} is busy: it has not let in {request} within {seconds:g} s; ask "
                "it from fewer workers, or give it more time (--reward-seconds of `run`)"
            )
        return RewardServerError(
            f"reward server {self.url} has not answered {request} within {seconds:g} s ({problem}): look whether it "
            "still loads its scorers, or one of them hangs, or give it more time (--reward-seconds of `run`)"
        )

    def _once(
        self, method: str, path: str, body: bytes | None, request: str, seconds: float | None
    ) -> tuple[int, bytes]:
        """One try: status and body of the answer."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connecting = CONNECT_SECONDS if seconds is None else min(seconds, CONNECT_SECONDS)
        connection = kind(str(self._host), self._port, timeout=connecting)
        headers = {REQUEST_ID: request, "Content-Type": "application/octet-stream"}
        if token := os.environ.get(TOKEN_VARIABLE):
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.connect()
            connection.sock.settimeout(seconds)
            with suppress(ConnectionError):  # it may answer, and close, before it has read the whole body
                connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(_LONGEST_ANSWER)
            if response.length and len(answer) < _LONGEST_ANSWER:  # which read(size) does not tell
                raise http.client.IncompleteRead(answer, response.length)
            return response.status, answer
        finally:
            connection.close()

    def _read(self, status: int, answer: bytes) -> Any:
        try:
            found = json.loads(answer)
            if not isinstance(found, Mapping) or not {"given", "refused"} & set(found):
                raise ValueError("neither given nor refused")
        except (ValueError, RecursionError) as error:
            raise RewardServerError(
                f"reward server {self.url}: expected an answer in JSON, got {answer[:80]!r} with status {status} "
                f"({error}): is this the address that `serve-rewards` printed?"
            ) from error
        return message_value(found, lambda message: f"reward server {self.url}: {message}")


class ServedReward(RemoteReward):
    """A reward that a server computes. Its class is known here too, and has to be the same: only weights may be there.

    Every part of a batch is one request. Its scores are kept on the server's disk before they are sent, so that a part
    whose answer was lost is not scored again, not even by a server that was killed and started anew.
    """

    is_served: ClassVar[bool] = True

    def __init__(self, cls: type[Reward], server: Server, seconds: float | None) -> None:
        """`seconds` bounds a call, all tries included."""
        super().__init__(cls)
        self._server, self._seconds = server, seconds

    @property
    def where(self) -> str:
        """Not which server: another one with the same scorer is as good."""
        return "server"

    def load(self) -> None:
        """Take over what the server says of the scorer.

        Raises:
            ConfigError: the server's is another version than the one here.
        """
        there = self._server.rewards[self.name]
        bounds = [float(bound) if math.isfinite(bound) else None for bound in self.range]
        here = {name: getattr(self, name) for name in _AGREED} | {"range": bounds}
        if changed := [name for name in _AGREED if there.get(name) != here[name]]:
            name = changed[0]
            raise ConfigError(
                f"reward server {self._server.url}: expected {self.name} with {name} {here[name]}, as it is here, but "
                f"it has {there.get(name)} there: install the same version in both places"
            )
        self.fingerprint = str(there["fingerprint"])

    def close(self) -> None:
        """Nothing is held."""

    def _scores(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        parts = []
        for rows in self._parts(images):
            body = self._body(images[rows], prompts[rows], metadata[rows])
            packed = self._server.ask("POST", f"/rewards/{self.name}/score", body, seconds=self._seconds)
            parts.append(unpack_scores(packed))
            if parts[-1].shape != (len(images[rows]),):
                return parts[-1]  # what is not one score for each picture is told as such
        return np.concatenate(parts)

    def _flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        body = self._body(image[None], [prompt], [metadata])
        return float(self._server.ask("POST", f"/rewards/{self.name}/flops", body, seconds=self._seconds))

    def _body(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> bytes:
        """The body of a request.

        Raises:
            ConfigError: it holds one picture, and is larger than the server lets in.
        """
        body = encode_request(images, prompts, metadata, self._identity)
        limit = int(self._server.about["limits"]["bytes"])
        if len(images) == 1 and len(body) > limit:
            raise ConfigError(
                f"reward server {self._server.url}: expected at most {limit:,} bytes at once, but one picture of shape "
                f"{images[0].shape} has {len(body):,} with its prompt: start it with --max-mb {mebibytes(len(body))}"
            )
        return body

    @property
    def _identity(self) -> dict[str, str]:
        return {"version": self.version, "fingerprint": self.fingerprint}

    def _parts(self, images: np.ndarray) -> Iterator[slice]:
        """Rows that one request may hold, a quarter of its bytes left to the prompts."""
        limits = self._server.about["limits"]
        fits = 3 * int(limits["bytes"]) // 4 // max(1, images[0].nbytes)
        size = max(1, min(int(limits["pictures"]), fits))
        return (slice(start, start + size) for start in range(0, len(images), size))

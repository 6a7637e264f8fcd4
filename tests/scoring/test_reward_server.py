"""A reward server: scores as without one, also when it is killed in the middle of eight clients, and strict doors."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import registry
from bench.api import ConfigError, DataError, NonFiniteError, PluginError, Reward
from bench.config.scorer_process import ScorerProcess
from bench.plugin_code import code_hash
from bench.scoring.loading import Placement, load_scorers, placement_of
from bench.scoring.scorer import Scorer
from bench.scoring.server.places import Places
from bench.scoring.server.reward_client import RewardServer, RewardServerError, ServedReward
from bench.scoring.server.reward_service import MAX_BODIES, MAX_CONCURRENT
from bench.scoring.server.scoring_request import RequestLimits, decode_request, encode_request
from bench.scoring.server.serve_rewards import MAX_WAITING, read_token, serve_rewards
from bench.scoring.workers.remote_reward import ProcessReward
from tests.support.worker_rewards import Counting, Fickle, Network

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.support.worker_rewards"
TOKEN = "a-word-that-nobody-guesses"
PICTURES = np.random.Generator(np.random.Philox(2)).integers(0, 256, (6, 8, 8, 3), np.uint8)
IDENTITY = {"version": "1", "fingerprint": "", "code": code_hash(Fickle)}
CLIENTS, BATCHES, SIZE = 8, 6, 4


class RunningServer:
    """`bench serve-rewards` in a process of its own, on a port that it keeps when it is started again."""

    def __init__(self, folder: Path, *names: str, token: str | None = TOKEN) -> None:
        self.token = token
        self.rewards = ",".join(f"{MODULE}:{name}" for name in names)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.counted, self.errors, self.ready = folder / "counted", folder / "errors", folder / "ready"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "bench", "serve-rewards", "--reward", self.rewards, "--port", str(self.port),
            "--max-batch", str(SIZE), "--max-mb", "1", "--timeout", "2",
        ]  # fmt: skip
        token = {} if self.token is None else {"BENCH_REWARD_TOKEN": self.token}
        variables = {**token, "COUNTING_FILE": str(self.counted), "SLOW_FILE": str(self.ready)}
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def said(self) -> str:
        """What it says once it listens."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def counts(self) -> Counter[str]:
        return Counter(self.counted.read_text().splitlines()) if self.counted.exists() else Counter()

    def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and message of one request; header names with _ for -."""
        sent = {"authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET" if path in ("/health", "/rewards") else "POST", path, body, sent)
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        connection.close()
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), "Fickle", "Counting")
    assert running.said().startswith(f"serving fickle, counting at {running.url}; Ctrl-C ")
    yield running
    running.kill()


@pytest.fixture
def served(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RewardServer:
    monkeypatch.setenv("BENCH_REWARD_TOKEN", TOKEN)
    return RewardServer(running.url)


def loaded(cls: type[Reward], server: RewardServer, seconds: float = 60.0) -> ServedReward:
    reward = ServedReward(cls, server, seconds)
    reward.load()
    return reward


@pytest.mark.slow
def test_scores_are_those_of_this_process_whatever_the_size_of_a_request(served: RewardServer) -> None:
    there, here = Scorer(loaded(Fickle, served)), Scorer(Fickle())
    prompts, metadata = [""] * len(PICTURES), [{"tag": "é"}] * len(PICTURES)  # six pictures by at most four
    assert np.array_equal(there(PICTURES, prompts, metadata), here(PICTURES, prompts, metadata))
    assert there.reward.higher_is_better is False and placement_of(there.reward) == "server"
    there.measure(PICTURES[0], "", {})
    assert there.flops == 0.0
    large = np.zeros((5, 256, 256, 3), np.uint8)  # 196,608 bytes each, of which four fit into 3/4 MiB
    assert [part.stop - part.start for part in loaded(Fickle, served)._parts(large)] == [4, 4]


@pytest.mark.slow
def test_what_a_reward_may_not_do_is_told_through_the_server(served: RewardServer, running: RunningServer) -> None:
    scorer = Scorer(loaded(Fickle, served))
    for prompt, kind, told in (
        ("fewer", PluginError, r"expected 2 scores for 2 pictures, got float64 of shape \(1,\)"),
        ("nan", NonFiniteError, "expected finite scores, but 2 of 2 are NaN"),
        ("refuse", DataError, f"^reward server {running.url}: fickle: expected another prompt$"),
        ("raise", PluginError, r"reward 'fickle' on 2 pictures raised KeyError: 'no such luck' \(.*worker_rewards.py"),
        ("draw", PluginError, r"reward 'fickle' .* read-only .* let it draw on a copy, images.copy\(\)"),
        ("kill", PluginError, r"reward 'fickle': its worker process was ended by SIGKILL in score\(\)"),
        ("sleep 60", PluginError, r"reward 'fickle': hangs: score\(\) has not ended after 2 s"),
    ):
        with pytest.raises(kind, match=told):
            scorer(PICTURES[:2], [prompt] * 2, [{}] * 2)
    assert len(scorer(PICTURES[:2], [""] * 2, [{}] * 2)) == 2  # it has started its scorer again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "told"),
    [
        ("/health", b"", {"authorization": ""}, 200, None),
        ("/rewards", b"", {"authorization": ""}, 401, "expected the token that the server was started with"),
        ("/rewards", b"", {"authorization": "Bearer another"}, 401, "expected the token"),
        ("/rewards", b"", {"authorization": TOKEN}, 401, "(Authorization: Bearer TOKEN)"),
        ("/rewards", b"", {"authorization": f"Basic {TOKEN}"}, 401, "(Authorization: Bearer TOKEN)"),
        ("/rewards/fickle/score", b"", {"authorization": TOKEN}, 401, "(Authorization: Bearer TOKEN)"),
        ("/rewards/fickle/score", b"", {"origin": "https://evil.example"}, 403, "another site, https://evil.example"),
        ("/rewards/fickle/score", b"", {"origin": "null"}, 403, "got a page of another site, null"),
        ("/rewards/fickle/score", b"", {"sec_fetch_site": "cross-site"}, 403, "got a page of another site, cross-site"),
        ("/rewards/fickle/score", b"", {"sec_fetch_site": "same-site"}, 403, "got a page of another site, same-site"),
        ("/rewards/fickle/score", b"", {"sec_fetch_site": "same-origin"}, 422, "expected a safetensors body"),
        ("/rewards", b"", {"host": "evil.example:80"}, 421, "got 'evil.example'"),
        ("/nothing", b"", {}, 404, "Not Found; expected one of GET /health"),
        ("/rewards/other/score", b"", {}, 404, "no scorer 'other' is served here, only fickle, counting"),
        ("/rewards/fickle/score", b"\x80\x04pickled.", {}, 422, "expected a safetensors body with the tensors"),
        (
            "/rewards/fickle/score",
            encode_request(PICTURES[:5], [""] * 5, [{}] * 5, IDENTITY),
            {},
            413,
            "at most 4 pictures",
        ),
        ("/rewards/fickle/score", bytes(2**20 + 1), {}, 413, "1,048,577: send fewer"),
        ("/rewards/fickle/score", bytes(2**20 + 1), {}, 413, "a single one needs --max-mb 2"),
        ("/rewards/fickle/score", b"", {"content_length": "9" * 20}, 413, "expected a body of at most"),
        ("/rewards/fickle/score", b"half", {"content_length": "100"}, 408, "expected the whole body within 2 s, got 4"),
        (
            "/rewards/fickle/score",
            encode_request(PICTURES[:1], [""], [{}], IDENTITY | {"version": "0"}),
            {},
            409,
            "fickle: expected {'version': '0', 'fingerprint': '', 'code': ",
        ),
        (
            "/rewards/fickle/score",
            encode_request(PICTURES[:1], [""], [{}], IDENTITY | {"code": "0" * 16}),
            {},
            409,
            "'code': '0000000000000000'}, but the server has {'version': '1'",
        ),
    ],
)
def test_what_is_not_let_in(
    running: RunningServer, path: str, body: bytes, headers: dict[str, str], status: int, told: str | None
) -> None:
    found, message = running.post(path, body, **headers)
    assert found == status, message
    assert message == {"result": "ok"} if told is None else told in message["message"]


@pytest.mark.parametrize(
    "body",
    [
        encode_request(PICTURES[0], [""], [{}], IDENTITY),
        encode_request(PICTURES[:1].astype(np.float32), [""], [{}], IDENTITY),
        encode_request(PICTURES[:2], [""], [{}, {}], IDENTITY),
        encode_request(PICTURES[:1], [1], [{}], IDENTITY),  # type: ignore[list-item]
        encode_request(PICTURES[:1], [""], [{}], IDENTITY)[:-1],
        b"",
    ],
)
def test_bodies_of_another_kind_are_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="expected"):
        decode_request(body)


def test_a_request_that_comes_again_is_scored_again_with_the_same_scores(running: RunningServer) -> None:
    body = encode_request(PICTURES[:2], ["first", "second"], [{}, {}], IDENTITY)
    once, again = (running.post("/rewards/counting/score", body) for _ in range(2))
    assert once == again and once[0] == 200 and running.counts() == {"first": 2, "second": 2}


@pytest.mark.slow
def test_eight_clients_and_a_kill_in_the_middle(running: RunningServer, served: RewardServer) -> None:
    """Every batch gets the scores that it has without a server, though that one is killed and starts anew."""
    before, begin = running.counts(), time.monotonic()
    scores: dict[tuple[int, int], np.ndarray] = {}
    pictures = np.random.Generator(np.random.Philox(3)).integers(0, 256, (CLIENTS, BATCHES, SIZE, 4, 4, 3), np.uint8)

    def client(number: int) -> None:
        scorer = Scorer(loaded(Counting, RewardServer(running.url)))
        for batch in range(BATCHES):
            prompts = [f"{number}.{batch}.{picture}" for picture in range(SIZE)]
            scores[number, batch] = scorer(pictures[number, batch], prompts, [{}] * SIZE)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while (running.counts() - before).total() < CLIENTS * BATCHES * SIZE // 3:
        assert any(thread.is_alive() for thread in threads)
        time.sleep(0.002)
    running.process.send_signal(signal.SIGKILL)
    running.process.communicate()
    assert len(scores) < CLIENTS * BATCHES  # it was in the middle
    running.start()
    for thread in threads:
        thread.join(60)
    assert running.said().startswith("serving")
    assert len(scores) == CLIENTS * BATCHES
    for (number, batch), found in scores.items():
        assert np.array_equal(found, pictures[number, batch].mean((1, 2, 3)).astype(np.float32))
    counts = running.counts() - before
    assert len(counts) == CLIENTS * BATCHES * SIZE
    assert set(counts.values()) <= {1, 2}  # what was under way, if anything was, is scored again, and nothing else
    assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_a_busy_server_is_there_and_waited_for(running: RunningServer, served: RewardServer) -> None:
    """It puts off what comes beyond its limit: that is no outage, and is told neither as one nor by line after line."""
    bodies = [encode_request(PICTURES[:1], ["sleep 1.8"], [{}], IDENTITY)]  # the others wait for the first
    bodies += [encode_request(PICTURES[:1], [""], [{}], IDENTITY)] * (MAX_CONCURRENT - 1)
    with ThreadPoolExecutor(MAX_CONCURRENT) as pool:
        begin, pending = time.monotonic(), []
        for body in bodies:
            pending.append(pool.submit(running.post, "/rewards/fickle/score", body))
            time.sleep(0.005)
        end = time.monotonic() + 1
        while running.post("/rewards")[0] != 503 and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(
            RewardServerError, match=r"is busy: .* GET /rewards within 0.3 s; send requests from fewer workers, or"
        ):
            served.request("GET", "/rewards", seconds=0.3, outage=0.1)
        assert running.post("/health")[0] == 200
        assert "fickle" in served.request("GET", "/rewards", seconds=30.0, outage=0.1)["rewards"]
        assert time.monotonic() - begin > 1.5  # for so long it was
        assert [answer.result()[0] for answer in pending] == [200] * MAX_CONCURRENT


@pytest.mark.slow
@pytest.mark.parametrize("token", [TOKEN, None])
def test_bodies_that_stall_shut_nobody_out(tmp_path: Path, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no place of those that score, and give way to whoever sends."""
    monkeypatch.delenv("BENCH_REWARD_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("BENCH_REWARD_TOKEN", token)
    running = RunningServer(tmp_path, "Fickle", token=token)
    try:
        assert running.said().startswith("serving")
        said = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"POST /rewards/fickle/score HTTP/1.1\r\nHost: localhost\r\n{said}Content-Length: 100\r\n\r\nhalf"
        with ExitStack() as connections:
            for _ in range(MAX_CONCURRENT + MAX_BODIES + 1):
                connection = connections.enter_context(socket.create_connection(("127.0.0.1", running.port)))
                connection.sendall(head.encode())
            begin = time.monotonic()
            served = RewardServer(running.url)
            assert loaded(Fickle, served)(PICTURES[:2], [""] * 2, [{}] * 2).shape == (2,)
            assert time.monotonic() - begin < 1  # their bodies have two seconds
    finally:
        running.kill()


@pytest.mark.slow
def test_connections_that_say_nothing_shut_nobody_out(running: RunningServer, served: RewardServer) -> None:
    """Not even as many as may wait: the oldest gives way."""
    head = "POST /rewards/fickle/score HTTP/1.1\r\nHost: localhost\r\nX-Endless: "
    with ExitStack() as connections:
        opened = [
            connections.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            for _ in range(MAX_WAITING + MAX_CONCURRENT)
        ]
        for connection in opened[::2]:
            with suppress(OSError):  # the oldest may be closed already
                connection.sendall(head.encode())
        begin = time.monotonic()
        assert "fickle" in served.request("GET", "/rewards", seconds=5.0, outage=0.1)["rewards"]
        assert loaded(Fickle, served)(PICTURES[:2], [""] * 2, [{}] * 2).shape == (2,)
        assert time.monotonic() - begin < 5
        opened[0].settimeout(5)
        with suppress(ConnectionError):
            assert opened[0].recv(1) == b""  # closed, for the sake of the newest


@contextmanager
def serving(app: Any, protocol: Any) -> Iterator[tuple[str, int]]:
    """An application at a place of this process."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", ws="none", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.mark.slow
def test_a_head_that_does_not_come_in_time_ends_its_connection() -> None:
    from bench.scoring.server.connections import bounded_protocol

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.0)  # longer than a head may take
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    with serving(app, bounded_protocol(0.4, 10, 10)) as place:
        with socket.create_connection(place, 5) as silent, socket.create_connection(place, 5) as slow:
            begin = time.monotonic()
            with suppress(ConnectionError):
                for _ in range(50):  # a letter now and then does not keep it
                    slow.sendall(b"G")
                    time.sleep(0.02)
            for connection in (silent, slow):
                with suppress(ConnectionError):
                    assert connection.recv(1) == b""
            assert 0.3 < time.monotonic() - begin < 3
        with socket.create_connection(place, 5) as prompt:
            prompt.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            response = b""
            while b"done" not in response:
                part = prompt.recv(1000)
                assert part, "closed while its request was worked on"
                response += part
            begin = time.monotonic()
            prompt.sendall(b"G")  # nor may a second head take longer
            with suppress(ConnectionError):
                while prompt.recv(1000):
                    pass
            assert time.monotonic() - begin < 3


@pytest.mark.slow
def test_a_body_that_drips_ends_and_one_that_flows_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.scoring.server import reward_service
    from bench.scoring.server.connections import bounded_protocol

    monkeypatch.setattr(reward_service, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(reward_service, "BYTES_PER_SECOND", 1000)
    rewards = {"fickle": ProcessReward(f"{MODULE}:Fickle", Fickle, ScorerProcess())}
    app = reward_service.RewardService(rewards, RequestLimits(4, 10_000, 20.0), None, set()).app()

    def sent(size: int) -> tuple[bytes, float]:
        """The response to a body of 30 parts of this size, one every 30 ms, and the seconds until it came."""
        with socket.create_connection(place, 5) as connection:
            begin = time.monotonic()
            head = f"POST /rewards/fickle/score HTTP/1.1\r\nHost: here\r\nContent-Length: {30 * size}\r\n\r\n"
            connection.sendall(head.encode())
            with suppress(ConnectionError):
                for _ in range(30):
                    connection.sendall(b"x" * size)
                    time.sleep(0.03)
            response = connection.recv(10_000)
            while b"message" not in response:
                response += connection.recv(10_000)
            return response, time.monotonic() - begin

    with serving(app, bounded_protocol(5.0, 10, 10)) as place:
        response, _ = sent(1)
        assert (
            b" 408 " in response and b"within 0.3 s" in response and b"send at least 1,000 bytes a second" in response
        )
        response, seconds = sent(100)
        assert b" 422 " in response and b"3000 bytes of something else" in response and seconds > 0.8


def test_whoever_was_silent_for_longest_gives_way_of_the_client_with_the_most() -> None:
    gone: list[str] = []
    places = Places(4, 3)

    def take(*names: str) -> None:
        for name in names:
            places.take(name, name[0], partial(gone.append, name))

    take("b1", "a1", "a2", "a3")
    places.heard("a1")
    take("b2")  # all four are taken, three of them by a; b1 was silent for longer
    assert gone == ["a2"]
    places.leave("b1")
    take("a4", "a5")  # one is free; then a has as many as one may have
    assert gone == ["a2", "a3"]
    places.leave("a3")  # twice is once
    take("c1")
    assert gone == ["a2", "a3", "a1"]
    places.leave("b2")
    places.leave("c1")
    take("a6", "a7")  # though one is free
    assert gone == ["a2", "a3", "a1", "a4"]


def test_a_picture_that_no_request_may_hold(served: RewardServer) -> None:
    reward, large = loaded(Fickle, served), np.zeros((1, 1024, 1024, 3), np.uint8)
    told = r"at most 1,048,576 bytes at once, but one picture of shape \(1024, 1024, 3\) .* with --max-mb 4$"
    with pytest.raises(ConfigError, match=told):
        reward(large, [""], [{}])
    with pytest.raises(ConfigError, match=told):
        reward.measure_worker_flops(large[0], "", {})


@pytest.mark.slow
def test_a_server_that_loads_holds_its_port_and_responds_when_it_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_REWARD_TOKEN", TOKEN)
    monkeypatch.setattr("bench.scoring.server.reward_client.CONTACT_SECONDS", 60.0)  # until it listens
    running = RunningServer(tmp_path, "Slow")
    try:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(lambda: RewardServer(running.url).rewards)
            end = time.monotonic() + 30
            while not (listens := can_connect(running.port)) and time.monotonic() < end:
                time.sleep(0.01)
            command = [sys.executable, "-m", "bench", "serve-rewards", "--reward", "jpeg", "--port", str(running.port)]
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            is_early = pending.done()
            running.ready.touch()
            assert list(pending.result(60)) == ["slow"] and listens and not is_early
    finally:
        running.kill()
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert f"bench: cannot listen at 127.0.0.1, port {running.port}: " in second.stderr


def can_connect(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_scorer_that_differs_from_the_one_here_is_refused(served: RewardServer, running: RunningServer) -> None:
    class Newer(Fickle):
        version = "2"

    with pytest.raises(ConfigError, match=r"expected fickle with version 2, as it is here, but it has 1"):
        ServedReward(Newer, served, 10.0).load()


def test_a_scorer_whose_source_is_another_there_is_refused(served: RewardServer) -> None:
    class Edited(Fickle):  # of the same name and version, and from another file
        pass

    with pytest.raises(ConfigError, match=r"expected fickle with the source that it has here .*start the server again"):
        ServedReward(Edited, served, 10.0).load()


def test_scorers_that_the_server_has_are_taken_from_it(served: RewardServer, running: RunningServer) -> None:
    names: set[str | None] = {f"{MODULE}:Fickle", "jpeg"}
    scorers = load_scorers(names, placement=Placement(server_url=running.url))
    assert [placement_of(scorers[name].reward) for name in sorted(map(str, names))] == ["here", "server"]
    with pytest.raises(
        ConfigError, match=r"has fickle, counting, and nothing is taken .* expected one at least of jpeg,"
    ):
        load_scorers({"jpeg"}, placement=Placement(server_url=running.url))


# Without a server


def test_a_server_that_stays_away_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.scoring.server.reward_client.CONTACT_SECONDS", 0.2)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RewardServerError, match=r"cannot be reached, .*refused.*serve-rewards` there; start"):
            RewardServer(url).rewards  # noqa: B018


def test_a_server_that_never_responds_hangs() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(
            RewardServerError, match=r"has not responded to GET /rewards within 0.3 s .timed out.: look"
        ):
            RewardServer(f"http://127.0.0.1:{silent.getsockname()[1]}").request("GET", "/rewards", seconds=0.3)


def test_the_first_request_may_take_as_long_as_a_load() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        placement = Placement(server_url=f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        with pytest.raises(RewardServerError, match=r"within 0.3 s .*: look whether it still loads its scorers"):
            placement.make_reward("jpeg", registry.load_reward("jpeg"))


def test_a_response_that_comes_before_the_body_was_read_is_heard() -> None:
    """A server that lets nothing in closes the connection: what it said is told, and not that the connection broke."""
    message = b'{"error": "ConfigError", "message": "too large"}'
    head = f"HTTP/1.1 413 Too Large\r\nContent-Length: {len(message)}\r\nConnection: close\r\n\r\n".encode()
    with socket.socket() as listening, ThreadPoolExecutor(1) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = RewardServer(f"http://127.0.0.1:{listening.getsockname()[1]}")
        pending = pool.submit(server.request, "POST", "/", bytes(32 << 20), seconds=3.0)
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(head + message)
        with pytest.raises(ConfigError, match=r"too large$"):
            pending.result()


@pytest.mark.parametrize("lost", [b"", b'{"res'])
def test_a_request_whose_response_breaks_off_is_sent_again(lost: bytes) -> None:
    """As from a server that is killed between the head of its response and the end of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n"
    with socket.socket() as listening, ThreadPoolExecutor(1) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(5)
        server = RewardServer(f"http://127.0.0.1:{listening.getsockname()[1]}")
        pending = pool.submit(server.request, "GET", "/", seconds=10.0)
        for content in (lost, b'{"result": 1}'):
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(head + content)
        assert pending.result() == 1


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://there", "http://u:p@there", "http://there/x", "http://a:b"])
def test_addresses_of_another_kind_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--reward-server"):
        RewardServer(url)


def test_other_machines_are_let_in_by_a_token_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: object, **__: object) -> None:
        pytest.fail("it listens")

    monkeypatch.setattr("uvicorn.Server.run", serve)
    monkeypatch.delenv("BENCH_REWARD_TOKEN", raising=False)
    limits = RequestLimits(1, 1, 1.0)
    with pytest.raises(ConfigError, match=r"--host 0.0.0.0 lets other machines in: expected a token"):
        serve_rewards(["jpeg"], ScorerProcess(), limits, host="0.0.0.0", port=0, token_file=None)
    file = tmp_path / "token"
    file.write_text(" a-token\n")
    assert read_token(file) == "a-token" and read_token(None) is None
    for text in ("", "two words", "naïve"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="expected a token of visible ASCII"):
            read_token(file)


def test_nothing_is_known_of_a_reward_that_is_not_served(served: RewardServer) -> None:
    assert "network" not in served.rewards
    assert type(Placement(server_url=served.url).make_reward(f"{MODULE}:Network", Network)) is Network

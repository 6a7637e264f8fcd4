"""`bench serve-rewards`: loads scorers, each in a process of its own, and serves them until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench import registry
from bench.api import ConfigError
from bench.config.scorer_process import ScorerProcess
from bench.parsing import Problems, split_list, validate
from bench.reading import read_text
from bench.scoring.server.scoring_request import TOKEN_VARIABLE, RequestLimits
from bench.scoring.workers.remote_reward import LimitOptions, ProcessReward

HEAD_SECONDS = 10.0  # that the head of a request may take to arrive
MAX_WAITING = 256  # connections without a whole head; the oldest gives way to a new one
MAX_WAITING_OF_CLIENT = 64  # of them from one address
_OPTIONS = LimitOptions("serve-rewards --timeout", "serve-rewards --memory")
_PORTS = 65535
_CLOSE_SECONDS = 5  # for requests under way when the server is told to stop


def run_serve_rewards(args: argparse.Namespace) -> None:
    """Serve what the options of the command say.

    Raises:
        ConfigError: an option is out of its bounds; and what `serve_rewards` raises.
    """
    problems = Problems()
    for option, value in (("--max-batch", args.max_batch), ("--max-mb", args.max_mb)):
        if not value > 0:
            problems.add(option, f"expected a number above 0, got {value}")
    if not 0 < args.timeout <= threading.TIMEOUT_MAX:
        limit = f"{threading.TIMEOUT_MAX:.0f}"
        problems.add("--timeout", f"expected seconds above 0 and at most {limit}, got {args.timeout}")
    if not 0 <= args.port <= _PORTS:
        problems.add("--port", f"expected a number from 0 to {_PORTS}, got {args.port}")
    values = {"device": args.device, "threads": args.threads, "memory": args.memory}
    settings = validate(ScorerProcess, values, "", problems)
    problems.raise_if_any("serve-rewards")
    assert settings is not None
    serve_rewards(
        split_list(args.reward), settings, RequestLimits(args.max_batch, args.max_mb << 20, args.timeout),
        host=args.host, port=args.port, token_file=args.token_file,
    )  # fmt: skip


def serve_rewards(
    specs: Sequence[str], settings: ScorerProcess, limits: RequestLimits, *, host: str, port: int,
    token_file: Path | None,
) -> None:  # fmt: skip
    """Serve the named scorers, each in a process with these settings, at `host` and `port` (0: a free one).

    It ends with Ctrl-C. Requests that come while the scorers are loaded wait until they are.

    Raises:
        ConfigError: a package or the token is missing, the port is taken, or no scorer has that name, or two have.
        BenchError: a scorer cannot be loaded.
    """
    _require_packages()
    import uvicorn

    from bench.scoring.server.connections import bounded_protocol
    from bench.scoring.server.reward_service import RewardService

    registry.refuse_equal_names(specs)
    token = read_token(token_file)
    hosts = _allowed_hosts(host, token)
    with _listen(host, port) as listening:
        rewards = _load_rewards(specs, settings, limits.seconds)
        protocol = bounded_protocol(HEAD_SECONDS, MAX_WAITING, MAX_WAITING_OF_CLIENT)
        config = uvicorn.Config(
            RewardService(rewards, limits, token, hosts).app(), log_level="warning", access_log=False,
            server_header=False, proxy_headers=False, lifespan="off", ws="none",
            http=protocol, timeout_graceful_shutdown=_CLOSE_SECONDS,
        )  # fmt: skip
        print(f"serving {', '.join(rewards)} at {_url(listening)}; Ctrl-C stops", flush=True)
        try:
            with suppress(KeyboardInterrupt):  # uvicorn has closed in order, and passes it on
                uvicorn.Server(config).run(sockets=[listening])
            print("stopped")
        finally:
            for reward in rewards.values():
                reward.close()


def _load_rewards(specs: Sequence[str], settings: ScorerProcess, seconds: float) -> dict[str, ProcessReward]:
    """The scorers by their own names, each loaded in its process; `seconds` bound a call."""
    rewards = {}
    for spec in dict.fromkeys(specs):
        cls = registry.load_reward(spec)
        rewards[cls.name] = ProcessReward(spec, cls, settings, call_seconds=seconds, options=_OPTIONS)
        rewards[cls.name].load()
    return rewards


def read_token(file: Path | None) -> str | None:
    """The token in a file, else that of $BENCH_REWARD_TOKEN, else none.

    Raises:
        ConfigError: the file cannot be read, or a token is empty or no word of visible ASCII.
    """
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE), f"${TOKEN_VARIABLE}"
    else:
        try:
            token, source = read_text(file).strip(), str(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--token-file {file}: expected a file with the token in it ({error})") from error
    if token is not None and not (token and all("!" <= letter <= "~" for letter in token)):
        raise ConfigError(f"{source}: expected a token of visible ASCII characters without spaces, got another or none")
    return token


def _require_packages() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"serve-rewards needs starlette and uvicorn ({error}): `pip install -e '.[serve]'` installs both"
        ) from error


def _allowed_hosts(host: str, token: str | None) -> set[str]:
    """The host names that requests may be for: those of this machine, or any where it listens to others."""
    try:
        is_own = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = False
    if is_own:
        return {host, "localhost", "127.0.0.1", "::1"}
    if token is None:
        raise ConfigError(
            f"--host {host} lets other machines in: expected a token, in --token-file FILE or ${TOKEN_VARIABLE}. What "
            "is sent is not encrypted: outside a network that you trust, leave the host out and use an SSH tunnel"
        )
    return set()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there: the port is taken from now on, and who connects waits to be let in."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as opened:
            listening = opened.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections do not hold the port
            listening.bind(place)
            listening.listen()
            opened.pop_all()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}; choose another --port or --host") from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

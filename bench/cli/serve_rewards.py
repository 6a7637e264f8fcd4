"""Score pictures for runs on other GPUs or machines, over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """Each scorer has a process of its own.

Examples:
  bench serve-rewards --reward pickscore,ocr --device cuda:1
  bench run --preset sd35-medium --data FOLDER --reward pickscore --reward-server http://127.0.0.1:8000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--reward", required=True, metavar="A,B", help="scorers by name or file")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0: a free one, printed")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="clients must know the token in it; or set $BENCH_REWARD_TOKEN"
    )
    parser.add_argument("--max-batch", type=int, default=256, metavar="N", help="pictures in a request (default 256)")
    parser.add_argument("--max-mb", type=int, default=256, metavar="MIB", help="size of a request (default 256)")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="for a body to arrive, and to score it (default 600)"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each scorer's process (default 1)")
    parser.add_argument("--memory", metavar="SIZE", help="most that each scorer may allocate: 8GiB, 500MiB")


def run(args: argparse.Namespace) -> int:
    """Serve until it is told to stop; returns 0."""
    from bench.scoring.server.serve_rewards import run_serve_rewards

    run_serve_rewards(args)
    return 0

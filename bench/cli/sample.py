"""Draw a grid of pictures from a checkpoint or from the base."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from bench.cli.setting import like, number

EPILOG = """Example:
  bench sample results/demonstration/alignment/soar/seed0 --prompt "a red circle\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    from bench.config.settings import Evaluation

    parser.add_argument(
        "checkpoint", nargs="?", type=Path, metavar="FOLDER",
        help="a cell of the results (results/demonstration/alignment/soar/seed0) or a checkpoint; nothing: the base",
    )  # fmt: skip
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be repeated")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt in each line")
    parser.add_argument("--world", default="scenes", metavar="NAME", help="gives base and prompts (default: scenes)")
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="the base, where it is neither the cell's nor the world's own"
    )
    parser.add_argument(
        "--guidance", type=like(Evaluation, "guidance"), metavar="W", help="default: the cell's in evaluation, else 3"
    )
    parser.add_argument(
        "--steps", type=like(Evaluation, "steps"), metavar="N", help="default: the cell's in evaluation, else 20"
    )
    parser.add_argument(
        "--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N", help="of the initial noise (default 0)"
    )
    parser.add_argument(
        "--samples", type=number(int, 1, 10_000), default=4, metavar="N", help="pictures of each prompt (default 4)"
    )
    parser.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help="default: samples.png")


def run(args: argparse.Namespace) -> int:
    """Print the prompt of each row, and where the grid lies; returns 0."""
    from bench.experiments.sample import sample_grid

    prompts = sample_grid(
        args.checkpoint, args.out, prompts=args.prompt, prompt_file=args.prompts, world=args.world, model=args.model,
        guidance=args.guidance, steps=args.steps, seed=args.seed, samples=args.samples,
        note=partial(print, file=sys.stderr),
    )  # fmt: skip
    for row, prompt in enumerate(prompts, 1):
        print(f"row {row:2d}  {prompt}")
    print(args.out)
    return 0

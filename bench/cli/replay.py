"""Run the update of a failed cell that met NaN or infinity again, and say what it finds."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.experiment_options import add_data, add_reward_server, read_pictures

EPILOG = """Nothing in the folder is changed, and no code that it names runs: a plugin that is not registered is given
again.

Examples:
  bench replay results/demonstration/alignment/soar/seed0
  bench replay results/mine/alignment/my-method/seed0 --plugin my_method.py"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("cell", type=Path, metavar="CELL_FOLDER", help="a cell of the results")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE",
        help="a method or reward that the record names, also module:Class; may be repeated",
    )  # fmt: skip
    parser.add_argument("--model", metavar="PATH|ID", help="the base, where it lies elsewhere than the record says")
    add_data(parser)
    add_reward_server(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where it meets the same again."""
    from bench.experiments.replay import replay

    pictures = None if args.data is None else read_pictures(args)
    return replay(args.cell, pictures, args.reward_server, model=args.model, plugins=args.plugin)

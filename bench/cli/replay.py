"""Run the update of a failed cell that met NaN or infinity again, and say what it finds."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.experiment_options import add_data, add_reward_server, read_pictures

EPILOG = """Nothing in the folder is changed.

Example:
  bench replay results/demonstration/alignment/soar/seed0"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("cell", type=Path, metavar="CELL_FOLDER", help="a cell of the results")
    add_data(parser)
    add_reward_server(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where it meets the same again."""
    from bench.experiments.replay import replay

    pictures = None if args.data is None else read_pictures(args)
    return replay(args.cell, pictures, args.reward_server)

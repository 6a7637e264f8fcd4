"""Score the user's own pictures, and select the best of them to train on."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.experiment_options import add_data, add_reward_server, read_pictures
from bench.cli.setting import number

EPILOG = """Scores and selection are written into the results, below curated/, and nothing beside the pictures;
`run --data FOLDER --data.selection FILE.json` trains on what was selected.

Examples:
  bench curate --data pictures --reward aesthetic
  bench curate --data pictures --reward aesthetic --min 6.8"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_data(parser, required=True)
    parser.add_argument("--reward", required=True, metavar="NAME", help="scorer, by name, file or module:function")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--min", type=number(float, -1e30, 1e30), metavar="SCORE", help="keep the pictures of at least this score"
    )
    which.add_argument(
        "--top",
        type=number(float, -1e30, 1e30),
        metavar="SHARE",
        help="keep this share with the highest scores, as in 0.1",
    )
    parser.add_argument("--model", metavar="PATH", help="its size and its captions' length count (default: embedded)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    add_reward_server(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was scored and selected; returns 0."""
    from bench.scoring.folder.curate_folder import SelectionRule, curate_folder

    rule = SelectionRule.of(args.min, args.top)
    print(curate_folder(read_pictures(args), args.reward, args.model, rule, args.results, args.reward_server))
    return 0

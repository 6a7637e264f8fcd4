"""Judge the pictures of a folder: a table and a ranked contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.experiment_options import add_reward_server

EPILOG = """Files that are no pictures, or cannot be judged, are listed and never scored; then the exit status is 1.

Examples:
  bench score --reward jpeg --images FOLDER
  bench score --reward clipscore,ocr --images FOLDER --prompts prompts.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--reward", required=True, metavar="A,B",
        help="scorers by name, file or module:function; see `bench list rewards`",
    )  # fmt: skip
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="a folder with pictures")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="a prompt for each picture, sorted by name: .txt, .csv, .tsv or .jsonl; or else a metadata.jsonl or .csv "
        "(file_name, text) in the folder",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("scores"), metavar="FOLDER", help="default: scores")
    add_reward_server(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where a file could not be judged."""
    from bench.parsing import split_list
    from bench.scoring.folder.score_folder import score_folder, scores_summary

    scores = score_folder(split_list(args.reward), args.images, args.out, args.prompts, args.reward_server)
    print(scores_summary(scores, args.out))
    return 1 if scores.broken else 0

"""Download a model (or a set of prompts) of the Hugging Face hub; nothing else ever downloads one."""

from __future__ import annotations

import argparse

EPILOG = """Where the hub asks for it, accept the licence on the model's page, and set HF_TOKEN to a token of yours.

Examples:
  bench fetch stabilityai/stable-diffusion-3.5-medium
  bench fetch --prompts ORGANISATION/PROMPTS    then --evaluation.prompt_sets.drawbench ORGANISATION/PROMPTS"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", metavar="ID", help="organisation/name on the hub")
    parser.add_argument(
        "--prompts", action="store_true", help="it is a data set: fetch its files of prompts, for a prompt set"
    )


def run(args: argparse.Namespace) -> int:
    """Print where it lies now; returns 0."""
    from bench.datasets.prompts.readers import PROMPT_FILES
    from bench.hub import fetch_data_set, fetch_model

    print(fetch_data_set(args.model, PROMPT_FILES) if args.prompts else fetch_model(args.model))
    return 0

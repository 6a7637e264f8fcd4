"""Write prompts in GenEval's format, or that ask for a written text."""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path

from bench.api import ConfigError
from bench.files import write_whole

EPILOG = """The splits have nothing in common, whatever the seed.

Examples:
  bench prompts geneval --count 600 --split report --out geneval.jsonl
  bench prompts ocr --count 1000 --out ocr.txt"""

SUFFIXES = {"geneval": ".jsonl", "ocr": ".txt"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("kind", metavar="KIND", help="geneval (a .jsonl with what to look for) or ocr (a .txt)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to; an existing file is replaced"
    )
    parser.add_argument("--split", default="train", metavar="NAME", help="train (default), tune or report")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice and order (default 0)")
    parser.add_argument(
        "--without", type=Path, metavar="FILE", help="prompts to leave out, e.g. those of an evaluation"
    )


def run(args: argparse.Namespace) -> int:
    """Print how many were written of each category; returns 0."""
    counts = write_prompts(
        args.kind, args.count, args.out, split=args.split, seed=args.seed, without=args.without
    )  # fmt: skip
    print(f"{args.out}: {', '.join(f'{count} {category}' for category, count in counts.items())}")
    return 0


def write_prompts(kind: str, count: int, out: Path, *, split: str, seed: int, without: Path | None = None) -> Counter:
    """Write `count` prompts of a kind and a split to `out`; returns how many there are of each category.

    geneval: a .jsonl as GenEval's evaluation_metadata.jsonl; ocr: a .txt with a prompt in each line. No prompt of the
    file `without` is written.

    Raises:
        ConfigError: no such kind or split, another suffix, or more prompts than the split has.
        DataError: `without` cannot be read, or `out` not be written.
    """
    from bench.datasets.prompts.geneval import geneval_prompts
    from bench.datasets.prompts.ocr import ocr_prompts
    from bench.datasets.prompts.readers import read_prompts

    if kind not in SUFFIXES:
        raise ConfigError(f"prompts {kind!r}: expected one of {', '.join(SUFFIXES)}")
    generate, suffix = {"geneval": geneval_prompts, "ocr": ocr_prompts}[kind], SUFFIXES[kind]
    if out.suffix != suffix or count < 1:
        raise ConfigError(
            f"expected a count of at least 1 and --out with a name that ends with {suffix}, got {count}, {out}"
        )
    avoided = {prompt.text for prompt in read_prompts(without)} if without else ()
    prompts = list(itertools.islice(generate(split, seed, avoided), count))
    if len(prompts) < count:
        raise ConfigError(f"--count {count}: the split {split!r} has {len(prompts)} prompts: ask for no more")
    if suffix == ".jsonl":
        lines = [json.dumps({**prompt.metadata, "prompt": prompt.text}) for prompt in prompts]
    else:
        lines = [prompt.text for prompt in prompts]
    write_whole(out, "".join(f"{line}\n" for line in lines).encode())
    return Counter(prompt.category for prompt in prompts)

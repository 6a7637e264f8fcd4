"""Rebuild the embedded world's models from nothing.

A command of `bench`, and of `python -m pretrain`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """Each stage resumes where it stopped.

Examples:
  python -m bench pretrain
  python -m bench pretrain --stage clip --minutes 10"""

STAGES = (
    "pictures",
    "vae",
    "clip",
    "aesthetic",
    "ratings",
    "ocr",
    "encode",
    "transformer",
    "decoder",
    "export",
    "further",
    "preferences",
    "export-further",
    "agreement",
)
PICTURES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--stage", choices=STAGES, action="append", help="run this stage alone (may be repeated)")
    parser.add_argument("--minutes", type=float, help="stop each stage after so many minutes, leaving a checkpoint")
    parser.add_argument("--samples", type=int, help="train each stage on so many samples in all")
    parser.add_argument("--batch", type=int, help="samples a step and process")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="training pictures to render (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="one-thread processes a stage (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures, weights and noise (%(default)s)")
    parser.add_argument(
        "--cache", type=Path, help="checkpoints and encoded data ($BENCH_CACHE or ~/.cache/bench/pretrain)"
    )
    parser.add_argument("--log", type=Path, default=Path("results/pretrain"), help="loss curves, sheets (%(default)s)")
    parser.add_argument("--assets", type=Path, help="where to export to (bench/datasets/scenes/assets)")


def run(args: argparse.Namespace) -> int:
    """Run the stages asked for, or all; returns 0."""
    from pretrain.data import pretrain_cache
    from pretrain.parallel import run_in_workers
    from pretrain.recipe import PLANS, run_stage

    folder = args.cache or pretrain_cache()
    folder.mkdir(parents=True, exist_ok=True)
    for stage in args.stage or STAGES:
        print(f"stage {stage}", flush=True)
        workers = args.workers if stage in (*PLANS, "encode") and stage != "preferences" else 1
        run_in_workers(workers, run_stage, stage, folder, args)
    return 0

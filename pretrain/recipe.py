"""The recipe of the embedded world: from nothing to the pipeline and the proxy scorers that are shipped.

The stages stand in order in `pretrain.command`. Each resumes where it stopped. `ratings` goes on with `clip`, whose
embedding is then asked for the aesthetic rating too; `further` and `preferences` go on with what `export` wrote.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pretrain.data import TrainingPictures
from pretrain.loop import TrainingPlan

# Two cores take about 0.5 + 0.1 + 0.3 + 0.1 hours for the first four, 0.7 for each further million of the last.
PLANS = {
    "vae": TrainingPlan(samples=20_000, batch=8, lr=3e-3, warmup=50, ema=0.998),
    "decoder": TrainingPlan(samples=14_000, batch=8, lr=2e-3, warmup=50, ema=0.998),
    "clip": TrainingPlan(samples=80_000, batch=64, lr=2e-3, decay=0.4, ema=0.998),
    "ratings": TrainingPlan(samples=165_000, batch=64, lr=2e-3, decay=0.4, ema=0.998),
    "ocr": TrainingPlan(samples=110_000, batch=64, lr=3e-3, ema=0.998),
    "transformer": TrainingPlan(samples=2_150_000, batch=64, lr=2e-3, warmup=200, ema=0.9995),
    "further": TrainingPlan(samples=640_000, batch=64, lr=1e-3, decay=0.6, ema=0.999),
    "preferences": TrainingPlan(samples=19_200, batch=16, lr=1e-3, warmup=50, decay=0.6, ema=0.995),
}
PREFERENCE_PROMPTS = 1536


def plan_of(stage: str, args: argparse.Namespace) -> TrainingPlan:
    """The stage's plan with what the command line changes."""
    requested = {
        "samples": args.samples,
        "batch": args.batch,
        "lr": args.lr,
        "minutes": args.minutes,
        "seed": args.seed,
    }
    return replace(PLANS[stage], **{name: value for name, value in requested.items() if value is not None})


def run_stage(stage: str, folder: Path, args: argparse.Namespace) -> None:
    """One stage in one process. Imports stand inside, so that a stage loads only what it needs."""
    torch.manual_seed(args.seed)
    if stage in PLANS:
        _train(stage, folder, args)
        return
    if stage == "pictures":
        TrainingPictures(folder, args.pictures, args.seed).render()
    elif stage == "aesthetic":
        from pretrain import aesthetic

        aesthetic.fit_aesthetic_head(folder, args.log, TrainingPictures(folder, args.pictures, args.seed).open())
    elif stage == "encode":
        from pretrain import encode

        encode.encode_training_set(folder, TrainingPictures(folder, args.pictures, args.seed).open())
    elif stage == "export":
        from pretrain import export

        export.export_assets(folder, args.assets or export.ASSETS)
    elif stage == "export-further":
        from pretrain import export

        export.export_further(folder, args.assets or export.ASSETS)
    elif stage == "agreement":
        from pretrain import agreement, base, export

        agreement.write_agreement(args.assets or export.ASSETS, args.log)
        base.write_base_samples(folder, args.assets or export.ASSETS, args.log)


def _train(stage: str, folder: Path, args: argparse.Namespace) -> None:
    plan = plan_of(stage, args)
    if stage == "transformer":
        from pretrain import transformer

        transformer.train_transformer(folder, args.log, plan)
        return
    if stage in ("further", "preferences"):
        _go_on(stage, folder, args, plan)
        return
    from pretrain import vae

    pictures = TrainingPictures(folder, args.pictures, args.seed).open()
    if stage in ("vae", "decoder"):
        if stage == "vae":
            vae.train_whole(folder, args.log, plan, pictures, vae.build_vae())
        else:
            vae.train_decoder(folder, args.log, plan, pictures, vae.load_vae(folder, vae.build_vae(), decoder=False))
        return
    wear = vae.Wear(vae.load_vae(folder, vae.build_vae()))
    if stage in ("clip", "ratings"):
        from pretrain import aesthetic, clip, tokenizer

        words = tokenizer.build_tokenizer()
        rate = aesthetic.RatingError(folder) if stage == "ratings" else None
        clip.train_clip(folder, args.log, plan, pictures, clip.Towers(words), words, wear, rate)
        if rate:
            aesthetic.fit_aesthetic_head(folder, args.log, pictures)
    elif stage == "ocr":
        from pretrain import ocr

        ocr.train_ocr(folder, args.log, plan, pictures, ocr.build_ocr(), wear)


def _go_on(stage: str, folder: Path, args: argparse.Namespace, plan: TrainingPlan) -> None:
    """From the exported models."""
    from pretrain import further, preferences
    from pretrain.export import ASSETS

    assets = args.assets or ASSETS
    if stage == "further":
        if not (folder / further.FILE).exists():
            further.encode_further(folder, assets, args.pictures, further.AltText(), args.seed)
        further.train_further(folder, args.log, plan, assets)
        return
    if not (folder / preferences.FILE).exists():
        preferences.write_preferences(further.further_pipeline(folder, assets), folder, PREFERENCE_PROMPTS)
    preferences.train_preferences(folder, args.log, plan, assets)

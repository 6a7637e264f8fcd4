"""The aesthetic proxy: a small perceptron on CLIP's image embedding, in LAION's manner.

Source: LAION-Aesthetics predictor V2 (github.com/christophschuhmann/improved-aesthetic-predictor): an MLP on the unit
image embedding, trained by mean squared error on ratings. Deviation: the ratings are the gold score.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor

from bench.datasets.scenes.proxies import AestheticHead
from pretrain import clip
from pretrain.data import TrainingPictures, validation
from pretrain.tokenizer import build_tokenizer
from rewards.scenes_aesthetic import ScenesAesthetic

HIDDEN = 64
PICTURES = 12_000
STEPS = 3_000
LEARNING_RATE = 3e-3


def gold_scores(images: np.ndarray) -> Tensor:
    """Gold aesthetic scores float32 (B,) of pictures uint8 (B, 64, 64, 3)."""
    return torch.from_numpy(np.asarray(ScenesAesthetic()(images, [""] * len(images), [{}] * len(images))))


def fit_head(embeddings: Tensor, scores: Tensor, seed: int = 0, steps: int = STEPS) -> AestheticHead:
    """Fit a head to scores (B,) in (0, 10) of unit embeddings (B, D) by Adam on mean squared error."""
    generator = torch.Generator().manual_seed(seed)
    head = AestheticHead(embeddings.shape[1], HIDDEN)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    for step in range(steps):
        chosen = torch.randint(len(scores), (256,), generator=generator)
        loss = (head(embeddings[chosen]) - scores[chosen]).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.requires_grad_(False).eval()


class RatingError:
    """Mean squared error of a frozen head on embeddings that still learn, as a share of the ratings' variance."""

    def __init__(self, folder: Path) -> None:
        self.head = load_aesthetic_head(folder)

    def __call__(self, embeddings: Tensor, images: np.ndarray) -> Tensor:
        scores = gold_scores(images)
        return (self.head(embeddings) - scores).square().mean() / scores.var().clamp(min=0.1)


def load_aesthetic_head(folder: Path) -> AestheticHead:
    """The fitted head, frozen."""
    weights = load_file(folder / "aesthetic.safetensors")
    hidden, width = weights["layers.0.weight"].shape
    head = AestheticHead(width, hidden)
    head.load_state_dict(weights)
    return head.requires_grad_(False).eval()


def fit_aesthetic_head(
    folder: Path, log: Path, pictures: TrainingPictures, *, steps: int = STEPS, others: int = 1000
) -> None:
    """Fit the head on training pictures, keep it in `folder`, and log its rank correlation on others."""
    towers = clip.load_clip(folder, clip.Towers(build_tokenizer()))
    images = pictures[np.arange(min(PICTURES, len(pictures)))]
    head = fit_head(clip.embed_images(towers, images), gold_scores(images), steps=steps)
    save_file(head.state_dict(), folder / "aesthetic.safetensors")
    fresh, _ = validation(others, start=50_000)
    made = head(clip.embed_images(towers, fresh))
    record = {"pictures": len(images), "spearman": round(float(spearmanr(made, gold_scores(fresh)).statistic), 4)}
    log.mkdir(parents=True, exist_ok=True)
    (log / "aesthetic.jsonl").write_text(json.dumps(record) + "\n")
    print(f"aesthetic {record}", flush=True)

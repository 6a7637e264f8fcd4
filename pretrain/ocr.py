"""A small text recogniser: transformers' ResNet with three slots of (glyphs + blank) classes each.

Glyphs are read from left to right into the slots, the rest are blank; a picture of shapes is three blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from bench.datasets.scenes.proxies import OCR_CLASSES, OCR_SLOTS
from bench.datasets.scenes.vocabulary import CATEGORIES
from pretrain.clip import with_text_share
from pretrain.data import TrainingPictures, to_tensor
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters
from pretrain.vae import Wear

# Share of text pictures in a batch; the rest teach what blank is.
TEXT_SHARE = 0.85


def build_ocr() -> ResNetForImageClassification:
    """An untrained recogniser: logits (B, 3 * (glyphs + blank)), slot after slot."""
    names = [f"{slot}:{glyph or 'blank'}" for slot in range(OCR_SLOTS) for glyph in OCR_CLASSES]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 64, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )


def labels_of(texts: Sequence[str]) -> Tensor:
    """Classes (B, 3) of the slots of texts of at most three glyphs."""
    blank = OCR_CLASSES.index("")
    return torch.tensor([[OCR_CLASSES.index(g) for g in text] + [blank] * (OCR_SLOTS - len(text)) for text in texts])


class ReadingLoss:
    """Cross-entropy of every slot, on training pictures of which most show text and some are worn."""

    def __init__(self, model: ResNetForImageClassification, pictures: TrainingPictures, wear: Wear) -> None:
        self.model, self.pictures, self.wear = model, pictures, wear

    def __call__(self, step: TrainingStep) -> dict[str, Tensor]:
        indices = with_text_share(step.indices(len(self.pictures) - len(CATEGORIES)).numpy(), TEXT_SHARE)
        texts = [scene.text for scene in self.pictures.scenes(indices)]
        shown = self.wear(self.pictures[indices], step.generator)
        logits = self.model(to_tensor(shown)).logits.view(-1, OCR_SLOTS, len(OCR_CLASSES))
        loss = F.cross_entropy(logits.flatten(0, 1), labels_of(texts).flatten())
        return {"loss": loss}


def train_ocr(
    folder: Path,
    log: Path,
    plan: TrainingPlan,
    pictures: TrainingPictures,
    model: ResNetForImageClassification,
    wear: Wear,
) -> bool:
    """Train the recogniser; whether the plan's end was reached."""
    optimizer = Muon(*split_parameters(model, ("resnet.embedder", "classifier")), plan.lr, weight_decay=0.01)
    model.train()
    return PretrainingLoop("ocr", folder, log, plan, model, optimizer).run(ReadingLoss(model, pictures, wear))


def load_ocr(folder: Path) -> ResNetForImageClassification:
    """The trained recogniser, frozen."""
    model = build_ocr()
    model.load_state_dict(averaged_weights(folder / "ocr.safetensors"))
    return model.requires_grad_(False).eval()

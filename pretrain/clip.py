"""A small CLIP of the world, and the pipeline's two text encoders.

As in SD3, the first text encoder is the text tower of a CLIP (here the CLIP that is also the ClipScore proxy); the
second is a tower of another depth and initialisation, trained against the same image tower.

Source: CLIP (arXiv 2103.00020, figure 3); hard negative captions as in NegCLIP (arXiv 2210.01936, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from bench.datasets.scenes.captions import (
    STYLE_ADJECTIVES,
    STYLE_ENDINGS,
    hard_negatives,
    pick,
    styled_wording,
    true_style_words,
)
from bench.datasets.scenes.scene import is_true
from bench.datasets.scenes.types import Claim, Scene
from bench.datasets.scenes.vocabulary import CATEGORIES
from bench.rng import generator
from pretrain.data import TrainingPictures, to_tensor
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters
from pretrain.tokenizer import MAX_LENGTH
from pretrain.vae import Wear

HARD_NEGATIVES = 2
# Glyphs are the hardest to tell apart, so text takes more than its seventh of a batch.
TEXT_SHARE = 0.35
STYLED_SHARE = 0.4
RATING_WEIGHT = 2.0
# SD3 begins from CLIP-L's and CLIP-G's sizes; these keep the ratio of depth.
WIDTH, HEADS, MLP = 128, 4, 384


def _text_config(tokenizer: CLIPTokenizer, layers: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": MAX_LENGTH,
        "projection_dim": WIDTH,
        "hidden_act": "quick_gelu",
        # With transformers' default of 2 the tower would pool at the highest token id instead of at the end token.
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


class Towers(nn.Module):
    """The CLIP model with a second text tower beside it, trained as one."""

    def __init__(self, tokenizer: CLIPTokenizer, *, vision_layers: int = 3) -> None:
        super().__init__()
        vision = {
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": HEADS,
            "image_size": 64,
            "patch_size": 8,
            "projection_dim": WIDTH,
        }
        text = _text_config(tokenizer, layers=3)
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
        self.second = CLIPTextModelWithProjection(CLIPTextConfig(**_text_config(tokenizer, layers=2)))
        self.second_scale = nn.Parameter(torch.tensor(2.6592))

    def image(self, pixels: Tensor) -> Tensor:
        """Unit image embeddings (B, 128) of pictures (B, 3, 64, 64) in [-1, 1]."""
        pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.clip.visual_projection(pooled), dim=-1)

    def texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit caption embeddings (B, 128) of both text towers from token ids (B, 18)."""
        first = self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)
        second = self.second(input_ids=ids).text_embeds
        return F.normalize(first, dim=-1), F.normalize(second, dim=-1)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, 18), padded as the pipeline pads."""
    return tokenizer(
        list(captions), padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def style_of(caption: str) -> tuple[list[str], list[str]]:
    """The style adjectives and endings that a caption names."""
    words = caption.split()
    return [a for a in STYLE_ADJECTIVES if a in words], [e for e in STYLE_ENDINGS if caption.endswith(e)]


def false_style(scene: Scene, rng: np.random.Generator) -> str | None:
    """The scene's caption with one style word made false; None for a caption without style words."""
    adjectives, endings = style_of(scene.caption)
    true_adjectives, true_endings = true_style_words(scene.style)
    if adjectives:
        lie = pick(rng, [a for a in STYLE_ADJECTIVES if a not in true_adjectives])
        return scene.caption.replace(adjectives[0], lie, 1)
    if endings:
        return scene.caption.replace(endings[0], pick(rng, [e for e in STYLE_ENDINGS if e not in true_endings]))
    return None


def restyle(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, a share of the time with a caption that names its style: else the embedding keeps too little of it."""
    if scene.wrong_caption or rng.random() >= STYLED_SHARE:
        return scene
    return replace(scene, caption=styled_wording(scene.metadata, scene.style, rng))


def with_text_share(indices: np.ndarray, share: float) -> np.ndarray:
    """Picture indices (B,) of which the first `share` are moved to the nearest earlier or later text picture.

    Categories take turns in the stream, so a picture's category is the remainder of its index.
    """
    texts, kinds = round(share * len(indices)), len(CATEGORIES)
    moved = indices.copy()
    moved[:texts] += CATEGORIES.index("text") - indices[:texts] % kinds
    return moved


def negatives_of(scene: Scene, rng: np.random.Generator) -> list[tuple[str, Claim]]:
    """Near misses of a caption, one of them by its style if it names one."""
    lie = false_style(scene, rng)
    misses = hard_negatives(scene, rng, HARD_NEGATIVES)
    return [(lie, scene.metadata), *misses[1:]] if lie else misses


def truths(scenes: Sequence[Scene], pairs: Sequence[tuple[str, Claim]]) -> Tensor:
    """Which captions are true of which pictures, their style words included: bool (scenes, pairs)."""
    claims = []
    for caption, claim in pairs:
        adjectives, endings = style_of(caption)
        kinds = {part["class"] for part in claim["include"]}
        claims.append((claim.get("text", ""), kinds, {*adjectives, *endings}, claim))
    table = torch.zeros(len(scenes), len(pairs), dtype=torch.bool)
    for k, scene in enumerate(scenes):
        shown = {item.shape for item in scene.items}
        style = {word for words in true_style_words(scene.style) for word in words}
        for j, (text, kinds, words, claim) in enumerate(claims):
            # The cheap tests first: nearly every pair fails one of them.
            if text == scene.text and kinds <= shown and words <= style:
                table[k, j] = is_true(scene, claim)
    return table


def contrastive_loss(image: Tensor, text: Tensor, also_true: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of image (B, D) and text (N, D), N >= B; the first B rows match, the others are near misses.

    also_true: bool (B, N), further captions that are true of a picture and so count neither for nor against it.
    """
    logits = scale.clamp(max=4.6052).exp() * image @ text.T
    logits = logits.masked_fill(also_true, -1e4)
    target = torch.arange(len(image))
    square = logits[:, : len(image)]
    return (F.cross_entropy(logits, target) + F.cross_entropy(square.T, target)) / 2


# The error of a rating of pictures uint8 (B, 64, 64, 3) read off their unit embeddings (B, 128).
Rating = Callable[[Tensor, np.ndarray], Tensor]


class ContrastLoss:
    """Both text towers against the image tower, on rightly captioned training pictures, some of them worn.

    Captions name style in few words, so the embedding keeps too little of it to be rated (rank correlation 0.58); with
    `rate` the image tower also learns to let a rating be read.
    """

    def __init__(
        self,
        towers: Towers,
        tokenizer: CLIPTokenizer,
        pictures: TrainingPictures,
        wear: Wear,
        rate: Rating | None = None,
    ) -> None:
        self.towers, self.tokenizer, self.pictures, self.wear, self.rate = towers, tokenizer, pictures, wear, rate

    def __call__(self, step: TrainingStep) -> dict[str, Tensor]:
        indices = with_text_share(step.indices(len(self.pictures) - len(CATEGORIES)).numpy(), TEXT_SHARE)
        rng = generator(self.pictures.seed, f"clip/{step.rank}", step.number)
        scenes = [restyle(scene, rng) for scene in self.pictures.scenes(indices)]
        right = [k for k, scene in enumerate(scenes) if not scene.wrong_caption]
        scenes = [scenes[k] for k in right]
        pairs = [(scene.caption, scene.metadata) for scene in scenes]
        misses = [negatives_of(scene, rng) for scene in scenes]
        pairs += [pair for group in zip(*misses, strict=True) for pair in group]
        mask = truths(scenes, pairs).fill_diagonal_(False)
        shown = self.wear(self.pictures[indices[right]], step.generator)
        image = self.towers.image(to_tensor(shown))
        first, second = self.towers.texts(tokenize(self.tokenizer, [caption for caption, _ in pairs]))
        one = contrastive_loss(image, first, mask, self.towers.clip.logit_scale)
        two = contrastive_loss(image, second, mask, self.towers.second_scale)
        values = {"loss": one + two, "first": one.detach(), "second": two.detach()}
        if self.rate:
            values["rating"] = self.rate(image, shown)
            values["loss"] = values["loss"] + RATING_WEIGHT * values["rating"]
        return values


def train_clip(
    folder: Path,
    log: Path,
    plan: TrainingPlan,
    pictures: TrainingPictures,
    towers: Towers,
    tokenizer: CLIPTokenizer,
    wear: Wear,
    rate: Rating | None = None,
) -> bool:
    """Train all three towers; whether the plan's end was reached."""
    outer = ("clip.vision_model.embeddings", "clip.logit_scale", "second_scale")
    optimizer = Muon(*split_parameters(towers, outer), plan.lr, betas=(0.9, 0.98), weight_decay=0.01)
    return PretrainingLoop("clip", folder, log, plan, towers, optimizer).run(
        ContrastLoss(towers, tokenizer, pictures, wear, rate)
    )


def load_clip(folder: Path, towers: Towers, name: str = "clip.safetensors") -> Towers:
    """The trained weights of a checkpoint in `folder`, frozen."""
    towers.load_state_dict(averaged_weights(folder / name))
    return towers.requires_grad_(False).eval()


def first_encoder(towers: Towers) -> CLIPTextModelWithProjection:
    """The CLIP's text tower as the pipeline's first text encoder."""
    config = towers.clip.config.text_config
    assert isinstance(config, CLIPTextConfig)  # the annotation allows what the configuration was made of, too
    encoder = CLIPTextModelWithProjection(config)
    encoder.text_model.load_state_dict(towers.clip.text_model.state_dict())
    encoder.text_projection.load_state_dict(towers.clip.text_projection.state_dict())
    return encoder.requires_grad_(False).eval()


@torch.no_grad()
def embed_images(towers: Towers, images: np.ndarray, batch: int = 100) -> Tensor:
    """Unit image embeddings (B, 128) of pictures uint8 (B, 64, 64, 3)."""
    return torch.cat([towers.image(to_tensor(images[i : i + batch])) for i in range(0, len(images), batch)])

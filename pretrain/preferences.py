"""The CLIP goes on with preferences: of two samples of the base for one prompt, the one that gold calls right.

Contrast teaches a CLIP which of several captions a picture has. Methods with a reward ask something else, which of
several pictures a caption has, drawn by the base for one prompt; contrast leaves that order nearly open.

Source: PickScore, arXiv 2305.01569, section 3: cross-entropy of the softmax over both pictures' scaled scores, prompts
weighted alike. Deviations: gold takes the place of people; contrast and the aesthetic rating go on beside it, so that
neither is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel

from bench.api import Prompt
from bench.datasets.scenes.proxies import AESTHETIC_FOLDER, CLIP_FOLDER, AestheticHead, ProxyClip
from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_scenes
from bench.datasets.scenes.vocabulary import CATEGORIES
from bench.datasets.scenes.world import ScenesWorld
from bench.rng import generator
from pretrain.aesthetic import gold_scores
from pretrain.clip import RATING_WEIGHT, contrastive_loss, negatives_of, restyle, truths
from pretrain.data import TRAIN_STREAM, to_tensor
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters
from pretrain.sample import sample_pictures
from rewards.scenes_geneval import ScenesGenEval

FILE = "preferences-samples.safetensors"
GROUP = 8  # pictures of one prompt, all at one guidance
GUIDANCES = (1.0, 3.0)  # prompts take turns
PROMPTS = 16  # of each step's preferences
RENDERS = 48  # of each step's contrast


def preference_prompts(split: str, count: int) -> list[Prompt]:
    """The first prompts of a split, categories taking turns."""
    return ScenesWorld().prompts(split, CATEGORIES, count)


def sample_groups(pipeline: Any, prompts: Sequence[Prompt], guidance: float, seed: int, group: int = GROUP) -> Tensor:
    """Samples uint8 (N, group, 64, 64, 3) of the base for N prompts."""
    texts = [prompt.text for prompt in prompts for _ in range(group)]
    images = sample_pictures(pipeline, texts, guidance, seed=seed)
    return torch.from_numpy(images).unflatten(0, (len(prompts), group))


def right(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Which of the samples (N, group, 64, 64, 3) gold calls right: bool (N, group)."""
    owners = [prompt for prompt in prompts for _ in range(images.shape[1])]
    scores = ScenesGenEval()(images.flatten(0, 1).numpy(), [p.text for p in owners], [p.metadata for p in owners])
    return torch.from_numpy(np.asarray(scores) == 1).unflatten(0, images.shape[:2])


def write_preferences(pipeline: Any, folder: Path, count: int, part: int = 64) -> None:
    """Sample groups for `count` training prompts and keep those of which some are right and some wrong.

    Parts of `part` prompts that exist are left.
    """
    parts = folder / "preferences"
    parts.mkdir(parents=True, exist_ok=True)
    prompts = preference_prompts("train", count)
    for first in range(0, count, part):
        path = parts / f"{first:06d}.safetensors"
        if path.exists():
            continue
        chosen = prompts[first : first + part]
        images = sample_groups(pipeline, chosen, GUIDANCES[first // part % len(GUIDANCES)], seed=1 + first)
        half = path.with_suffix(".part")
        save_file({"images": images, "right": right(images, chosen)}, half)
        half.replace(path)
        print(f"preferences {first + len(chosen)} of {count}", flush=True)
    read = [load_file(parts / f"{first:06d}.safetensors") for first in range(0, count, part)]
    images, labels = (torch.cat([one[key] for one in read]) for key in ("images", "right"))
    mixed = labels.any(1) & ~labels.all(1)
    save_file(
        {"images": images[mixed], "right": labels[mixed], "prompt": torch.arange(count)[mixed]}, folder / FILE
    )  # fmt: skip
    print(f"preferences: {int(mixed.sum())} of {count} prompts have right and wrong pictures", flush=True)


def preference_loss(scores: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Mean over prompts of the cross-entropy of all pairs of a right and a wrong picture.

    scores: cosines (N, group); labels: bool (N, group), each row with both kinds.
    """
    difference = scale * (scores[:, :, None] - scores[:, None, :])
    pairs = labels[:, :, None] & ~labels[:, None, :]
    losses = F.softplus(-difference).where(pairs, 0.0)
    return (losses.sum((1, 2)) / pairs.sum((1, 2))).mean()


class ClipLoss:
    """Preferences between the base's samples; contrast and ratings of renders, as the CLIP was trained before."""

    def __init__(self, clip: ProxyClip, head: AestheticHead, folder: Path, seed: int) -> None:
        self.clip, self.model, self.head, self.seed = clip, clip.model, head, seed
        data = load_file(folder / FILE)
        self.images, self.labels = data["images"], data["right"]
        prompts = preference_prompts("train", int(data["prompt"].max()) + 1)
        self.ids = clip.token_ids([prompts[number].text for number in data["prompt"].tolist()])

    def texts(self, ids: Tensor) -> Tensor:
        """Unit embeddings (B, D) of token ids (B, L)."""
        return F.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)

    def pictures(self, images: np.ndarray) -> Tensor:
        """Unit embeddings (B, D) of uint8 (B, 64, 64, 3)."""
        return F.normalize(self.model.get_image_features(pixel_values=to_tensor(images)).pooler_output, dim=-1)

    def __call__(self, step: TrainingStep) -> dict[str, Tensor]:
        scale = self.model.logit_scale.clamp(max=4.6052).exp()
        chosen = torch.randint(len(self.images), (PROMPTS,), generator=step.generator)
        samples = self.images[chosen].flatten(0, 1).numpy()
        embedded = self.pictures(samples)
        cosines = (embedded.unflatten(0, (PROMPTS, -1)) * self.texts(self.ids[chosen])[:, None]).sum(-1)
        preference = preference_loss(cosines, self.labels[chosen], scale)

        rng = generator(self.seed, "preferences", step.number)
        first = int(rng.integers(10**7))
        scenes = [restyle(scene, rng) for scene in sample_scenes(TRAIN_STREAM, self.seed, first, RENDERS)]
        pairs = [(scene.caption, scene.metadata) for scene in scenes]
        misses = [negatives_of(scene, rng) for scene in scenes]
        pairs += [pair for group in zip(*misses, strict=True) for pair in group]
        mask = truths(scenes, pairs).fill_diagonal_(False)
        renders = render_scenes(scenes)
        image = self.pictures(renders)
        text = self.texts(self.clip.token_ids([caption for caption, _ in pairs]))
        contrast = contrastive_loss(image, text, mask, self.model.logit_scale)

        rated = np.concatenate([renders, samples[:: GROUP // 2]])
        gold = gold_scores(rated)
        made = self.head(torch.cat([image, embedded[:: GROUP // 2]]))
        rating = (made - gold).square().mean() / gold.var().clamp(min=0.1)
        return {
            "loss": preference + contrast + RATING_WEIGHT * rating,
            "preference": preference.detach(),
            "contrast": contrast.detach(),
            "rating": rating.detach(),
        }


class _ClipAndHead(nn.Module):
    """What trains: the scorer's CLIP and the aesthetic head that reads it."""

    def __init__(self, clip: CLIPModel, head: AestheticHead) -> None:
        super().__init__()
        self.clip, self.head = clip, head


def train_preferences(folder: Path, log: Path, plan: TrainingPlan, assets: Path) -> bool:
    """Go on with the shipped CLIP and its aesthetic head; whether the plan's end was reached."""
    clip, head = ProxyClip(assets / CLIP_FOLDER), AestheticHead.load(assets / AESTHETIC_FOLDER)
    both = _ClipAndHead(clip.model.train().requires_grad_(True), head.train().requires_grad_(True))
    outer = ("clip.vision_model.embeddings", "clip.logit_scale", "head")
    optimizer = Muon(*split_parameters(both, outer), plan.lr, betas=(0.9, 0.98), weight_decay=0.01)
    loss = ClipLoss(clip, head, folder, plan.seed)
    return PretrainingLoop("preferences", folder, log, plan, both, optimizer).run(loss)


def preferred_scorers(folder: Path, assets: Path) -> tuple[CLIPModel, AestheticHead]:
    """The shipped CLIP and aesthetic head with the averaged weights of this stage."""
    both = _ClipAndHead(ProxyClip(assets / CLIP_FOLDER).model, AestheticHead.load(assets / AESTHETIC_FOLDER))
    both.load_state_dict(averaged_weights(folder / "preferences.safetensors"))
    return both.clip, both.head


def within_prompt_auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a right picture scores above a wrong one of the same prompt, prompts weighted alike.

    scores, labels: (N, group); prompts with one kind only are left out, and NaN is what is left where all are.
    """
    pairs = labels[:, :, None] & ~labels[:, None, :]
    difference = scores[:, :, None] - scores[:, None, :]
    wins = ((difference > 0) + 0.5 * (difference == 0)) * pairs
    counts = pairs.sum((1, 2))
    return float((wins.sum((1, 2))[counts > 0] / counts[counts > 0]).mean())

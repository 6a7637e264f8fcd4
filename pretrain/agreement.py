"""How far each scorer agrees with what is so: the gold scorers on constructed pictures, the proxies with gold.

Every proxy is judged on pairs of a picture and a caption that gold calls right or wrong: the picture's own caption,
near misses of it, and captions of other pictures of the same category.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from scipy.stats import rankdata, spearmanr

from bench.datasets.scenes.captions import near_misses, pick, wordings
from bench.datasets.scenes.scene import sample_prompts
from bench.datasets.scenes.vocabulary import CATEGORIES
from bench.rng import generator
from pretrain.data import validation
from pretrain.preferences import GUIDANCES, preference_prompts, right, sample_groups, within_prompt_auc
from pretrain.sample import sample_pictures
from pretrain.vae import reconstruct
from rewards.scenes_aesthetic import ScenesAesthetic
from rewards.scenes_aesthetic_head import ScenesAestheticHead
from rewards.scenes_clip import ScenesClip
from rewards.scenes_geneval import ScenesGenEval
from rewards.scenes_ocr_net import ScenesOCRNet

Claim = Mapping[str, Any]
NEAR_MISSES = OTHERS = 2
MORE_TEXTS = 10  # the base draws few texts right, so as many times more are sampled to judge the reader


@dataclass(frozen=True)
class Pairs:
    """Pictures uint8 (N, 64, 64, 3) with captions and their claims, and which categories they belong to."""

    images: np.ndarray
    captions: Sequence[str]
    claims: Sequence[Claim]

    @property
    def categories(self) -> np.ndarray:
        """The captions' categories (N,)."""
        return np.array([claim["tag"] for claim in self.claims])

    def gold(self) -> np.ndarray:
        """Strict gold alignment (N,), 0 or 1."""
        return np.asarray(ScenesGenEval()(self.images, self.captions, self.claims))

    def subset(self, chosen: np.ndarray) -> Pairs:
        """The pairs at the given indices."""
        picked = chosen.tolist()
        return Pairs(self.images[chosen], [self.captions[i] for i in picked], [self.claims[i] for i in picked])


def by_category(values: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """Means of values (N,) over all and over each category."""
    means = {"overall": float(values.mean())}
    means |= {name: float(values[categories == name].mean()) for name in CATEGORIES if (categories == name).any()}
    return {name: round(mean, 4) for name, mean in means.items()}


def auc(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Probability that a right pair scores above a wrong one, ties counting half; None if one kind is missing."""
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(scores)[right].sum()
    return round(float((ranks - positives * (positives + 1) / 2) / (positives * negatives)), 4)


def with_wrong_captions(own: Pairs, seed: int = 0) -> Pairs:
    """The pairs followed by near misses and by the captions of others of the same category."""
    captions, claims = list(own.captions), list(own.claims)
    owners = list(range(len(captions)))
    for k, claim in enumerate(own.claims):
        rng = generator(seed, "agreement", k)
        special, common = near_misses(dict(claim))
        peers = [c for c, tag in zip(own.claims, own.categories, strict=True) if tag == claim["tag"]]
        wrong = [pick(rng, pool) for pool in (special or common, common or special)][:NEAR_MISSES]
        for other in [*wrong, *(pick(rng, peers) for _ in range(OTHERS))]:
            captions.append(pick(rng, wordings(dict(other))))
            claims.append(other)
            owners.append(k)
    return Pairs(own.images[owners], captions, claims)


def proxy_agreement(own: Pairs, more_texts: Pairs | None = None) -> dict[str, dict[str, float | None]]:
    """AUC of the CLIP (by category) and of the text reader, Spearman of the aesthetic head, all against gold.

    Where few texts are right, the reader is judged on `more_texts`; `right_pairs` counts what each area rests on.
    """
    pairs = with_wrong_captions(own)
    right = pairs.gold() == 1
    scores = ScenesClip()(pairs.images, pairs.captions, pairs.claims)
    kinds = pairs.categories
    result: dict[str, dict[str, float | None]] = {
        "clip_auc": {c: auc(scores[kinds == c], right[kinds == c]) for c in CATEGORIES},
        "clip_auc_own_caption": {},
    }
    gold, first = right[: len(own.captions)], scores[: len(own.captions)]
    for category in CATEGORIES:
        chosen = own.categories == category
        result["clip_auc_own_caption"][category] = auc(first[chosen], gold[chosen])
    result["right_pairs"] = {c: int(right[kinds == c].sum()) for c in CATEGORIES}
    texts = with_wrong_captions(more_texts) if more_texts else pairs.subset(np.flatnonzero(kinds == "text"))
    read, legible = ScenesOCRNet()(texts.images, texts.captions, texts.claims), texts.gold() == 1
    result["ocr_auc"] = {"text": auc(read, legible)}
    result["ocr_right_pairs"] = {"text": int(legible.sum())}
    made = ScenesAestheticHead()(own.images, own.captions, own.claims)
    true = ScenesAesthetic()(own.images, own.captions, own.claims)
    result["aesthetic_spearman"] = {"overall": round(float(spearmanr(made, true).statistic), 4)}
    return result


def within_prompt_agreement(pipeline: Any, count: int) -> dict[str, dict[str, float | None]]:
    """What RL sees of the CLIP: its AUC between the base's own samples of one prompt, by category.

    Tune prompts, half of them at each guidance that preferences are drawn at; prompts whose samples are all right or
    all wrong say nothing, and `prompts` counts the others.
    """
    prompts = preference_prompts("tune", count)
    halves = [prompts[: count // 2], prompts[count // 2 :]]
    images = torch.cat([sample_groups(pipeline, half, g, seed=2) for half, g in zip(halves, GUIDANCES, strict=True)])
    labels = right(images, prompts)
    owners = [prompt for prompt in prompts for _ in range(images.shape[1])]
    made = ScenesClip()(images.flatten(0, 1).numpy(), [p.text for p in owners], [p.metadata for p in owners])
    scores = torch.from_numpy(np.asarray(made)).unflatten(0, labels.shape)
    tags = np.array([prompt.category for prompt in prompts])
    mixed = (labels.any(1) & ~labels.all(1)).numpy()
    areas: dict[str, float | None] = {}
    for category in CATEGORIES:
        chosen = torch.from_numpy(mixed & (tags == category))
        areas[category] = round(within_prompt_auc(scores[chosen], labels[chosen]), 4) if chosen.any() else None
    return {"auc": areas, "prompts": {c: int((mixed & (tags == c)).sum()) for c in CATEGORIES}}


def rendered_pairs(count: int, style: str = "broad") -> Pairs:
    """Validation pictures with their own captions."""
    images, scenes = validation(count, style=style)
    return Pairs(images, [s.caption for s in scenes], [s.metadata for s in scenes])


def base_samples(pipeline: Any, count: int, guidance: float, category: str | None = None) -> Pairs:
    """Samples of the base for the first validation prompts, or for those of one category among them."""
    prompts = [p for p in sample_prompts("pretrain-val", 0, 0, count) if category in (None, p.category)]
    images = sample_pictures(pipeline, [p.text for p in prompts], guidance)
    return Pairs(images, [p.text for p in prompts], [p.metadata for p in prompts])


def gold_agreement(pipeline: Any, count: int) -> dict[str, dict[str, float]]:
    """Gold alignment of renders with their captions, of renders with others' captions, and of reconstructions."""
    clean, broad = rendered_pairs(count, "clean"), rendered_pairs(count)
    shuffled = generator(0, "agreement/shuffle").permutation(count)
    random = Pairs(broad.images, [broad.captions[i] for i in shuffled], [broad.claims[i] for i in shuffled])
    rebuilt = Pairs(reconstruct(pipeline.vae, broad.images), broad.captions, broad.claims)
    kinds: dict[str, Callable[[], Pairs]] = {
        "clean_renders": lambda: clean,
        "broad_renders": lambda: broad,
        "random_captions": lambda: random,
        "reconstructions": lambda: rebuilt,
    }
    return {name: by_category(made().gold(), made().categories) for name, made in kinds.items()}


def open_pipeline(assets: Path) -> Any:
    """The exported pipeline in float32, without progress bars."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        assets / "pipeline", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32, use_safetensors=True,
        local_files_only=True,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_agreement(assets: Path, log: Path, guidance: float = 4.5, count: int = 700) -> None:
    """Measure all agreements on the exported files, print them, and write them to agreement.json."""
    pipeline = open_pipeline(assets)
    result = {
        "gold": gold_agreement(pipeline, count),
        "proxies_on_renders": proxy_agreement(rendered_pairs(count)),
        "proxies_on_base_samples": proxy_agreement(
            base_samples(pipeline, count, guidance), base_samples(pipeline, MORE_TEXTS * count, guidance, "text")
        ),
        "clip_within_prompt": within_prompt_agreement(pipeline, count),
        "pictures": count,
        "guidance": guidance,
    }
    log.mkdir(parents=True, exist_ok=True)
    (log / "agreement.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1), flush=True)

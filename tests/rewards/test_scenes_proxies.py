"""The learned scorers on tiny checkpoints with random weights, written in the format that the assets have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetForImageClassification

from bench.api import DataError, Reward
from bench.datasets.scenes import proxies
from bench.datasets.scenes.scene import sample_prompts
from pretrain.tokenizer import MAX_LENGTH, build_tokenizer, save_tokenizer
from rewards.scenes_aesthetic_head import ScenesAestheticHead
from rewards.scenes_clip import ScenesClip
from rewards.scenes_ocr_net import ScenesOCRNet

REWARDS = (ScenesClip, ScenesAestheticHead, ScenesOCRNet)
PROMPTS = ["a red circle", 'the text "A7"', "a photo of a blue star", "a red circle", "two rings", "a cross"]
METADATA = [{"tag": "text", "text": text} for text in ("A", "A7", "7K2", "E", "X", "Y")]


def save_clip(folder: Path, **text: int) -> None:
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **text,
        },
        vision_config={**shape, "image_size": 64, "patch_size": 16},
        projection_dim=8,
    )
    model = CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def save_ocr(folder: Path, labels: int = proxies.OCR_SLOTS * len(proxies.OCR_CLASSES)) -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=labels)
    ResNetForImageClassification(config).half().save_pretrained(folder)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_clip(folder / "clip")
        proxies.AestheticHead(8, 6).save(folder / "aesthetic")
        save_ocr(folder / "ocr")
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("cls", REWARDS)
def test_a_batch_scores_as_its_singles_in_any_order(cls: type[Reward], assets: Path, images: np.ndarray) -> None:
    reward = cls(assets)  # type: ignore[call-arg]
    batch = reward(images, PROMPTS, METADATA)
    assert batch.shape == (6,)
    assert batch.dtype == np.float32
    for i in range(6):
        single = reward(images[i : i + 1], PROMPTS[i : i + 1], METADATA[i : i + 1])
        assert single.shape == (1,)
        assert single[0] == pytest.approx(batch[i], abs=1e-6)  # kernels may sum in another order for another batch
    order = [3, 1, 5, 0, 2, 4]
    turned = reward(images[order], [PROMPTS[i] for i in order], [METADATA[i] for i in order])
    np.testing.assert_allclose(turned, batch[order], atol=1e-6)
    assert reward.range[0] <= batch.min() <= batch.max() <= reward.range[1]


@pytest.mark.parametrize("cls", REWARDS)
def test_missing_assets_and_wrong_pictures_are_named(cls: type[Reward], assets: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bench pretrain"):
        cls(tmp_path).load()  # type: ignore[call-arg]
    with pytest.raises(DataError, match=r"expected pictures uint8 \(B, 64, 64, 3\)"):
        cls(assets)(np.zeros((1, 32, 32, 3), np.uint8), PROMPTS[:1], METADATA[:1])  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", REWARDS)
def test_the_fingerprint_follows_the_weights(cls: type[Reward], assets: Path, tmp_path: Path) -> None:
    prints = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"{len(prints)}"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_clip(folder / "clip")
            proxies.AestheticHead(8, 6).save(folder / "aesthetic")
            save_ocr(folder / "ocr")
        reward = cls(folder)  # type: ignore[call-arg]
        reward.load()
        prints.append(reward.fingerprint)  # type: ignore[attr-defined]
    assert prints[0] == prints[1] != prints[2]


def test_clip_score_is_the_models_own_logit(assets: Path, images: np.ndarray) -> None:
    """Against `CLIPModel.forward`, which does the same in one go; its logit is the cosine times the scale."""
    reward = ScenesClip(assets)
    scores = reward(images, PROMPTS, METADATA)
    model = CLIPModel.from_pretrained(assets / "clip", dtype=torch.float32).eval()
    ids = build_tokenizer()(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    mean = std = torch.full((3, 1, 1), 0.5)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=x)
        expected = out.logits_per_image.diagonal() / model.logit_scale.exp()
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
    assert np.ptp(scores) > 0.01


def test_captions_are_never_truncated_nor_misread(assets: Path, images: np.ndarray) -> None:
    reward = ScenesClip(assets)
    with pytest.raises(DataError, match=r"tokens, but the scorer reads 18: shorten it"):
        reward(images[:1], ["a red circle and a blue star and a green ring and a pink cross and a red ring"], [{}])
    with pytest.raises(DataError, match="does not know"):
        reward(images[:1], ["a ünlikely circle"], [{}])
    for prompt in sample_prompts("test", 0, 0, 50):
        reward(images[:1], [prompt.text], [prompt.metadata])


def test_a_tower_that_pools_elsewhere_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip", eos_token_id=2)
    with pytest.raises(DataError, match="pools at token 2"):
        ScenesClip(tmp_path).load()


def test_aesthetic_head_by_hand(assets: Path, images: np.ndarray) -> None:
    clip, head = proxies.ProxyClip(assets / "clip"), proxies.AestheticHead.load(assets / "aesthetic")
    x = clip.image(images)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(6))
    first, _, last = head.layers
    hidden = torch.nn.functional.gelu(x @ first.weight.T + first.bias)  # type: ignore[operator,union-attr]
    expected = 10 / (1 + torch.exp(-(hidden @ last.weight.T + last.bias)[:, 0]))  # type: ignore[operator,union-attr]
    np.testing.assert_allclose(ScenesAestheticHead(assets)(images, PROMPTS, METADATA), expected.numpy(), atol=1e-5)
    assert head.layers[0].weight.dtype == torch.float32


def test_a_head_for_another_clip_is_refused(assets: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").symlink_to(assets / "clip")
    proxies.AestheticHead(9, 6).save(tmp_path / "aesthetic")
    with pytest.raises(DataError, match="embeddings of 9 numbers, but the CLIP gives 8"):
        ScenesAestheticHead(tmp_path).load()


def test_ocr_reads_slot_by_slot(assets: Path, images: np.ndarray) -> None:
    """Logits set by the bias alone: slot 0 reads A, slot 1 is blank, slot 2 reads 7."""
    model = proxies.load_ocr(assets / "ocr")
    last = model.classifier[-1]
    wanted = [proxies.OCR_CLASSES.index(text) for text in ("A", "", "7")]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        for slot, number in enumerate(wanted):
            last.bias[slot * len(proxies.OCR_CLASSES) + number] = 1.0
    assert proxies.recognise_text(model, images[:2]) == ["A7", "A7"]

    reward = ScenesOCRNet(assets)
    reward._model = model
    # edit distances 0 of 2, 1 of 1, 2 of 3
    scores = reward(images[:3], PROMPTS[:3], [{"text": "A7"}, {"text": "A"}, {"text": "K72"}])
    np.testing.assert_allclose(scores, [1, 0, 1 / 3], atol=1e-7)


def test_ocr_refuses_what_it_cannot_judge(assets: Path, images: np.ndarray, tmp_path: Path) -> None:
    assert ScenesOCRNet.applies({"tag": "text", "text": "A"})
    assert not ScenesOCRNet.applies({"tag": "colors"})
    with pytest.raises(DataError, match="quote none"):
        ScenesOCRNet(assets)(images[:1], PROMPTS[:1], [{"tag": "colors"}])
    save_ocr(tmp_path / "ocr", labels=10)
    with pytest.raises(DataError, match="expected 63 logits"):
        ScenesOCRNet(tmp_path).load()

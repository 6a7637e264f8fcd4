"""The published CLIP scorers on tiny checkpoints of their real format, against computations that share no code."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from bench.api import CheckpointMissing, DataError, Reward
from rewards import convert
from rewards._weights import PublishedCheckpoint, located
from rewards.aesthetic import HEAD, Aesthetic
from rewards.clipscore import ClipScore
from rewards.hpsv2 import CONFIG, HPSv2
from rewards.pickscore import PickScore
from tests.support import tiny_checkpoints as tiny

ALL: tuple[type[Any], ...] = (ClipScore, PickScore, HPSv2, Aesthetic)
READERS: tuple[type[Any], ...] = (ClipScore, PickScore, HPSv2)
PROMPTS = ["a red circle", "a blue star", 'the text "A7"', "ünlikely 漢字 & “quotes”, " * 30]
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pictures(height: int = 64, width: int = 64) -> np.ndarray:
    """Four pictures uint8 (4, height, width, 3): gradients with coarse patches, so that resizing leaves them apart."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.NEAREST)) for tile in coarse]
    noise = random.integers(0, 40, (4, height, width, 3))
    return np.clip(np.stack(big).astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def weights(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny checkpoints, to be spoilt, in the place of `$BENCH_WEIGHTS`."""
    copy = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    monkeypatch.setenv("BENCH_WEIGHTS", str(copy))
    return copy


def scored(cls: type[Reward], images: np.ndarray, prompts: Sequence[str] = PROMPTS) -> np.ndarray:
    return cls()(images, prompts, [{}] * len(images))


# Against the published computation


@pytest.mark.parametrize("size", [(64, 64), (41, 90), (37, 28), (20, 20)])
@pytest.mark.parametrize("cls", [ClipScore, PickScore])
def test_cosines_are_those_of_the_published_code(cls: type[Any], size: tuple[int, int], tiny_weights: Path) -> None:
    """transformers' own processor, tokenizer and forward pass, as the model pages of both show them."""
    images, folder = pictures(*size), cls.checkpoint.folder
    processor = CLIPImageProcessor(size={"shortest_edge": tiny.SIZE}, crop_size=tiny.SIZE)
    pixels = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    texts = tokenizer(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    assert texts.input_ids.shape[1] == 77
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(pixel_values=pixels, **texts).logits_per_image.diagonal()
        expected = logits if cls is PickScore else logits / model.logit_scale.exp()
    np.testing.assert_allclose(scored(cls, images), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_aesthetic_is_the_published_head_on_unit_embeddings(tiny_weights: Path) -> None:
    """The five products in float64, from the tensors of the published file."""
    images = pictures(50, 64)
    wide = [Image.fromarray(image).resize((35, 28), Image.Resampling.BICUBIC) for image in images]  # 28 x 64 / 50
    crops = [image.crop((4, 0, 32, 28)) for image in wide]  # 3.5 on each side, which torchvision rounds to an even 4
    assert tiny.SIZE == 28
    pixels = torch.from_numpy((np.stack([np.asarray(crop) for crop in crops]) / 255 - MEAN) / DEVIATION)
    pixels = pixels.permute(0, 3, 1, 2).float()
    model = CLIPModel.from_pretrained(ClipScore.checkpoint.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        x = model.get_image_features(pixel_values=pixels).pooler_output.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    published = torch.load(tiny_weights.parent / "originals" / tiny.AESTHETIC, weights_only=True)
    for place in (0, 2, 4, 6, 7):
        weight, bias = (published[f"layers.{place}.{name}"].double().numpy() for name in ("weight", "bias"))
        x = x @ weight.T + bias
    np.testing.assert_allclose(scored(Aesthetic, images), x[:, 0], rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (41, 90), (90, 41), (28, 14), (20, 20)])
def test_hpsv2_is_open_clips_forward_pass_on_the_published_names(size: tuple[int, int], tiny_weights: Path) -> None:
    images = pictures(*size)
    content = torch.load(tiny_weights.parent / "originals" / tiny.HPS, weights_only=True)
    tensors = {name: tensor.float() for name, tensor in content["state_dict"].items()}
    ids = CLIPTokenizer.from_pretrained(HPSv2.checkpoint.folder)(PROMPTS, truncation=True, max_length=77).input_ids
    padded = torch.tensor([row + [0] * (77 - len(row)) for row in ids])  # open_clip pads with zeros
    picture = F.normalize(open_clip_picture(tensors, whole_on_black(images, tiny.SIZE)), dim=1)
    text = F.normalize(open_clip_text(tensors, padded), dim=1)
    np.testing.assert_allclose(scored(HPSv2, images), (picture * text).sum(1).numpy(), atol=1e-5)


def open_clip_picture(t: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """open_clip's VisionTransformer: class token, patches, pre-norm, blocks, post-norm of the class token."""
    x = F.conv2d(pixels, t["visual.conv1.weight"], stride=tiny.PATCH).flatten(2).mT
    x = torch.cat([t["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + t["visual.positional_embedding"]
    x = blocks(t, "visual.transformer", norm(t, "visual.ln_pre", x), mask=None)
    return norm(t, "visual.ln_post", x[:, 0]) @ t["visual.proj"]


def open_clip_text(t: dict[str, Tensor], ids: Tensor) -> Tensor:
    """open_clip's text tower: causal blocks, the feature at the highest token id."""
    x = t["token_embedding.weight"][ids] + t["positional_embedding"]
    mask = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
    x = norm(t, "ln_final", blocks(t, "transformer", x, mask))
    return x[torch.arange(len(x)), ids.argmax(1)] @ t["text_projection"]


def blocks(t: dict[str, Tensor], name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    for layer in range(tiny.LAYERS):
        p = f"{name}.resblocks.{layer}"
        y = F.linear(norm(t, f"{p}.ln_1", x), t[f"{p}.attn.in_proj_weight"], t[f"{p}.attn.in_proj_bias"])
        q, k, v = (part.unflatten(2, (tiny.HEADS, -1)).transpose(1, 2) for part in y.chunk(3, 2))
        weight = q @ k.mT / q.shape[3] ** 0.5
        y = (torch.softmax(weight if mask is None else weight + mask, 3) @ v).transpose(1, 2).flatten(2)
        x = x + linear(t, f"{p}.attn.out_proj", y)
        x = x + linear(t, f"{p}.mlp.c_proj", F.gelu(linear(t, f"{p}.mlp.c_fc", norm(t, f"{p}.ln_2", x))))
    return x


def linear(t: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])


def norm(t: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"])


def whole_on_black(images: np.ndarray, size: int) -> Tensor:
    """The longer side to `size`, the rest black, then normalised: by matrices, in float64."""
    height, width = (round(side * size / max(images.shape[1:3])) for side in images.shape[1:3])
    down, across = bicubic(images.shape[1], height), bicubic(images.shape[2], width)
    resized = np.einsum("hH,bHWc,wW->bhwc", down, images / 255, across)
    square = np.zeros((len(images), size, size, 3))
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = resized
    return torch.from_numpy((square - MEAN) / DEVIATION).permute(0, 3, 1, 2).float()


def bicubic(count: int, wanted: int) -> np.ndarray:
    """The matrix (wanted, count) of Keys' cubic filter with a = -0.5, widened where it shrinks, rows summing to 1."""
    if count == wanted:
        return np.eye(count)
    scale = count / wanted
    centres = (np.arange(wanted)[:, None] + 0.5) * scale
    x = np.abs((np.arange(count) + 0.5 - centres) / max(scale, 1.0))
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weight = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weight / weight.sum(1, keepdims=True)


# What a scorer tells apart, and what it does not mind


@pytest.mark.parametrize("cls", ALL)
def test_pictures_are_told_apart_and_so_are_prompts(cls: type[Any], tiny_weights: Path) -> None:
    images, spread = pictures(), 0.002 * (100 if cls is PickScore else 1)
    assert np.ptp(scored(cls, images, PROMPTS[:1] * 4)) > spread
    same = np.repeat(images[:1], 4, axis=0)
    assert (np.ptp(scored(cls, same)) > spread) == (cls is not Aesthetic)


@pytest.mark.parametrize("cls", ALL)
def test_many_pictures_score_as_few(cls: type[Any], tiny_weights: Path) -> None:
    """More pictures than go into one pass, each as in a batch of four."""
    images, few = pictures(), scored(cls, pictures())
    many = scored(cls, np.tile(images, (9, 1, 1, 1)), PROMPTS * 9)
    np.testing.assert_allclose(many, np.tile(few, 9), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", READERS)
def test_a_prompt_is_read_to_its_77th_token(cls: type[Any], tiny_weights: Path) -> None:
    """75 letters stand between the two marks: what follows them does not count, the last of them does."""
    letters = " ".join("abcde" * 15)
    first, longer, other = scored(cls, pictures()[:1].repeat(3, 0), [letters, f"{letters} red", f"{letters[:-1]}f"])
    assert first == pytest.approx(longer, abs=1e-5)
    assert abs(first - other) > 1e-4


@pytest.mark.parametrize("cls", ALL)
def test_what_is_no_batch_of_pictures_is_refused(cls: type[Any], tiny_weights: Path) -> None:
    with pytest.raises(DataError, match=r"expected pictures uint8 \(B, H, W, 3\), got float32"):
        cls()(np.zeros((1, 8, 8, 3), np.float32), ["a"], [{}])
    with pytest.raises(DataError, match="one prompt for each of 4 pictures, got 1"):
        cls()(pictures(), ["a"], [{}])


# Checkpoints


@pytest.mark.slow
def test_scorers_of_one_clip_hold_it_together_until_its_file_changes(weights: Path) -> None:
    from rewards._clip_model import _held, shared_clip

    cosine, looks = loaded(ClipScore), loaded(Aesthetic)
    folder = ClipScore.checkpoint.folder
    held = shared_clip(folder)
    assert shared_clip(folder) is held and list(_held.values()).count(held) == 1
    spoil(folder / "model.safetensors", lambda tensors: tensors["visual_projection.weight"].mul_(2))
    assert shared_clip(folder) is not held
    del cosine, looks, held
    gc.collect()
    assert not any(key[0] == str(folder.resolve()) for key in _held)


@pytest.mark.parametrize("cls", ALL)
def test_the_fingerprint_follows_the_weights(cls: type[Any], weights: Path) -> None:
    prints = [loaded(cls).fingerprint, loaded(cls).fingerprint]
    checkpoint = HEAD if cls is Aesthetic else cls.checkpoint
    spoil(checkpoint.folder / checkpoint.files[-1 if cls is Aesthetic else 1], lambda t: next(iter(t.values())).add_(1))
    prints.append(loaded(cls).fingerprint)
    assert prints[0] == prints[1] != prints[2] and len(prints[0]) == 16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("visual_projection.weight"), r"1 missing \(visual_projection.weight\)"),
        (lambda t: t.update(extra=torch.ones(1)), r"1 unexpected \(extra\)"),
        (lambda t: t.update(logit_scale=torch.ones(2)), r"1 of another shape \(logit_scale \(2,\) for \(\)\)"),
        (lambda t: [t.pop(name) for name in list(t)], r"78 missing \(logit_scale, .* and 72 more\)"),
    ],
)
@pytest.mark.parametrize("cls", READERS)
def test_other_tensors_are_refused_by_name(cls: type[Any], change: Any, told: str, weights: Path) -> None:
    spoil(cls.checkpoint.folder / "model.safetensors", change)
    with pytest.raises(DataError, match=told):
        cls().load()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("layers.7.bias"), r"1 missing \(layers.7.bias\)"),
        (lambda t: t.update({"layers.1.weight": torch.ones(1)}), r"1 unexpected \(layers.1.weight\)"),
        (lambda t: t.update({"layers.0.weight": torch.ones(1024, 13)}), r"layers.0.weight \(1024, 13\) for \(1024, 12"),
    ],
)
def test_another_head_is_refused_by_name(change: Any, told: str, weights: Path) -> None:
    spoil(HEAD.folder / HEAD.files[0], change)
    with pytest.raises(DataError, match=told):
        Aesthetic().load()


def test_what_is_not_there_says_where_it_belongs_and_how_to_get_it(weights: Path) -> None:
    for cls in reversed(ALL):  # the head first, for it stands on the CLIP of the first one
        checkpoint = HEAD if cls is Aesthetic else cls.checkpoint
        cls.require_checkpoint()
        (checkpoint.folder / checkpoint.files[0]).unlink()
        for ask in (cls.require_checkpoint, cls().load):
            with pytest.raises(CheckpointMissing) as caught:
                ask()
            parts = (checkpoint.home, checkpoint.files[0], str(checkpoint.folder), checkpoint.get, checkpoint.licence)
            assert all(part in str(caught.value) for part in parts)
    with pytest.raises(CheckpointMissing, match="in the hub's cache, found neither; to get it: make it"):
        located(PublishedCheckpoint("nobody/nothing", ("a", "b"), "none", "make it"))


def test_the_hubs_cache_serves_too(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, own = loaded(ClipScore).fingerprint, ClipScore.checkpoint.folder
    repository = weights / "hub" / "models--openai--clip-vit-large-patch14"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    (repository / "snapshots").mkdir()
    own.rename(repository / "snapshots" / "0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(weights / "hub"))
    assert loaded(ClipScore).fingerprint == before


def test_damaged_files_are_refused(weights: Path) -> None:
    (ClipScore.checkpoint.folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="expected a safetensors file"):
        ClipScore().load()
    (PickScore.checkpoint.folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="expected the configuration of a CLIPModel"):
        PickScore().load()


def test_a_tower_that_pools_elsewhere_is_refused(weights: Path) -> None:
    tiny.write_clip(ClipScore.checkpoint.folder, seed=1, pooled=7)
    with pytest.raises(DataError, match="pools at token 7, but the tokenizer ends with"):
        ClipScore().load()


def test_a_scale_beyond_clips_largest_is_refused(weights: Path) -> None:
    spoil(PickScore.checkpoint.folder / "model.safetensors", lambda t: t["logit_scale"].fill_(5.0))
    with pytest.raises(DataError, match="expected a logit scale of about 100 at most, got 148"):
        scored(PickScore, pictures())


# Conversion


def test_the_published_configuration_is_that_of_vit_h_14() -> None:
    """632 million weights in the picture tower, 354 in the text tower, as open_clip counts them."""
    from transformers import CLIPConfig

    from rewards._clip_model import empty_clip

    model = empty_clip(CLIPConfig(**CONFIG))
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert millions["vision_model"] + millions["visual_projection"] == pytest.approx(632.08, abs=0.01)
    assert millions["text_model"] + millions["text_projection"] == pytest.approx(354.03, abs=0.01)
    assert [CONFIG[f"{tower}_config"]["hidden_act"] for tower in ("text", "vision")] == ["gelu", "gelu"]
    widths = [CONFIG[f"{tower}_config"]["hidden_size"] for tower in ("text", "vision")]
    heads = [CONFIG[f"{tower}_config"]["num_attention_heads"] for tower in ("text", "vision")]
    assert [width / count for width, count in zip(widths, heads, strict=True)] == [64, 80]  # its `head_width`


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("visual.proj"), r"1 missing \(visual.proj\)"),
        (lambda t: t.update({"visual.extra": torch.ones(1)}), r"1 unexpected \(visual.extra\)"),
        (lambda t: t.update({"text_projection": t["text_projection"].T}), r"text_projection \(12, 16\) for \(16, 12\)"),
    ],
)
def test_open_clips_tensors_are_refused_by_their_own_names(change: Any, told: str, weights: Path) -> None:
    tokens = tiny.write_vocabulary(weights / "vocabulary")
    tensors = tiny.open_clip_tensors(tokens, seed=3)
    change(tensors)
    torch.save({"state_dict": tensors}, weights / "hps.pt")
    with pytest.raises(DataError, match=told):
        convert.convert_hpsv2(weights / "hps.pt", tiny.clip_config(tokens, "gelu", pooled=tokens - 1))


class Bomb:
    """Touches a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("scorer", ["hpsv2", "aesthetic"])
def test_a_file_that_would_run_code_is_refused_unrun(
    scorer: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": Bomb(weights / "ran")}, weights / "evil.pt")
    assert convert.main([scorer, str(weights / "evil.pt")]) == 2
    assert "expected a checkpoint that holds tensors only" in capsys.readouterr().err
    assert not (weights / "ran").exists()


def test_the_command_writes_where_the_scorer_looks(
    weights: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = loaded(Aesthetic).fingerprint
    shutil.rmtree(HEAD.folder)
    assert convert.main(["aesthetic", str(tiny_weights.parent / "originals" / tiny.AESTHETIC)]) == 0
    assert f"written to {HEAD.folder}" in capsys.readouterr().out
    assert loaded(Aesthetic).fingerprint == before
    assert convert.main(["hpsv2", "nowhere.pt"]) == 2
    assert "nowhere.pt: expected the published checkpoint, but there is no such file" in capsys.readouterr().err


def loaded(cls: type[Any]) -> Any:
    reward = cls()
    reward.load()
    return reward


def spoil(path: Path, change: Any) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_a_damaged_checkpoint_is_one_message(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x10\x00")
    with pytest.raises(DataError, match=rf"{name}: expected a checkpoint that holds tensors only"):
        convert.read_untrusted(tmp_path / name)

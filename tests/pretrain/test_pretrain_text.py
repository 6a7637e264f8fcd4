"""The tokenizer and the text encoders of the embedded world: one word one token, pooling at the end token."""

import pytest
import torch
from transformers import CLIPTokenizer

from bench.datasets.scenes.captions import near_misses, wordings
from bench.datasets.scenes.scene import caption_words, sample_scenes
from pretrain import clip
from pretrain.encode import encode_captions
from pretrain.pipeline import text_pipeline
from pretrain.tokenizer import MAX_LENGTH, build_tokenizer, find_merges, save_tokenizer, split_by_merges


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


@pytest.fixture(scope="module")
def towers(tokenizer: CLIPTokenizer) -> clip.Towers:
    torch.manual_seed(0)
    return clip.Towers(tokenizer, vision_layers=1).eval()


def test_find_merges_joins_every_word_and_later_words_do_not_undo_earlier_ones():
    words = {"green", "red", "reading", "e", "an", "and"}
    ranks = {pair: rank for rank, pair in enumerate(find_merges(words))}
    assert all(split_by_merges(word, ranks) == [word + "</w>"] for word in words)


def test_every_caption_word_is_one_token(tokenizer):
    for word in caption_words():
        assert len(tokenizer(word).input_ids) == 3, word


def spelt_length(caption: str) -> int:
    """Words of a caption: quote marks are words of their own, and so is each quoted glyph."""
    pieces = caption.split('"')
    return len(pieces) - 1 + sum(len(piece) if k % 2 else len(piece.split()) for k, piece in enumerate(pieces))


def test_captions_are_spelt_one_token_a_word_and_fit(tokenizer):
    scenes = sample_scenes("test-tokenizer", 0, 0, 2000)
    lengths = [(len(tokenizer(s.caption).input_ids), spelt_length(s.caption) + 2) for s in scenes]
    assert max(length for length, _ in lengths) <= MAX_LENGTH
    # A quoted text may by chance hold the join of a word made of glyph letters alone ("CLP" and "clean").
    assert sum(length != expected for length, expected in lengths) <= 0.005 * len(scenes)


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    caption = 'a sign that says "A7K"'
    assert again(caption).input_ids == tokenizer(caption).input_ids
    assert again.model_max_length == MAX_LENGTH
    assert {"vocab.json", "merges.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_text_towers_pool_at_the_end_token(tokenizer, towers):
    ids = clip.tokenize(tokenizer, ["a red circle"])
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    after, before = ids.clone(), ids.clone()
    after[0, end + 1] = tokenizer("star").input_ids[1]
    before[0, end - 1] = tokenizer("star").input_ids[1]
    for number in (0, 1):
        pooled = towers.texts(ids)[number]
        torch.testing.assert_close(pooled, towers.texts(after)[number])  # causal: what follows cannot matter
        assert (pooled - towers.texts(before)[number]).abs().max() > 1e-3


def test_encode_prompt_holds_clip_tokens_only(tokenizer, towers):
    pipeline = text_pipeline(towers)
    captions = ["a red circle", ""]
    tokens, pooled = encode_captions(pipeline, captions)
    assert tokens.shape == (2, MAX_LENGTH, 2 * clip.WIDTH)
    first, second = pipeline.text_encoder, pipeline.text_encoder_2
    ids = clip.tokenize(tokenizer, captions)
    with torch.no_grad():
        expected = torch.cat([encoder(input_ids=ids).text_embeds for encoder in (first, second)], 1)
    torch.testing.assert_close(pooled, expected)


def test_truths_match_the_captions(tokenizer):
    scenes = [s for s in sample_scenes("test-truths", 0, 0, 60) if not s.wrong_caption]
    table = clip.truths(scenes, [(s.caption, s.metadata) for s in scenes])
    assert table.diagonal().all()
    misses = [(wordings(m)[0], m) for s in scenes for m in near_misses(s.metadata)[1][:1]]
    assert not clip.truths(scenes, misses).diagonal().any()


def test_contrast_ignores_other_true_captions():
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    masked = torch.tensor([[False, False, True], [False, False, False]])
    scale = torch.tensor(2.0)
    plain = clip.contrastive_loss(image, text[:2], masked[:, :2], scale)
    assert clip.contrastive_loss(image, text, masked, scale) < clip.contrastive_loss(
        image, text, torch.zeros_like(masked), scale
    )
    # The second picture still meets the third caption as a wrong one, so the loss is not quite that of two captions.
    assert clip.contrastive_loss(image, text, masked, scale) > plain

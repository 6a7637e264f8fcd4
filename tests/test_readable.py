"""Punctuation that the embedded tokenizer does not know: read as spaces, and nothing of its own world is touched."""

from __future__ import annotations

import itertools

import pytest
from transformers import CLIPTokenizer

from bench.datasets.scenes.manifest import ASSETS
from bench.datasets.scenes.proxies import CLIP_FOLDER, ProxyClip
from bench.datasets.world import World
from bench.datasets.worlds import load_world
from bench.models.policy import PipelinePolicy
from bench.readable import readable, unknown_letters


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(ASSETS / "pipeline" / "tokenizer", local_files_only=True)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Two cats, asleep; a red-brown dog.", "Two cats  asleep  a red brown dog "),
        ("a dog's (old) house\u2014blue\u2026", "a dogs  old  house blue "),
        ('a sign that reads "KEY" \U0001f600', 'a sign that reads "KEY"  '),
        ("a c\u00e4t, a zebra", "a c\u00e4t  a zebra"),  # letters are not guessed
        ("", ""),
    ],
)
def test_unknown_punctuation_is_a_space(text: str, read: str, tokenizer: CLIPTokenizer) -> None:
    assert readable(tokenizer, [text]) == [read]


def test_every_ordinary_mark_is_read(tokenizer: CLIPTokenizer) -> None:
    (text,) = readable(tokenizer, ["a cat " + " ".join("!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u2019\u201c\u201d\u2013")])
    assert tokenizer(text).input_ids == tokenizer("a cat").input_ids


def test_the_world_s_own_captions_are_read_as_they_are(tokenizer: CLIPTokenizer) -> None:
    world: World = load_world("scenes")
    texts = [p.text for split in ("train", "report", "held_out") for p in world.prompts(split, world.categories, 500)]
    texts += [p.text for p in world.candidates(world.categories, 200).prompts]
    assert len(set(texts)) > 1000 and readable(tokenizer, texts) == texts
    assert all(not unknown_letters(tokenizer, text) for text in texts[::50])


def test_a_tokenizer_that_tells_what_it_does_not_know_apart_is_left_alone() -> None:
    class WithOwnToken:
        unk_token_id, eos_token_id = 2, 1

    assert readable(WithOwnToken(), ["a, b"]) == readable(None, ["a, b"]) == ["a, b"]


def test_punctuation_changes_no_encoding_and_no_score() -> None:
    """What is unknown would be an end token, at which the towers stop reading."""
    policy, clip = PipelinePolicy.load(ASSETS / "pipeline", device="cpu"), ProxyClip(ASSETS / CLIP_FOLDER)
    plain, marked = "a red circle above a blue square", "a red circle, above: a blue square!"
    for one, other in itertools.pairwise([policy.encode([text]) for text in (plain, marked)]):
        assert (one.embeds == other.embeds).all() and (one.pooled == other.pooled).all()
    assert (clip.text([plain]) == clip.text([marked])).all()

"""A CLIPTokenizer that knows the world's captions: every word one token, quoted glyphs one token each.

Merges are found word by word: each word is split by the merges so far, then joined by new ones, which rank below all
earlier ones and so never undo a word. Joins start at letters that no glyph uses wherever a word has one; otherwise a
quoted text could contain the beginnings of a word.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from bench.datasets.scenes.captions import caption_words
from bench.datasets.scenes.vocabulary import GLYPHS

# The longest caption has 16 words; two tokens mark its beginning and its end.
MAX_LENGTH = 18
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_STOP = "</w>"


def split_by_merges(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """A word as byte-pair encoding leaves it: the pieces after applying all merges, lowest rank first."""
    pieces = [*word[:-1], word[-1] + _STOP]
    while True:
        pairs = [(ranks[pair], k) for k, pair in enumerate(itertools.pairwise(pieces)) if pair in ranks]
        if not pairs:
            return pieces
        _, k = min(pairs)
        pieces[k : k + 2] = [pieces[k] + pieces[k + 1]]


def find_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges, in rank order, after which every word is one piece."""
    glyphs = {glyph.lower() for glyph in GLYPHS}
    ranks: dict[tuple[str, str], int] = {}
    for word in sorted(words):
        pieces = split_by_merges(word, ranks)
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            # The first pair with a letter that is no glyph; max keeps the first among equals.
            pair = max(pairs, key=lambda p: any(letter not in glyphs for letter in (p[0] + p[1]).removesuffix(_STOP)))
            ranks[pair] = len(ranks)
            pieces = split_by_merges(word, ranks)
    return list(ranks)


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of both text encoders and of the CLIP proxy, at most 18 tokens a caption."""
    words = caption_words()
    merges = find_merges(words)
    pairs: Any = merges  # the tokenizers library takes pairs, which transformers' annotation does not know
    letters = sorted({letter for word in words for letter in word})
    tokens = [*letters, *(letter + _STOP for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_LENGTH)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer in both of its forms: tokenizer.json, and the older vocab.json with merges.txt."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], indent=0))
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")

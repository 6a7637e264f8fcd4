"""Punctuation that a small tokenizer does not know: read as a space, where it would end the text for the encoder.

CLIP's tokenizer has its end token for what is unknown, and its text tower stops reading at the first of them. The
published one knows every byte, the embedded one the letters of its world. Letters that are unknown stay, to be refused
by their name: no text means the same without one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

_WITHIN_WORDS = "'\u2019\u02bc"  # apostrophes: left out, so that the word stays one


def readable(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts as they are handed to a tokenizer of `transformers`; all others but such a CLIP's as they are."""
    if tokenizer is None or tokenizer.unk_token_id is None or tokenizer.unk_token_id != tokenizer.eos_token_id:
        return list(texts)
    marks = {letter for text in texts for letter in text if unicodedata.category(letter)[0] in "PS"}
    table = {ord(m): "" if m in _WITHIN_WORDS else " " for m in marks if unknown_letters(tokenizer, m)}
    if not table:
        return list(texts)
    return [text.translate(table) if any(ord(letter) in table for letter in text) else text for text in texts]


def unknown_letters(tokenizer: Any, text: str) -> list[str]:
    """The letters of a text that a tokenizer does not know, each once."""
    unknown = tokenizer.unk_token_id
    return [
        letter
        for letter in dict.fromkeys(text)
        if not letter.isspace() and unknown in tokenizer(letter, add_special_tokens=False).input_ids
    ]

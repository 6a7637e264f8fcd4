"""Splits of prompts: a caption's hash decides which split may use it, so that no text is in two of them."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "tune", "report", "held_out")


def text_bucket(text: str) -> int:
    """Which of ten buckets a caption belongs to, by the hash of its words."""
    return hashlib.blake2b(same_words(text).encode(), digest_size=4).digest()[0] % 10


def same_words(text: str) -> str:
    """A caption as it is compared with others: letter case and the width of spaces do not count."""
    return " ".join(text.lower().split())

"""Prompt sets for evaluation and training: readers of the published files, and generators of our own."""

from bench.datasets.prompts.quoted import quoted_text
from bench.datasets.prompts.readers import read_prompts

__all__ = ["quoted_text", "read_prompts"]

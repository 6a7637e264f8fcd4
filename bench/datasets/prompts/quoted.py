"""The text that a prompt asks a picture to show."""

from __future__ import annotations


def quoted_text(prompt: str) -> str | None:
    """What stands between the first two straight double quotes, or None where nothing does.

    Source: Flow-GRPO, github.com/yifan123/flow_grpo, `flow_grpo/ocr.py`, which fails without quotes.
    """
    parts = prompt.split('"')
    return parts[1] if len(parts) > 2 and parts[1].strip() else None

"""The nearest valid name, for messages about a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FEW = 12


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The choice that a misspelt name most probably meant, or None where none is close."""
    by_folded = {choice.lower().replace("-", "_"): choice for choice in choices}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def hint(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence about a wrong name: the nearest choice, or the choices where they are few."""
    options = list(choices)
    found = nearest_name(name, options)
    if found is not None:
        return f"; did you mean {found!r}?"
    if not options:
        return ""
    return f"; choose from {', '.join(options[:_FEW])}" + (", ..." if len(options) > _FEW else "")

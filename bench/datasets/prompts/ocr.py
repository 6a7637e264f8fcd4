"""Prompts that ask for a written text, as Flow-GRPO's OCR prompts do, in double quotes: to read, and of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator

from bench import rng
from bench.api import Prompt
from bench.datasets.splits import in_generated_split, round_robin

TEXT_TEMPLATES = (
    'a street sign that says "{}"', 'a shop window with "{}" painted on the glass', 'a neon sign that reads "{}"',
    'a chalkboard outside a cafe with the words "{}"', 'a wooden signpost in a forest that reads "{}"',
    'a birthday cake with "{}" written in icing', 'a paperback on a table with the title "{}"',
    'a T-shirt on a hanger, printed with "{}"', 'a coffee mug with "{}" on it', 'a train ticket stamped "{}"',
    'a banner above a market stall that says "{}"', 'a brass plate on a door, engraved "{}"',
    'a poster on a brick wall that reads "{}"', 'a handwritten note on a fridge that says "{}"',
    'a road sign in the desert that reads "{}"', 'a fishing boat with the name "{}" on its bow',
    'graffiti on a concrete wall that spells "{}"', 'a museum label beside a vase that reads "{}"',
    'a luggage tag with "{}" on it', 'a seed packet labelled "{}"', 'a jam jar with a paper label that says "{}"',
    'a cinema marquee announcing "{}"', 'a newspaper with the headline "{}"', 'a stone arch carved with "{}"',
    'a cardboard box marked "{}"', 'a lighthouse with "{}" painted on its side', 'a robot with a card that says "{}"',
    'a phone screen that shows the message "{}"', 'a theatre ticket for "{}"', 'a school blackboard with "{}" on it',
)  # fmt: skip
_ADJECTIVES = (
    "Golden", "Silent", "Little", "Broken", "Northern", "Hidden", "Electric", "Paper", "Velvet", "Early", "Crooked",
    "Distant", "Bright", "Hollow", "Gentle", "Copper", "Winter", "Lucky", "Second", "Open", "Wild", "Quiet", "Purple",
    "Frozen", "Summer", "Blue", "Last", "Merry", "Iron", "Sunny",
)  # fmt: skip
_NOUNS = (
    "Harbour", "Garden", "Lantern", "River", "Bakery", "Station", "Mountain", "Library", "Orchard", "Bridge",
    "Kitchen", "Museum", "Island", "Compass", "Forest", "Window", "Market", "Castle", "Meadow", "Theatre", "Anchor",
    "Valley", "Workshop", "Feather", "Tunnel", "Village", "Planet", "Clock", "Kettle", "Whale", "Journey", "Summit",
    "Parade", "Rocket", "Violin", "Square", "Canyon", "Picnic", "Shelter", "Voyage", "Camera", "Beacon", "Pigeon",
    "Tower", "Carnival", "Puzzle", "Saddle", "Engine", "Ribbon", "Thunder",
)  # fmt: skip
_VERBS = (
    "Mind", "Follow", "Open", "Save", "Cross", "Paint", "Find", "Visit", "Keep", "Ring", "Close", "Share", "Enter",
    "Watch", "Cherish", "Explore",
)  # fmt: skip
_NUMBERS = range(2, 100)
# Opening quotes and what may close each: English, German, Nordic and French, Chinese and Japanese, wide straight ones.
_QUOTES = {"“": "”“", "„": "“”", "”": "”", "«": "»", "»": "«»", "‹": "›", "›": "‹›", "「": "」", "『": "』",
           "〝": "〞〟", "＂": "＂"}  # fmt: skip
_QUOTED = re.compile("|".join(f"{begin}(?=[^{end}]*[^{end}\\s])[^{end}]+[{end}]" for begin, end in _QUOTES.items()))


def quoted_text(prompt: str) -> str | None:
    """What stands between the first two straight double quotes, or else in the first quotes of another script.

    None where nothing does. Single quotes are apostrophes too, and so none of these.

    Source: Flow-GRPO, github.com/yifan123/flow_grpo, `flow_grpo/ocr.py`, which knows straight quotes and fails without.
    """
    parts = prompt.split('"')
    if len(parts) > 2 and parts[1].strip():
        return parts[1]
    found = _QUOTED.search(prompt)
    return found[0][1:-1] if found else None


def ocr_prompts(split: str, seed: int, without: Collection[str] = ()) -> Iterator[Prompt]:
    """All prompts of a split of `bench.datasets.splits.GENERATED_SPLITS`, one of each of `PATTERNS` in turn.

    Every text comes once, and is in one split only. Texts that a prompt of `without` quotes are left out.
    """
    avoided = {quoted_text(prompt) for prompt in without}
    streams = [_texts(name, split, seed, avoided) for name in PATTERNS]
    for number, (written, template) in enumerate(round_robin(streams)):
        yield Prompt(number, template.format(written), {"text": written})


def _texts(name: str, split: str, seed: int, avoided: Collection[str | None]) -> Iterator[tuple[str, str]]:
    """Texts of a pattern, each with the template it goes into."""
    parts = PATTERNS[name]
    size = math.prod(map(len, parts))
    for place, number in enumerate(map(int, rng.permutation(seed, f"signs/{name}", 0, size))):
        words = []
        for part in parts:
            number, word = divmod(number, len(part))
            words.append(str(part[word]))
        written = " ".join(words)
        if in_generated_split(written.lower(), split) and written not in avoided:
            yield written, TEXT_TEMPLATES[place % len(TEXT_TEMPLATES)]


PATTERNS = {
    "one": (_NOUNS,),
    "two": (_ADJECTIVES, _NOUNS),
    "verb": (_VERBS, ("the",), _NOUNS),
    "number": (_NOUNS, _NUMBERS),
    "three": (_ADJECTIVES, _NOUNS, _NUMBERS),
}

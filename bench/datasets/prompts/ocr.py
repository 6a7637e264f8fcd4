"""Prompts of our own that ask for a written text, in the form of Flow-GRPO's OCR prompts: the text in double quotes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from bench.api import Prompt
from bench.datasets.prompts.generated_splits import first_rank_first, in_split, shuffled
from bench.datasets.prompts.quoted import quoted_text

BEARERS = (
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


def sign_prompts(split: str, seed: int, without: Collection[str] = ()) -> Iterator[Prompt]:
    """All prompts of a split of `bench.datasets.prompts.generated_splits.SPLITS`, one of each of `PATTERNS` in turn.

    Every text comes once, and is in one split only. Texts that a prompt of `without` quotes are left out.
    """
    avoided = {quoted_text(prompt) for prompt in without}
    streams = [_texts(name, split, seed, avoided) for name in PATTERNS]
    for number, (written, bearer) in enumerate(first_rank_first(streams)):
        yield Prompt(number, bearer.format(written), {"text": written})


def _texts(name: str, split: str, seed: int, avoided: Collection[str | None]) -> Iterator[tuple[str, str]]:
    """Texts of a pattern, each with what bears it."""
    parts = PATTERNS[name]
    size = math.prod(map(len, parts))
    for place, number in enumerate(shuffled(size, seed, f"signs/{name}")):
        words = []
        for part in parts:
            number, word = divmod(number, len(part))
            words.append(str(part[word]))
        written = " ".join(words)
        if in_split(written.lower(), split) and written not in avoided:
            yield written, BEARERS[place % len(BEARERS)]


PATTERNS = {
    "one": (_NOUNS,),
    "two": (_ADJECTIVES, _NOUNS),
    "verb": (_VERBS, ("the",), _NOUNS),
    "number": (_NOUNS, _NUMBERS),
    "three": (_ADJECTIVES, _NOUNS, _NUMBERS),
}

"""Prompts of our own in GenEval's format: its six categories, classes, colours and wordings, in disjoint splits.

Source: GenEval, arXiv 2310.11513, section 3.1 and `prompts/create_prompts.py` of its repository. Deviations: a prompt
comes once; mirrored prompts ("a cat and a dog", "a dog and a cat") are in the same split.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from bench import rng
from bench.api import Prompt
from bench.datasets.splits import in_generated_split, round_robin

Claim = dict[str, Any]

# GenEval's words: its 80 classes of objects, which are COCO's in COCO's order, its colours and its positions.
# Source: `evaluation/object_names.txt` of its repository.
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
POSITIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four")
_COLORED = tuple(name for name in CLASSES if name != "person")  # GenEval paints nobody
_COUNTS = (2, 3, 4)


def geneval_prompts(split: str, seed: int, without: Collection[str] = ()) -> Iterator[Prompt]:
    """All prompts of a split of `splits.GENERATED_SPLITS`, each category in turn as long as it has some.

    A category's prompts come in an order of their own for every seed. Prompts whose text is in `without` are left out.
    """
    streams = [_category(tag, split, seed, without) for tag in CATEGORIES]
    for number, claim in enumerate(round_robin(streams)):
        yield Prompt(number, claim.pop("prompt"), claim)


def with_article(words: str) -> str:
    """`an orange`, `a dog`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(name: str) -> str:
    """GenEval's plural: `buses`, `sheeps`."""
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _category(tag: str, split: str, seed: int, without: Collection[str]) -> Iterator[Claim]:
    size, make = CATEGORIES[tag]
    for number in map(int, rng.permutation(seed, f"geneval/{tag}", 0, size)):
        claim = make(number)
        claim = {"tag": tag, **claim, "prompt": f"a photo of {claim['prompt']}"}
        if in_generated_split(_shown(claim), split) and claim["prompt"] not in without:
            yield claim


def _shown(claim: Mapping[str, Any]) -> str:
    """What a prompt shows, whatever its order of words and its relation: the same in one split only."""
    parts = sorted(f"{part.get('color', '')} {part['class']} {part['count']}" for part in claim["include"])
    return f"{claim['tag']}: {', '.join(parts)}"


def _part(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


def _pair(number: int, names: Sequence[str]) -> tuple[str, str]:
    """Two different names, by a number below len(names) (len(names) - 1)."""
    first, second = divmod(number, len(names) - 1)
    return names[first], names[second + (second >= first)]


def _single_object(number: int) -> Claim:
    name = CLASSES[number]
    return {"include": [_part(name)], "prompt": with_article(name)}


def _two_object(number: int) -> Claim:
    a, b = _pair(number, CLASSES)
    return {"include": [_part(a), _part(b)], "prompt": f"{with_article(a)} and {with_article(b)}"}


def _counting(number: int) -> Claim:
    name, count = CLASSES[number // len(_COUNTS)], _COUNTS[number % len(_COUNTS)]
    prompt = f"{NUMBERS[count]} {plural(name)}"
    return {"include": [_part(name, count)], "exclude": [_part(name, count + 1)], "prompt": prompt}


def _colors(number: int) -> Claim:
    name, color = _COLORED[number // len(COLORS)], COLORS[number % len(COLORS)]
    return {"include": [_part(name, color=color)], "prompt": with_article(f"{color} {name}")}


def _position(number: int) -> Claim:
    (a, b), relation = _pair(number // len(POSITIONS), CLASSES), POSITIONS[number % len(POSITIONS)]
    include = [_part(b), _part(a, position=[relation, 0])]
    return {"include": include, "prompt": f"{with_article(a)} {relation} {with_article(b)}"}


def _color_attr(number: int) -> Claim:
    objects, painted = divmod(number, len(COLORS) * (len(COLORS) - 1))
    (a, b), (color_a, color_b) = _pair(objects, _COLORED), _pair(painted, COLORS)
    prompt = f"{with_article(f'{color_a} {a}')} and {with_article(f'{color_b} {b}')}"
    return {"include": [_part(a, color=color_a), _part(b, color=color_b)], "prompt": prompt}


_PAIRS = len(CLASSES) * (len(CLASSES) - 1)
_COLORED_PAIRS = len(_COLORED) * (len(_COLORED) - 1) * len(COLORS) * (len(COLORS) - 1)
# How many prompts a category has, and how one is made from its number.
CATEGORIES: dict[str, tuple[int, Callable[[int], Claim]]] = {
    "single_object": (len(CLASSES), _single_object),
    "two_object": (_PAIRS, _two_object),
    "counting": (len(CLASSES) * len(_COUNTS), _counting),
    "colors": (len(_COLORED) * len(COLORS), _colors),
    "position": (_PAIRS * len(POSITIONS), _position),
    "color_attr": (_COLORED_PAIRS, _color_attr),
}

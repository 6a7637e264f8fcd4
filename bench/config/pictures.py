"""Where the user's pictures lie and how they are read; what was found there stands beside it, once it was inspected."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from bench.api import Option

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# Pillow refuses to open pictures of more than twice its own limit, whatever is asked for.
_LARGEST = 2 * 89_478_485

_MOST_BUCKETS = 25


def _buckets(value: object) -> object:
    """A number of buckets or their sizes, as they were given; anything else is told in one message."""
    if value is None or (type(value) is int and 3 <= value <= _MOST_BUCKETS and value % 2):
        return value
    if isinstance(value, list | tuple) and value and all(re.fullmatch(r"\d+x\d+", str(size)) for size in value):
        return tuple(value)
    raise ValueError(
        f"expected an odd number of buckets (the square, and as many upright as lying) from 3 to {_MOST_BUCKETS}, or "
        f"sizes in pixels like 48x80,64x64,80x48, got {value!r}"
    )


@dataclass(frozen=True, config=_STRICT)
class Found:
    """What the inspection found; the run writes it down, and nobody sets it.

    fingerprint: 16 hex digits of all pictures and captions that are left, of the size they are brought to, and of the
    choice among them. selected_by: the scorer that chose among them in `bench curate`, `rule` how (`score >= 6.8`),
    `scored` among how many. left_out: rows left out, by kind of fault. buckets: pictures to train on, by size.
    to_srgb: pictures whose colours are brought to sRGB from another profile. all_train: every caption trains, and
    prompt sets judge. pairs: pictures to train on that have a rejected one. cut: captions cut to what the text encoders
    read. unread: captions with punctuation that they do not know. several: pictures with more than one caption. shown:
    pictures of an epoch, where folders repeat theirs.
    """

    fingerprint: str
    form: str
    rows: int
    kept: int
    left_out: dict[str, int]
    resolution: int
    captions: dict[str, int]
    training: int
    selected_by: str | None = None
    rule: str | None = None
    scored: int = 0
    buckets: dict[str, int] | None = None
    to_srgb: int = 0
    all_train: bool = False
    pairs: int = 0
    cut: int = 0
    unread: int = 0
    several: int = 0
    shown: int = 0


@dataclass(frozen=True, config=_STRICT)
class Data:
    """Pictures with captions: a folder, a file, or a dataset of the Hugging Face hub."""

    path: Annotated[
        str,
        Option(
            "folder with metadata.jsonl, .csv, .json (a list) or .tsv; with a.txt or a.caption beside a.png, also in "
            "folders like 10_NAME, whose pictures an epoch shows 10 times; with WebDataset's .tar files (not "
            "compressed); with .parquet files or a saved dataset; one such file; HY-SOAR's .jsonl; or a dataset id of "
            "the hub. HEIC needs the extra `heif`",
            min_length=1,
        ),
    ]
    picture_column: Annotated[str | None, Option("column of the pictures; null: file_name, md5 or image")] = None
    rejected_column: Annotated[
        str | None,
        Option(
            "column of the pictures that were rejected for those of `picture_column`, where rows are pairs; null: "
            "rejected_file_name, rejected_image and so on, or the better of Pick-a-Pic's jpg_0 and jpg_1 is chosen"
        ),
    ] = None
    caption_column: Annotated[
        str | None,
        Option(
            "column of the captions; null: text, or captions, or caption_en for HY-SOAR. A list there, or several "
            "lines of a caption file, are several captions of the picture: the first is its prompt, and training draws "
            "one of them, by the number of the sample"
        ),
    ] = None
    tag_column: Annotated[str | None, Option("column of the categories; null: `tag` where there is one")] = None
    pictures: Annotated[str | None, Option("folder of the pictures that a file names; null: the file's own")] = None
    selection: Annotated[
        str | None, Option("what `bench curate` selected of these pictures (a .json file); null: all of them")
    ] = None
    long_captions: Annotated[
        Literal["drop", "cut"],
        Option("a caption of more tokens than are read: leave the row out as broken, or cut it at a word and count it"),
    ] = "drop"
    subset: Annotated[str, Option("split of a saved dataset, of the hub's, or of files named for it")] = "train"
    resolution: Annotated[int | None, Option("pixels of a side; null: the model's own", ge=8, le=16_384)] = None
    text_length: Annotated[
        int | None,
        Option("tokens that are read of a caption; null: the family's own; 0: there is no T5", ge=0, le=16_384),
    ] = None
    max_pixels: Annotated[int, Option("a picture of more is left out unread", ge=1, le=_LARGEST)] = 89_478_485
    allow_broken: Annotated[float, Option("share of the rows that may be broken; more stops the run", ge=0, le=1)] = (
        0.01
    )
    buckets: Annotated[
        int | tuple[str, ...] | None,
        BeforeValidator(_buckets),
        Option(
            "train in shapes near the pictures' own: so many sizes of nearly the square's area (an odd number; 5: "
            "about 1:1.74 to 1.74:1), or the sizes themselves (48x80,64x64,80x48); rewards, sampling and evaluation "
            "keep to the square; runtime.compile compiles once for each; null: the square alone"
        ),
    ] = None
    bucket_pictures: Annotated[
        int, Option("a bucket of fewer pictures is given up; they go to the nearest one left", ge=1, le=10**9)
    ] = 32
    found: Annotated[Found | None, Option("what the inspection found; not to be set")] = None

    def options(self, without: Collection[str] = ()) -> list[str]:
        """The words of a command line that give these settings again, but those of the fields `without`."""
        words = ["--data", self.path]
        for name, value in vars(self).items():
            if name in ("path", "found", *without) or value == getattr(type(self), name):
                continue
            option = "--allow-broken" if name == "allow_broken" else f"--data.{name}"
            shown = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
            words += [option, str(shown)]
        return words

    def identity(self) -> dict[str, Any]:
        """What numbers depend on and a report tells; where the pictures lie is no part of it."""
        told = dataclasses.asdict(self.found) if self.found is not None else {}
        usual: dict[str, Any] = {"buckets": None, "to_srgb": 0, "all_train": False}  # which older records do not hold
        usual |= dict.fromkeys(("pairs", "cut", "unread", "several", "shown"), 0)
        return {name: value for name, value in told.items() if name not in usual or value != usual[name]}

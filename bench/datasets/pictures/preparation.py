"""The user's pictures as a run needs them: opened, inspected, split by caption, named by one fingerprint."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.api import ConfigError, DataError, Prompt
from bench.config.pictures import Data, Found
from bench.datasets.buckets import Size, bucket_sizes, nearest_buckets, size_label
from bench.datasets.pictures import decoding
from bench.datasets.pictures.inspection import (
    LEFT_OUT,
    InspectedPictures,
    Picture,
    digest_of,
    inspect_pictures,
    pictures_fingerprint,
)
from bench.datasets.pictures.model_limits import CaptionLimits, bucket_grid, model_resolution
from bench.datasets.pictures.rows import FAULT_KINDS, PictureFault, PictureSource
from bench.datasets.pictures.selection import Selection
from bench.datasets.pictures.sources import open_source
from bench.datasets.prompts.ocr import quoted_text
from bench.datasets.splits import SPLITS, same_words, text_bucket

# Tenths of all captions; the hash of a caption decides.
_BUCKETS = {"train": range(0, 7), "tune": range(7, 8), "report": range(8, 9), "held_out": range(9, 10)}

MORE_CAPTIONS = (
    "a caption's hash says whether pictures of that caption train (7 tenths) or judge, so that nothing is judged by "
    "what it was trained on: give many different captions, best one of its own to each picture; as a rule 50 are enough"
)


@dataclass(frozen=True)
class PreparedPictures:
    """Pictures of a source that can be used, for one model.

    settings: as given, with what was found. opened: the settings the source was opened with. training: the pictures to
    train on, those of the train split that are selected where something was. sizes: of the aspect buckets, or the
    square alone. judging: the words of all captions that judge.
    """

    settings: Data
    opened: Data
    source: PictureSource
    inspected: InspectedPictures
    selection: Selection | None
    training: tuple[Picture, ...]
    sizes: tuple[Size, ...]
    judging: frozenset[str]

    @property
    def found(self) -> Found:
        """What the inspection found."""
        assert self.settings.found is not None
        return self.settings.found

    @property
    def square(self) -> Size:
        """The size at which pictures are scored and drawn."""
        return self.found.resolution, self.found.resolution

    def split_of(self, caption: str) -> str:
        """The split that a caption of these pictures belongs to."""
        return _split_of(caption, all_train=self.found.all_train)

    def more_captions(self, picture: Picture) -> tuple[str, ...]:
        """What training may draw beside a picture's first caption: all that judge nothing."""
        return tuple(text for text in picture.more if same_words(text) not in self.judging)

    def read(self, some: Sequence[Picture], size: Size) -> np.ndarray:
        """Pixels uint8 (N, H, W, 3) of some of the pictures, brought to a size (W, H).

        Raises:
            DataError: a picture has changed since it was inspected.
        """
        out = np.empty((len(some), size[1], size[0], 3), np.uint8)
        for row, picture in enumerate(some):
            try:
                data = self.source.read(picture.name)
                is_same = digest_of(data) == picture.digest
                out[row] = decoding.prepare_picture(data, size, self.opened.max_pixels) if is_same else 0
            except PictureFault as fault:
                raise DataError(f"{picture.name} could be read before, and cannot now: {fault}: restore it") from fault
            if not is_same:
                raise DataError(
                    f"{picture.name} has changed since it was inspected: restore it, or run under another --name"
                )
        return out


def prepare_pictures(settings: Data, model: Path, *, all_train: bool | None = None) -> PreparedPictures:
    """Open and inspect the pictures that the settings name, for a pipeline folder or the hub id of a fetched model.

    `all_train`: every caption trains, for prompt sets judge; None: as `settings.found` says.

    Raises:
        DataError: there are none, too many are broken, or they are others than `settings.found` says; or there is no
            such model.
    """
    if not (model / "model_index.json").is_file():
        from bench.hub import locate_model

        model = locate_model(model)
    opened = open_source(settings)
    side = settings.resolution or model_resolution(model)
    to = ((side, side),) if settings.buckets is None else bucket_sizes(settings.buckets, side, bucket_grid(model))
    limits = CaptionLimits(model, settings.text_length, cut=settings.long_captions == "cut")
    inspected = inspect_pictures(opened.source, opened.settings, limits, to, side)
    selection = opened.selection
    chosen = _chosen(inspected, selection)
    if all_train is None:
        all_train = settings.found is not None and settings.found.all_train
    splits = {caption: _split_of(caption, all_train=all_train) for caption in {p.caption for p in inspected.kept}}
    training = tuple(p for p in inspected.kept if splits[p.caption] == "train" and (chosen is None or p.name in chosen))
    counts = {split: list(splits.values()).count(split) for split in SPLITS}
    found = Found(
        fingerprint=pictures_fingerprint(inspected, side, selection.names if selection else None),
        form=opened.source.form, rows=inspected.rows, kept=len(inspected.kept), left_out=inspected.kinds(),
        resolution=side, captions=counts,
        training=len(training), selected_by=selection.scorer if selection else None,
        rule=selection.rule if selection else None, scored=selection.scored if selection else 0,
        buckets=None if settings.buckets is None else _by_size(training, to),
        to_srgb=sum(picture.has_profile for picture in inspected.kept), all_train=all_train,
        pairs=sum(picture.rejected is not None for picture in training),
        cut=sum(picture.cut for picture in inspected.kept), unread=sum(picture.unread for picture in inspected.kept),
        several=sum(bool(picture.more) for picture in inspected.kept),
        shown=sum(p.repeats for p in training) if any(p.repeats > 1 for p in training) else 0,
    )  # fmt: skip
    if settings.found is not None and settings.found.fingerprint != found.fingerprint:
        raise DataError(
            f"--data {settings.path}: the pictures or captions have changed since this run began ({found.fingerprint}, "
            f"was {settings.found.fingerprint}): restore them, or run under another --name"
        )
    done = dataclasses.replace(settings, found=found)
    judging = frozenset(same_words(caption) for caption, split in splits.items() if split != "train")
    return PreparedPictures(done, opened.settings, opened.source, inspected, selection, training, to, judging)


def _chosen(inspected: InspectedPictures, selection: Selection | None) -> set[str] | None:
    """The names that were selected; each one has to be there still."""
    if selection is None:
        return None
    there = {picture.name: picture.digest for picture in inspected.kept}
    selected = dict(zip(selection.names, selection.digests or map(there.get, selection.names), strict=True))
    gone = sorted(name for name, digest in selected.items() if digest is None or there.get(name) != digest)
    if gone:
        lost = "gone, broken or changed" if selection.digests else "gone or broken"
        raise DataError(
            f"{len(gone)} of the {len(selected)} selected pictures are {lost} now, {gone[0]!r} among "
            "them: restore them, or select again with `bench curate`"
        )
    return set(selected)


def _by_size(some: Sequence[Picture], sizes: Sequence[Size]) -> dict[str, int]:
    """How many of the pictures each size has, by `80x48`."""
    counts = Counter(picture.crop.to for picture in some)
    return {size_label(size): counts[size] for size in sizes}


def split_of(caption: str) -> str:
    """The split that a caption belongs to, where captions judge."""
    bucket = text_bucket(caption)
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def _split_of(caption: str, *, all_train: bool) -> str:
    return "train" if all_train else split_of(caption)


def as_prompt(index: int, picture: Picture) -> Prompt:
    """A picture's caption as a prompt; its tag is its category, and a text that it quotes is what should be read."""
    metadata = {"tag": picture.tag, "text": quoted_text(picture.caption)}
    return Prompt(index, picture.caption, {name: value for name, value in metadata.items() if value is not None})


def pictures_table(prepared: PreparedPictures) -> str:
    """What was found, for the terminal: rows by kind of fault, sizes, captions by split."""
    found, inspected = prepared.found, prepared.inspected
    lines = [
        f"data        {prepared.settings.path}: {found.form}, fingerprint {found.fingerprint}",
        f"rows        {found.rows:,}: {found.kept:,} can be used, {len(inspected.left_out):,} left out "
        f"({inspected.share_broken:.1%} broken; {prepared.settings.allow_broken:.1%} allowed)",
    ]
    for kind in FAULT_KINDS:
        rows = [row for row in inspected.left_out if row.kind == kind]
        if rows:
            lines.append(f"  {kind:<20}{len(rows):>8,}   {_example(rows[0].place, rows[0].name, rows[0].detail)}")
    if inspected.left_out:
        lines.append(f"  all of them in {inspected.folder / LEFT_OUT}")
    size = f"{found.resolution} x {found.resolution}" if found.buckets is None else "in aspect buckets"
    lines += [f"pictures    {size}: {_brought_to_size(inspected, found.buckets is None)}", *_buckets(prepared)]
    lines.append(
        "captions    " + ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in found.captions.items())
    )
    if found.cut:
        lines.append(f"  {found.cut:,} cut to what the text encoders read (--data.long_captions drop leaves them out)")
    if found.unread:
        lines.append(
            f"  {found.unread:,} with punctuation that the text encoders do not know, which they read as spaces"
        )
    if found.several:
        lines.append(f"  {found.several:,} pictures have several: the first is the prompt, training draws one of them")
    if found.all_train:
        lines.append("judged by   the prompt sets alone: the captions are too few to train on some and judge by others")
    chosen = f", selected by {found.selected_by} ({found.rule}) among {found.scored:,}" if found.selected_by else ""
    pairs = f", {found.pairs:,} of them with one that was rejected for it" if found.pairs else ""
    shown = f", shown {found.shown:,} times an epoch, as their folders repeat them" if found.shown else ""
    lines.append(f"training    {found.training:,} pictures{chosen}{pairs}{shown}")
    return "\n".join(lines)


def _example(place: str, name: str, detail: str) -> str:
    text = " ".join(filter(None, [place, name, detail])).replace("\n", " ")
    return text if len(text) <= 67 else f"{text[:66]}…"


def _brought_to_size(inspected: InspectedPictures, is_square: bool) -> str:
    """How the pictures were brought to size."""
    crops = [picture.crop for picture in inspected.kept]
    cut = [crop.kept_share for crop in crops if crop.kept_share < 1]
    parts = [
        f"{sum(crop.taken_width > crop.to_width for crop in crops):,} reduced",
        f"{sum(crop.taken_width < crop.to_width for crop in crops):,} enlarged",
        f"{len(cut):,} cut to their middle{' square' if is_square else ''}"
        + (f" ({np.mean(cut):.0%} kept)" if cut else ""),
    ]
    on_white = sum(crop.on_white for crop in crops)
    parts += [f"{on_white:,} transparent ones laid on white"] if on_white else []
    from_profile = sum(picture.has_profile for picture in inspected.kept)
    parts += [f"{from_profile:,} brought from their colour profile to sRGB"] if from_profile else []
    parts += [f"{inspected.other_buckets:,} listed for another bucket"] if inspected.other_buckets else []
    return ", ".join(parts)


def _buckets(prepared: PreparedPictures) -> list[str]:
    """How many pictures each aspect bucket has, and which were given up; nothing where there are none."""
    found, kept, settings = prepared.found, prepared.inspected.kept, prepared.settings
    if found.buckets is None:
        return []
    crops = [picture.crop for picture in kept]
    own = Counter(nearest_buckets([(crop.width, crop.height) for crop in crops], prepared.sizes))
    there = Counter(crop.to for crop in crops)
    lines = []
    for size in prepared.sizes:
        text = f"{there[size]:,} pictures, {found.buckets[size_label(size)]:,} of them to train on"
        if not there[size]:
            text = (
                f"given up: its {own[size]:,} pictures, fewer than {settings.bucket_pictures}, go to the nearest left"
            )
        lines.append(f"  {f'{size[0]} x {size[1]}':<12}{text}")
    return lines


def require_pictures(settings: Data | None) -> Data:
    """The settings, which the world of the user's pictures cannot do without."""
    if settings is None:
        raise ConfigError("world 'images' has no pictures: give them by --data FOLDER")
    return settings

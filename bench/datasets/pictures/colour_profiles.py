"""Colour profiles of pictures: what they mean by their numbers is brought to sRGB, which every model here works in."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from bench.datasets.pictures.rows import PictureFault

_SRGB = ImageCms.createProfile("sRGB")
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC  # a colour that both have stays that colour
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of Pillow, by the space that a profile is for
_SAME = 2  # levels of 255 by which profiles of sRGB differ from one another
_GRAY_MODES = ("1", "L", "LA", "La")


class _Profile(NamedTuple):
    """The mode of the pictures it is for, and the way to sRGB; None where its numbers are sRGB's already."""

    mode: str
    to_srgb: ImageCms.ImageCmsTransform | None


def in_srgb(picture: Image.Image) -> tuple[Image.Image, bool]:
    """A picture with what its profile means in sRGB (RGB, or RGBA where it is transparent), and whether that differs.

    A picture without a profile, or with one of sRGB, comes back as it is.

    Raises:
        PictureFault: its profile is damaged, or is for pictures of another kind.
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture, False
    mode, to_srgb = _read(profile)
    is_gray = picture.mode in _GRAY_MODES
    if (mode == "CMYK") != (picture.mode == "CMYK") or (mode == "L" and not is_gray):
        raise PictureFault("colour profile", f"its profile is for {mode} pictures, and it is {picture.mode}")
    if to_srgb is None:
        return picture, False
    if not _is_transparent(picture):
        return _applied(to_srgb, picture.convert(mode)), True
    layer = picture.convert("LA" if is_gray and mode == "L" else "RGBA")
    colours = _applied(to_srgb, layer.getchannel("L") if layer.mode == "LA" else layer.convert("RGB"))
    colours.putalpha(layer.getchannel("A"))
    return colours, True


def _is_transparent(picture: Image.Image) -> bool:
    return "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info


def _applied(to_srgb: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    found = ImageCms.applyTransform(picture, to_srgb)
    assert found is not None
    return found


@lru_cache(maxsize=32)
def _read(profile: bytes) -> _Profile:
    """What a profile is for; most pictures of a folder have the same few."""
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in _MODES:
            raise PictureFault("colour profile", f"its profile is for the colour space {space}")
        mode = _MODES[space]
        to_srgb = ImageCms.buildTransform(opened, _SRGB, mode, "RGB", _INTENT, _FLAGS)
        assert isinstance(to_srgb, ImageCms.ImageCmsTransform)
        return _Profile(mode, None if _changes_nothing(to_srgb, mode) else to_srgb)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise PictureFault("colour profile", f"its profile of {len(profile)} bytes cannot be read: {error}") from error


def _changes_nothing(to_srgb: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours all over the space stay what they are, but for rounding."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    after = np.asarray(_applied(to_srgb, Image.fromarray(grid)))
    before = grid if mode == "RGB" else grid[..., None]
    return int(np.abs(after.astype(int) - before).max()) <= _SAME

"""One picture: from stored bytes to pixels of the size asked for. Nothing is opened that could run anything."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, features

from bench.datasets.buckets import Size
from bench.datasets.pictures.colour_profiles import in_srgb
from bench.datasets.pictures.rows import PictureFault
from bench.reading import MIB

# Raster formats only: others (EPS, PDF) are handed to programs of their own.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
# How files of most of these begin: with it, what cannot be opened was a picture once.
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")
# Of the containers that HEIC and AVIF share, by their brand; source: ISO/IEC 23008-12, annex B, and the AV1 Image File
# Format, section 6
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")
_AVIF = (b"avif", b"avis")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "P", "RGB", "YCbCr", "RGBA", "LA", "PA", "RGBX", "RGBa", "La")

# The size is looked at here, before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


# Pillow's own limit of one MiB is below what image generators write beside a picture.
_MOST_METADATA = 64 * MIB
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MOST_METADATA


class Crop(NamedTuple):
    """What becomes of a picture: its size when it stands upright, the part that is taken (in its own pixels), the size
    that this is brought to, and whether the picture was transparent, and so laid on white."""

    width: int
    height: int
    left: int
    top: int
    taken_width: int
    taken_height: int
    to_width: int
    to_height: int
    on_white: bool

    @property
    def to(self) -> Size:
        """The size that the part is brought to."""
        return self.to_width, self.to_height

    @property
    def kept_share(self) -> float:
        """Share of the picture that is taken, above 0, at most 1."""
        return self.taken_width * self.taken_height / (self.width * self.height)


class OpenedPicture(NamedTuple):
    """A picture in sRGB, upright as its camera says; whether it was transparent, and so laid on white; and whether its
    colours were those of another profile."""

    picture: Image.Image
    on_white: bool
    has_profile: bool


def open_picture(data: bytes, max_pixels: int) -> OpenedPicture:
    """A picture as it is looked at and trained on.

    Raises:
        PictureFault: it cannot be used; see `rows.FAULT_KINDS`.
    """
    if not data:
        raise PictureFault("zero bytes", "the file is empty")
    decoder_of(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureFault("enormous", f"over {max_pixels:,} pixels allowed: {error}") from error
    except MemoryError:  # says nothing about the picture
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes; the row is listed with its fault
        _refuse_metadata(error)
        if data.startswith(_BEGINNINGS):
            raise PictureFault("truncated", "begins as a picture, but ends before its first row") from error
        raise PictureFault("not a picture", f"{len(data)} bytes in none of the formats {', '.join(FORMATS)}") from error
    try:
        _refuse(picture, max_pixels)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except (PictureFault, MemoryError):
        raise
    except Exception as error:  # as above: frames, pixels and the camera's tags are all read by decoders
        _refuse_metadata(error)
        raise PictureFault(
            "truncated", f"begins as a {picture.format} picture but cannot be decoded: {error}"
        ) from error
    coloured, has_profile = in_srgb(upright)
    return OpenedPicture(*_on_white(coloured), has_profile)


def decoder_of(data: bytes) -> str:
    """What decodes a picture that Pillow does not decode itself, with its version; empty where it does.

    Raises:
        PictureFault: it is not installed.
    """
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4]), 64), 4))}
    if data[4:8] != b"ftyp":
        return ""
    if brands & set(_AVIF):
        if not features.check("avif"):
            raise PictureFault(
                "needs a plugin", "AVIF, which this build of Pillow does not read: pip install -U pillow"
            )
        return ""
    if not brands & set(_HEIC):
        return ""
    return _heif_plugin()


@cache
def _heif_plugin() -> str:
    """Have Pillow read HEIC; raises PictureFault where the plugin is not installed."""
    try:
        import pillow_heif
    except ImportError as error:
        told = "HEIC, which Pillow reads by a plugin: pip install 'post-training-bench[heif]'"
        raise PictureFault("needs a plugin", told) from error
    pillow_heif.register_heif_opener()
    return f"pillow-heif {pillow_heif.__version__}, libheif {pillow_heif.libheif_version()}"


def middle_crop(width: int, height: int, to: Size, on_white: bool = False) -> Crop:
    """The largest part in the middle of a picture that has the shape of `to`, rounded to whole pixels."""
    taken_width = min(width, max(1, round(height * to[0] / to[1])))
    taken_height = min(height, max(1, round(width * to[1] / to[0])))
    left, top = (width - taken_width) // 2, (height - taken_height) // 2
    return Crop(width, height, left, top, taken_width, taken_height, *to, on_white)


def prepare_picture(data: bytes, to: Size, max_pixels: int) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of a size (W, H): the middle part of its shape, brought to it by Lanczos' filter.

    Raises:
        PictureFault: the picture cannot be used.
    """
    picture = open_picture(data, max_pixels).picture
    cut = middle_crop(*picture.size, to)
    # Cut first: resize(box=...) would let the filter see what lies beside the part
    part = picture.crop((cut.left, cut.top, cut.left + cut.taken_width, cut.top + cut.taken_height))
    return np.asarray(part.resize(to, Image.Resampling.LANCZOS))


def _on_white(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in RGB, and whether anything was seen through it, which is white now."""
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if np.asarray(layer)[..., 3].min() < 255:
            white = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(white, layer).convert("RGB"), True
    return picture.convert("RGB"), False


def _refuse_metadata(error: Exception) -> None:
    """Tell of too much beside the picture, which Pillow calls by the name of its setting."""
    if "MAX_TEXT" in str(error):
        told = f"more than {_MOST_METADATA:,} bytes of text or colour profile beside the picture"
        raise PictureFault("enormous", told) from error


def _refuse(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    """Look at the header, before anything is decoded."""
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureFault("enormous", f"{width} x {height} pixels, over {max_pixels:,} allowed")
    # Phones store a second view behind a JPEG picture; the first is the picture.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise PictureFault("animated", f"{getattr(picture, 'n_frames', 'several')} frames")
    if picture.mode == "CMYK" and not picture.info.get("icc_profile"):
        raise PictureFault("CMYK", "inks instead of red, green and blue; without its profile its colours are a guess")
    _refuse_unread_colours(picture)
    if picture.mode in _DEEP_MODES or _is_deep(picture):
        raise PictureFault("16-bit", f"more than 8 bits a channel ({picture.mode})")
    if picture.mode not in (*_MODES, "CMYK"):
        raise PictureFault("other colours", f"colour mode {picture.mode}")


def _refuse_unread_colours(picture: ImageFile.ImageFile) -> None:
    """HEIC may say by numbers what an ICC profile says; only sRGB's are read. Source: ITU-T H.273, 8.1 and 8.2."""
    numbers = picture.info.get("nclx_profile")
    if not numbers or picture.info.get("icc_profile"):
        return
    primaries, transfer = int(numbers["color_primaries"]), int(numbers["transfer_characteristics"])
    if primaries not in (1, 2) or transfer in (16, 18):
        told = (
            f"colours of the primaries {primaries} and the transfer {transfer} of ITU-T H.273, without an ICC profile"
        )
        raise PictureFault("colour profile", f"{told}: store it as sRGB")


def _is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether the decoder would drop bits: Pillow says so only in what it hands to its decoder."""
    return any(";16" in str(tile[3]) for tile in picture.tile) or picture.info.get("bit_depth", 8) > 8

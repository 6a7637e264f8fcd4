"""One picture from bytes to pixels: what is refused and why, and where the square is cut."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from bench.datasets.pictures.decoding import middle_crop, open_picture, prepare_picture
from bench.datasets.pictures.rows import FAULT_KINDS, PictureFault
from tests.support.user_pictures import noise, png, stored

LIMIT = 10_000


def png_16_bit_colour() -> bytes:
    """2 x 1 pixels of 16 bits a channel, which Pillow cannot write, and reads as 8 bits without a word."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + struct.pack(">6H", 0, 40000, 65535, 1, 2, 3))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def frames(form: str) -> bytes:
    return stored(noise(0), form, save_all=True, append_images=[noise(1)])


FAULTS = {
    "zero bytes": [b""],
    "not a picture": [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"],
    "truncated": [
        png(noise(0))[:-200],
        png(noise(0))[:20],
        stored(noise(0, 200, 40), "JPEG")[:-500],
        stored(noise(0), "WEBP", lossless=True)[:-200],
    ],
    "enormous": [png(Image.new("1", (101, 100)))],
    "animated": [frames("GIF"), frames("PNG"), frames("WEBP"), frames("TIFF")],
    "CMYK": [stored(noise(0).convert("CMYK"), "JPEG"), stored(noise(0).convert("CMYK"), "TIFF")],
    "16-bit": [
        png_16_bit_colour(),
        png(Image.fromarray(np.full((4, 4), 40000, np.uint16))),
        stored(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
    ],
    "other colours": [stored(noise(0).convert("LAB"), "TIFF")],
}


@pytest.mark.parametrize(("kind", "data"), [(kind, data) for kind, some in FAULTS.items() for data in some])
def test_a_picture_that_cannot_be_used_is_told_by_its_kind(kind: str, data: bytes) -> None:
    assert kind in FAULT_KINDS
    with pytest.raises(PictureFault) as caught:
        open_picture(data, LIMIT)
    assert caught.value.kind == kind and caught.value.detail


def test_the_size_is_read_before_a_picture_is_decoded() -> None:
    bomb = bytearray(png(Image.new("1", (8, 8))))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)  # 3.6 thousand million pixels, as the header says
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(PictureFault, match="enormous"):
        open_picture(bytes(bomb), 89_478_485)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_ordinary_colour_modes_are_read(mode: str) -> None:
    picture, on_white, has_profile = open_picture(png(noise(0).convert("RGB").convert(mode)), LIMIT)
    assert picture.mode == "RGB" and picture.size == (16, 16) and not on_white and not has_profile


def test_a_transparent_picture_is_laid_on_white_and_told() -> None:
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 255, 0))
    picture, on_white, _ = open_picture(png(layer), LIMIT)
    assert on_white and [picture.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]


def test_a_picture_stands_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter clockwise brings it upright
    flat = Image.new("RGB", (20, 10), "red")
    picture = open_picture(stored(flat, "JPEG", exif=exif), LIMIT).picture
    assert picture.size == (10, 20)


def test_a_phone_s_second_view_is_no_animation() -> None:
    first, second = stored(noise(0), "JPEG"), noise(1)
    data = stored(noise(0), "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.array_equal(open_picture(data, LIMIT)[0], Image.open(io.BytesIO(first)))


@pytest.mark.parametrize(("size", "left", "top", "side"), [((10, 4), 3, 0, 4), ((4, 11), 0, 3, 4), ((5, 5), 0, 0, 5)])
def test_the_square_lies_in_the_middle(size: tuple[int, int], left: int, top: int, side: int) -> None:
    assert middle_crop(*size, (8, 8))[2:6] == (left, top, side, side)


def test_a_picture_of_the_model_s_size_is_left_as_it_is() -> None:
    assert np.array_equal(prepare_picture(png(noise(3)), (16, 16), LIMIT), np.asarray(noise(3)))


def test_the_middle_square_is_what_is_brought_to_size() -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste(Image.new("RGB", (32, 32), "blue"), (32, 0))
    pixels = prepare_picture(png(wide), (8, 8), LIMIT)
    assert pixels.shape == (8, 8, 3) and (pixels == (0, 0, 255)).all()


@pytest.mark.parametrize("broken", ["open", "load"])
def test_memory_that_runs_out_is_no_fault_of_the_picture(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow raises when the machine is short must stop the run, not leave the picture out."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")

    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(*((Image, "open", short) if broken == "open" else (PngImageFile, "load", short)))
    with pytest.raises(MemoryError):
        open_picture(data.getvalue(), 100)

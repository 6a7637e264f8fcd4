"""One picture from bytes to pixels: what is refused and why, and where the square is cut."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile, PngInfo

from bench.datasets.pictures import decoding
from bench.datasets.pictures.decoding import decoder_of, middle_crop, open_picture, prepare_picture
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


def heif(picture: Image.Image, **options: Any) -> bytes:
    decoder_of(b"0000ftypheic")  # has Pillow write it too
    return stored(picture, "HEIF", quality=-1, **options)


def test_heic_and_avif_are_read_and_name_what_decoded_them() -> None:
    picture = Image.new("RGB", (24, 16), (200, 30, 90))
    for data, by in ((heif(picture), "pillow-heif "), (stored(picture, "AVIF", quality=100), "")):
        opened = open_picture(data, LIMIT)
        assert opened.picture.size == (24, 16) and not opened.on_white and not opened.has_profile
        assert np.abs(np.asarray(opened.picture, int) - (200, 30, 90)).max() <= 6  # both are lossy
        assert decoder_of(data).startswith(by) and bool(decoder_of(data)) == bool(by)
    has_profile = open_picture(heif(picture, icc_profile=ADOBE), LIMIT).has_profile
    assert has_profile


def test_each_fault_of_heic_is_told() -> None:
    import pillow_heif

    picture, deep = noise(0), pillow_heif.from_bytes("RGB;16", (16, 16), bytes(16 * 16 * 6))
    deep.save(buffer := io.BytesIO())
    pillow_heif.options.SAVE_NCLX_PROFILE, before = True, pillow_heif.options.SAVE_NCLX_PROFILE
    try:
        wide = heif(picture, color_primaries=12, transfer_characteristics=13, matrix_coefficients=6, full_range_flag=1)
    finally:
        pillow_heif.options.SAVE_NCLX_PROFILE = before
    faults = {
        "16-bit": buffer.getvalue(), "animated": heif(picture, save_all=True, append_images=[noise(1)]),
        "truncated": heif(picture)[:-300], "enormous": heif(Image.new("RGB", (101, 100))), "colour profile": wide,
    }  # fmt: skip
    for kind, data in faults.items():
        with pytest.raises(PictureFault) as caught:
            open_picture(data, LIMIT)
        assert caught.value.kind == kind, caught.value


def test_without_its_plugin_heic_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heif(noise(0))
    decoding._heif_plugin.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureFault, match=r"needs a plugin: HEIC.* pip install 'post-training-bench\[heif\]'"):
        open_picture(data, LIMIT)
    monkeypatch.setattr(decoding.features, "check", lambda name: False)
    with pytest.raises(PictureFault, match="needs a plugin: AVIF, which this build of Pillow does not read"):
        open_picture(stored(noise(0), "AVIF"), LIMIT)


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


# Colour profiles


def profile(red: tuple[float, float, float], green: tuple[float, float, float], blue: tuple[float, ...]) -> bytes:
    """An ICC profile, version 2, of an RGB space with these primaries (XYZ under D50) and a gamma of 2.2."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\x02a\0" + b"\0" * 82, b"cprt": b"text\0\0\0\0x\0\0\0"}
    for name, xyz in ((b"wtpt", (0.9642, 1, 0.8249)), (b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue)):
        tags[name] = b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table = body = b""
    for name, data in tags.items():
        padded = data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += padded
    head = struct.pack(">I", 132 + 12 * len(tags) + len(body)) + b"none" + struct.pack(">I", 0x02100000)
    head += b"mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(map(fixed, (0.9642, 1, 0.8249)))
    return head + b"\0" * (128 - len(head)) + struct.pack(">I", len(tags)) + table + body


# Adobe RGB (1998)'s primaries, adapted to D50, from its specification
ADOBE_XYZ = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE = profile(*ADOBE_XYZ)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def adobe_to_srgb(colour: tuple[int, int, int]) -> list[int]:
    """By the definitions of both spaces: gamma, primaries, sRGB's matrix under D50 and its curve."""
    linear = np.array(colour, np.float64) / 255
    xyz = np.array(ADOBE_XYZ).T @ linear**2.2
    srgb = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.033454],
                     [0.0719453, -0.2289914, 1.4052427]]) @ xyz  # fmt: skip
    clipped = srgb.clip(0, 1)
    curved = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return [int(level) for level in (255 * curved).round()]


@pytest.mark.parametrize("colour", [(60, 160, 90), (200, 180, 40), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_a_colour_profile_is_brought_to_srgb(colour: tuple[int, int, int], form: str) -> None:
    data = stored(
        Image.new("RGB", (8, 8), colour), form, icc_profile=ADOBE, **({"quality": 100} if form == "JPEG" else {})
    )
    opened = open_picture(data, LIMIT)
    assert opened.has_profile and opened.picture.mode == "RGB"
    found = np.asarray(opened.picture)[4, 4].astype(int)
    assert np.abs(found - adobe_to_srgb(colour)).max() <= 2, "rounding to 8 bits, and JPEG's"
    assert np.array_equal(prepare_picture(data, (8, 8), LIMIT), np.asarray(opened.picture))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_a_profile_of_srgb_changes_nothing(mode: str) -> None:
    plain = noise(0).convert("RGB").convert(mode)
    opened = open_picture(png(plain, icc_profile=SRGB), LIMIT)
    assert not opened.has_profile
    assert np.array_equal(opened.picture, open_picture(png(plain), LIMIT).picture)


def test_what_is_seen_through_a_picture_with_a_profile_is_white() -> None:
    layer = Image.new("RGBA", (2, 1), (60, 160, 90, 255))
    layer.putpixel((1, 0), (60, 160, 90, 0))
    opened = open_picture(png(layer, icc_profile=ADOBE), LIMIT)
    assert opened.on_white and opened.has_profile and opened.picture.getpixel((1, 0)) == (255, 255, 255)
    assert np.abs(np.array(opened.picture.getpixel((0, 0))) - adobe_to_srgb((60, 160, 90))).max() <= 2


def test_a_gray_picture_may_have_a_profile_of_colours() -> None:
    opened = open_picture(png(Image.new("L", (2, 2), 100), icc_profile=ADOBE), LIMIT)
    assert (
        opened.has_profile and np.abs(np.array(opened.picture.getpixel((0, 0))) - adobe_to_srgb((100,) * 3)).max() <= 2
    )


@pytest.mark.parametrize(
    ("picture", "icc", "reason"),
    [
        (Image.new("RGB", (2, 2)), b"nonsense", "its profile of 8 bytes cannot be read"),
        (Image.new("RGB", (2, 2)), ADOBE[:200], "its profile of 200 bytes cannot be read"),
        (Image.new("CMYK", (2, 2)), ADOBE, "its profile is for RGB pictures, and it is CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told(picture: Image.Image, icc: bytes, reason: str) -> None:
    with pytest.raises(PictureFault) as caught:
        open_picture(stored(picture, "JPEG", icc_profile=icc), LIMIT)
    assert caught.value.kind == "colour profile" and reason in caught.value.detail


# What lies beside a picture


def test_a_picture_with_much_text_beside_it_is_read() -> None:
    """As image generators write their workflows: three megabytes, which Pillow refuses by itself."""
    for write in ("add_text", "add_itxt"):
        about = PngInfo()
        getattr(about, write)("workflow", "node " * 600_000, zip=True)
        opened = open_picture(png(noise(0), pnginfo=about), LIMIT)
        assert np.array_equal(opened.picture, noise(0))


def test_too_much_beside_a_picture_is_called_so() -> None:
    about = PngInfo()
    about.add_text("workflow", " " * (2**26 + 1), zip=True)
    with pytest.raises(PictureFault, match="enormous: more than 67,108,864 bytes of text or colour profile beside"):
        open_picture(png(noise(0), pnginfo=about), LIMIT)

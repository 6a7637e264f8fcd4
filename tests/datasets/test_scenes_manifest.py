"""Damage of the shipped models that leaves their formats valid is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.api import DataError
from bench.datasets import base_model
from bench.datasets.scenes import manifest, proxies
from bench.datasets.scenes.manifest import ASSETS, MANIFEST, check_manifest, write_manifest
from bench.datasets.worlds import load_world
from rewards.scenes_aesthetic_head import ScenesAestheticHead

WEIGHTS = "pipeline/transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped models in their place."""
    copy = tmp_path / "assets"
    shutil.copytree(ASSETS, copy)
    monkeypatch.setattr(base_model, "ASSETS", copy)
    monkeypatch.setattr(proxies, "ASSETS", copy)
    return copy


def flip(path: Path) -> None:
    """One bit in the last weight."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def test_every_shipped_file_is_listed_and_as_it_was_exported(assets: Path) -> None:
    stored = (assets / MANIFEST).read_text()
    write_manifest(assets)
    assert (assets / MANIFEST).read_text() == stored
    assert stored.count("\n") == sum(path.is_file() for path in assets.rglob("*")) - 1


def test_a_flipped_bit_in_the_base_is_told_and_a_base_of_the_users_own_is_not_compared(assets: Path) -> None:
    before = manifest._digest(assets / WEIGHTS)
    flip(assets / WEIGHTS)
    after = manifest._digest(assets / WEIGHTS)
    with pytest.raises(DataError, match=rf"{WEIGHTS}: .*{before}, got {after}.*git checkout -- .*{WEIGHTS}"):
        load_world("scenes")
    assert load_world("scenes", str(assets / "pipeline")).model == assets / "pipeline"


def test_a_flipped_bit_in_a_proxy_is_told(assets: Path) -> None:
    ScenesAestheticHead(assets).load()
    manifest.check_manifest.cache_clear()
    flip(assets / "aesthetic" / "model.safetensors")
    with pytest.raises(DataError, match=r"aesthetic/model.safetensors: expected the file that was exported"):
        ScenesAestheticHead(assets).load()


def test_what_is_missing_is_told(assets: Path) -> None:
    (assets / "ocr" / "config.json").unlink()
    with pytest.raises(DataError, match=r"ocr/config.json: .* got no file"):
        check_manifest(assets / "ocr")
    (assets / MANIFEST).unlink()
    with pytest.raises(DataError, match=f"{MANIFEST}: expected the hashes of .*clip, but there are none. Restore it"):
        check_manifest(assets / "clip")

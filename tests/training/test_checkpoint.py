"""Checkpoints: whatever byte is damaged, the last good one is used and the bad one is named."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import DataError
from bench.tensors import write_tensors
from bench.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]


def saved(folder: Path, *numbers: int) -> Checkpoints:
    write_tensors(folder / "stage1.safetensors", {"entry": torch.arange(3.0)})
    checkpoints = Checkpoints(folder)
    for number in numbers:
        state = {"update": number, "method": {2: "a", 10: "b"}, "loss": 0.1 * number}
        checkpoints.save(number, {"weight": torch.full((4,), float(number))}, state, beside=["stage1.safetensors"])
    return checkpoints


def loaded(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    found, complaints = checkpoints.load()
    if found is None:
        return None, complaints
    assert float(found.tensors["weight"][0]) == found.state["update"]
    return found.state["update"], complaints


def test_the_last_two_stay_and_the_newest_is_loaded(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3, 5, 12)
    assert loaded(checkpoints) == (12, [])
    assert not list(tmp_path.glob("00000003*")) and len(list(tmp_path.glob("00000005*"))) == 2
    checkpoints.clear()
    assert loaded(checkpoints) == (None, []) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["00000005.json", "00000005.safetensors"])
def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    checkpoints = saved(tmp_path, 3, 5)
    whole = (tmp_path / name).read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:length] for length in range(0, len(whole), 7)]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        update, complaints = loaded(checkpoints)
        assert update == 3 and len(complaints) == 1, content
        assert "00000005.json is damaged and was passed over" in complaints[0]
    (tmp_path / name).write_bytes(whole)
    assert loaded(checkpoints) == (5, [])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, empty])
def test_a_checkpoint_whose_stage_entry_is_damaged_is_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    checkpoints = saved(tmp_path, 3, 5)
    damage(tmp_path / "stage1.safetensors")
    update, complaints = loaded(checkpoints)
    assert update is None and len(complaints) == 2 and "stage1.safetensors" in complaints[0]


def test_a_checkpoint_under_another_number_is_none(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3)
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"00000003{suffix}").rename(tmp_path / f"00000009{suffix}")
    assert loaded(checkpoints)[0] is None


def test_one_that_is_refused_is_passed_over_and_named(tmp_path: Path) -> None:
    def refuse(state: Mapping[str, Any]) -> None:
        if state["update"] == 5:
            raise DataError("expected a checkpoint of a/b/seed0, got one of a/b/seed1")

    saved(tmp_path, 3, 5)
    found, complaints = Checkpoints(tmp_path).load(refuse)
    assert found is not None and found.number == 3
    assert complaints == [f"{tmp_path}/00000005.json was passed over: expected a checkpoint of a/b/seed0, got one of "
                          "a/b/seed1"]  # fmt: skip


def test_those_passed_over_do_not_outlive_the_next_one(tmp_path: Path) -> None:
    """Else, as the newest two, they would be kept in its place."""
    checkpoints = saved(tmp_path, 8, 9)
    for number in (8, 9):
        empty(tmp_path / f"{number:08d}.json")
    checkpoints.save(2, {"weight": torch.full((4,), 2.0)}, {"update": 2})
    assert loaded(checkpoints) == (2, []) and not list(tmp_path.glob("0000000[89]*"))


CONVERSION = ROOT / "rewards" / "convert.py"  # reads tensors out of published ones; see test_security


@pytest.mark.slow
def test_nothing_of_ours_loads_a_pickle() -> None:
    """Neither by the modules that do, nor by a loader that may fall back to one where safetensors are missing."""
    for package in ("bench", "methods", "rewards"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & set(names), path
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and path != CONVERSION:
                    assert f"{node.value.id}.{node.attr}" != "torch.load", path
                if isinstance(node, ast.Call) and _is_model_loader(node.func):
                    safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert safe.get("use_safetensors") == "True", f"{path}:{node.lineno}"


def _is_model_loader(function: ast.expr) -> bool:
    named = isinstance(function, ast.Attribute) and function.attr == "from_pretrained"
    text = ("Tokenizer", "Config", "Scheduler")  # which hold no weights
    return named and not ast.unparse(function.value).endswith(text)


def test_a_manifest_that_names_a_file_elsewhere_is_none(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "checkpoint", 3)
    write_tensors(tmp_path / "elsewhere.safetensors", {"theirs": torch.zeros(1)})
    checkpoints.save(5, {"weight": torch.full((4,), 5.0)}, {"update": 5}, beside=["../elsewhere.safetensors"])
    update, complaints = loaded(checkpoints)
    assert update == 3 and "expected one within that folder" in complaints[0]


def test_a_checkpoint_that_is_a_link_is_none(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "checkpoint", 3, 5)
    weights = tmp_path / "checkpoint" / "00000005.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    update, complaints = loaded(checkpoints)
    assert update == 3 and "is a link" in complaints[0]

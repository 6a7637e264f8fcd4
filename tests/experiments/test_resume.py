"""Cells of another base do not stand beside those of this one, even where its folder has the same name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.api import ConfigError, DataError
from bench.config.job import CellJob
from bench.experiments import resume as identity
from bench.results.records.provenance import base_files
from bench.results.records.registration import registration_hash
from bench.results.records.schema import Cell
from bench.results.records.writer import CellRecord
from tests.support.cells import experiment

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def job(tiny_pipeline: Path, tmp_path: Path) -> CellJob:
    """A cell that was begun on a base of its own."""
    shutil.copytree(tiny_pipeline, tmp_path / "base")
    job = CellJob(experiment(tmp_path / "base", methods=["sft"]), tmp_path, "alignment", "sft", 0)
    CellRecord(job.folder).start(identity.cell_header(job, "cpu"))
    return job


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def left(job: CellJob) -> list[CellJob]:
    return identity.remaining_jobs([job], job.results / job.experiment.name, allow_mixed=False).jobs


def test_another_base_of_the_same_name_is_refused(job: CellJob, tmp_path: Path) -> None:
    assert left(job) == [job]
    header = identity.cell_header(job, "cpu")
    assert f"base/{WEIGHTS}" in header["provenance"]["sources"]
    flip(tmp_path / "base" / WEIGHTS)
    with pytest.raises(DataError, match=rf"1 cells in .* from another base.*differs in base/{WEIGHTS}\): .*--name"):
        left(job)
    with pytest.raises(DataError, match=f"other code than the present, which differs in base/{WEIGHTS}"):
        CellRecord(job.folder).start(identity.cell_header(job, "cpu"))


def test_a_cell_carries_the_registration_that_it_began_under(job: CellJob) -> None:
    path = job.results / "registration.yaml"
    assert identity.cell_header(job, "cpu")["registration"] is None
    path.write_text("experiments: {}\nhypotheses: []\n")
    shutil.rmtree(job.folder)
    record = CellRecord(job.folder)
    record.start(identity.cell_header(job, "cpu"))
    held = registration_hash(job.results)
    path.write_text("experiments: {}\nhypotheses: []\nexclusions: [none]\n")
    assert record.start(identity.cell_header(job, "cpu"))  # goes on, whatever was changed meanwhile
    (first,) = record.events()
    assert isinstance(first, Cell) and first.registration == held != registration_hash(job.results)
    path.write_text("hypothesis: []\n")
    with pytest.raises(ConfigError, match=r"registration\.yaml: 3 problems\n  - hypothesis: no such setting"):
        identity.cell_header(job, "cpu")


def test_a_base_is_all_that_its_index_names(job: CellJob, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "README.md").write_text("about it")
    (base / "words").mkdir(exist_ok=True)
    (base / "words" / "vocab.json").write_text("{}")
    (base / "vae" / ".cache").mkdir()
    found = {path.relative_to(base).as_posix() for path in base_files(base)}
    assert {WEIGHTS, "vae/config.json", "scheduler/scheduler_config.json", "model_index.json"} < found
    assert not any(name.startswith(("README", "words", "vae/.")) for name in found)
    (base / "model_index.json").write_text("[1")
    assert base_files(base) == [base / "model_index.json"]
    (base / "model_index.json").unlink()
    with pytest.raises(DataError, match=r"no model_index\.json: restore it"):
        base_files(base)

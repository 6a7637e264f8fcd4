"""Training in aspect buckets around the smallest real model: what is recorded, charged, and seen by whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from PIL import Image

from bench.api import ConfigError, PluginError
from bench.budget import Budget, Ledger
from bench.config.load import load_settings
from bench.config.pictures import Data
from bench.config.settings import Experiment
from bench.datasets.pictures.preparation import pictures_table, prepare_pictures
from bench.datasets.worlds import experiment_world
from bench.distributed.ranks import SINGLE_PROCESS, Ranks
from bench.models.policy import PassFlops, PipelinePolicy
from bench.preflight.conformance.observers import count_passes
from bench.results.report.reproduce import _pictures
from bench.scoring.loading import load_scorers
from bench.training.context import TaskContext
from bench.training.stage import Stage, StageStart
from tests.support import cells
from tests.support.user_pictures import captions, image_folder, noise

REWARD = "scenes-aesthetic"
BATCH = 4
COUNT = 30
SMALL_RL = {f"flowgrpo.{name}": 2 for name in ("num_groups", "num_generations", "window")} | {
    "flowgrpo.sampling_steps": 3
}


def shaped(number: int) -> Image.Image:
    """Two wide pictures, two tall ones and a very wide one in five."""
    width, height = ((100, 60), (40, 70), (90, 60), (30, 50), (90, 30))[number % 5]
    return noise(number, width, height)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("shapes") / "pictures", COUNT, shaped)


def experiment(folder: Path, pipeline: Path, **more: Any) -> Experiment:
    values = {
        "model": str(pipeline), "data.path": str(folder), "data.buckets": ["48x80", "64x64", "80x48"],
        "data.bucket_pictures": 2, "task.scorers": [REWARD], "task.reward": REWARD, "task.primary": REWARD,
        "train.batch_size": BATCH, "train.micro_batch": 3,
        "evaluation.milestones": [1.0], "evaluation.milestone_prompts": 1, "evaluation.final_prompts": 2,
        "evaluation.held_out_prompts": 0, "evaluation.grid_prompts": 1, "evaluation.grid_steps": [],
        "evaluation.diversity_prompts": 0, "evaluation.drift_states": 3, "evaluation.pictures": 1,
        "evaluation.steps": 1, "methods": ["sft", "soar"], **more,
    }  # fmt: skip
    if "soar" in str(values["methods"]):
        values["soar.num_points"] = 1
    found = load_settings("images", values)
    assert found.data is not None
    return found


class Measured(PipelinePolicy):
    """Counts the FLOPs of each shape once: counting takes longer than a step."""

    known: ClassVar[dict[Any, PassFlops]] = {}

    def measure_flops(self, latent: tuple[int, ...] | None = None) -> PassFlops:
        """As `PipelinePolicy` does; the second time what was found the first time."""
        key = self._lora, latent, any(p.requires_grad for p in self.transformer.parameters())
        if key not in self.known:
            self.known[key] = super().measure_flops(latent)
        return self.known[key]


def enter(e: Experiment, label: str, ranks: Ranks = SINGLE_PROCESS) -> Stage:
    policy, task = Measured.load(e.model or ""), e.tasks[0]
    context = TaskContext(experiment_world(e), task, policy, load_scorers({REWARD}), ranks)
    return Stage.enter(
        StageStart(e.stages(label)[0], Budget.parse("1e9")), context, Ledger(), policy.measure_flops().forward
    )


def test_the_inspection_tells_and_records_bucket_and_crop(folder: Path, tiny_pipeline: Path) -> None:
    settings = experiment(folder, tiny_pipeline).data
    assert settings is not None
    prepared = prepare_pictures(settings, tiny_pipeline)
    found = prepared.found.buckets
    assert found is not None and sum(found.values()) == prepared.found.training and found["64x64"] == 0
    shown = pictures_table(prepared)
    assert "pictures    in aspect buckets: 12 reduced, 18 enlarged, 18 cut to their middle (" in shown
    assert f"  48 x 80     12 pictures, {found['48x80']} of them to train on" in shown
    assert "  64 x 64     given up: its 0 pictures, fewer than 2, go to the nearest left" in shown
    rows = pd.read_parquet(prepared.inspected.folder / "pictures.parquet").set_index("name")
    columns = ["width", "height", "left", "top", "taken_width", "taken_height", "to_width", "to_height"]
    assert rows.loc["0.png", columns].tolist() == [100, 60, 0, 0, 100, 60, 80, 48]
    assert rows.loc["1.png", columns].tolist() == [40, 70, 0, 1, 40, 67, 48, 80]  # 40 * 80/48 is 66.7
    assert rows.loc["4.png", columns].tolist() == [90, 30, 20, 0, 50, 30, 80, 48]
    assert prepared.read([prepared.inspected.kept[1]], (48, 80)).shape == (1, 80, 48, 3)
    assert prepared.settings.identity()["buckets"] == found
    (told,) = _pictures(prepared.settings.identity())
    assert told.endswith(f"64 pixels, in aspect buckets: {found['48x80']} of 48x80, {found['80x48']} of 80x48")
    assert "buckets" not in prepare_pictures(Data(path=str(folder)), tiny_pipeline).settings.identity()


def test_buckets_change_the_fingerprint_and_not_what_is_scored(folder: Path, tiny_pipeline: Path) -> None:
    bucketed = experiment_world(experiment(folder, tiny_pipeline))
    plain = experiment_world(experiment(folder, tiny_pipeline, **{"data.buckets": None}))
    assert bucketed.version != plain.version
    both = [world.candidates(("all",), 1000) for world in (bucketed, plain)]
    assert both[0].prompts == both[1].prompts and not both[1].buckets
    assert (both[0].images[:] == both[1].images[:]).all() and both[0].images[:].shape[1:3] == (64, 64)
    assert sorted(row for bucket in both[0].buckets for row in bucket.rows) == list(range(len(both[0].prompts)))
    shapes = {bucket.size: bucket.images[0].shape for bucket in both[0].buckets}
    assert shapes == {(48, 80): (80, 48, 3), (80, 48): (48, 80, 3)}
    text = both[0].prompts[int(both[0].buckets[0].rows[0])].text
    assert captions(COUNT).index(text) % 5 in (1, 3)  # one of the tall ones


def seen(stage: Stage, updates: int) -> list[tuple[Any, ...]]:
    """Captions and latents' shape of each of the next batches, by micro-batch."""
    return [
        (batch.prompts, tuple(batch.z0.shape[1:]), batch.index.tolist())
        for _ in range(updates)
        for batch in stage.env.draw.batches()
    ]


@pytest.mark.slow
def test_all_methods_see_the_same_pictures_in_batches_of_one_size(folder: Path, tiny_pipeline: Path) -> None:
    e = experiment(folder, tiny_pipeline)
    sft, soar = (seen(enter(e, label), 12) for label in ("sft", "soar"))
    assert sft == soar
    assert {shape for _, shape, _ in sft} == {(16, 6, 10), (16, 10, 6)}
    updates = [sft[i : i + 2] for i in range(0, len(sft), 2)]  # of micro-batches of 3 and 1
    assert all(a[1] == b[1] and len(a[0]) == 3 and len(b[0]) == 1 for a, b in updates)


def rank(number: int) -> Ranks:
    """One of two processes, which needs to meet nobody to know its share."""
    one = Ranks()
    one.rank, one.size = number, 2  # type: ignore[misc]
    return one


@pytest.mark.slow
def test_two_processes_share_out_the_batches_of_one(folder: Path, tiny_pipeline: Path) -> None:
    e = experiment(folder, tiny_pipeline, **{"train.micro_batch": BATCH})
    whole, *halves = (enter(e, "sft", ranks) for ranks in (SINGLE_PROCESS, rank(0), rank(1)))
    for _ in range(6):
        (batch,) = whole.env.draw.batches()
        parts = [part for half in halves for part in half.env.draw.batches()]
        assert torch.equal(batch.z0, torch.cat([part.z0 for part in parts]))
        noise = torch.cat([half.env.draw.noise(p.index) for half, p in zip(halves, parts, strict=True)])
        assert torch.equal(whole.env.draw.noise(batch.index), noise) and noise.shape == batch.z0.shape


@pytest.mark.slow
@pytest.mark.parametrize(("label", "adaptation"), [("sft", "full"), ("soar", "lora")])
def test_every_size_is_charged_what_it_takes(folder: Path, tiny_pipeline: Path, label: str, adaptation: str) -> None:
    stage = enter(experiment(folder, tiny_pipeline, **{"train.adaptation": adaptation}), label)
    ledger = stage.limit.ledger
    stage.advance()  # texts are encoded once, outside of what is charged
    before, sizes, costs = ledger.flops, set(), set()
    with count_passes(stage.policy) as count:
        for _ in range(4):
            spent = ledger.flops
            stage.advance()
            assert stage.env.draw.latest is not None
            sizes.add(tuple(stage.env.draw.latest.z0.shape[1:]))
            costs.add(ledger.flops - spent)
    assert len(sizes) == 2
    assert ledger.flops - before == pytest.approx(count.flops, rel=1e-9)
    # 6 x 10 latents are 15 patches, the square's are 16
    square, wide = (stage.policy.measure_flops(shape).forward for shape in ((16, 8, 8), (16, 6, 10)))
    assert 0.9 < wide / square < 1 and max(costs) - min(costs) < 1e-9 * max(costs)


@pytest.mark.slow
def test_a_resumed_stage_goes_on_bit_for_bit(folder: Path, tiny_pipeline: Path) -> None:
    e = experiment(folder, tiny_pipeline)
    first = enter(e, "soar")
    for _ in range(3):
        first.advance()
    tensors, state = first.tensors(), json.loads(json.dumps(first.state_dict()))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = [first.advance() for _ in range(4)]
    resumed = enter(e, "soar")
    resumed.load(tensors, state)
    assert [resumed.advance() for _ in range(4)] == expected


@pytest.mark.slow
def test_a_method_without_data_draws_squares_and_noise_of_two_sizes_is_refused(
    folder: Path, tiny_pipeline: Path
) -> None:
    e = experiment(folder, tiny_pipeline, methods=["sft", "flowgrpo"], **SMALL_RL)
    rl = enter(e, "flowgrpo")
    rl.advance()
    assert rl.env.rollouts is not None
    assert {tuple(t.shape[-2:]) for t in rl.env.rollouts.tensors.values() if t.ndim > 3} == {(8, 8)}
    stage = enter(e, "sft")
    index = torch.arange(0, 2 * BATCH * 3).numpy()
    with pytest.raises(PluginError, match="noise for samples of 2 updates, whose pictures have different sizes"):
        stage.env.draw.noise(index)
    assert stage.env.draw.noise(index, shape=stage.env.model.latent_shape).shape == (len(index), 16, 8, 8)
    with pytest.raises(PluginError, match=r"a pass of latents of shape \(16, 4, 4\), whose cost is not known"):
        stage.env.model.velocity(torch.zeros(1, 16, 4, 4), torch.ones(1), stage.env.model.encode(["a star"]))


def test_the_model_takes_no_size_beyond_its_positions(tiny_pipeline: Path) -> None:
    policy = PipelinePolicy.load(tiny_pipeline)
    pictures = torch.zeros(1, 48, 144, 3, dtype=torch.uint8).numpy()
    with pytest.raises(ConfigError, match="pictures of 144x48 pixels: expected a multiple of 16, at most 128"):
        policy.encode_pictures(pictures, (144, 48))
    mean, _ = policy.encode_pictures(pictures[:, :, :128], (128, 48))
    assert mean.shape == (1, 16, 6, 16)
    v = policy.velocity(mean, torch.ones(1), policy.encode(["a star"]))
    assert v.shape == mean.shape and policy.decode(mean).shape == (1, 48, 128, 3)


@pytest.mark.slow
def test_a_cell_trains_in_buckets_and_is_judged_by_squares(folder: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    e = experiment(folder, tiny_pipeline, budget="6updates", methods=["sft+soar"])
    cells.run(e, tmp_path, "sft+soar")
    lines = (tmp_path / "images" / "pictures" / "sft+soar" / "seed0" / "record.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert events[-1]["status"] == "done" and events[-1]["ledger"]["updates"] == 6
    (pictures,) = [event for event in events if event["kind"] == "pictures"]
    assert pictures["tile"] == [64, 64]
    (milestone,) = [event for event in events if event["kind"] == "milestone"]
    assert milestone["drift"]["velocity"] > 0


@pytest.mark.slow
def test_a_choice_of_squares_serves_with_buckets_and_without(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the same fingerprint, so what one has chosen the other finds, its encodings lost or not."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    squares = image_folder(tmp_path / "squares", COUNT, lambda number: noise(number, 64, 64))
    found = [
        enter(experiment(squares, tiny_pipeline, methods=["sft"], **{"data.buckets": buckets, "cache_gib": 0.0}), "sft")
        for buckets in (["48x80", "64x64"], None)
    ]
    assert len(list((tmp_path / "cache" / "curated").iterdir())) == 1
    assert found[0].advance() == found[1].advance()

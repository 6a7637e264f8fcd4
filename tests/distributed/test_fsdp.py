"""Two processes that share out the weights of the smallest real denoiser, held against one that has them whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.api import BenchError, BudgetExhausted, ConfigError, PluginError
from bench.config.settings import Train
from bench.distributed.dtensors import full_tensor, to_local
from bench.distributed.fsdp_passes import ShardedPasses
from bench.distributed.launch import RankInfo
from bench.distributed.ranks import SINGLE_PROCESS, ProcessGroup, Ranks
from bench.models.policy import PipelinePolicy
from bench.tensors import load_tensors, write_tensors
from bench.training.frozen_check import FrozenCheck
from bench.training.optimizer import Optimizer
from tests.support.cells import experiment
from tests.support.rank_processes import together

SAMPLES = 3  # of which the first process has all and the second none, so that it makes every pass along
TRAIN = Train(clip_norm=0.5, ema_half_life=0.5, gradient_checkpointing=True)


def loss(policy: PipelinePolicy, rows: slice) -> Tensor:
    """Of two guided passes, the second at a state that the first one made: gradient goes through that state."""
    noise = torch.randn(SAMPLES, *policy.latent_shape, generator=torch.Generator().manual_seed(1))[rows]
    cond = policy.encode(["a red circle"] * len(noise))
    sigma = torch.full((len(noise),), 0.7)
    v = policy.guided_velocity(noise, sigma, cond, 3.0)
    return (policy.guided_velocity(noise - 0.2 * v, sigma - 0.2, cond, 2.0) + v).square().sum()


def prepared(pipeline: Path, ranks: Ranks | None = None) -> tuple[PipelinePolicy, Optimizer]:
    """A policy in training, shared out among `ranks`."""
    policy = PipelinePolicy.load(pipeline, device="cpu")
    policy.shards = ShardedPasses(ranks) if ranks else None
    return policy, Optimizer(policy.shard(policy.prepare(TRAIN, 0)), TRAIN)


def updated(policy: PipelinePolicy, optimizer: Optimizer, ranks: Ranks, rows: slice) -> float:
    """Two updates by samples of this process alone; returns the last gradient's norm."""
    for fraction in (0.2, 0.4):
        if rows.stop > rows.start:
            policy.velocity(torch.zeros(1, *policy.latent_shape), torch.ones(1), policy.encode([""]))  # for nothing
            ranks.backward(loss(policy, rows))
        ranks.sum_gradients(optimizer.parameters)
        norm = optimizer.gradient_norm()
        optimizer.step(norm, fraction)
    return float(norm)


def _updates(ranks: Ranks, pipeline: Path, folder: Path) -> object:
    """What two updates make of the weights, and how much of everything this process holds."""
    policy, optimizer = prepared(pipeline, ranks)
    norm = updated(policy, optimizer, ranks, slice(0, 0 if ranks.rank else SAMPLES))
    tensors = optimizer.tensors(keep=True)
    write_tensors(folder / f"tensors{ranks.rank}.safetensors", tensors)
    held = {"weight": list(optimizer.parameters)}
    for name in ("exp_avg", "exp_avg_sq"):
        held[name] = [optimizer._adamw.state[p][name] for p in optimizer.parameters]
    assert optimizer._average is not None
    held["average"] = optimizer._average
    counted = {name: sum(to_local(t).numel() for t in found) for name, found in held.items()}
    other, fresh = prepared(pipeline, ranks)
    fresh.load(tensors, optimizer.state_dict())
    again = fresh.tensors()
    policy.merge()
    policy.unshard("cpu")
    merged = torch.cat([p.flatten() for p in policy.transformer.parameters()])
    trained = torch.cat([tensors[f"weight.{i}"].flatten() for i in range(len(optimizer.parameters))])
    return [
        norm, counted,
        again.keys() == tensors.keys() and all(torch.equal(again[name], t) for name, t in tensors.items()),
        torch.equal(merged, trained) and not any(p.requires_grad for p in policy.transformer.parameters()),
        optimizer.tensors(keep=False).keys() == {f"step.{i}" for i in range(len(optimizer.parameters))},
        other.transformer is not policy.transformer,
    ]  # fmt: skip


def _in_bfloat16(ranks: Ranks, pipeline: Path, folder: Path) -> object:
    """The gradient where passes are in bfloat16; half of the samples are each process's."""
    policy, _ = prepared(pipeline, ranks)
    policy.precision = "bfloat16"
    ranks.backward(loss(policy, slice(ranks.rank, ranks.rank + 1)))
    gradients = {name: full_tensor(p.grad) for name, p in policy.transformer.named_parameters() if p.grad is not None}
    write_tensors(folder / f"bfloat16{ranks.rank}.safetensors", gradients)
    return None


def _reference(ranks: Ranks, pipeline: Path, folder: Path) -> object:
    """A frozen copy that is shared out answers as the model does, by as many passes as each process wants."""
    policy = PipelinePolicy.load(pipeline, device="cpu")
    policy.shards = ShardedPasses(ranks)
    reference = policy.frozen_copy()
    same = []
    for seed in range(1 + ranks.rank):
        x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(seed))
        cond = policy.encode(["a star"] * 2)
        sigma = torch.full((2,), 0.5)
        same.append(torch.equal(policy.velocity(x, sigma, cond), reference.velocity(x, sigma, cond)))
    told = ranks.all_gather_object("rest", all(same))
    untouched = FrozenCheck(reference.tensors())
    untouched.check("fair")
    with torch.no_grad():
        next(iter(reference.tensors().values())).add_(1e-3)
    with pytest.raises(PluginError, match="changed 1 frozen tensors"):
        untouched.check("foul")
    return [told, sum(t.numel() for t in reference.tensors().values())]


def _different_passes(ranks: Ranks, pipeline: Path, folder: Path) -> object:
    """One wants a gradient where the other wants none."""
    policy, _ = prepared(pipeline, ranks)
    with ranks.raise_together(), torch.set_grad_enabled(ranks.rank == 0):
        policy.velocity(torch.zeros(1, *policy.latent_shape), torch.ones(1), policy.encode([""]))
    return "nobody heard"


def _one_fails_before_its_pass(ranks: Ranks, pipeline: Path, folder: Path) -> object:
    policy, _ = prepared(pipeline, ranks)
    with ranks.raise_together():
        if ranks.rank == 1:
            raise BudgetExhausted("nothing left")
        policy.velocity(torch.zeros(1, *policy.latent_shape), torch.ones(1), policy.encode([""]))
    return "nobody heard"


CASES: dict[str, Callable[[Ranks, Path, Path], object]] = {
    case.__name__: case for case in (_updates, _in_bfloat16, _reference, _different_passes, _one_fails_before_its_pass)
}


def _run_cases(place: RankInfo, pipeline: Path, folder: Path) -> None:
    ranks, found = ProcessGroup(place), dict[str, Any]()
    for name, case in CASES.items():
        try:
            found[name] = case(ranks, pipeline, folder)
        except BenchError as error:
            found[name] = [type(error).__name__, str(error)]
    (folder / f"{place.rank}.json").write_text(json.dumps(found))
    ranks.leave()


@pytest.fixture(scope="module")
def folder(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    assert together(2, _run_cases, tiny_pipeline, folder) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank found, by case."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_updates_are_those_of_whole_weights(folder: Path, found: list[dict[str, Any]], tiny_pipeline: Path) -> None:
    """All passes are one process's, the other made them along; what is written has the same names and shapes.

    Sums are taken in another order: about 1e-6 of each tensor.
    """
    policy, optimizer = prepared(tiny_pipeline)
    norm = updated(policy, optimizer, Ranks(), slice(0, SAMPLES))
    for rank in range(2):
        assert found[rank]["_updates"][0] == pytest.approx(norm, rel=1e-5)
        tensors = load_tensors(folder / f"tensors{rank}.safetensors")
        expected = optimizer.tensors()
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert tensors[name].shape == tensor.shape
            distance = (tensors[name] - tensor).norm()
            assert distance <= 1e-5 * tensor.norm(), name


@pytest.mark.slow
def test_bfloat16_rounds_as_with_whole_weights(folder: Path, tiny_pipeline: Path) -> None:
    """Rounding is that of autocast, but for one: all blocks add to the embedding of time and text, in bfloat16.

    There the order of the sum shows in the third digit; each block now sums up its own first.
    """
    policy, _ = prepared(tiny_pipeline)
    policy.precision = "bfloat16"
    for row in range(2):
        loss(policy, slice(row, row + 1)).backward()
    for rank in range(2):
        found = load_tensors(folder / f"bfloat16{rank}.safetensors")
        for name, p in policy.transformer.named_parameters():
            assert p.grad is not None
            few = 2e-2 if name.startswith("time_text_embed.") else 1e-5
            assert (found[name] - p.grad).norm() <= few * p.grad.norm(), name


def test_each_process_holds_half(found: list[dict[str, Any]], tiny_pipeline: Path) -> None:
    """Every weight of the tiny denoiser has an even number of rows."""
    count = sum(p.numel() for p in PipelinePolicy.load(tiny_pipeline, device="cpu").transformer.parameters())
    for rank in found:
        assert rank["_updates"][1] == dict.fromkeys(("weight", "exp_avg", "exp_avg_sq", "average"), count / 2)


def test_state_goes_there_and_back(found: list[dict[str, Any]]) -> None:
    """Load restores every tensor; merge makes whole, frozen weights; who does not write keeps only what is small."""
    for rank in found:
        assert rank["_updates"][2:] == [True, True, True, True]


@pytest.mark.slow
def test_a_shared_reference_is_the_model(found: list[dict[str, Any]], tiny_pipeline: Path) -> None:
    transformer = PipelinePolicy.load(tiny_pipeline, device="cpu").transformer
    count = sum(p.numel() for p in transformer.parameters()) // 2 + sum(b.numel() for b in transformer.buffers())
    assert [rank["_reference"] for rank in found] == [[[True, True], count]] * 2


def test_different_passes_are_told_apart(found: list[dict[str, Any]]) -> None:
    for rank in found:
        kind, message = rank["_different_passes"]
        assert kind == "PluginError" and "went different ways and met for" in message
        assert "gradient=False" in message and "gradient=True" in message


def test_a_failure_is_heard_before_the_next_pass(found: list[dict[str, Any]]) -> None:
    for rank, ranks in enumerate(found):
        origin = "" if rank == 1 else "process 1 of 2: "
        assert ranks["_one_fails_before_its_pass"] == ["BudgetExhausted", origin + "nothing left"]


def test_what_cannot_be_shared_out_is_refused(tiny_pipeline: Path) -> None:
    with pytest.raises(ConfigError, match="this is one on its own: start with `torchrun"):
        ShardedPasses(SINGLE_PROCESS)
    with pytest.raises(ConfigError, match="trains LoRA adapters: leave that out of --methods here"):
        experiment(tiny_pipeline, shard=True, methods=["sft"], **{"train.adaptation": "lora"})
    with pytest.raises(ConfigError, match=r"set runtime\.compile to false"):
        experiment(tiny_pipeline, shard=True, methods=["sft"], **{"runtime.compile": True})


def test_sharing_out_is_no_other_experiment(tiny_pipeline: Path) -> None:
    """As the number of processes, it is a matter of where it runs: results may be gone on with either way."""
    plain, shared = (experiment(tiny_pipeline, shard=shard, methods=["sft"]) for shard in (False, True))
    assert plain.config_hash == shared.config_hash
    assert plain.cell_config("alignment", "sft") == shared.cell_config("alignment", "sft")

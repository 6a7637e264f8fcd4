"""A scorer in a worker process of its own scores as it does here, and whatever becomes of it is one message."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import registry
from bench.api import BenchError, ConfigError, DataError, NonFiniteError, PluginError, Reward
from bench.config.load import load_settings
from bench.config.scorer_process import ScorerProcess
from bench.scoring.loading import Placement, placement_of
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum
from bench.scoring.workers import reward_worker
from bench.scoring.workers.messages import decode_result, decode_scores, encode_scores
from bench.scoring.workers.remote_reward import CallQueue, ProcessReward
from tests.support.worker_rewards import Fickle, Network

MODULE = "tests.support.worker_rewards"
PICTURES = np.random.Generator(np.random.Philox(1)).integers(0, 256, (5, 8, 8, 3), np.uint8)
Start = Callable[..., ProcessReward]
BRIGHT = """
from bench.api import Reward

class Bright(Reward):
    name = "bright"

    def __call__(self, images, prompts, metadata):
        return [0.0] * len(images)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a reward in a process, which ends with the test."""
    started: list[ProcessReward] = []

    def one(cls: type[Reward], seconds: float | None = 30.0, **settings: Any) -> ProcessReward:
        reward = ProcessReward(f"{MODULE}:{cls.__name__}", cls, ScorerProcess(**settings), call_seconds=seconds)
        started.append(reward)
        reward.load()
        return reward

    yield one
    for reward in started:
        reward.close()


def batch(prompt: str, count: int = 5) -> tuple[np.ndarray, list[str], list[dict[str, Any]]]:
    return PICTURES[:count], [prompt] * count, [{}] * count


@pytest.fixture
def two_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_scores_and_flops_are_those_of_this_process_to_the_bit(start: Start, two_threads: None) -> None:
    remote = start(Network, device="cpu", threads=2)
    assert remote.fingerprint == "threads 2, GPUs " and remote.version == "3"  # the settings have reached it
    assert placement_of(remote) == "process, device cpu, threads 2" and placement_of(Network()) == "here"
    here, there = Scorer(Network()), Scorer(remote)
    here.reward.load()
    prompts, metadata = ["a", "bc", "def", "", "é漢"], [{"tag": str(i)} for i in range(5)]
    scores = there(PICTURES, prompts, metadata)
    assert scores.dtype == np.float32 and np.array_equal(scores, here(PICTURES, prompts, metadata))
    assert len(np.unique(scores)) == 5
    for scorer in (here, there):
        scorer.measure(PICTURES[0], "a prompt", {})
    assert there.flops == here.flops == 2 * 8 * 27 * 36
    sums = [WeightedSum("0.5*network", {"network": scorer}) for scorer in (here, there)]
    assert np.array_equal(*(total(PICTURES, prompts, metadata) for total in sums))
    total = Scorer(sums[1])
    total.measure(PICTURES[0], "a prompt", {})
    assert total.flops == here.flops


def test_a_worker_sees_the_gpu_that_it_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert ScorerProcess(device="cuda:1").variables(Network)["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert "CUDA_VISIBLE_DEVICES" not in ScorerProcess().variables(Network)
    with pytest.raises(ConfigError, match=r"cuda:2: expected one of the 2 GPUs .* is 'GPU-a, GPU-b'\): choose another"):
        ScorerProcess(device="cuda:2").variables(Network)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert ScorerProcess(device="cuda:3").variables(Network)["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_scorer_with_an_environment_of_its_own_gets_its_variables() -> None:
    from rewards.imagereward import ImageReward

    found = ScorerProcess(device="cuda:1", threads=4).variables(ImageReward)
    assert (found["BENCH_IMAGEREWARD_DEVICE"], found["BENCH_IMAGEREWARD_THREADS"]) == ("cuda", "4")
    assert "BENCH_IMAGEREWARD_DEVICE" not in ScorerProcess().variables(ImageReward)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["raise", "refuse", "fewer", "one", "nan", "text", "nothing", "far", "ragged"])
def test_what_a_reward_may_not_do_is_told_by_the_same_words_wherever_it_runs(word: str, fickle: ProcessReward) -> None:
    told = []
    for reward in (Fickle(), fickle):
        with pytest.raises(BenchError, match="fickle") as caught:
            Scorer(reward)(*batch(word))
        told.append((caught.type, str(caught.value)))
    assert told[0] == told[1]
    kinds = {"refuse": DataError, "nan": NonFiniteError}
    assert told[0][0] is kinds.get(word, PluginError)


@pytest.fixture(scope="module")
def fickle() -> Iterator[ProcessReward]:
    """One process for all that it survives."""
    reward = ProcessReward(f"{MODULE}:Fickle", Fickle, ScorerProcess(), call_seconds=30.0)
    yield reward
    reward.close()


@pytest.mark.slow
def test_a_crash_is_one_message_and_the_next_call_starts_again(start: Start) -> None:
    reward = start(Fickle)
    scorer = Scorer(reward)
    with pytest.raises(PluginError, match=r"^reward 'fickle': its worker process was ended by SIGKILL in score\(\)$"):
        scorer(*batch("kill"))
    with pytest.raises(PluginError, match=r"^reward 'fickle': its worker process ended with status 3 in score\(\)"):
        scorer(*batch("vanish"))
    begin = time.monotonic()
    with pytest.raises(PluginError, match=r"^reward 'fickle': its worker process ended with status 3 in score\(\)"):
        scorer(*batch("orphan 20"))  # whose copy lives on
    assert time.monotonic() - begin < 10
    with pytest.raises(
        PluginError, match=r"reward 'fickle' on \d pictures raised ProcessExit: os._exit\(3\) would end"
    ):
        scorer(*batch("exit"))
    with pytest.raises(
        PluginError, match=r"reward 'fickle' .* read-only \(\S+\): pictures .* a copy, images.copy\(\)$"
    ):
        scorer(*batch("draw"))
    assert np.array_equal(scorer(*batch("return")), Scorer(Fickle())(*batch("")))  # answered once, by one process
    assert np.array_equal(scorer(*batch("")), Scorer(Fickle())(*batch("")))


@pytest.mark.slow
def test_a_file_that_has_changed_since_this_run_began_scores_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bright.py"
    path.write_text(BRIGHT)
    reward = ProcessReward(str(path), registry.load_reward(str(path)), ScorerProcess())
    path.write_text(BRIGHT.replace("0.0", "1.0"))
    with pytest.raises(PluginError, match=r"reward 'bright': expected the source that this run began with, but its"):
        reward.load()


@pytest.mark.slow
def test_a_hang_is_ended(start: Start) -> None:
    begin = time.monotonic()
    with pytest.raises(PluginError, match=r"hangs: score\(\) has not ended after 0.5 s.* time \(--reward-seconds\)$"):
        Scorer(start(Fickle, seconds=0.5))(*batch("sleep 30"))
    assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_the_memory_limit_is_named_when_it_is_hit(start: Start) -> None:
    scorer = Scorer(start(Fickle, memory="600MiB"))
    assert scorer(*batch("hold 50")).tolist() == [0.0] * 5
    with pytest.raises(PluginError, match=r"MemoryError.*; its memory is limited to 600MiB: raise --scorers.fickle.me"):
        scorer(*batch("hold 700"))


def test_processes_of_torchrun_have_a_gpu_each_for_their_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for rank, visible in (("0", None), ("1", "1"), ("2", None)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        variables = ScorerProcess().variables(Network)
        assert (variables.get("CUDA_VISIBLE_DEVICES"), variables["LOCAL_RANK"]) == (visible, "0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ScorerProcess(device="cuda:0").variables(Network)["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_scorer_of_a_prompt_set_may_have_a_process_of_its_own() -> None:
    own = {"scorers.jpeg.threads": 2}
    sets = {"evaluation.prompt_sets.mine": {"path": "a.txt", "scorers": ["jpeg"]}}
    assert load_settings("smoke", own | sets).scorers == {"jpeg": ScorerProcess(threads=2)}
    with pytest.raises(ConfigError, match=r"scorers\.jpeg: no task and no prompt set uses a scorer of that name"):
        load_settings("smoke", own)


def test_a_preset_may_say_where_scorers_run_that_are_not_used(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("extends: smoke\nscorers: {jpeg: {device: cpu}}\n")
    assert load_settings(preset).scorers == {}
    assert load_settings(preset, {"task.scorers": ["scenes-geneval", "scenes-aesthetic", "jpeg"]}).scorers == {
        "jpeg": ScorerProcess(device="cpu")
    }
    with pytest.raises(ConfigError, match=r"scorers\.jpeg: no task and no prompt set uses a scorer of that name"):
        load_settings(preset, {"scorers.jpeg.threads": 2})
    preset.write_text("extends: smoke\nscorers: {jpg: {device: cpu}}\n")
    with pytest.raises(ConfigError, match=r"scorers\.jpg: no task and no prompt set uses a scorer of that name"):
        load_settings(preset)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = reward_worker.load(f"{MODULE}:Fickle", "cuda:0")  # as the worker calls it
    with pytest.raises(ConfigError, match=r"expected the CUDA device cuda:0, but torch .* sees none there: choose"):
        decode_result(message)


@pytest.mark.slow
def test_scoring_goes_on_while_the_caller_does_and_comes_back_in_order(fickle: ProcessReward) -> None:
    scorer = Scorer(fickle)
    scorer(*batch(""))
    begin = time.monotonic()
    pending = [scorer.submit(PICTURES[i : i + 1], ["sleep 0.2"], [{}]) for i in range(3)]
    assert time.monotonic() - begin < 0.15  # none of the three has been waited for
    time.sleep(0.5)  # what sampling takes
    found = np.concatenate([scores() for scores in pending])
    assert time.monotonic() - begin < 1.0  # and not 0.5 + 0.6
    assert np.array_equal(found, Scorer(Fickle())(PICTURES[:3], [""] * 3, [{}] * 3))


@pytest.mark.slow
def test_an_interrupt_of_the_terminal_leaves_the_worker_to_its_parent(start: Start) -> None:
    reward = start(Fickle)
    assert reward._process is not None
    os.kill(reward._process._process.pid, signal.SIGINT)
    assert len(Scorer(reward)(*batch(""))) == 5


# Parts


def test_a_queued_call_raises_where_its_result_is_waited_for_and_the_next_ones_run() -> None:
    queue, done = CallQueue(), list[int]()
    failed = queue.submit(lambda: 1 / 0)
    pending = [queue.submit(lambda i=i: done.append(i) or i) for i in range(20)]  # type: ignore[misc,func-returns-value]
    assert [result() for result in pending] == done == list(range(20))
    with pytest.raises(ZeroDivisionError):
        failed()


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, 1 / 3, 1e-45, 3.4e38], np.float32),
        np.array([0.1, 1 / 3, 5e-324, -0.0]),
        np.array([[1, -2]], np.int64),
        np.array([True, False]),
        np.zeros((0,), np.float32),
    ],
)
def test_numbers_come_back_as_they_were(array: np.ndarray) -> None:
    import json

    found = decode_scores(json.loads(json.dumps(encode_scores(array))))
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@pytest.mark.parametrize("encoded", [None, [1.0], {"dtype": "<f4", "shape": [2], "values": [1.0]}, {"dtype": "no"}])
def test_what_is_no_encoded_scores_is_refused(encoded: Any) -> None:
    with pytest.raises(PluginError, match="expected scores with dtype, shape and values, got"):
        decode_scores(encoded)


def test_an_error_of_an_unknown_kind_is_a_plugins() -> None:
    with pytest.raises(PluginError, match=r"^odd$"):
        decode_result({"error": "SystemExit", "message": "odd"})


def test_only_the_scorers_that_the_settings_name_have_a_process() -> None:
    placement = Placement({"fickle": ScorerProcess(threads=2), "network": ScorerProcess(process=False)})
    remote = placement.make_reward(f"{MODULE}:Fickle", Fickle)
    assert isinstance(remote, ProcessReward) and remote.name == "fickle" and remote.higher_is_better is False
    assert type(placement.make_reward(f"{MODULE}:Network", Network)) is Network

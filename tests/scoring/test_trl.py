"""Rewards under trl's calling convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import registry
from bench.api import DataError, Reward
from bench.trl import reward_function


class Darkness(Reward):
    """Lower is better; judges no text; remembers what it was given."""

    name = "darkness"
    higher_is_better = False

    def __init__(self) -> None:
        self.metadata: list[Mapping[str, Any]] = []

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        return metadata["tag"] != "text"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        self.metadata += metadata
        return 1 - images.reshape(len(images), -1).mean(1) / 255


PICTURES = [np.full((2, 2, 3), grey, np.uint8) for grey in (0, 255, 51)]


def call(reward: Reward, prompts: list[Any], completions: list[Any]) -> list[float | None]:
    """As trl.GRPOTrainer._calculate_rewards calls it."""
    return reward_function(reward)(
        prompts=prompts, completions=completions, completion_ids=[[1], [2], [3]], tag=["colors", "text", "colors"],
        count=[2, None, 0], trainer_state=object(), log_extra=print, log_metric=print,
    )  # fmt: skip


@pytest.mark.parametrize("pictures", [PICTURES, [Image.fromarray(picture) for picture in PICTURES]])
def test_scores_are_floats_that_rise_and_none_where_nothing_can_be_judged(pictures: list[Any]) -> None:
    reward = Darkness()
    assert call(reward, ["a", "b", "c"], pictures) == [-1.0, None, pytest.approx(-0.8)]
    assert reward.metadata == [{"tag": "colors", "count": 2}, {"tag": "colors", "count": 0}]


def test_trl_logs_it_under_the_name_of_the_reward() -> None:
    assert reward_function(Darkness()).__name__ == "darkness"


def test_what_is_no_text_or_no_picture_for_each_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="expected prompts that are texts"):
        call(Darkness(), [[{"role": "user", "content": "a"}]] * 3, PICTURES)
    with pytest.raises(DataError, match="and 2 completions"):
        call(Darkness(), ["a", "b", "c"], PICTURES[:2])


LENGTH = 6


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "red", "circle", "text"])}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def trained(functions: list[Any], rows: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """What a step of trl's GRPOTrainer logs: a language model of 1,000 weights, two completions for each row."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    arguments = GRPOConfig(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=2 * len(rows), num_generations=2,
        max_completion_length=LENGTH, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(model, functions, arguments, Dataset.from_list(rows), processing_class=tokenizer())
    trainer.train()
    return trainer.state.log_history[0]


def drawing(function: Callable[..., Any], given: list[Any], side: int) -> Callable[..., Any]:
    """A reward function that draws its completions, each token a grey level, and keeps pictures and scores.

    The trainer's generations are texts; what it passes on besides, and what it does with the scores, is trl's.
    """

    def drawn(prompts: list[str], completions: list[str], completion_ids: Any, **columns: Any) -> list[Any]:
        pictures = [np.full((side, side, 3), 20 * sum(ids) % 256, np.uint8) for ids in completion_ids]
        scores = function(prompts=prompts, completions=pictures, completion_ids=completion_ids, **columns)
        given.append((pictures, scores))
        return scores

    drawn.__name__ = function.__name__
    return drawn


@pytest.mark.slow
def test_a_step_of_trls_own_trainer_calls_it_and_logs_what_it_gave(tmp_path: Path) -> None:
    reward, given = Darkness(), list[Any]()
    rows = [{"prompt": "a red circle", "tag": "colors", "count": 2}, {"prompt": "a text", "tag": "text", "count": None}]
    logged = trained([drawing(reward_function(reward), given, side=2)], rows, tmp_path)
    (pictures, scores) = given[0]
    assert len(given) == 1 and len(scores) == 4 and scores.count(None) == 2
    assert reward.metadata == [{"tag": "colors", "count": 2}] * 2
    expected = [picture.mean() / 255 - 1 for picture, score in zip(pictures, scores, strict=True) if score is not None]
    assert [score for score in scores if score is not None] == pytest.approx(expected)
    assert logged["rewards/darkness/mean"] == pytest.approx(np.mean(expected), abs=1e-6)


OURS = [name for name in registry.names(registry.REWARDS) if registry.load_reward(name).environment is None]


@pytest.mark.slow
def test_each_of_ours_can_be_handed_to_trl(tiny_weights: Path, tmp_path: Path) -> None:
    """All at once, the published ones on tiny checkpoints; the one with its own environment is tested there.

    The dataset gives the object of each row the keys of the others' objects, and None for them.
    """
    circle = {"class": "circle", "count": 1, "color": "red"}
    rows = [
        {"prompt": "a red circle", "tag": "colors", "include": [circle], "text": None},
        {"prompt": 'text "A"', "tag": "text", "include": [], "text": "A"},
        {"prompt": "a dog", "tag": "single_object", "include": [{"class": "dog", "count": 1}], "text": None},
    ]
    given: dict[str, list[Any]] = {name: [] for name in OURS}
    functions = [drawing(reward_function(registry.load_reward(name)()), given[name], side=64) for name in OURS]
    logged = trained(functions, rows, tmp_path)
    for name, ((_, scores),) in given.items():
        found = [score for score in scores if score is not None]
        assert found and all(isinstance(score, float) for score in found) and len(scores) == 6
        assert logged[f"rewards/{name}/mean"] == pytest.approx(np.mean(found), rel=1e-4)

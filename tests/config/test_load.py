"""Settings: strictness, all problems at once, overrides, hashes, round trips."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.api import ConfigError
from bench.budget import Budget
from bench.cli.experiment_options import add_experiment, read_experiment
from bench.cli.run import command_line
from bench.config import built_in_tasks
from bench.config.built_in_tasks import TASKS
from bench.config.load import load_settings, presets
from bench.config.prompt_set import PUBLISHED
from bench.config.settings import Evaluation, Experiment, Train
from bench.config.task import Task
from bench.parsing import Problems, Text, parse_text, read_yaml, validate

METHOD = '''
from dataclasses import dataclass
from typing import Annotated
from bench.api import ConfigError, Method, Needs, Option

class Toy(Method):
    """A toy."""
    name = "toy"
    needs = Needs(reward={reward})

    @dataclass(frozen=True)
    class Config:
        points: Annotated[int, Option("points", ge=1)] = 2
        rate: Annotated[float, Option("rate")] = 0.5
        sizes: tuple[int, ...] = (1, 2)

    def __init__(self, config):
        super().__init__(config)
        if config.points == 13:
            raise ConfigError("toy.points: 13 is unlucky")

    def step(self, env):
        return env.update()
'''


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy_method.py"
    path.write_text(METHOD.format(reward=False))
    return str(path)


def toy_experiment(toy: str, **overrides: Any) -> Experiment:
    return load_settings("smoke", {"methods": [toy], **{name.replace("__", "."): v for name, v in overrides.items()}})


def problems(toy: str, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        toy_experiment(toy, **overrides)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("preset", presets())
def test_presets_are_valid_and_complete(preset: str) -> None:
    experiment = load_settings(preset)
    assert experiment.name == preset
    assert Experiment.from_resolved(experiment.resolved()) == experiment
    sent = pickle.loads(pickle.dumps(experiment))  # where plugins may not have been imported yet
    assert sent.resolved() == experiment.resolved()
    assert [stage.typed() for chain in sent.methods for stage in chain.stages] == [
        stage for chain in experiment.methods for stage in chain.stages
    ]


def test_defaults_are_written_out(toy: str) -> None:
    resolved = toy_experiment(toy).resolved()
    stage = resolved["methods"][0]["stages"][0]
    assert stage["name"] == "toy"
    assert stage["config"] == {"points": 2, "rate": 0.5, "sizes": [1, 2]}
    assert stage["train"]["batch_size"] == 8 and stage["train"]["betas"] == [0.9, 0.999]
    assert set(resolved) == set(Experiment.__dataclass_fields__)


def test_common_settings_then_exceptions_of_one_method(toy: str) -> None:
    experiment = load_settings(
        "smoke", {"methods": [toy, "sft"], "train.batch_size": 4, "toy.train.learning_rate": 1e-3}
    )
    ours, sft = experiment.stages("toy")[0], experiment.stages("sft")[0]
    assert (ours.train.batch_size, ours.train.learning_rate) == (4, 1e-3)
    assert (sft.train.batch_size, sft.train.learning_rate) == (4, Train().learning_rate)


def test_a_label_is_a_second_setting_of_a_method(toy: str) -> None:
    experiment = load_settings("smoke", {"methods": ["big", toy], "big.method": toy, "big.points": 7})
    assert [chain.label for chain in experiment.methods] == ["big", "toy"]
    assert experiment.stages("big")[0].config.points == 7
    assert experiment.stages("big")[0].build().config.points == 7
    assert experiment.stages("toy")[0].config.points == 2


@pytest.mark.parametrize(("split", "amounts"), [(0.5, [500, 500]), (0.25, [250, 750]), ((0.1, 0.9), [100, 900])])
def test_chains_share_the_budget(toy: str, split: Any, amounts: list[float]) -> None:
    experiment = load_settings("smoke", {"methods": [f"sft+{toy}"], "budget": "1000updates", "split": split})
    assert [budget.amount for budget in experiment.budgets("sft+toy")] == pytest.approx(amounts)
    assert sum(budget.amount for budget in experiment.budgets("sft+toy")) == Budget.parse("1000updates").amount


def test_texts_of_the_command_line_take_their_fields_type(toy: str) -> None:
    experiment = toy_experiment(
        toy, seeds=Text("3,5"), toy__rate=Text("1e-5"), toy__sizes=Text("4,8"), evaluation__milestones=Text("[0.5, 1]"),
        budget=Text("1e15flops"), label=Text("2024"), train__precision=Text("bfloat16"), tasks=Text("text,aesthetic"),
    )  # fmt: skip
    assert experiment.seeds == (3, 5)
    assert dataclasses.asdict(experiment.stages("toy")[0].config) == {"points": 2, "rate": 1e-5, "sizes": (4, 8)}
    assert experiment.evaluation.milestones == (0.5, 1.0)
    assert (experiment.budget.text, experiment.label, experiment.train.precision) == ("1e15flops", "2024", "bfloat16")
    assert [task.name for task in experiment.tasks] == ["text", "aesthetic"]


def test_a_number_of_seeds_counts_from_zero(toy: str) -> None:
    assert toy_experiment(toy, seeds=3).seeds == (0, 1, 2)
    assert toy_experiment(toy, seeds=Text("3")).seeds == (0, 1, 2)
    assert toy_experiment(toy, seeds=[3]).seeds == (3,)


def test_a_baseline_of_a_preset_gives_way_where_it_does_not_run(toy: str, tmp_path: Path) -> None:
    assert load_settings("smoke", {"methods": ["sft", toy]}).baseline == "sft"
    assert toy_experiment(toy).baseline == "base"
    assert toy_experiment(toy, baseline=Text("toy")).baseline == "toy"
    assert load_settings("smoke", {"methods": ["sft", toy], "baseline": "base"}).baseline == "base"
    assert load_settings("smoke", {"methods": ["sft", toy], "baseline": None}).baseline == "base"
    labelled = _layer(toy, "big: {method: soar}\nbaseline: big+sft\n")
    assert load_settings("smoke", {"methods": ["big+sft"]}, [labelled]).baseline == "big+sft"
    assert load_settings("smoke", {"methods": ["soar"]}, [labelled]).baseline == "base"


def test_a_baseline_that_is_no_method_is_refused_wherever_it_stands(toy: str) -> None:
    with pytest.raises(ConfigError, match="baseline: 'sfft' is not among the methods; did you mean 'sft'"):
        load_settings("smoke", {"methods": ["sft", toy]}, [_layer(toy, "baseline: sfft\n")])
    with pytest.raises(ConfigError, match="baseline: 3 is not among the methods"):
        load_settings("smoke", {"methods": [toy]}, [_layer(toy, "baseline: 3\n")])


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, tasks in TASKS.items() for name in tasks])
def test_built_in_tasks_are_valid(world: str, name: str) -> None:
    fields = read_yaml(Path(built_in_tasks.__file__).with_name("tasks.yaml"))[world][
        name
    ]  # refuses what is given twice
    assert fields == TASKS[world][name]
    problems = Problems()
    task = validate(Task, {"name": name, **fields}, name, problems)
    assert problems.messages == [] and task is not None and set(task.margins) <= {*task.scorers}
    known = registry.names(registry.REWARDS)
    assert {scorer for scorer in task.scorers if not registry.is_foreign(scorer)} <= {*known}


def test_published_sets_are_judged_by_known_scorers() -> None:
    assert {scorer for one in PUBLISHED.values() for scorer in one.scorers} <= {*registry.names(registry.REWARDS)}


def test_every_problem_is_told_at_once(toy: str) -> None:
    message = problems(
        toy, train__batch_sise=3, train__clip_norm=0, evaluation__steps="ten", toy__point=3, budget="5 apples",
        tasks=["aligment"], evalution__steps=1, seeds=0, sft__weight=1, model="nowhere", world="scene",
    )  # fmt: skip
    for part in (
        "11 problems",
        "train.batch_sise: no such setting; did you mean 'batch_size'?",
        "train.clip_norm: should be greater than or equal to 0.000001, got 0",
        "evaluation.steps: should be a valid integer, got 'ten'",
        "toy.point: no such setting; did you mean 'points'?",
        "budget: '5 apples': expected a positive amount",
        "tasks: no task 'aligment'",
        "evalution: no such setting, task or method; did you mean 'evaluation'?",
        "seeds: expected a number of seeds (3) or a list",
        "sft: settings given, but it does not run",
        "model: nowhere is no checkpoint folder",
        "world: no such world: 'scene'; did you mean 'scenes'?",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"methods": ["sfft"]}, "methods: no method 'sfft' is registered; did you mean 'sft'?"),
        ({"methods": ["sft", "sft"]}, "methods: 'sft' is listed 2 times"),
        ({"methods": []}, "methods: expected a list with at least one name"),
        ({"seeds": [1, 1]}, "seeds: '1' is listed 2 times"),
        ({"seeds": [-1]}, "seeds.0: should be greater than or equal to 0, got -1"),
        ({"train.batch_size": True}, "train.batch_size: should be a valid integer, got True"),
        ({"train.batch_size": 4.0}, "train.batch_size: should be a valid integer, got 4.0"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate: expected 0 or a number between"),
        ({"train": 3}, "train: expected settings"),
        ({"train.batch_size.x": 3}, "train.batch_size: should be a valid integer"),
        ({"train..x": 3}, "expected names with a dot between them"),
        ({"baseline": "soarr"}, "baseline: 'soarr' is not among the methods"),
        ({"toy.points": 0}, "toy.points: should be greater than or equal to 1, got 0"),
        ({"toy.points": 13}, "toy.points: 13 is unlucky"),
        ({"toy.train.learning_rat": 1}, "toy.train.learning_rat: no such setting; did you mean 'learning_rate'?"),
        ({"task.reward": "scenes-clp"}, "no reward 'scenes-clp' is registered; did you mean 'scenes-clip'?"),
        ({"task.primary": "scenes-x"}, "primary scorer 'scenes-x' has to be one of `scorers`"),
        ({"alignment.candidats": 3}, "alignment.candidats: no such setting; did you mean 'candidates'?"),
        ({"aesthetic.candidates": 3}, "aesthetic: settings given, but it does not run"),
        ({"evaluation.milestones": [0.5]}, "milestones have to rise and end with 1.0"),
        ({"evaluation.milestone_prompts": 999}, "milestone_prompts (999) has to be at most final_prompts (32)"),
        ({"evaluation.split": "test"}, "evaluation.split: should be 'report' or 'tune', got 'test'"),
        ({"split": [0.5, 0.6]}, "the shares of the stages have to sum to 1"),
        ({"split": [0.5, 0.3, 0.2], "methods": ["sft+soar"]}, "3 shares, but 'sft+soar' has 2 stages"),
        ({"name": "a/b"}, "name: String should match pattern"),
        ({"task.reward": None, "methods": ["flowgrpo"]}, "has no reward to train on, and 'flowgrpo' needs one"),
        ({"methods": ["methods.diffusionnft:DiffusionNFT"], "shard": True}, "diffusionnft keeps an old one beside it"),
        ({"methods": ["methods.draft:DRaFT"], "task.reward": "scenes-geneval"}, "and scenes-geneval has none"),
        (
            {"methods": ["methods.draft:DRaFT"], "task.reward": "0.5*scenes-clip+0.5*scenes-ocr"},
            "and scenes-ocr has none",
        ),
        ({"task.select": "grouped(0.5*scenes-clip+0.5*scenes-ocr)"}, "it trains, by --task.reward, and neither"),
        (
            {"methods": ["methods.draft:DRaFT"], "task.reward": "grouped(0.5*scenes-clip+0.5*scenes-aesthetic-head)"},
            "and a sum within groups",
        ),
        (
            {"methods": ["methods.draft:DRaFT"], "reward_server": "http://127.0.0.1:1"},
            "which other processes cannot give",
        ),
    ],
)  # fmt: skip
def test_wrong_settings_get_one_message(toy: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings("smoke", {"methods": [toy], **overrides})
    assert message in str(caught.value)


def test_files_extend_presets_and_layers_lie_over_them(tmp_path: Path, toy: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: smoke\nname: mine\nmethods: [sft]\ntrain: {learning_rate: 1e-5}\nevaluation: {steps: 7}\n"
    )
    (tmp_path / "machine.yaml").write_text("workers: 5\ntrain: {micro_batch: 4}\n")
    experiment = load_settings(tmp_path / "mine.yaml", {"evaluation.steps": 9}, [tmp_path / "machine.yaml"])
    assert (experiment.name, experiment.workers, experiment.evaluation.steps) == ("mine", 5, 9)
    assert (experiment.train.learning_rate, experiment.train.micro_batch, experiment.train.batch_size) == (1e-5, 4, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "'a' given twice"),
        ("[1, 2]", "expected `name: value` lines"),
        ("a: [", "not a valid YAML file"),
        ("extends: mine.yaml\n", "extends itself"),
        ("extends: smok\n", "no preset 'smok'; did you mean 'smoke'?"),
        ("extends: [smoke]\n", "extends: expected the name of a preset"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "mine.yaml")
    assert message in str(caught.value)


def test_missing_presets_and_files_are_named() -> None:
    with pytest.raises(ConfigError, match="no preset 'quikc'; did you mean 'quick'"):
        load_settings("quikc")
    with pytest.raises(ConfigError, match=r"cannot read the settings in nowhere\.yaml: No such file"):
        load_settings("nowhere.yaml")


def test_the_hash_follows_what_the_numbers_depend_on(toy: str) -> None:
    same = toy_experiment(toy).config_hash
    assert toy_experiment(toy, name="other", label="x", workers=7, tuning_trials=3).config_hash == same
    for change in ({"toy__points": 3}, {"seeds": 2}, {"evaluation__steps": 5}, {"budget": "1501"}, {"threads": 2}):
        assert toy_experiment(toy, **change).config_hash != same


def test_a_cell_does_not_depend_on_its_neighbours(toy: str) -> None:
    small = toy_experiment(toy)
    large = load_settings(
        "smoke", {"methods": ["sft", toy], "tasks": ["alignment", "text"], "seeds": 3, "sft.train.clip_norm": 2}
    )
    assert small.cell_config("alignment", "toy") == large.cell_config("alignment", "toy")
    assert small.cell_config("alignment", "base") == large.cell_config("alignment", "base")


def test_settings_are_checked_when_made_in_python() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Train(batch_size=0)
    with pytest.raises(ValueError, match="milestones"):
        Evaluation(milestones=(1.0, 0.5))


def test_yaml_numbers_and_words(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("a: 1e-5\nb: 2.5\nc: 1E+3\nd: 2020-01-01\ne: 200k\nf: .5\ng: 0.5,0.6\nh: 7\n")
    assert read_yaml(path) == {
        "a": 1e-5, "b": 2.5, "c": 1000.0, "d": "2020-01-01", "e": "200k", "f": 0.5, "g": "0.5,0.6", "h": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "4", 4),
        (float, "1e-5", 1e-5),
        (str, "4", "4"),
        (bool, "true", True),
        (tuple[int, ...], "4", [4]),
        (tuple[str, ...], "a, b", ["a", "b"]),
        (str | None, "null", None),
        (int, "x", "x"),
    ],
)
def test_reading_texts(annotation: Any, text: str, value: Any) -> None:
    assert parse_text(annotation, text) == value


def test_a_setting_that_does_not_exist_names_the_plugin_and_its_origin(toy: str) -> None:
    said = problems(toy, toy__point=3)
    assert f"toy.point: no such setting; did you mean 'points'? (a setting of method {toy!r})" in said
    with pytest.raises(ConfigError, match=r"of method 'soar' \(methods.soar:SOAR of post-training-bench \d"):
        load_settings("smoke", {"soar.num_point": 3})


def test_two_plugins_of_one_name_are_told_apart_by_their_files(toy: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(Path(toy).read_text())
    with pytest.raises(ConfigError, match=rf"{toy}' and '{other}' are both named 'toy': give one"):
        load_settings("smoke", {"methods": [toy, str(other)]})


def test_a_label_cannot_be_a_path(toy: str) -> None:
    with pytest.raises(ConfigError, match=r"label '\.\./toy': expected letters, digits"):
        load_settings("smoke", {"methods": ["../toy"]}, [_layer(toy, '"../toy": {method: soar}\n')])


def _layer(toy: str, text: str) -> Path:
    path = Path(toy).with_name("layer.yaml")
    path.write_text(text)
    return path


def test_a_reward_in_a_file_is_looked_at_before_anything_runs(toy: str) -> None:
    reward = Path(toy).with_name("reward.py")
    reward.write_text("import no_such_module\n")
    said = problems(toy, task__reward=str(reward))
    assert f"task alignment: reward '{reward}' cannot be imported: ModuleNotFoundError" in said


def test_one_reward_for_every_task(toy: str) -> None:
    task = load_settings("smoke", {"methods": [toy], "reward": Text("scenes-ocr")}).tasks[0]
    assert (task.reward, task.select, task.primary) == ("scenes-ocr", "scenes-ocr", "scenes-geneval")
    assert task.scorers[0] == "scenes-ocr" and len(set(task.scorers)) == len(task.scorers)
    pictures = load_settings("images", {"methods": [toy], "data.path": "somewhere", "reward": "scenes-clip"}).tasks[0]
    assert (pictures.reward, pictures.select, pictures.primary) == ("scenes-clip", None, "scenes-clip")
    assert pictures.scorers == ("scenes-clip", "scenes-aesthetic")
    both = load_settings("smoke", {"methods": [toy], "reward": Text("0.7*scenes-ocr+0.3*scenes-clip")}).tasks[0]
    assert both.reward == both.select == "0.7*scenes-ocr+0.3*scenes-clip"
    assert both.scorers[:2] == ("scenes-ocr", "scenes-clip") and "+" not in "".join(both.scorers)


def test_pictures_are_prepared_as_the_model_is_run(toy: str) -> None:
    given = {"methods": [toy], "data.path": "somewhere"}
    shapes = {"runtime.resolution": Text("32"), "runtime.text_length": 64}
    data = load_settings("images", {**given, **shapes}).data
    assert data is not None and (data.resolution, data.text_length) == (32, 64)
    assert load_settings("images", {**given, "runtime.t5": Text("false")}).data.text_length == 0
    with pytest.raises(
        ConfigError, match=r"data\.resolution: the same in training .*: set runtime\.resolution instead"
    ):
        load_settings("images", {**given, "data.resolution": 32})


def test_pictures_choose_their_world(toy: str) -> None:
    given = {"methods": [toy], "data.path": Text("somewhere"), "tasks": ["pictures"]}
    experiment = load_settings("smoke", given)
    assert experiment.world == "images" and experiment.data is not None and experiment.data.path == "somewhere"
    with pytest.raises(ConfigError, match="data: given, but world 'scenes' has no use for it"):
        load_settings("smoke", {**given, "world": "scenes", "tasks": ["alignment"]})


def test_an_option_that_came_later_leaves_older_cells_comparable(toy: str) -> None:
    """A cell is recorded without it where it has the value that everything had before; and else with it."""
    old, new = (
        load_settings("smoke", {"methods": ["flowgrpo"], "flowgrpo.detach_unconditional": value}).cell_config(
            "alignment", "flowgrpo"
        )
        for value in (False, True)
    )
    assert "detach_unconditional" not in old["stages"][0]["config"]
    assert new["stages"][0]["config"]["detach_unconditional"] is True
    assert {**new["stages"][0]["config"]} == {**old["stages"][0]["config"], "detach_unconditional": True}
    assert "precision" not in old["evaluation"]
    half = load_settings("smoke", {"methods": [toy], "evaluation.precision": "bfloat16"})
    assert half.cell_config("alignment", "toy")["evaluation"]["precision"] == "bfloat16"


PLUGIN = '''
from bench.api import Method, Needs

class Named(Method):
    """A method of a user's."""
    name = "{name}"
    needs = Needs(data=True)

    def step(self, env):
        return env.update()
'''


def test_plugins_of_one_file_name_are_refused(tmp_path: Path) -> None:
    """Records hold no folders, so one could stand for the other there."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.format(name=folder))
    paths = [str(tmp_path / "a" / "mine.py"), str(tmp_path / "b" / "mine.py")]
    with pytest.raises(ConfigError, match=rf"{paths[0]} and {paths[1]} have one name, by which records know them"):
        load_settings("smoke", {"methods": paths})
    shutil.move(paths[1], tmp_path / "b" / "other.py")
    assert len(load_settings("smoke", {"methods": [paths[0], str(tmp_path / "b" / "other.py")]}).methods) == 2


def test_a_recorded_command_reads_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` alone within a word, and within the quotes that a recorded command has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="mine"))
    (tmp_path / "mine.yaml").write_text("extends: smoke\nname: extended\n")
    (tmp_path / "machine.yaml").write_text("workers: 5\n")
    parser = argparse.ArgumentParser()
    add_experiment(parser)
    given = ["--preset", "~/mine.yaml", "--config", "~/machine.yaml", "--methods", "sft,~/mine.py"]
    experiment = read_experiment(parser.parse_args(given))
    assert (experiment.name, experiment.workers) == ("extended", 5)
    assert [chain.stages[0].source for chain in experiment.methods] == ["sft", f"{tmp_path}/mine.py"]
    assert experiment.cell_config("alignment", "mine")["stages"][0]["source"] == "~/mine.py"
    with_files = command_line(["run", *given[:3], str(tmp_path / "machine.yaml"), *given[4:]])
    assert (
        with_files == "python -m bench run --preset '~/mine.yaml' --config '~/machine.yaml' --methods 'sft,~/mine.py'"
    )


def test_the_reward_of_the_command_line_wins_over_a_file_s(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("extends: smoke\ntask: {reward: scenes-aesthetic, select: scenes-ocr, top_share: 0.5}\n")
    own = load_settings(path).tasks[0]
    assert (own.reward, own.select) == ("scenes-aesthetic", "scenes-ocr")
    asked = load_settings(path, {"reward": Text("scenes-clip")}).tasks[0]
    assert (asked.reward, asked.select, asked.primary) == ("scenes-clip", "scenes-clip", own.primary)
    assert asked.scorers[0] == "scenes-clip" and asked.top_share == 0.5
    more = {"reward": Text("scenes-clip"), "task.select": Text("scenes-ocr"), "task.scorers": Text("scenes-geneval")}
    said = load_settings(path, more).tasks[0]
    assert (said.reward, said.select, said.scorers) == ("scenes-clip", "scenes-ocr", ("scenes-geneval",))
    path.write_text("extends: smoke\nalignment: {reward: scenes-aesthetic}\n")
    assert load_settings(path, {"reward": "scenes-clip"}).tasks[0].reward == "scenes-clip"
    path.write_text("extends: smoke\nreward: scenes-clip\ntask: {reward: scenes-aesthetic}\n")
    assert load_settings(path).tasks[0].reward == "scenes-aesthetic", "of one file, the block that says more"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31, 1e-31, [[float("-inf")]], {"a": 1e400}, "a\ud800"])
def test_no_setting_of_any_type_may_be_unusable(value: Any) -> None:
    found = Problems()
    assert validate(Train, {"clip_norm": value, "batch_size": 8}, "train", found) is None
    (message,) = found.messages
    assert message.startswith("train.clip_norm: expected ")

"""Whatever a plugin raises, wherever it does, is one PluginError with the plugin's name and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import BudgetExhausted, ConfigError, PluginError, Reward
from bench.config.load import load_settings
from bench.datasets.worlds import load_world
from bench.plugin_errors import plugin_error, plugin_errors
from bench.preflight.conformance.fixtures import Fixtures, MethodSubject
from bench.registry import load_method
from bench.scoring.loading import load_scorers

METHOD = '''
import torch
from bench.api import Method, Needs, Rollouts

class Broken(Method):
    """Breaks where it is told to."""
    name = "broken"
    needs = Needs(reward=True)

    def __init__(self, config):
        super().__init__(config)
        {init}

    def collect(self, env):
        {collect}
        return Rollouts({{}}, env.model.encode([""]), updates=1)

    def step(self, env):
        {step}
        return env.skip_update("it learns nothing")

    def state_dict(self):
        {state_dict}
        return {{}}

    def load_state_dict(self, state):
        {load_state_dict}
'''
MISSING = "self.config.x"
AT = r"AttributeError: 'Config' object has no attribute 'x' \(\S+broken\.py:{line}\): mend it"

PLACES = ("init", "collect", "step", "state_dict", "load_state_dict")

Stage = Callable[..., Any]


def write(folder: Path, **places: str) -> str:
    """A file with the method that has these statements in these places."""
    path = folder / "broken.py"
    path.write_text(METHOD.format(**{name: places.get(name, "pass") for name in PLACES}))
    return str(path)


@pytest.fixture(scope="module")
def fixtures(tiny_pipeline: Path) -> Fixtures:
    return Fixtures(load_world("scenes", str(tiny_pipeline)))


@pytest.fixture
def stage(fixtures: Fixtures, tmp_path: Path) -> Stage:
    """Enters a stage of the method that has these statements in these places."""

    def enter(**places: str) -> Any:
        return MethodSubject(load_method(write(tmp_path, **places)), fixtures).stage()

    return enter


@pytest.mark.slow
def test_a_sound_one_passes(stage: Stage) -> None:
    sound = stage()
    assert sound.advance() == {} and sound.state_dict()["method"] == {}


def test_a_setting_that_does_not_exist_is_told_with_its_line_wherever_it_is_read(stage: Stage) -> None:
    with pytest.raises(PluginError, match=r"method 'broken' in __init__\(\) raised " + AT.format(line=12)):
        stage(init=MISSING)


@pytest.mark.parametrize(("part", "line"), [("collect", 15), ("step", 19)])
def test_in_a_phase(stage: Stage, part: str, line: int) -> None:
    with pytest.raises(PluginError, match=rf"method 'broken' in {part}\(\) raised " + AT.format(line=line)):
        stage(**{part: MISSING}).advance()


def test_in_its_state(stage: Stage) -> None:
    with pytest.raises(PluginError, match=r"method 'broken' in state_dict\(\) raised " + AT.format(line=23)):
        stage(state_dict=MISSING).state_dict()


def test_in_taking_its_state_back(stage: Stage) -> None:
    entered = stage(load_state_dict=MISSING)
    with pytest.raises(PluginError, match=r"method 'broken' in load_state_dict\(\) raised " + AT.format(line=27)):
        entered.load(entered.tensors(), entered.state_dict())


def test_what_a_library_raises_is_told_with_both_places(stage: Stage) -> None:
    with pytest.raises(PluginError, match=r"RuntimeError: .*\(\S+broken\.py:19, in \S+functional\.py:\d+\)"):
        stage(step="torch.nn.functional.linear; torch.einsum('ab,bc', torch.ones(2, 3), torch.ones(2, 3))").advance()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"step": "return None"}, r"expected step\(\) to return a dict, got None"),
        (
            {"step": "return {'loss': 'low'}"},
            r"in step\(\) raised ValueError: could not convert string to float: 'low'",
        ),
        ({"collect": "return []"}, r"expected collect\(\) to return a Rollouts, got \[\]"),
        ({"state_dict": "return 3"}, r"expected state_dict\(\) to return a dict, got 3"),
    ],
)
def test_what_is_returned_has_to_be_of_its_kind(stage: Stage, places: dict[str, str], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        entered = stage(**places)
        entered.advance()
        entered.state_dict()


def test_a_method_that_cannot_be_made_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)settings of 'smoke'.*method 'broken' in __init__\(\) raised"):
        load_settings("smoke", {"methods": [write(tmp_path, init=MISSING)]})


def test_errors_of_the_harness_go_through_and_its_lines_are_no_place() -> None:
    with pytest.raises(BudgetExhausted), plugin_errors("a method", Reward):
        raise BudgetExhausted("spent")
    with pytest.raises(PluginError) as caught, plugin_errors("a method", Reward):
        torch.Generator().manual_seed("no number")  # type: ignore[arg-type]
    assert __file__ in str(caught.value)
    assert plugin_error(ValueError("never raised")) == "ValueError: never raised"


SLOW = '''
from bench.api import Reward

class Slow(Reward):
    """Fails to load."""
    name = "slow"

    def load(self):
        raise OSError("no weights")

    def __call__(self, images, prompts, metadata):
        return 0
'''


def test_loading_a_reward_is_guarded_and_blamed(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    @contextmanager
    def guard(reward: str, part: str) -> Iterator[None]:
        seen.append((reward, part))
        yield

    (tmp_path / "slow.py").write_text(SLOW)
    with pytest.raises(PluginError, match=r"reward 'slow' in load\(\) raised OSError: no weights \(\S+slow\.py:9\)"):
        load_scorers({str(tmp_path / "slow.py")}, guard)
    assert seen == [("slow", "load()")]

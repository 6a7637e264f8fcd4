"""`bench new`: what it writes works as it stands, keeps its hands off what is there, and is in the wheel."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.cli.main import main
from bench.results.records.writer import CellRecord
from methods.sft import SFT
from tests.support.cells import GOLD, experiment, run
from tests.support.closed_form import ClosedFormEnv, train


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["new", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error


def test_a_new_method_is_one_file_that_tells_where_it_is_and_what_comes_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "min-snr"]) == 0
    out = capsys.readouterr().out
    assert str(here / "min-snr.py") in out
    assert "python -m bench check ./min-snr.py\n" in out
    assert "python -m bench run --methods ./min-snr.py --name min-snr\n" in out
    text = (here / "min-snr.py").read_text()
    assert len(text.splitlines()) < 100 and "plugin" not in text.replace("a plugin imports", "").lower()
    cls = registry.load_method("./min-snr.py")
    assert (cls.name, cls.__name__) == ("min-snr", "MinSnr")


def test_the_new_method_with_power_0_is_sft_and_otherwise_is_not(here: Path) -> None:
    main(["new", "mine"])
    cls = registry.load_method("./mine.py")
    plain, same, other = (ClosedFormEnv(micro_batch=4) for _ in range(3))
    expected = train(SFT(SFT.Config()), plain, 3)
    assert train(cls(cls.Config(power=0.0)), same, 3) == expected and torch.equal(plain.weights, same.weights)
    assert train(cls(cls.Config()), other, 3) != expected and not torch.equal(plain.weights, other.weights)


def test_the_new_reward_is_the_mean_saturation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "vivid", "--reward"]) == 0
    out = capsys.readouterr().out
    assert "python -m bench check ./vivid.py\n" in out
    assert "python -m bench run --reward ./vivid.py --name vivid\n" in out
    reward = registry.load_reward("./vivid.py")()
    colours = np.array([[255, 0, 0], [0, 0, 0], [90, 90, 90], [200, 100, 50]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (4, 5, 3, 3)).copy()
    images[3, 0] = 90  # a fifth of the last picture is grey
    scores = reward(images, [""] * 4, [{}] * 4)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [1, 0, 0, 0.8 * 0.75], rtol=1e-6)
    singles = [reward(image[None], [""], [{}])[0] for image in images]
    assert scores.tolist() == singles
    assert main(["check", "./vivid.py"]) == 0 and "reward vivid: 8 checks" in capsys.readouterr().out


@pytest.mark.slow
def test_both_work_in_a_cell(tiny_pipeline: Path, here: Path) -> None:
    """The method trains, and the reward selects its data and judges it."""
    main(["new", "mine"])
    main(["new", "vivid", "--reward"])
    vivid = {"task.select": "./vivid.py", "task.scorers": [*GOLD, "./vivid.py"]}
    e = experiment(tiny_pipeline, methods=["./mine.py"], budget="100", **vivid)
    run(e, here / "results", "mine")
    record = CellRecord(here / "results" / e.name / "alignment" / "mine" / "seed0")
    assert record.status() == "done"
    milestones = [event for event in record.events() if event.kind == "milestone"]
    assert 0 < milestones[-1].scores["./vivid.py"].mean < 1
    assert [event.metrics["base"] for event in record.events() if event.kind == "step"]


@pytest.mark.parametrize(
    ("options", "group", "base"), [((), "bench.methods", "Method"), (("--reward",), "bench.rewards", "Reward")]
)
def test_a_package_has_its_entry_point_and_a_test(
    here: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], group: str, base: str
) -> None:
    assert main(["new", "min-snr", "--package", *options]) == 0
    out, home = capsys.readouterr().out, here / "bench-min-snr"
    assert str(home) in out and "python -m pip install -e bench-min-snr\n" in out and "when it is installed" in out
    assert "python -m bench check min-snr\n" in out
    project = tomllib.loads((home / "pyproject.toml").read_text())
    assert project["project"]["name"] == "bench-min-snr"
    assert project["project"]["entry-points"] == {group: {"min-snr": "bench_min_snr:MinSnr"}}
    assert project["tool"]["setuptools"]["py-modules"] == ["bench_min_snr"]
    load = registry.load_method if base == "Method" else registry.load_reward
    assert load(f"{home / 'bench_min_snr.py'}:MinSnr").name == "min-snr"
    test = ast.parse((home / "tests" / "test_min_snr.py").read_text())
    assert "assert_conforms('min-snr')" in ast.unparse(test)


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, path in (((), "mine.py"), (("--package",), "bench-mine/bench_mine.py")):
        assert main(["new", "mine", *options]) == 0
        (here / path).write_text("my own work")
        capsys.readouterr()
        assert "is there already: remove it, or choose another name" in refused(capsys, "mine", *options)
        assert (here / path).read_text() == "my own work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["soar"], "'soar' is registered already"),
        (["base"], "'base' has a meaning of its own"),
        (["budget"], "'budget' is the name of a setting"),
        (["none"], "'none' would be the class None, which is a word of Python"),
        (["prompt", "--reward"], "'prompt' has a meaning of its own"),
        (["../mine"], "'../mine' is not a word of letters, digits"),
        (["torch"], "a module 'torch' exists already, and torch.py would hide it"),
        (["mine", "--into", "nowhere"], "cannot write nowhere/mine.py: No such file or directory; --into chooses"),
        (["mine", "--package", "--into", str(registry.ROOT / "results")], "lies within the harness's own tree"),
    ],
)
def test_what_cannot_be_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *arguments)
    assert list(here.iterdir()) == []


def test_the_templates_are_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What setuptools would copy, asked of setuptools."""
    from setuptools.dist import Distribution

    monkeypatch.chdir(registry.ROOT)
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files()
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    copied = {Path(source).relative_to(build.build_lib).as_posix() for source in build.get_outputs(include_bytecode=0)}
    templates = registry.ROOT / "bench" / "cli" / "templates"
    wanted = {path.relative_to(registry.ROOT).as_posix() for path in templates.rglob("*.*") if path.suffix != ".pyc"}
    assert len(wanted) == 4 and wanted <= copied

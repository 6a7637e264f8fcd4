"""The command line: bad input gets one message and status 2, help and list are quick, commands can be added."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.api import ConfigError
from bench.cli.commands import GROUP, NAMES, load_command, summaries
from bench.cli.main import main
from bench.cli.new import TEMPLATES
from bench.cli.run import command_line
from bench.cli.setting import settings_in
from bench.config.settings import Experiment
from pretrain import command as pretrain
from pretrain import recipe

ROOT = Path(__file__).resolve().parents[2]

TOY = '''
from dataclasses import dataclass
from typing import Annotated
from bench.api import Method, Option

class Toy(Method):
    """A toy that does nothing."""
    name = "toy"

    @dataclass(frozen=True)
    class Config:
        points: Annotated[int, Option("points per sample", ge=1)] = 2

    def step(self, env):
        return env.update()
'''


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["rnu"], ["no command 'rnu'; did you mean 'run'?"]),
        (["run", "--bugdet", "5k"], ["no option --bugdet; did you mean --budget?"]),
        (["run", "extra"], ["unexpected argument 'extra'"]),
        (["run", "--budget"], ["expected one argument (see bench run --help)"]),
        (["run", "--budget", "5 apples"], ["budget: '5 apples': expected a positive amount like 200k"]),
        (["run", "--preset", "quikc"], ["no preset 'quikc'; did you mean 'quick'?"]),
        (["run", "--config", "nowhere.yaml"], ["cannot read the settings in nowhere.yaml"]),
        (["run", "--methods", "sfft"], ["no method 'sfft' is registered; did you mean 'sft'?"]),
        (["run", "--methods", "nowhere.py"], ["'nowhere.py': there is no such file"]),
        (["run", "--tasks", "aligment"], ["no task 'aligment' in world 'scenes'; did you mean 'alignment'?"]),
        (["run", "--seeds", "0"], ["seeds: expected a number of seeds (3) or a list"]),
        (["run", "--methods", "TOY", "--train.batch_size"], ["--train.batch_size: a value is missing"]),
        (["run", "--methods", "TOY", "--train.batch_size", "x"], ["batch_size: should be a valid integer, got 'x'"]),
        (["run", "--methods", "TOY", "--train.x=1", "--train.x=2"], ["--train.x: given twice"]),
        (["run", "--methods", "TOY", "--toy.point=3"], ["toy.point: no such setting; did you mean 'points'?"]),
        (["run", "--methods", "TOY", "--toy.points", "-3"], ["toy.points: should be greater than or equal to 1"]),
        (["run", "--methods", "TOY", "--sfft.x", "1"], ["sfft: no such setting, task or method; did you mean 'sft'?"]),
        (
            ["run", "--bugdet", "5k", "--seeds", "0", "--train.x", "1", "--toy.points", "--methods", "TOY", "--y"],
            [
                "5 problems",
                "no option --bugdet",
                "--toy.points: a value is missing",
                "seeds: expected",
                "train.x: no such setting",
                "no option --y",
            ],
        ),
        (["list", "saor"], ["nothing is named 'saor'; did you mean 'soar'?"]),
        (["list", "--what"], ["no option --what"]),
        (["list", "--train.batch_size", "3"], ["no option --train.batch_size (see bench list --help)"]),
        (["--bugdet", "list"], ["no option --bugdet"]),
        (["--versoin"], ["unrecognized arguments: --versoin (see bench --help)"]),
        (["sample", "--steps", "0"], ["argument --steps: should be greater than or equal to 1, got 0"]),
        (["sample", "--steps", "many"], ["argument --steps: should be a valid integer, got 'many'"]),
        (["sample", "--out", "picture.jpg"], ["expected a name that ends with .png"]),
        (["doctor", "--tune", "machine.txt"], ["expected a name that ends with .yaml"]),
    ],
)  # fmt: skip
def test_bad_input_gets_one_message_and_status_2(
    arguments: list[str], messages: list[str], toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([toy if argument == "TOY" else argument for argument in arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("bench: ") and "Traceback" not in error
    for message in messages:
        assert message in error


HEAVY = {"torch", "diffusers", "transformers", "trl", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "PIL"}


def _importing(*commands: list[str]) -> tuple[float, str, set[str]]:
    """CPU seconds, output, and the modules imported of a process that runs commands in turn."""
    code = (
        "import sys, json, time\nfrom bench.cli.main import main\n"
        f"status = max(map(main, {commands!r}))\n"
        "print('\\n' + json.dumps([status, time.process_time(), list(sys.modules)]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, last = result.stdout.rstrip().rpartition("\n")
    status, seconds, imported = json.loads(last)
    assert status == 0, result.stderr
    return seconds, text, set(imported)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "settings"), [(["--help"], False), (["list"], False), (["run", "--help"], True)])
def test_help_and_list_are_quick_and_import_nothing_heavy(arguments: list[str], settings: bool) -> None:
    seconds, text, imported = _importing(arguments)
    assert imported & (HEAVY if settings else HEAVY | {"pydantic"}) == set()
    commands = {name for name in NAMES if f"bench.cli.{name.replace('-', '_')}" in imported}
    assert commands == {name for name in arguments if name in NAMES}
    assert seconds < 0.5  # of the process, start-up included; the wall clock depends on the neighbours
    assert "soar" in text.lower()


@pytest.mark.slow
def test_no_command_needs_anything_heavy_for_its_help() -> None:
    _, text, imported = _importing(*([name, "--help"] for name in NAMES))
    assert imported & HEAVY == set()
    assert text.count("usage: bench ") == len(NAMES)


def test_the_help_is_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    found = summaries()
    assert [name for name in found if name in NAMES] == list(NAMES)
    for name, summary in found.items():
        module = load_command(name)
        assert summary and summary == (module.__doc__ or "").splitlines()[0]
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: bench {name} ") and module.EPILOG in out


def test_every_field_of_an_experiment_with_a_metavar_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    told = settings_in(Experiment)
    for name, setting in told.items():
        assert (f"{setting.option} {setting.metavar} {setting.help} (default" in out) == bool(setting.metavar), name
    assert "cells that run at once (default 2)" in out and told["seeds"].default == "default [0]"


ADDED = {
    "good.py": '''"""Count to three, in 100% of cases."""
EPILOG = "Example: bench count --to 3"
def add_arguments(parser):
    parser.add_argument("--to", type=int, default=3)
def run(args):
    print(*range(1, args.to + 1))
    return 0
''',
    "bare.py": '"""Has no work."""\nEPILOG = ""\n',
    "broken.py": '"""Breaks."""\n1 / 0\n',
}
ENTRIES = """[bench.commands]
pretrain = pretrain.command
count = good
bare = bare
broken = broken
lost = nowhere
doctor = good
"""


@pytest.fixture
def other_package(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `bench` where another package is installed that adds commands."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    for name, text in ADDED.items():
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench", *arguments]
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )

    return bench


@pytest.mark.slow
def test_another_package_adds_a_command(other_package: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    told = " ".join(other_package("--help").stdout.split())
    for part in (
        "count Count to three, in 100% of cases.",
        "broken Breaks.",
        "lost BROKEN: module nowhere cannot be found",
        "doctor BROKEN: registered several times: bench.cli.doctor, good",
    ):
        assert part in told
    assert other_package("count", "--to", "4").stdout == "1 2 3 4\n"
    assert "Count to three, in 100% of cases." in other_package("count", "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "--too", "4"], "no option --too; did you mean --to?"),
        (["coutn"], "no command 'coutn'; did you mean 'count'?"),
        (["bare"], "lacks add_arguments, run"),
        (["broken"], "command 'broken' (broken) cannot be imported: ZeroDivisionError: division by zero ("),
        (["lost"], "command 'lost' (nowhere) cannot be imported: ModuleNotFoundError"),
        (["doctor"], "command 'doctor' (bench.cli.doctor, good) is registered 2 times"),
    ],
)
def test_a_bad_command_of_another_package_gets_one_message(
    arguments: list[str], message: str, other_package: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    result = other_package(*arguments)
    assert (result.returncode, result.stdout) == (2, "") and "Traceback" not in result.stderr
    assert result.stderr.startswith("bench: ") and message in result.stderr


@pytest.mark.slow
def test_the_pretraining_recipe_is_a_command_of_another_package(
    other_package: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert registry.declared(GROUP) == {"pretrain": "pretrain.command"}
    told = other_package("pretrain", "--help").stdout
    assert told.startswith("usage: bench pretrain ") and (pretrain.__doc__ or "").splitlines()[0] in told
    assert other_package("pretrain", "--stage", "clap").stderr.startswith(
        "bench: argument --stage: invalid choice: 'clap'"
    )
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    args = parser.parse_args(["--stage", "clip", "--minutes", "2"])
    plan = recipe.plan_of("clip", args)
    assert (
        plan.minutes == 2 and plan.samples == recipe.PLANS["clip"].samples and set(recipe.PLANS) <= set(pretrain.STAGES)
    )
    code = "import pretrain.command, sys; raise SystemExit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_that_is_not_installed_yet_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.cli.commands.registered", lambda group: {})
    assert main(["pretrain"]) == 2
    assert "'pretrain' stands in pyproject.toml but is not installed: run `pip install -e .`" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("Examples:", "--soar.num_points 3", "20kimages", "bench list train"):
        assert part in text


def test_without_a_command_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("methods", ["soar", "methods/soar.py"]),
        ("rewards", ["scenes-geneval"]),
        ("tasks", ["alignment-gold", "trains on scenes-geneval"]),
        ("presets", ["smoke", "quick", "scenes"]),
        ("soar", ["--soar.num_points", "arXiv 2604.12617", "needs"]),
        ("scenes-geneval", ["gold", "0 to 1, higher is better"]),
        ("alignment", ["primary", "scenes-geneval", "margins"]),
        ("quick", ["label: demonstration"]),
        ("train", ["--train.batch_size", "default 32, >= 1", "one of full, lora"]),
        ("evaluation", ["--evaluation.milestones", "default 0.25,0.5,0.75,1.0"]),
        (
            "experiment",
            [
                "--budget",
                "20kimages (required)",
                "--cache-gib",
                "at once (default 2, >= 1, <= 1024; changes no number)",
            ],
        ),
        (
            "experiment",
            ["  question ", "  world ", "  train ", "(see bench list train; changes only the cells it is set for)"],
        ),
        ("task", ["--task.top_share", "> 0, <= 1"]),
        ("aesthetic", ["reward aesthetic", "task aesthetic"]),
        ("TOY", ["A toy that does nothing.", "--toy.points", "points per sample (default 2, >= 1)"]),
        (str(TEMPLATES / "reward.py"), ["reward my_plugin", "gold: computed exactly from the picture", "Smith 1978"]),
    ],
)
def test_list_shows(what: str, parts: list[str], toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", toy if what == "TOY" else what]) == 0
    out = capsys.readouterr().out
    for part in parts:
        assert part in out


def test_only_mistakes_of_the_user_are_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(error: BaseException) -> Callable[[Any], int]:
        def command(args: Any) -> int:
            raise error

        return command

    monkeypatch.setattr("bench.cli.list.run", raising(ConfigError("told")))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "bench: told\n"
    monkeypatch.setattr("bench.cli.list.run", raising(KeyboardInterrupt()))
    assert main(["list"]) == 130
    monkeypatch.setattr("bench.cli.list.run", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["list"])


@pytest.mark.slow
def test_plan_measures_and_trains_nothing_away(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--preset", "smoke", "--model", str(tiny_pipeline), "--methods", "sft"]
    arguments += ["--budget", "500updates"]
    gold = ["--task.scorers", "scenes-geneval", "--task.reward", "null", "--task.select", "scenes-geneval"]
    assert main([*arguments, *gold, "--results", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    unwrapped = " ".join(out.split())
    assert "2 cells, 0 of them done" in unwrapped and "measured on this machine" in unwrapped
    row = next(line for line in out.splitlines() if line.startswith("sft")).split()
    assert row[1] == "500"
    assert float(row[2].replace(",", "")) == pytest.approx(500 * 8 * 3, rel=0.05)  # forward 1, backward about 2
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_sample_draws_the_same_grid_again(tiny_pipeline: Path, tmp_path: Path) -> None:
    from PIL import Image

    common = ["sample", str(tiny_pipeline), "--prompt", "a red circle", "--steps", "2", "--samples", "3", "--out"]
    assert main([*common, str(tmp_path / "a.png"), "--prompt", "two stars"]) == 0
    assert main([*common, str(tmp_path / "b.png")]) == 0
    both, one = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert one.width == both.width and both.height == 2 * one.height + 4
    assert both.crop((0, 0, one.width, one.height)).tobytes() == one.tobytes()


@pytest.fixture
def fast_machine(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny world in the place of the embedded one, and hardly any time for each measurement."""
    from bench.datasets import worlds
    from bench.preflight.forecast import throughput

    tiny = worlds.load_world("scenes", str(tiny_pipeline))
    monkeypatch.setattr(worlds, "load_world", lambda name, model=None: tiny)
    monkeypatch.setattr(throughput, "SECONDS", 0.01)
    monkeypatch.setattr("bench.cli.doctor.THREADS", (1,))  # on a busy machine two are slower by far than one
    monkeypatch.setattr("bench.cli.doctor.cores", lambda: 1)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_machine")
def test_doctor_examines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bench.cli.doctor.package_conflicts", lambda: [])
    assert main(["doctor", "--results", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    for part in (
        "python 3",
        "torch ",
        "GiB of memory",
        f"{len(registry.names(registry.METHODS))} methods registered",
        "can be written",
        "1 thread: ",
    ):
        assert part in out
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr("bench.cli.doctor.package_conflicts", lambda: ["package 'methods' is foreign"])
    assert main(["doctor", "--results", "/dev/full/results"]) == 1
    out = capsys.readouterr().out
    assert "bad   package 'methods' is foreign" in out and "not fit yet: 2 of these" in out


@pytest.mark.slow
@pytest.mark.usefixtures("fast_machine")
def test_doctor_tunes_into_a_file_that_a_run_reads(
    tmp_path: Path, toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.config.load import load_settings

    path = tmp_path / "machine.yaml"
    assert main(["doctor", "--tune", str(path)]) == 0
    experiment = load_settings("smoke", {"methods": [toy]}, [path])
    assert experiment.workers * experiment.threads >= 1 and experiment.evaluation.batch_size in (16, 32, 64, 128)
    assert experiment.evaluation.precision in (None, "bfloat16")
    assert f"use it: python -m bench run --config {path}" in capsys.readouterr().out
    assert main(["doctor", "--tune", str(path)]) == 2
    assert "the file exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "left_out",
    [
        ["--results", "/somewhere/else"], ["--workers", "4"], ["--device", "cuda:1"],
        ["--shard=true"], ["--cache-gib", "0"], ["--track", "trackio"], ["--reward-server", "http://127.0.0.1:9"],
        ["--reward-seconds", "null"], ["--scorers.jpeg.threads", "2"], ["--scorers.jpeg.device=cpu"],
    ],
)  # fmt: skip
def test_the_recorded_command_leaves_out_where_and_how_it_was_computed(left_out: list[str]) -> None:
    kept = ["--methods", "sft", "--config", "machine.yaml", "--threads", "2", "--name=x", "--soar.num_points", "3"]
    assert command_line(["run", *kept[:4], *left_out, *kept[4:]]) == f"python -m bench run {' '.join(kept)}"


def test_the_recorded_command_names_no_folder() -> None:
    assert command_line(["run", "--preset", "/srv/ada/mine.yaml"]) == "python -m bench run --preset .../mine.yaml"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "bench", "list", "soar"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141

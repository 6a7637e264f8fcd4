"""What a user can get wrong, through the command line: one message with what was expected, what came, how to mend.

Rows of `ARGUMENTS` and `PREPARED` end before anything runs, with status 2. Rows of `CELLS` are cells that fail while
others go on: their records hold the message, and the status is 1.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.canonical import config_hash
from bench.cli.main import main
from bench.locks import hold_lock
from bench.paths import portable
from bench.results.records.schema import End
from bench.results.records.writer import CellRecord
from bench.training.loop import MAX_SKIPPED_IN_A_ROW
from tests.support.no_files import ends_within, full_folder, listening_socket, pipe
from tests.support.synthetic_results import as_schema_1
from tests.support.user_pictures import image_folder

TINY = """
extends: smoke
name: tiny
tasks: [alignment]
methods: [sft]
budget: 2updates
task:
  scorers: [scenes-geneval]
  primary: scenes-geneval
  reward: scenes-aesthetic
  select: null
  candidates: 16
  train_prompts: 8
train: {batch_size: 8}
evaluation:
  milestones: [1.0]
  milestone_prompts: 1
  final_prompts: 1
  held_out_prompts: 0
  diversity_prompts: 0
  grid_prompts: 1
  grid_steps: []
  drift_states: 0
  pictures: 1
  steps: 1
flowgrpo: {num_groups: 1, num_generations: 2, sampling_steps: 2, window: 1}
"""


def command(folder: Path, pipeline: Path, *more: str) -> list[str]:
    """A run of the tiny settings, written into `folder`."""
    (folder / "tiny.yaml").write_text(TINY)
    usual = {"--results": str(folder / "results"), "--model": str(pipeline)}
    words = [word for name, value in usual.items() if name not in more for word in (name, value)]
    return ["run", "--preset", str(folder / "tiny.yaml"), *words, *more]


def refused(arguments: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and error.count("bench: ") == 1 and "Traceback" not in error
    for message in messages:
        assert message in error


# Settings and options

ARGUMENTS = [
    (["--train.lerning_rate", "1"], ["train.lerning_rate: no such setting; did you mean 'learning_rate'?"]),
    (["--train.learning_rate", "0"], ["train.learning_rate: should be greater than 0, got 0"]),
    (["--train.learning_rate", ".nan"], ["train.learning_rate: expected 0 or a number between", "got nan"]),
    (["--train.clip_norm", "1e-300"], ["train.clip_norm: expected 0 or a number between", "got 1e-300"]),
    (["--train.clip_norm", "1e-20"], ["train.clip_norm: should be greater than or equal to 0.000001, got 1e-20"]),
    (["--train.weight_decay", "1e400"], ["train.weight_decay: expected 0 or a number between", "got inf"]),
    (["--train.warmup_updates", "9" * 5000], ["train.warmup_updates: ", "got '9999"]),
    (["--train.betas", "[" * 5000], ["train.betas: ", "got '[[["]),
    (["--train.batch_size", "1000001"], ["train.batch_size: should be less than or equal to 1000000"]),
    (["--evaluation.guidance", "nan"], ["evaluation.guidance: should be a valid number, got 'nan'"]),
    (["--evaluation.guidance", ".inf"], ["evaluation.guidance: expected 0 or a number between", "got inf"]),
    (["--evaluation.guidance", "1e9"], ["evaluation.guidance: should be less than or equal to 1000"]),
    (["--evaluation.grid_steps", "5,99999999"], ["evaluation.grid_steps.1: should be less than or equal to 10000"]),
    (["--task.train_prompts", "99999999"], ["task.train_prompts: should be less than or equal to 1000000"]),
    (
        ["--methods", "flowgrpo", "--flowgrpo.num_groups", "9"],
        ["train_prompts 8, but 'flowgrpo' takes 9 different ones at once: give it fewer, or the task more"],
    ),
    (["--budget", "1e400"], ["budget: expected 0 or a number between", "got inf"]),
    (["--budget", "9" * 400], ["budget: '999", "expected a positive amount like 200k", "of at most 1e+15"]),
    (["--budget", "1e31flops"], ["budget: '1e31flops': expected a positive amount like 200k", "of at most 1e+30"]),
    (["--seeds", "99999999"], ["or [4]), 1000 at most", "got 99999999"]),
    (["--seeds", ",".join(map(str, range(1001)))], ["seeds: Tuple should have at most 1000 items"]),
    (["--seeds", "[4294967296]"], ["seeds.0: should be less than or equal to 4294967295"]),
    (["--name", "n" * 300], ["name: String should have at most 100 characters"]),
    (["--tasks", "t" * 300], ["no task 'tttt"]),
    (["--evaluation.prompt_sets." + "s" * 300, "x.txt"], ["a letter first, 100 of them at most"]),
    (["--model", "m" * 300], ["mmm... cannot be used: File name too long"]),
    (["--config", "c" * 300 + ".yaml"], ["ccc.yaml: File name too long"]),
    (["--config", ""], ["argument --config: expected a path, got an empty text"]),
    (["--config", "FOLDER.yaml"], ["cannot read the settings in", "expected a file, but it is a folder"]),
    (["--config", "PIPE.yaml"], ["cannot read the settings in", "expected a file, but it is a pipe"]),
    (["--config", "DEEP"], ["is not a valid YAML file: lists and mappings stand more than 50 deep"]),
    (["--config", "LONG"], ["is not a valid YAML file: a whole number of more than 20 digits"]),
    (["--config", "ALIASES"], ["is not a valid YAML file: more than 100,000 values"]),
    (["--config", "LARGE"], ["cannot read the settings in", "of which at most 262,144 are read here"]),
    (["--config", "HALF"], ["label: expected a text that can be stored, got 'a\\ud800'"]),
    (["--budget", "1", "--budget", "2"], ["--budget: given twice: leave one out"]),
    (["--budget=1", "--budget", "1"], ["--budget: given twice: leave one out"]),
    (["--preset", "quick"], ["--preset: given twice: leave one out"]),
    (["--shard=true", "--shard", "false"], ["--shard: given twice"]),
    (["--results", "a", "--results", "b"], ["--results: given twice"]),
    (["--train.batch_size", "0"], ["train.batch_size: should be greater than or equal to 1, got 0"]),
    (["--train.batch_size", "8.5"], ["train.batch_size: should be a valid integer, got 8.5"]),
    (["--train.precision", "float16"], ["train.precision: should be 'float32' or 'bfloat16', got 'float16'"]),
    (["--train.betas", "0.9"], ["train.betas: "]),
    (["--evaluation.milestones", "0.5,0.4,1.0"], ["milestones have to rise and end with 1.0, got [0.5, 0.4, 1.0]"]),
    (["--evaluation.milestones", "0.5"], ["milestones have to rise and end with 1.0"]),
    (["--evaluation.pictures", "9"], ["pictures (9) has to be at most final_prompts (1)"]),
    (["--evaluation.split", "train"], ["evaluation.split: should be 'report' or 'tune', got 'train'"]),
    (["--budget", "0"], ["budget: '0': expected a positive amount like 200k"]),
    (["--budget", "5kupdate"], ["budget: '5kupdate': expected a positive amount"]),
    (["--seeds", "1,1"], ["seeds: '1' is listed 2 times"]),
    (["--seeds", "[-1]"], ["seeds", "greater than or equal to 0, got -1"]),
    (["--methods", "sft,sft"], ["methods: 'sft' is listed 2 times"]),
    (["--methods", "sft+"], ["methods: 'sft+': expected a name on both sides of every +, as in a+b"]),
    (["--methods", "+sft"], ["methods: '+sft': expected a name on both sides of every +"]),
    (["--methods", "sft++sft"], ["methods: 'sft++sft': expected a name on both sides of every +"]),
    (["--tasks", "alignment,alignment"], ["tasks: 'alignment' is listed 2 times"]),
    (["--task.reward", "scenes-genevla"], ["no reward 'scenes-genevla' is registered; did you mean 'scenes-geneval'?"]),
    (["--task.reward", "null", "--methods", "flowgrpo"], ["has no reward to train on, and 'flowgrpo' needs one"]),
    (["--task.primary", "scenes-ocr"], ["primary scorer 'scenes-ocr' has to be one of `scorers` (scenes-geneval)"]),
    (["--task.top_share", "2"], ["top_share: should be less than or equal to 1, got 2"]),
    (["--split", "1.5"], ["split", "less than 1, got 1.5"]),
    (["--baseline", "soar"], ["baseline: 'soar' is not among the methods"]),
    (["--workers", "0"], ["workers: should be greater than or equal to 1, got 0"]),
    (["--threads", "many"], ["threads: should be a valid integer, got 'many'"]),
    (["--reward-seconds", "0"], ["reward_seconds: should be greater than 0, got 0"]),
    (
        ["--scorers.scenes-genevla.threads", "2"],
        ["no task and no prompt set uses a scorer of that name; did you mean 'scenes-geneval'?"],
    ),
    (
        ["--scorers.scenes-geneval.memory", "8 GB"],
        ["geneval.memory: expected a size like 8GiB or 500MiB"],
    ),
    (["--scorers.scenes-geneval.gpu", "1"], ["scorers.scenes-geneval.gpu: no such setting"]),
    (["--reward-server", "here:80"], ["reward_server: String should match pattern", "got 'here:80'"]),
    (["--name", "../up"], ["name: String should match pattern"]),
    (["--model", "nowhere"], ["model: nowhere is no checkpoint folder in the diffusers format"]),
    (["--methods", "flowgrpo", "--flowgrpo.window", "9"], ["flowgrpo.window 9: expected at most 1"]),
    (["--soar.num_points", "3"], ["soar: settings given, but it does not run; it would with --methods"]),
    (["--config", "LIST"], ["expected `name: value` lines, got list"]),
    (["--config", "TWICE"], ["is not a valid YAML file", "twice"]),
    (["--config", "BROKEN"], ["is not a valid YAML file"]),
    (["--methods", "SYNTAX"], ["cannot be imported: SyntaxError"]),
    (["--methods", "RAISES"], ["cannot be imported: ZeroDivisionError: division by zero"]),
    (["--methods", "NOTHING"], ["defines no subclass of bench.api.Method"]),
    (["--results", "/dev/null/results"], ["run.lock: Not a directory; expected a folder, but a file stands"]),
    (["--results", "/proc/results"], ["cannot write /proc/results/tiny/run.lock", "choose another place"]),
]
FILES = {
    "LIST": ("list.yaml", "- budget\n"),
    "TWICE": ("twice.yaml", "budget: 1\nbudget: 2\n"),
    "BROKEN": ("broken.yaml", "budget: [1\n"),
    "SYNTAX": ("syntax.py", "class Broken(\n"),
    "RAISES": ("raises.py", "1 / 0\n"),
    "NOTHING": ("nothing.py", "x = 1\n"),
    "DEEP": ("deep.yaml", "label: " + "[" * 60 + "]" * 60),
    "LONG": ("long.yaml", "budget: " + "9" * 5000),
    "ALIASES": ("aliases.yaml", "a: &a [" + "x, " * 1000 + "]\nb: [" + "*a, " * 200 + "]\n"),
    "LARGE": ("large.yaml", "# " + "x" * 2**18),
    "HALF": ("half.yaml", 'label: "a\\ud800"\n'),
}


@pytest.mark.parametrize(("arguments", "messages"), ARGUMENTS)
def test_settings(
    arguments: list[str], messages: list[str], tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in FILES.values():
        (tmp_path / name).write_text(content)
    (tmp_path / "FOLDER.yaml").mkdir()
    os.mkfifo(tmp_path / "PIPE.yaml")
    given = [str(tmp_path / FILES[a][0]) if a in FILES else a for a in arguments]
    given = [str(tmp_path / a) if a in ("FOLDER.yaml", "PIPE.yaml") else a for a in given]
    refused(command(tmp_path, tiny_pipeline, *given), messages, capsys)


# What a run needs and is not there: told once, before anything is written

LACKING = """
from bench.api import CheckpointMissing, Reward

class Lacking(Reward):
    name = "lacking"

    @classmethod
    def require_checkpoint(cls):
        raise CheckpointMissing("nobody/nothing: expected weights; to get it: make it")

    def __call__(self, images, prompts, metadata):
        return images.mean((1, 2, 3)) / 255
"""
NEEDED = [
    (["--device", "cuda"], ["device 'cuda': expected a CUDA device", "say --device cpu"]),
    (["--model", "nobody/nothing"], ["nobody/nothing: there is no such folder", "bench fetch nobody/nothing"]),
    (["--model", "PIXART"], ["a PixArtSigmaPipeline is no rectified flow: it predicts the noise", "by --model"]),
    (["--task.reward", "LACKING"], ["nobody/nothing: expected weights; to get it: make it"]),
    (["--task.select", "0.5*scenes-aesthetic+0.5*LACKING"], ["nobody/nothing: expected weights; to get it: make it"]),
    (["--task.scorers", "scenes-geneval,LACKING"], ["nobody/nothing: expected weights; to get it: make it"]),
    (
        ["--scorers.scenes-geneval.device", "cuda:1"],
        ["scorers.scenes-geneval.device cuda:1: expected one of the 0 CUDA"],
    ),
    (["--reward-server", "http://127.0.0.1:9"], ["reward server http://127.0.0.1:9 cannot be reached"]),
    (["--device", "cuda", "--detach"], ["device 'cuda': expected a CUDA device"]),
    (["--device", "cuda", "--data", "PICTURES"], ["device 'cuda': expected a CUDA device"]),
]


@pytest.mark.parametrize(("arguments", "messages"), NEEDED)
def test_what_a_run_needs_is_looked_for_before_anything_is_written(
    arguments: list[str], messages: list[str], tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as on a machine without
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lacking.py").write_text(LACKING)
    shutil.copytree(tiny_pipeline, tmp_path / "pixart")
    edit(tmp_path / "pixart" / "model_index.json", "StableDiffusion3Pipeline", "PixArtSigmaPipeline")
    files = {"LACKING": tmp_path / "lacking.py", "PIXART": tmp_path / "pixart", "PICTURES": tmp_path / "pictures"}
    given = [*arguments]
    for name, path in files.items():
        given = [argument.replace(name, str(path)) for argument in given]
    if "PICTURES" in arguments:
        image_folder(files["PICTURES"], 30)
        own = "world: images\ntasks: [pictures]\ntask: {scorers: [scenes-aesthetic], primary: scenes-aesthetic}\n"
        (tmp_path / "own.yaml").write_text(own)
        given += ["--config", str(tmp_path / "own.yaml")]
    given = [*command(tmp_path, tiny_pipeline, *given)]
    before = sorted(tmp_path.rglob("*"))
    refused(given, messages, capsys)
    assert sorted(tmp_path.rglob("*")) == before  # no results, no lock, nothing in the cache


def test_what_is_recorded_needs_nothing(
    finished: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert main(command(tmp_path, tiny_pipeline, "--device", "cuda")) == 0
    assert "nothing to run" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["sample", "--out", "OUT/a.png"], ["run", "--results", "OUT"], ["plan"]])
@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("PixArtSigmaPipeline", "is no rectified flow: it predicts the noise of a diffusion process"),
        ("SanaSprintPipeline", "is no rectified flow: it is a consistency model"),
        ("StableDiffusionXLPipeline", "is no rectified flow: it predicts the noise of a diffusion process"),
        ("MochiPipeline", "expected a pipeline of one of the families that can be trained (StableDiffusion3Pipeline"),
    ],
)
def test_another_pipeline_is_called_by_its_name(
    arguments: list[str],
    pipeline: str,
    told: str,
    tiny_pipeline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(tiny_pipeline, tmp_path / "other")
    edit(tmp_path / "other" / "model_index.json", "StableDiffusion3Pipeline", pipeline)
    given = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    refused([*given, "--model", str(tmp_path / "other")], [told, pipeline], capsys)
    assert not (tmp_path / "out").exists()


def test_an_empty_preset_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["run", "--preset", ""], ["no preset ''; choose from"], capsys)


OTHER_COMMANDS = [
    (["sample", "--guidance", "nan"], ["argument --guidance: should be a valid number, got 'nan'"]),
    (["sample", "--guidance", "1e400"], ["argument --guidance: expected 0 or a number between"]),
    (["sample", "--steps", "99999999"], ["argument --steps: should be less than or equal to 10000"]),
    (["sample", "--samples", "0"], ["argument --samples: expected a whole number from 1 to 10,000, got '0'"]),
    (["sample", "--seed", "9" * 5000], ["argument --seed: expected a whole number from 0 to 4,294,967,295, got '999"]),
    (["sample", "--prompts", "PIPE"], ["cannot read the prompts in", "expected a file, but it is a pipe"]),
    (["sample", "--seed", "1", "--seed", "2"], ["--seed: given twice"]),
    (["sample", "n" * 300], ["nnn... cannot be used: File name too long"]),
    (["curate", "--data", "x", "--reward", "jpeg", "--min", "nan"], ["argument --min: expected a number from"]),
    (["score", "--reward", "jpeg", "--images", "PIPE"], ["expected a folder with pictures"]),
    (["score", "--reward", "jpeg", "--images", "HERE", "--prompts", "PIPE"], ["expected a file of prompts"]),
    (["report", "--results", "r" * 300], ["rrr... cannot be used: File name too long"]),
    (["status", "--results", ""], ["argument --results: expected a path, got an empty text"]),
    (["serve-rewards", "--reward", "jpeg", "--token-file", "PIPE"], ["expected a file with the token in it", "a pipe"]),
]


@pytest.mark.parametrize(("arguments", "messages"), OTHER_COMMANDS)
def test_options_of_other_commands(
    arguments: list[str], messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = {"PIPE": str(tmp_path / "pipe"), "HERE": str(tmp_path)}
    refused([places.get(argument, argument) for argument in arguments], messages, capsys)


# A reward server, and lists

SERVER = [
    (["--port", "99999"], ["serve-rewards", "--port: expected a number from 0 to 65535, got 99999"]),
    (["--port", "-1"], ["--port: expected a number from 0 to 65535, got -1"]),
    (["--timeout", "inf"], ["--timeout: expected seconds above 0 and at most", "got inf"]),
    (["--timeout", "nan"], ["--timeout: expected seconds above 0 and at most", "got nan"]),
    (["--timeout", "1e300"], ["--timeout: expected seconds above 0 and at most", "got 1e+300"]),
    (["--reward", "ONE:ok,OTHER:ok"], ["one.py:ok and ", "other.py:ok: expected a name", "'ok' twice; rename one of"]),
    (["--reward", "ONE:ok,rewards.jpeg:Jpeg,jpeg"], ["rewards.jpeg:Jpeg and jpeg: ", "they are the same: leave one"]),
    (["--reward", "jpeg, nonsense"], ["no reward 'nonsense' is registered"]),
]


@pytest.mark.parametrize(("arguments", "messages"), SERVER)
def test_options_of_a_server(
    arguments: list[str], messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one.py", "other.py"):
        (tmp_path / name).write_text("def ok(prompts, completions, **kwargs):\n    return [0.0] * len(prompts)\n")
    files = {"ONE": str(tmp_path / "one.py"), "OTHER": str(tmp_path / "other.py")}
    given = [argument.replace("ONE", files["ONE"]).replace("OTHER", files["OTHER"]) for argument in arguments]
    without_token = ["--token-file", str(tmp_path / "nowhere")]  # no server starts, whatever is let through
    reward = [] if "--reward" in given else ["--reward", "jpeg"]
    refused(["serve-rewards", *reward, *without_token, *given], messages, capsys)


def test_lists_may_have_blanks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused(["score", "--reward", "jpeg, nonsense", "--images", str(tmp_path)], ["no reward 'nonsense' is"], capsys)
    refused(["rehearse", "--parts", "lora, nonsense"], ["--parts: no part 'nonsense'"], capsys)


# A base that is missing or damaged


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path) -> None:
    """A weight file that must not be opened, in the place of the safe one."""
    path.unlink()
    ran = path.parents[2] / "ran"
    path.with_name("diffusion_pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model_index.json", Path.unlink),
        ("model_index.json", cut),
        ("transformer/diffusion_pytorch_model.safetensors", cut),
        ("transformer/diffusion_pytorch_model.safetensors", Path.unlink),
        ("transformer/diffusion_pytorch_model.safetensors", pickled),
        ("vae/config.json", cut),
        ("vae", shutil.rmtree),
        ("text_encoder_2/model.safetensors", Path.unlink),
        ("tokenizer", shutil.rmtree),
        ("scheduler/scheduler_config.json", Path.unlink),
    ],
)
def test_a_damaged_base(
    file: str, damage: Callable[[Path], None], tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_pipeline, base)
    damage(base / file)
    refused(["sample", "--model", str(base), "--out", str(tmp_path / "a.png")], [str(base), "expected a"], capsys)
    assert not (tmp_path / "ran").exists()


# A results folder that cannot be gone on with


@pytest.fixture(scope="module")
def finished(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny settings and their finished results."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(command(folder, tiny_pipeline)) == 0
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CELL = Path("results/tiny/alignment/sft/seed0")
RECORD = CELL / "record.jsonl"


def newer_header(folder: Path) -> None:
    edit(folder / "results/tiny/experiment.json", '"schema": 3', '"schema": 99')


def newer_record(folder: Path) -> None:
    edit(folder / RECORD, '"schema": 3', '"schema": 99')


def other_code(folder: Path) -> None:
    held_hash = json.loads((folder / RECORD).read_text().splitlines()[0])["provenance"]["sources"]["bench/flow.py"]
    edit(folder / RECORD, held_hash, "0" * 16)


def not_json(folder: Path) -> None:
    edit(folder / RECORD, '"kind": "milestone"', '"kind" "milestone"')


def not_text(folder: Path) -> None:
    path = folder / RECORD
    path.write_bytes(path.read_bytes().replace(b"milestone", b"mile\xfftone", 1))


def without_header(folder: Path) -> None:
    path = folder / RECORD
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


def nothing(folder: Path) -> None:
    """The arguments are what is wrong."""


PREPARED = [
    (newer_header, [], ["experiment.json: schema 99 is newer than this bench reads (3): update bench"]),
    (newer_record, [], ["record.jsonl:1: schema 99 is newer than this bench reads (3): update bench"]),
    (other_code, [], ["1 cells in", "made by other code", "differs in bench/flow.py", "--name", "--allow-mixed"]),
    (not_json, [], ["record.jsonl:5: not JSON", "the file is damaged"]),
    (not_text, [], ["record.jsonl: not UTF-8 text", "the file is damaged"]),
    (without_header, [], ["record.jsonl does not begin with a cell event: remove that folder"]),
    (nothing, ["--train.learning_rate", "1e-3"], ["was recorded with other settings", "another --name"]),
    (nothing, ["--budget", "3updates", "--seeds", "[7]"], ["other settings", "budgets.0 is 3 updates, was 2 updates"]),
    (nothing, ["--train.learning_rate", "1e-3", "--seeds", "[7]"], ["train.learning_rate is 0.001, was 0.0001"]),
    (nothing, ["--task.margins.scenes-geneval", "0.5", "--seeds", "[7]"], ["margins.scenes-geneval is 0.5, was 0.01"]),
    *[
        (lambda folder, file=file, make=make: make(folder / file), [], [Path(file).name, told])
        for file in ("results/tiny/run.lock", "results/tiny/experiment.json", str(RECORD), f"{CELL}/telemetry.jsonl")
        for make, told in (
            (pipe, "is a pipe: expected a file or a folder; remove it"),
            (listening_socket, "is a socket: expected a file or a folder; remove it"),
            (full_folder, "expected a file, but"),
        )
    ],
    (nothing, ["--evaluation.steps", "2", "--seeds", "[7]"], ["was recorded with other settings"]),
]


@pytest.mark.parametrize(("prepare", "arguments", "messages"), PREPARED)
def test_a_results_folder(
    prepare: Callable[[Path], None], arguments: list[str], messages: list[str], finished: Path, tiny_pipeline: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    prepare(tmp_path)
    with ends_within(60):
        refused(command(tmp_path, tiny_pipeline, *arguments), messages, capsys)


def test_results_that_were_recorded_with_absolute_paths(
    finished: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As before paths were stored without their folders: what is finished counts, and nothing is added to it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "results" / "tiny"
    as_schema_1(folder)
    for path in [*folder.rglob("record.jsonl"), folder / "experiment.json"]:
        lines = path.read_text().splitlines()
        head = json.loads(lines[0])
        assert head["config"]["model"] == portable(str(tiny_pipeline)) != str(tiny_pipeline)
        head["config"]["model"] = str(tiny_pipeline)
        head["config_hash"] = config_hash(head["config"])
        path.write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    assert main(command(tmp_path, tiny_pipeline)) == 0
    assert "nothing to run" in capsys.readouterr().out
    told = ["recorded by an older version, with absolute paths", "another --name, or remove that folder to run all"]
    refused(command(tmp_path, tiny_pipeline, "--seeds", "2"), told, capsys)


def test_a_results_folder_that_another_process_holds(
    finished: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold_lock(finished / "results/tiny/run.lock"):
        refused(command(finished, tiny_pipeline), ["is held by process", "since 20"], capsys)


def test_other_code_is_allowed_when_asked_for(
    finished: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    as_schema_1(tmp_path / "results" / "tiny")  # where no hash of the line tells that it was edited
    other_code(tmp_path)
    before = (tmp_path / RECORD).read_bytes()
    assert main(command(tmp_path, tiny_pipeline, "--allow-mixed")) == 0
    assert "nothing to run" in capsys.readouterr().out and (tmp_path / RECORD).read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "messages"),
    [
        ("nowhere", ["nowhere holds no record.jsonl: expected a cell of the results"]),
        (str(CELL), ["holds no failure/batch.json: expected a cell that met NaN or infinity in training"]),
    ],
)
def test_nothing_to_replay(cell: str, messages: list[str], finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["replay", str(finished / cell)], messages, capsys)


# Cells that fail while others go on

METHOD = '''
from bench.api import Method, Needs

class Broken(Method):
    """A method that is {name}."""
    name = "{name}"
    needs = Needs(data=True)

    def step(self, env):
        for batch in env.draw.batches():
            v = env.model.velocity(batch.z0, env.draw.sigma(batch.index), batch.cond).flatten(1)
            loss = v.square().mean(1)
            {body}
            env.backward({{"base": (1.0, loss)}}, count=env.batch_size)
        return {end}
'''
METHODS = {
    "nan": ("loss = loss * (float('nan') if batch.index[0] >= 8 else 1)", "env.update()"),
    "infinite": ("loss = loss / 0", "env.update()"),
    "steep": ("loss = (v.sum(1) * 0).sqrt()", "env.update()"),
    "meddling": ("env.model._policy.pipeline.vae.decoder.conv_in.weight.data[0, 0, 0, 0] += 1", "env.update()"),
    "idle": ("pass", "{}"),
    "faulty": ("1 / 0", "env.update()"),
    "breaking": ("env.rollouts = 3", "env.update()"),  # the harness fails over it, after step() has ended
    "exiting": ("raise SystemExit(0)", "env.update()"),
    "leaving": ("__import__('os')._exit(0)", "env.update()"),
    "vanishing": ("__import__('ctypes').CDLL(None)._exit(0)", "env.update()"),
}
REWARD = '''
import os, signal, time
import numpy as np
from bench.api import Reward

class Broken(Reward):
    """A reward that is {name}."""
    name = "{name}"

    def __call__(self, images, prompts, metadata):
        {body}

    def load(self):
        {load}
'''
# A reward's first call is to measure its cost, on one picture.
LOADS = {"stuck": "time.sleep(600)"}
REWARDS = {
    "stuck": "return np.zeros(len(images))",
    "raising": "return np.zeros(len(images)) + {}['missing']",
    "hanging": "time.sleep(600)",
    "square": "return np.zeros((len(images), 2))",
    "undefined": "return np.full(len(images), np.nan)",
    "greedy": "os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when memory is short",
    "flat": "return np.full(len(images), 0.5)",
}
CELLS = [
    ("alignment/nan", ["update 2: loss 'base': expected finite values, but 8 of 8 samples", "bench replay"]),
    ("alignment/infinite", ["update 1: loss 'base': expected finite values", "bench replay"]),
    ("alignment/steep", ["gradient norm nan: the loss is finite but its gradient is not", "bench replay"]),
    ("alignment/meddling", ["method 'meddling' changed 1 frozen tensors, 'vae.decoder.conv_in.weight' among them"]),
    ("alignment/idle", ["has to make exactly one optimiser update", "but it made 0"]),
    ("alignment/faulty", ["method 'faulty' in step() raised ZeroDivisionError: division by zero", "faulty.py:13)"]),
    ("alignment/breaking", ["unexpected error: AttributeError: 'int' object has no attribute 'used'"]),
    ("alignment/exiting", ["method 'exiting' in step() raised SystemExit: 0", "exiting.py:13)"]),
    ("alignment/leaving", ["method 'leaving' in step() raised ProcessExit: os._exit(0) would end", "leaving.py:13)"]),
    ("alignment/vanishing", ["ended with status 0 before its cell did", "look for a call of exit()"]),
    ("raising/flowgrpo", ["reward 'raising' on 1 pictures raised KeyError: 'missing'", "raising.py:11"]),
    ("hanging/flowgrpo", ["reward 'hanging' hangs: one call has not ended after", "--reward-seconds"]),
    ("stuck/flowgrpo", ["reward 'stuck' hangs: load() has not ended after", "--reward-seconds"]),
    ("square/flowgrpo", ["reward 'square': expected 1 scores for 1 pictures, got float64 of shape (1, 2)"]),
    ("undefined/flowgrpo", ["reward 'undefined': expected finite scores, but 1 of 1 are NaN or infinite"]),
    ("greedy/flowgrpo", ["was ended by SIGKILL; it held", "MiB at its peak", "--train.micro_batch 4 (now 8)"]),
    ("flat/flowgrpo", ["51 steps in a row had no gradient to apply", "choose a finer reward"]),
]


@pytest.fixture(scope="module")
def failed(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results in which every broken method and every broken reward has run, and a healthy method beside them."""
    folder = tmp_path_factory.mktemp("failed")
    for name, (body, end) in METHODS.items():
        (folder / f"{name}.py").write_text(METHOD.format(name=name, body=body, end=end))
    methods = ",".join(["sft", *(str(folder / f"{name}.py") for name in METHODS)])
    assert main(command(folder, tiny_pipeline, "--methods", methods)) == 1
    settings = ["tasks:"]
    for name, body in REWARDS.items():
        (folder / f"{name}.py").write_text(REWARD.format(name=name, body=body, load=LOADS.get(name, "pass")))
        settings.append(f"  - {{name: {name}, primary: scenes-geneval, scorers: [scenes-geneval]}}")
    settings += [f"{name}: {{reward: {folder}/{name}.py}}" for name in REWARDS]
    (folder / "rewards.yaml").write_text("\n".join(settings))
    # Long enough for the healthy scorers on a busy machine
    arguments = ["--config", str(folder / "rewards.yaml"), "--methods", "flowgrpo", "--reward-seconds", "8"]
    assert main([*command(folder, tiny_pipeline), *arguments]) == 1
    return folder


@pytest.mark.parametrize(("cell", "messages"), CELLS)
def test_a_failed_cell(cell: str, messages: list[str], failed: Path) -> None:
    end = CellRecord(failed / "results/tiny" / cell / "seed0").events()[-1]
    assert isinstance(end, End) and end.status == "failed" and end.reason is not None
    for message in messages:
        assert message in end.reason


def test_steps_without_a_gradient_are_counted_up_to_the_limit(failed: Path) -> None:
    ledger = CellRecord(failed / "results/tiny/flat/flowgrpo/seed0").events()[-1].ledger  # type: ignore[union-attr]
    assert (ledger.skipped_updates, ledger.updates) == (MAX_SKIPPED_IN_A_ROW + 1, 0)


def test_the_other_cells_went_on(failed: Path) -> None:
    status = {
        str(path.parent.parent.relative_to(failed / "results/tiny")): CellRecord(path.parent).status()
        for path in (failed / "results/tiny").glob("*/*/seed*/record.jsonl")
    }
    done = {name for name, value in status.items() if value == "done"}
    assert set(status.values()) == {"done", "failed"}
    assert done == {"alignment/base", "alignment/sft", *(f"{name}/base" for name in REWARDS)}
    assert set(status) - done == {cell for cell, _ in CELLS}

"""What each command of the command line takes: its options, and the texts of its help."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

# Options of `run` and `plan` that are settings at the top level: name, what to write, help.
SETTINGS = (
    ("methods", "A,B", "methods by name or file (path/to/file.py); a+b runs b after a, on half the budget each"),
    ("tasks", "A,B", "tasks by name; see `bench list tasks`"),
    ("seeds", "N|A,B", "number of seeds, or a list of them ([4] is the one seed 4)"),
    ("budget", "AMOUNT", "of every method: 200k (forward-equivalents), 1e15flops, 10min, 500updates, 20kimages"),
    ("split", "SHARE", "share of the budget that the first stage of a chain gets (default 0.5)"),
    ("name", "NAME", "folder of the results; another comparison needs another name (default: the preset's)"),
    ("label", "TEXT", "words for the title of every table, e.g. demonstration"),
    ("baseline", "METHOD", "method that differences are taken to (default: sft where it runs, else base)"),
    (
        "data",
        "FOLDER",
        "train on pictures of your own: a folder with metadata.jsonl or .csv, and more (bench list data)",
    ),
    (
        "reward",
        "NAME",
        "scorer, also module:function, that trains, and selects where a task does, instead of the tasks' own",
    ),
    ("allow-broken", "SHARE", "share of the rows of --data that may be broken (default 0.01)"),
    ("model", "PATH|ID", "folder in the diffusers format, or hub id of a fetched model, not the world's own base"),
    ("weights", "stored|random", "random: a rehearsal in the model's architecture, without the model"),
    ("device", "DEVICE", "auto (default: CUDA where there is one), cpu, cuda or cuda:N"),
    ("shard", "true|false", "share weights, gradients and optimiser's state out over the processes of torchrun"),
    ("workers", "N", "cells that run at once (default 2)"),
    ("threads", "N", "threads of each worker (default 1)"),
    ("cache-gib", "GIB", "latents and text embeddings kept on disk for all runs (default 50; 0: none)"),
    ("track", "TRACKER", "tensorboard or trackio: write curves for it, in tracking/ beside the results"),
    ("reward-server", "URL", "take the scorers that `bench serve-rewards` has there from it; the others run here"),
    ("reward-seconds", "SECONDS", "a call or load() of a reward that takes longer hangs, and is ended (default 600)"),
    ("tuning-trials", "N", "tuning trials that each method was given; only reported"),
)

# Options that stand at the top level for what lies within a block.
WITHIN = {"data": "data.path", "allow_broken": "data.allow_broken"}

OVERRIDES = """Any other setting has a dotted option, as in the presets:
  --train.batch_size 16            training of every method        bench list train
  --runtime.resolution 512         how the model is loaded         bench list runtime
  --soar.num_points 3              a method's own setting          bench list soar
  --soar.train.learning_rate 1e-5  training of one method
  --evaluation.steps 10            evaluation                      bench list evaluation
  --evaluation.prompt_sets.drawbench FILE    prompts to judge by   bench list prompt_set
  --task.candidates 2048           every task; or --alignment.candidates for one
  --scorers.jpeg.threads 2         a scorer in its own process     bench list scorers"""

EXAMPLES = """Examples:
  python -m bench run                                        the default: SFT, SOAR and Flow-GRPO, about 8 minutes
  python -m bench run --methods sft,soar --budget 60k --seeds 3 --name longer
  python -m bench run --methods sft,my_method.py --name mine a method of your own
  python -m bench plan --preset scenes                       what would run, and for how long
  python -m bench list soar                                  what a method is, and its settings
  python -m bench report --check                             do REPORT.md and the results agree?"""

PLANNING = """A model that is here is measured for a few updates. For one that is not, or with --gpu, the same is
computed from its shapes, and memory by part and disk beside it: nothing is downloaded, and no GPU is needed."""

REHEARSING = """Nothing is downloaded. The default is SD3.5-Medium's shape at 512 pixels, for a GPU of 80 GB, 80 GB of
main memory and 40 GB of disk in $TMPDIR. Each part is a command of its own where time is short, and writes
OUT/PART.json. Minutes expected on one H100, compiling included; guesses, for no GPU has run it yet:
  bench rehearse --parts passes    4 to 8   the denoiser's passes: samples/s, share of the matrix peak, a profile
  bench rehearse --parts lora      5 to 9   every method by LoRA: time and memory of an update, evaluation, checkpoint
  bench rehearse --parts full      6 to 10  the same with all weights; a checkpoint there and back for the first method
  bench rehearse --parts full --methods soar        a part may be cut by methods; with another --out, or it is replaced
  bench rehearse --parts resume    2 to 4   a cell with LoRA is killed and goes on; nothing is compiled
  bench rehearse --parts rewards   4 to 9   the published scorers at real size: pictures/s and memory of each
  bench rehearse --model shrunken --runtime.resolution 64 --runtime.compile false --device cpu --out here"""

CHECKING = """Each check exists because real code failed so. A failure says what was expected, what came, and why.
Micro-batches, ledger, frozen parts and resume are looked at again with LoRA.
Plugins are named as in `run`: by registered name, package.module:Class, or path/to/file.py. A reward may be a function
in trl's convention: package.module:function, or path/to/file.py:function.

A plugin declares in its class what is known and meant:
  small = {"num_points": 1}                          settings that make a step cheap and let all fields act
  inert = {"clip": "acts from the second epoch on"}   a field that changes nothing under these settings
  expected_failures = {"resume": "the sampler is external"}

In a test: from bench.conformance import assert_conforms; assert_conforms(MyMethod)

Examples:
  bench check sft                 one method
  bench check my_method.py        a method or a reward of your own
  bench check --all               everything that is registered
  bench check --list              every check with its reason

Exit status: 0 all passed, or failed as declared; 1 a check failed; 2 there is no such plugin."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", metavar="NAME",
        help="smoke, quick (default), tenfold, scenes, plateau, tuning, images (default with --data), sd35-medium, "
        "sd35-medium-lora, or a .yaml file",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="FILE", help="a .yaml file laid over the preset"
    )
    for name, metavar, help_ in SETTINGS:
        parser.add_argument(f"--{name}", metavar=metavar, help=help_)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")


def add_run(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: REPORT.md beside the results folder")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="go on in a results folder whose cells were made by other code"
    )
    parser.add_argument(
        "--detach", action="store_true", help="run without this terminal, and write to a log beside the results"
    )


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument(
        "--name", metavar="NAME", help="one experiment, with all its cells; default: all that there are"
    )
    parser.add_argument(
        "--watch", action="store_true", help="what runs, again and again until it ends (Ctrl-C: enough)"
    )


def add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cell", type=Path, metavar="CELL_FOLDER", help="a cell of the results")
    parser.add_argument(
        "--data", metavar="FOLDER", help="where the pictures of your own lie that it was trained on, as for `run`"
    )
    add_reward_server(parser)


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu", metavar="A,B", help="hours and memory on these cards, computed: h100, a100, rtx4090, ..."
    )
    parser.add_argument(
        "--utilisation", type=_share, metavar="SHARE",
        help="of a card's peak that passes reach, where hours are computed and not measured (default 0.4)",
    )  # fmt: skip
    parser.add_argument(
        "--cards", type=_count, default=1, metavar="N", help="cards that train each cell together, with --gpu"
    )
    add_settings(parser)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: REPORT.md beside the results folder")
    parser.add_argument("--check", action="store_true", help="write nothing; say where report and results differ")


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help="methods, rewards, tasks, presets, or the name or file of one of them; "
        "train, evaluation, runtime, experiment, task, data, prompt_set or scorers for their settings; nothing for an "
        "overview",
    )  # fmt: skip


def add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID", help="organisation/name on the hub")
    parser.add_argument(
        "--prompts", action="store_true", help="it is a data set: fetch its files of prompts, for a prompt set"
    )


def add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the method or reward; letters, digits, '-' and '_'")
    parser.add_argument("--reward", action="store_true", help="a reward instead of a method")
    parser.add_argument(
        "--package", action="store_true", help="an installable package with its entry point and a test of its own"
    )
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder")


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods or rewards, by name or file")
    parser.add_argument("--all", action="store_true", help="everything that is registered")
    parser.add_argument("--list", action="store_true", help="every check with its reason; runs nothing")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--process", action="store_true", help="rewards in a worker process of their own")
    place.add_argument("--reward-server", metavar="URL", help="rewards that `bench serve-rewards` has there")


def add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, metavar="FOLDER",
        help="a cell of the results (results/demonstration/alignment/soar/seed0) or a checkpoint; nothing: the base",
    )  # fmt: skip
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be repeated")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt in each line")
    parser.add_argument("--world", default="scenes", metavar="NAME", help="gives base and prompts (default: scenes)")
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="the base, where it is neither the cell's nor the world's own"
    )
    parser.add_argument("--guidance", type=float, metavar="W", help="default: the cell's in evaluation, else 3")
    parser.add_argument("--steps", type=int, metavar="N", help="default: the cell's in evaluation, else 20")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial noise (default 0)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="pictures of each prompt (default 4)")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help="default: samples.png")


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reward",
        required=True,
        metavar="A,B",
        help="scorers by name, file or module:function; see `bench list rewards`",
    )
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="a folder with pictures")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="a prompt for each picture, sorted by name: .txt, .csv, .tsv or .jsonl; or else a metadata.jsonl or .csv "
        "(file_name, text) in the folder",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("scores"), metavar="FOLDER", help="default: scores")
    add_reward_server(parser)


def add_reward_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reward-server", metavar="URL", help="take scorers that `bench serve-rewards` has from there")


def add_serve_rewards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reward", required=True, metavar="A,B", help="scorers by name or file")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0: a free one, printed")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="clients must know the token in it; or set $BENCH_REWARD_TOKEN"
    )
    parser.add_argument("--max-batch", type=int, default=256, metavar="N", help="pictures in a request (default 256)")
    parser.add_argument("--max-mb", type=int, default=256, metavar="MIB", help="size of a request (default 256)")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="for a body to arrive, and to score it (default 600)"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each scorer's process (default 1)")
    parser.add_argument("--memory", metavar="SIZE", help="most that each scorer may allocate: 8GiB, 500MiB")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help="geneval (a .jsonl with what to look for) or ocr (a .txt)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to; an existing file is replaced"
    )
    parser.add_argument("--split", default="train", metavar="NAME", help="train (default), tune or report")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice and order (default 0)")
    parser.add_argument(
        "--without", type=Path, metavar="FILE", help="prompts to leave out, e.g. those of an evaluation"
    )


def add_curate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="FOLDER", help="pictures with captions, as for `run`")
    parser.add_argument("--reward", required=True, metavar="NAME", help="scorer, by name, file or module:function")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--min", type=float, metavar="SCORE", help="keep the pictures of at least this score")
    which.add_argument("--top", type=float, metavar="SHARE", help="keep this share with the highest scores, as in 0.1")
    parser.add_argument("--model", metavar="PATH", help="its size and its captions' length count (default: embedded)")
    parser.add_argument("--allow-broken", metavar="SHARE", help="share of the rows that may be broken (default 0.01)")
    add_reward_server(parser)


def add_pretrain(parser: argparse.ArgumentParser) -> None:
    from pretrain.recipe import add_arguments

    add_arguments(parser)


def add_rehearse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", default="passes,lora,full,resume", metavar="A,B",
        help="default: passes,lora,full,resume; each writes a file of its own; or rewards: the published scorers",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), metavar="FOLDER", help="default: results/gpu")
    add_settings(parser)
    parser.set_defaults(preset="rehearsal")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument(
        "--tune", type=Path, nargs="?", const=Path("machine.yaml"), metavar="FILE",
        help="measure, and write workers, threads, precision and chunk sizes into FILE (default machine.yaml); "
        "`run --config FILE` reads it, a run never chooses by itself",
    )  # fmt: skip

"""What each command of the command line takes and does: its options, its help, and the function behind it.

What a command needs is imported when it runs, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int]

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
    ("model", "PATH", "checkpoint in the diffusers format instead of the world's own base"),
    ("workers", "N", "cells that run at once (default 2)"),
    ("threads", "N", "threads of each worker (default 1)"),
    ("reward-seconds", "SECONDS", "a call or load() of a reward that takes longer hangs, and is ended (default 600)"),
    ("tuning-trials", "N", "tuning trials that each method was given; only reported"),
)

OVERRIDES = """Any other setting has a dotted option, as in the presets:
  --train.batch_size 16            training of every method        bench list train
  --soar.num_points 3              a method's own setting          bench list soar
  --soar.train.learning_rate 1e-5  training of one method
  --evaluation.steps 10            evaluation                      bench list evaluation
  --task.candidates 2048           every task; or --alignment.candidates for one"""

EXAMPLES = """Examples:
  python -m bench run                                        the default: SFT, SOAR and Flow-GRPO, about 8 minutes
  python -m bench run --methods sft,soar --budget 60k --seeds 3 --name longer
  python -m bench run --methods sft,my_method.py --name mine a method of your own
  python -m bench plan --preset scenes                       what would run, and for how long
  python -m bench list soar                                  what a method is, and its settings
  python -m bench report --check                             do REPORT.md and the results agree?"""

CHECKING = """Each check exists because real code failed so. A failure says what was expected, what came, and why.
Micro-batches, ledger, frozen parts and resume are looked at again with LoRA.
Plugins are named as in `run`: by registered name, package.module:Class, or path/to/file.py.

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


# Options


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", default="quick", metavar="NAME", help="smoke, quick (default), scenes, plateau, or a .yaml file"
    )
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="FILE", help="a .yaml file laid over the preset"
    )
    for name, metavar, help_ in SETTINGS:
        parser.add_argument(f"--{name}", metavar=metavar, help=help_)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: REPORT.md beside the results folder")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="go on in a results folder whose cells were made by other code"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: REPORT.md beside the results folder")
    parser.add_argument("--check", action="store_true", help="write nothing; say where report and results differ")


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help="methods, rewards, tasks, presets, or the name or file of one of them; "
        "train, evaluation, experiment or task for their settings; nothing for an overview",
    )  # fmt: skip


def _add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the method or reward; letters, digits, '-' and '_'")
    parser.add_argument("--reward", action="store_true", help="a reward instead of a method")
    parser.add_argument(
        "--package", action="store_true", help="an installable package with its entry point and a test of its own"
    )
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods or rewards, by name or file")
    parser.add_argument("--all", action="store_true", help="everything that is registered")
    parser.add_argument("--list", action="store_true", help="every check with its reason; runs nothing")


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, metavar="FOLDER",
        help="a cell of the results (results/demonstration/alignment/soar/seed0) or a checkpoint; nothing: the base",
    )  # fmt: skip
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be repeated")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt in each line")
    parser.add_argument("--world", default="scenes", metavar="NAME", help="gives base and prompts (default: scenes)")
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="the base of the run, where it is not the world's own"
    )
    parser.add_argument("--guidance", type=float, default=3.0, metavar="W", help="guidance scale (default 3)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="sampling steps (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial noise (default 0)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="pictures of each prompt (default 4)")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help="default: samples.png")


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    from bench.pretrain.recipe import add_arguments

    add_arguments(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument(
        "--tune", type=Path, nargs="?", const=Path("machine.yaml"), metavar="FILE",
        help="measure, and write workers, threads, precision and chunk sizes into FILE (default machine.yaml); "
        "`run --config FILE` reads it, a run never chooses by itself",
    )  # fmt: skip


# Commands


def _experiment(args: argparse.Namespace) -> Any:
    """The experiment that the options describe; everything wrong with them in one message."""
    from bench.experiment import Text, load

    overrides: dict[str, Any] = {}
    problems = list(args.unknown)
    for name, _, _ in SETTINGS:
        field = name.replace("-", "_")
        if getattr(args, field) is not None:
            overrides[field] = Text(getattr(args, field))
    for path, value in args.dotted:
        if value is None:
            problems.append(f"--{path}: a value is missing")
        elif not all(path.split(".")):
            problems.append(f"--{path}: expected names with a dot between them, like --train.batch_size")
        elif path in overrides:
            problems.append(f"--{path}: given twice")
        else:
            overrides[path] = Text(value)
    return load(args.preset, overrides, args.config, problems)


def _report_path(args: argparse.Namespace) -> Path:
    return args.report or args.results.parent / "REPORT.md"


def _run(args: argparse.Namespace) -> int:
    experiment = _experiment(args)
    from bench import grid, report
    from bench.progress import Display

    with Display() as display:
        failed = grid.run(
            experiment, args.results, experiment.workers, display, _command(args.given), allow_mixed=args.allow_mixed
        )
    path = _report_path(args)
    report.build(args.results, path)
    folder = args.results / experiment.name
    print(report.terminal_table(folder))
    print(f"\nreport       {path}")
    for picture in sorted((folder / "figures").glob("samples*.png")):
        print(f"sample grid  {picture}")
    if failed:
        print(f"\n{failed} cells failed; their records say why, and the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _command(given: Sequence[str]) -> str:
    """The command line as it can be given again; where it wrote to is left out."""
    kept: list[str] = []
    rest = iter(given)
    for argument in rest:
        name = argument.split("=", 1)[0]
        if name not in ("--results", "--report", "--workers"):
            kept.append(argument)
        elif "=" not in argument:
            next(rest)
    return shlex.join(["python", "-m", "bench", *kept])


def _report(args: argparse.Namespace) -> int:
    from bench import report

    path = _report_path(args)
    if not args.check:
        report.build(args.results, path)
        print(path)
        return 0
    differences = report.check(args.results, path)
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{path}: {'agrees with the results' if not differences else f'{len(differences)} differences'}")
    return 1 if differences else 0


def _replay(args: argparse.Namespace) -> int:
    from bench.replay import replay

    return replay(args.cell)


def _plan(args: argparse.Namespace) -> int:
    experiment = _experiment(args)
    from bench.plan import estimate, render

    print(render(experiment, estimate(experiment, args.results)))
    return 0


def _list(args: argparse.Namespace) -> int:
    from bench.listing import listing

    print(listing(args.what))
    return 0


def _new(args: argparse.Namespace) -> int:
    from bench.scaffold import create

    print(create(args.name, args.into, reward=args.reward, package=args.package))
    return 0


def _check(args: argparse.Namespace) -> int:
    from bench.conformance import command

    return command.main(args.names, everything=args.all, listed=args.list)


def _sample(args: argparse.Namespace) -> int:
    from bench.sample import sample_grid

    prompts = sample_grid(
        args.checkpoint, args.out, prompts=args.prompt, prompt_file=args.prompts, world=args.world, model=args.model,
        guidance=args.guidance, steps=args.steps, seed=args.seed, samples=args.samples,
    )  # fmt: skip
    for row, prompt in enumerate(prompts, 1):
        print(f"row {row:2d}  {prompt}")
    print(args.out)
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    from bench.pretrain import recipe

    return int(recipe.main(args) or 0)


def _doctor(args: argparse.Namespace) -> int:
    from bench import doctor

    if args.tune is not None:
        return doctor.tune(args.tune)
    return doctor.examine(args.results)


COMMANDS: dict[str, tuple[str, Command, Callable[[argparse.ArgumentParser], object], str]] = {
    "run": (
        "run a comparison, write the report, print the table",
        _run,
        _add_run,
        f"{OVERRIDES}\n\nFinished cells are not run again; an interrupted run goes on where it stopped.\n\n{EXAMPLES}",
    ),
    "report": ("write the report and all figures from the results alone", _report, _add_report, ""),
    "replay": (
        "run the update of a failed cell that met NaN or infinity again, and say what it finds",
        _replay,
        lambda parser: parser.add_argument("cell", type=Path, metavar="CELL_FOLDER", help="a cell of the results"),
        "Nothing in the folder is changed.\n\nExample:\n  bench replay results/demonstration/alignment/soar/seed0",
    ),
    "plan": ("say what would run, at what cost and for how long, without training", _plan, _add_settings, OVERRIDES),
    "list": (
        "list methods, rewards, tasks and presets, or show one with its settings",
        _list,
        _add_list,
        "Examples:\n  bench list\n  bench list soar\n  bench list alignment\n  bench list quick\n  bench list train",
    ),
    "new": (
        "write a new method or reward that works, to be changed",
        _new,
        _add_new,
        "Examples:\n  bench new min_snr\n  bench new sharpness --reward\n  bench new min_snr --package --into ..",
    ),
    "check": ("run the conformance checks of methods and rewards", _check, _add_check, CHECKING),
    "sample": (
        "draw a grid of pictures from a checkpoint or from the base",
        _sample,
        _add_sample,
        'Example:\n  bench sample results/demonstration/alignment/soar/seed0 --prompt "a red circle"',
    ),
    "pretrain": ("rebuild the embedded world's models from nothing", _pretrain, _add_pretrain, ""),
    "doctor": ("say whether this machine is fit, and with --tune how to use it best", _doctor, _add_doctor, ""),
}

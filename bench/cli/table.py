"""What each command of the command line does; `bench.cli.options` says what it takes.

What a command needs is imported when it runs, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench.cli import options
from bench.cli.experiment_options import experiment_of, report_path, with_pictures, with_prompt_sets
from bench.cli.run import run

Command = Callable[[argparse.Namespace], int]


def _status(args: argparse.Namespace) -> int:
    from bench.cli.status import show

    try:
        show(args.results, args.name, watch=args.watch)
    except KeyboardInterrupt:  # enough was seen; the run goes on
        print()
    return 0


def _report(args: argparse.Namespace) -> int:
    from bench.results import report

    path = report_path(args)
    if not args.check:
        report.write_report(args.results, path)
        print(path)
        return 0
    differences = report.check_report(args.results, path)
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{path}: {'agrees with the results' if not differences else f'{len(differences)} differences'}")
    return 1 if differences else 0


def _replay(args: argparse.Namespace) -> int:
    from bench.experiments.replay import replay
    from bench.scoring.folder.curate import settings_of

    pictures = None if args.data is None else settings_of(args.data, args.dotted)
    return replay(args.cell, pictures, args.reward_server)


def _plan(args: argparse.Namespace) -> int:
    experiment = with_prompt_sets(experiment_of(args))
    from bench.preflight.forecast.shapes import is_model_here

    if args.gpu is not None or experiment.weights == "random" or not is_model_here(experiment.model):
        return _forecast(experiment, args)
    if args.utilisation is not None or args.cards != 1 or experiment.shard:
        from bench.api import ConfigError

        raise ConfigError(
            "--utilisation, --cards, --shard: this model is here and is measured, by one process: name a card by --gpu "
            "as well, and the same is computed"
        )
    experiment, _ = with_pictures(experiment)
    from bench.preflight.forecast.plan import measure_plan
    from bench.preflight.forecast.render import render_plan

    print(render_plan(experiment, measure_plan(experiment, args.results)))
    return 0


def _forecast(experiment: Any, args: argparse.Namespace) -> int:
    from bench.parsing import split_list
    from bench.preflight.forecast.cards import CARDS, card_named
    from bench.preflight.forecast.forecast import UTILISATION, forecast_experiment
    from bench.preflight.forecast.render import render_forecast
    from bench.preflight.forecast.shapes import is_model_here

    cards = [card_named(name) for name in split_list(args.gpu)] if args.gpu is not None else list(CARDS.values())
    if experiment.data is not None and is_model_here(experiment.model):
        experiment, _ = with_pictures(experiment)
    elif experiment.world == "images":
        print("The user's pictures were not looked at: as many are assumed as the tasks take at most.\n")
    utilisation = args.utilisation or UTILISATION
    print(render_forecast(forecast_experiment(experiment, args.results, args.cards), cards, utilisation))
    return 0


def _rehearse(args: argparse.Namespace) -> int:
    experiment = experiment_of(args)
    from bench.cli.rehearse import main
    from bench.parsing import split_list

    return main(experiment, split_list(args.parts), args.out)


def _fetch(args: argparse.Namespace) -> int:
    from bench.datasets.prompts.readers import PROMPT_FILES
    from bench.hub import fetch_data_set, fetch_model

    print(fetch_data_set(args.model, PROMPT_FILES) if args.prompts else fetch_model(args.model))
    return 0


def _list(args: argparse.Namespace) -> int:
    from bench.cli.list import listing

    print(listing(args.what))
    return 0


def _new(args: argparse.Namespace) -> int:
    from bench.cli.new import create

    print(create(args.name, args.into, reward=args.reward, package=args.package))
    return 0


def _check(args: argparse.Namespace) -> int:
    from bench.cli import check as command

    return command.main(
        args.names, everything=args.all, listed=args.list, process=args.process, server=args.reward_server
    )


def _curate(args: argparse.Namespace) -> int:
    from bench.scoring.folder.curate import Rule, curate_folder, settings_of

    allowed = [] if args.allow_broken is None else [("data.allow_broken", args.allow_broken)]
    settings = settings_of(args.data, [*allowed, *args.dotted])
    print(curate_folder(settings, args.reward, args.model, Rule.of(args.min, args.top), args.reward_server))
    return 0


def _sample(args: argparse.Namespace) -> int:
    from bench.experiments.sample import sample_grid

    prompts = sample_grid(
        args.checkpoint, args.out, prompts=args.prompt, prompt_file=args.prompts, world=args.world, model=args.model,
        guidance=args.guidance, steps=args.steps, seed=args.seed, samples=args.samples,
    )  # fmt: skip
    for row, prompt in enumerate(prompts, 1):
        print(f"row {row:2d}  {prompt}")
    print(args.out)
    return 0


def _score(args: argparse.Namespace) -> int:
    from bench.parsing import split_list
    from bench.scoring.folder.score import score_folder, summary

    scores = score_folder(split_list(args.reward), args.images, args.out, args.prompts, args.reward_server)
    print(summary(scores, args.out))
    return 1 if scores.broken else 0


def _prompts(args: argparse.Namespace) -> int:
    from bench.cli.prompts import write_prompts

    counts = write_prompts(
        args.kind, args.count, args.out, split=args.split, seed=args.seed, without=args.without
    )  # fmt: skip
    print(f"{args.out}: {', '.join(f'{count} {category}' for category, count in counts.items())}")
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    from pretrain import recipe

    return int(recipe.run_recipe(args) or 0)


def _reward_env(args: argparse.Namespace) -> int:
    from bench.cli.reward_env import build_reward_environment

    build_reward_environment(args.name)
    return 0


def _serve_rewards(args: argparse.Namespace) -> int:
    from bench.scoring.server.launch import main

    main(args)
    return 0


def _cache(args: argparse.Namespace) -> int:
    from bench.cli.cache import describe_cache

    print(describe_cache(clear=args.clear))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from bench.cli import doctor

    if args.tune is not None:
        return doctor.tune(args.tune)
    return doctor.examine_machine(args.results)


COMMANDS: dict[str, tuple[str, Command, Callable[[argparse.ArgumentParser], object], str]] = {
    "run": (
        "run a comparison, write the report, print the table",
        run,
        options.add_run,
        f"{options.OVERRIDES}\n\nFinished cells are not run again; an interrupted run goes on where it stopped.\n\n"
        f"{options.EXAMPLES}",
    ),
    "status": (
        "say what runs, how far it is and how long it will take",
        _status,
        options.add_status,
        "Only reads, while a run goes on or after it.\n\n"
        "Examples:\n  bench run --preset scenes --detach\n  bench status --name scenes --watch",
    ),
    "report": ("write the report and all figures from the results alone", _report, options.add_report, ""),
    "replay": (
        "run the update of a failed cell that met NaN or infinity again, and say what it finds",
        _replay,
        options.add_replay,
        "Nothing in the folder is changed.\n\nExample:\n  bench replay results/demonstration/alignment/soar/seed0",
    ),
    "plan": (
        "say what would run, at what cost and for how long, without training",
        _plan,
        options.add_plan,
        f"{options.PLANNING}\n\n{options.OVERRIDES}",
    ),
    "fetch": (
        "download a model (or a set of prompts) of the Hugging Face hub; nothing else ever downloads one",
        _fetch,
        options.add_fetch,
        "Where the hub asks for it, accept the licence on the model's page, and set HF_TOKEN to a token of yours.\n\n"
        "Examples:\n  bench fetch stabilityai/stable-diffusion-3.5-medium\n"
        "  bench fetch --prompts ORGANISATION/PROMPTS    then --evaluation.prompt_sets.drawbench ORGANISATION/PROMPTS",
    ),
    "rehearse": (
        "run every method, evaluation and checkpoint with random weights, and measure time, memory and utilisation",
        _rehearse,
        options.add_rehearse,
        options.REHEARSING,
    ),
    "list": (
        "list methods, rewards, tasks and presets, or show one with its settings",
        _list,
        options.add_list,
        "Examples:\n  bench list\n  bench list soar\n  bench list alignment\n  bench list quick\n  bench list train",
    ),
    "new": (
        "write a new method or reward that works, to be changed",
        _new,
        options.add_new,
        "Examples:\n  bench new min_snr\n  bench new sharpness --reward\n  bench new min_snr --package --into ..",
    ),
    "check": ("run the conformance checks of methods and rewards", _check, options.add_check, options.CHECKING),
    "curate": (
        "score the user's own pictures, and select the best of them to train on",
        _curate,
        options.add_curate,
        "Scores and selection are written beside the data; `run --data SELECTION.json` trains on it.\n\n"
        "Examples:\n  bench curate --data pictures --reward aesthetic\n"
        "  bench curate --data pictures --reward aesthetic --min 6.8",
    ),
    "sample": (
        "draw a grid of pictures from a checkpoint or from the base",
        _sample,
        options.add_sample,
        'Example:\n  bench sample results/demonstration/alignment/soar/seed0 --prompt "a red circle"',
    ),
    "score": (
        "judge the pictures of a folder: a table and a ranked contact sheet",
        _score,
        options.add_score,
        "Files that are no pictures, or cannot be judged, are listed and never scored; then the exit status is 1.\n\n"
        "Examples:\n  bench score --reward jpeg --images FOLDER\n"
        "  bench score --reward clipscore,ocr --images FOLDER --prompts prompts.txt",
    ),
    "serve-rewards": (
        "score pictures for runs on other GPUs or machines, over HTTP",
        _serve_rewards,
        options.add_serve_rewards,
        "Each scorer has a process of its own. Answers are kept on the disk: nothing is scored twice.\n\nExamples:\n"
        "  bench serve-rewards --reward pickscore,ocr --device cuda:1\n"
        "  bench run --preset sd35-medium --data FOLDER --reward pickscore --reward-server http://127.0.0.1:8000",
    ),
    "reward-env": (
        "build the environment of its own that a reward works in; a second call finds it",
        _reward_env,
        lambda parser: parser.add_argument("name", metavar="REWARD", help="e.g. imagereward"),
        "It lies below $BENCH_CACHE (~/.cache/bench), by the hash of its pins; it takes minutes and gigabytes.\n\n"
        "Example:\n  bench reward-env imagereward",
    ),
    "prompts": (
        "write prompts in GenEval's format, or that ask for a written text",
        _prompts,
        options.add_prompts,
        "The splits have nothing in common, whatever the seed.\n\n"
        "Examples:\n  bench prompts geneval --count 600 --split report --out geneval.jsonl\n"
        "  bench prompts ocr --count 1000 --out ocr.txt",
    ),
    "pretrain": ("rebuild the embedded world's models from nothing", _pretrain, options.add_pretrain, ""),
    "cache": (
        "say what the cache of latents and text embeddings holds, or clear it",
        _cache,
        lambda parser: parser.add_argument("--clear", action="store_true", help="remove what no living run works with"),
        "It lies in $BENCH_CACHE/encoded (~/.cache/bench/encoded); `run --cache-gib N` limits it.",
    ),
    "doctor": ("say whether this machine is fit, and with --tune how to use it best", _doctor, options.add_doctor, ""),
}

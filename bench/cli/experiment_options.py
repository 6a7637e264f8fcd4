"""What several commands share: the options that describe an experiment, and what is read from them.

What takes time to import is imported where it is used, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from bench.cli.setting import Setting, settings_in

OVERRIDES = """Any other setting has a dotted option, as in the presets:
  --train.batch_size 16            training of every method        bench list train
  --runtime.resolution 512         how the model is loaded         bench list runtime
  --soar.num_points 3              a method's own setting          bench list soar
  --soar.train.learning_rate 1e-5  training of one method
  --evaluation.steps 10            evaluation                      bench list evaluation
  --evaluation.prompt_sets.drawbench FILE    prompts to judge by   bench list prompt_set
  --task.candidates 2048           every task; or --alignment.candidates for one
  --scorers.jpeg.threads 2         a scorer in its own process     bench list scorers"""

# Options at the top level that are no fields of an experiment, and what they stand for.
_SHORTHANDS = {"data": "data.path", "allow_broken": "data.allow_broken", "reward": "reward"}


def add_experiment(parser: argparse.ArgumentParser, *, preset: str | None = None) -> None:
    """What `read_experiment` reads: preset, files, each field of `Experiment` with a metavar, and dotted options."""
    from bench.config.load import presets

    default = preset or "quick; with --data images"
    parser.add_argument(
        "--preset", default=preset, metavar="NAME", help=f"{', '.join(presets())}, or a .yaml file (default {default})"
    )
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="FILE", help="a .yaml file laid over the preset"
    )
    for setting in _fields():
        default = "default: the preset's" if setting.default == "required" else setting.default
        _add(parser, setting.option, setting.metavar, f"{setting.help} ({default})")
    add_data(parser)
    parser.add_argument(
        "--reward", metavar="NAME",
        help="scorer, also module:function, that trains, and selects where a task does, instead of the tasks' own",
    )  # fmt: skip
    add_results(parser)
    parser.set_defaults(dotted=(), unknown=())


def add_data(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """What `read_pictures` reads: the user's own pictures, with dotted options of the block `data`."""
    from bench.config.pictures import Data

    parser.add_argument(
        "--data", required=required, metavar="FOLDER",
        help="pictures of your own: a folder with metadata.jsonl or .csv, and more (bench list data)",
    )  # fmt: skip
    allowed = settings_in(Data)["allow_broken"]
    _add(parser, allowed.option, "SHARE", f"of --data: {allowed.help} ({allowed.default})")
    parser.set_defaults(dotted=())


def add_reward_server(parser: argparse._ActionsContainer) -> None:
    """The address of a reward server, for commands that describe no experiment."""
    from bench.config.settings import Experiment

    server = settings_in(Experiment)["reward_server"]
    _add(parser, server.option, server.metavar, f"{server.help} ({server.default})")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where the results lie."""
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")


def _fields() -> list[Setting]:
    """The fields of an experiment that have an option of their own."""
    from bench.config.settings import Experiment

    return [setting for setting in settings_in(Experiment).values() if setting.metavar]


def _add(parser: argparse._ActionsContainer, option: str, metavar: str, text: str) -> None:
    parser.add_argument(option, metavar=metavar, help=text.replace("%", "%%"))


def read_experiment(args: argparse.Namespace) -> Any:
    """The experiment that the options describe; `~/` in them is the user's folder, as in recorded commands.

    Raises:
        ConfigError: everything that is wrong with them, in one message.
        PluginError: a method breaks the contract of `bench.api`.
    """
    from bench.config.load import load_settings
    from bench.parsing import Text
    from bench.paths import expanded

    overrides: dict[str, Any] = {}
    problems = list(args.unknown)
    for name, path in ({setting.name: setting.name for setting in _fields()} | _SHORTHANDS).items():
        if getattr(args, name) is not None:
            overrides[path] = Text(expanded(getattr(args, name)))
    for path, value in args.dotted:
        if value is None:
            problems.append(f"--{path}: a value is missing")
        elif not all(path.split(".")):
            problems.append(f"--{path}: expected names with a dot between them, like --train.batch_size")
        elif path in overrides:
            problems.append(f"--{path}: given twice")
        else:
            overrides[path] = Text(expanded(value))
    preset = ("quick" if args.data is None else "images") if args.preset is None else args.preset
    return load_settings(expanded(preset), overrides, [expanded(str(path)) for path in args.config], problems)


def read_pictures(args: argparse.Namespace) -> Any:
    """The settings of the user's pictures (`bench.config.pictures.Data`) that the options describe.

    Raises:
        ConfigError: everything that is wrong with them, in one message.
    """
    from bench.scoring.folder.curate_folder import data_settings

    allowed = [] if args.allow_broken is None else [(_SHORTHANDS["allow_broken"], args.allow_broken)]
    return data_settings(args.data, [*allowed, *args.dotted])


def with_prompt_sets(experiment: Any, *, is_first: bool = True) -> Any:
    """The experiment with what was found in its prompt sets, which is printed."""
    from bench.datasets.prompts.sets import load_sets, prompt_sets_table

    sets = load_sets(experiment.evaluation.prompt_sets)
    if sets and is_first:
        print(f"{prompt_sets_table(sets)}\n")
    found = dataclasses.replace(experiment.evaluation, prompt_sets={one.name: one.settings for one in sets})
    return dataclasses.replace(experiment, evaluation=found)


def with_pictures(experiment: Any, *, is_first: bool = True) -> tuple[Any, Any]:
    """The experiment with what was found in the user's pictures, which is printed, and the pictures; others as is.

    Raises:
        DataError: the pictures cannot be used, or their captions are too few.
    """
    if experiment.world != "images":
        return experiment, None
    from bench.datasets.base_model import base_model
    from bench.datasets.pictures.enough_captions import pictures_of, require_captions
    from bench.datasets.pictures.preparation import pictures_table

    prepared = pictures_of(experiment, base_model(experiment.model))
    if is_first:
        print(f"{pictures_table(prepared)}\n")
    require_captions(prepared, experiment)
    return dataclasses.replace(experiment, data=prepared.settings), prepared

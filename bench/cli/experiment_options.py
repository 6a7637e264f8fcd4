"""What the options of a command ask for: an experiment, the user's pictures, prompt sets, the place of the report.

What reading them needs is imported when they are read, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from bench.cli import options


def experiment_of(args: argparse.Namespace) -> Any:
    """The experiment that the options describe; everything wrong with them in one message."""
    from bench.config.load import load_settings
    from bench.parsing import Text

    overrides: dict[str, Any] = {}
    problems = list(args.unknown)
    for name, _, _ in options.SETTINGS:
        field = name.replace("-", "_")
        if getattr(args, field) is not None:
            overrides[options.WITHIN.get(field, field)] = Text(getattr(args, field))
    for path, value in args.dotted:
        if value is None:
            problems.append(f"--{path}: a value is missing")
        elif not all(path.split(".")):
            problems.append(f"--{path}: expected names with a dot between them, like --train.batch_size")
        elif path in overrides:
            problems.append(f"--{path}: given twice")
        else:
            overrides[path] = Text(value)
    preset = args.preset or ("quick" if args.data is None else "images")
    return load_settings(preset, overrides, args.config, problems)


def with_prompt_sets(experiment: Any, *, is_first: bool = True) -> Any:
    """The experiment with what was found in its prompt sets, which is printed."""
    from bench.datasets.prompts.sets import load_sets, prompt_sets_table

    sets = load_sets(experiment.evaluation.prompt_sets)
    if sets and is_first:
        print(f"{prompt_sets_table(sets)}\n")
    found = dataclasses.replace(experiment.evaluation, prompt_sets={one.name: one.settings for one in sets})
    return dataclasses.replace(experiment, evaluation=found)


def with_pictures(experiment: Any, *, is_first: bool = True) -> tuple[Any, Any]:
    """The experiment with what was found in the user's pictures, which is printed, and the pictures; others as is."""
    if experiment.world != "images":
        return experiment, None
    from bench.datasets.base_model import base_model
    from bench.datasets.pictures.preparation import pictures_table, prepare_pictures, require_pictures

    prepared = prepare_pictures(require_pictures(experiment.data), base_model(experiment.model))
    if is_first:
        print(f"{pictures_table(prepared)}\n")
    return dataclasses.replace(experiment, data=prepared.settings), prepared


def report_path(args: argparse.Namespace) -> Path:
    """Where the report goes: beside the results where nothing else was said."""
    return args.report or args.results.parent / "REPORT.md"

"""Run a comparison, write the report, print the table.

At once, detached, or as one process of several.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli.experiment_options import (
    OVERRIDES,
    add_experiment,
    read_experiment,
    with_pictures,
    with_prompt_sets,
)

EPILOG = f"""{OVERRIDES}

Finished cells are not run again; an interrupted run goes on where it stopped.

Examples:
  python -m bench run                                        the default: SFT, SOAR and Flow-GRPO, about 8 minutes
  python -m bench run --methods sft,soar --budget 60k --seeds 3 --name longer
  python -m bench run --methods sft,my_method.py --name mine a method of your own"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_experiment(parser)
    parser.add_argument(
        "--allow-mixed", action="store_true", help="go on in a results folder whose cells were made by other code"
    )
    parser.add_argument(
        "--detach", action="store_true", help="run without this terminal, and write to a log beside the results"
    )


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where cells failed."""
    from bench.distributed.launch import RankInfo, Team

    read = read_experiment(args)
    place = RankInfo.here(shard=read.shard)
    requested = with_prompt_sets(read, is_first=place is None or place.rank == 0)
    from bench.experiments.requirements import require_ready
    from bench.experiments.status.tracking import Tracked, tracker_of

    tracker = tracker_of(requested, args.results)  # first of all: pictures may take an hour to prepare
    require_ready(requested, args.results)
    if args.detach:
        return _detach(args, requested.name, under_launcher=place is not None)
    team = Team(place) if place else None
    experiment, prepared = with_pictures(requested, is_first=team is None or team.leads)
    from bench.experiments import grid
    from bench.experiments.status.pace import judging_of
    from bench.experiments.status.progress import ProgressDisplay
    from bench.paths import inside
    from bench.results import report

    if team is not None and not team.leads:
        grid.follow_experiment(experiment, args.results, team)
        return 0  # the first process tells how the run ended
    folder = inside(args.results, experiment.name)
    report.require_places(folder)
    workers, judging = 1 if team else experiment.workers, judging_of(experiment.evaluation)
    with ProgressDisplay(judging=judging, workers=workers, folder=folder) as display:
        failed = grid.run_experiment(
            experiment, args.results, workers,
            Tracked(display, tracker, folder) if tracker else display, command_line(args.given),
            allow_mixed=args.allow_mixed, team=team,
        )  # fmt: skip
    if prepared is not None:
        from bench.datasets.pictures.inspection import copy_lists

        copy_lists(prepared.inspected, folder / "data")
    report.write_experiment(folder)
    print(report.terminal_table(folder))
    _print_places(folder, tracker.hint if tracker else None, experiment.cache_gib)
    if failed:
        print(f"\n{failed} cells failed; their records say why, and the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _print_places(folder: Path, curves: str | None, cache_gib: float) -> None:
    from bench.cli.cache import cache_savings
    from bench.results.report import page_of, report_of

    print(f"\nreport       {report_of(folder)}")
    for picture in sorted((folder / "figures").glob("samples*.png")):
        print(f"sample grid  {picture}")
    if curves:
        print(f"curves       {curves}")
    if cache := cache_savings(folder, cache_gib):
        print(f"cache        {cache}")
    if (page := page_of(folder)).is_file():
        print(f"open         {page}")


def command_line(given: Sequence[str]) -> str:
    """The command line as it can be given again, without where it wrote to, and where and how it was computed.

    Paths are as `portable` has them.
    """
    from bench.cli.setting import settings_in
    from bench.config.settings import Experiment
    from bench.paths import portable

    effects = {setting.option: setting.effect for setting in settings_in(Experiment).values()}
    kept: list[str] = []
    rest = iter(given)
    for argument in rest:
        name = argument.split("=", 1)[0]
        if name != "--results" and effects.get(name.split(".", 1)[0]) != "run":
            kept.append(portable(argument))
        elif "=" not in argument:
            next(rest)
    return shlex.join(["python", "-m", "bench", *kept])


def _detach(args: argparse.Namespace, name: str, *, under_launcher: bool) -> int:
    from bench.api import ConfigError
    from bench.experiments.detach import detach

    if under_launcher:
        raise ConfigError("--detach starts one process of its own: start the launcher itself in the background instead")
    pid, log = detach([argument for argument in args.given if argument != "--detach"], args.results / name)
    where = "" if args.results == Path("results") else f" --results {shlex.quote(str(args.results))}"
    print(f"process  {pid}; `kill {pid}` stops it, and the same command goes on")
    print(f"log      {log}")
    print(f"watch    python -m bench status{where} --name {name} --watch")
    return 0

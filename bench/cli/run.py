"""`bench run`: the comparison, its report, and where they lie; at once, detached, or one process of several."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli.experiment_options import experiment_of, report_path, with_pictures, with_prompt_sets


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where cells failed."""
    from bench.distributed.launch import RankInfo, Team

    read = experiment_of(args)
    place = RankInfo.here(shard=read.shard)
    asked = with_prompt_sets(read, is_first=place is None or place.rank == 0)
    from bench.experiments.status.tracking import Tracked, tracker_of

    tracker = tracker_of(asked, args.results)  # first of all: pictures may take an hour to prepare
    if args.detach:
        return _detach(args, asked.name, under_launcher=place is not None)
    team = Team(place) if place else None
    experiment, prepared = with_pictures(asked, is_first=team is None or team.leads)
    from bench.experiments import grid
    from bench.experiments.status.progress import ProgressDisplay
    from bench.results import report

    if team is not None and not team.leads:
        grid.follow_experiment(experiment, args.results, team)
        return 0  # the first process tells how the run ended
    folder = args.results / experiment.name
    with ProgressDisplay() as display:
        failed = grid.run_experiment(
            experiment, args.results, 1 if team else experiment.workers,
            Tracked(display, tracker, folder) if tracker else display, command_line(args.given),
            allow_mixed=args.allow_mixed, team=team,
        )  # fmt: skip
    path = report_path(args)
    if prepared is not None:
        from bench.datasets.pictures.inspection import copy_lists

        copy_lists(prepared.inspected, folder / "data")
    report.write_report(args.results, path)
    print(report.terminal_table(folder))
    _print_places(folder, path, tracker.hint if tracker else None, experiment.cache_gib)
    if failed:
        print(f"\n{failed} cells failed; their records say why, and the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _print_places(folder: Path, report: Path, curves: str | None, cache_gib: float) -> None:
    from bench.cli.cache import cache_savings

    print(f"\nreport       {report}")
    for picture in sorted((folder / "figures").glob("samples*.png")):
        print(f"sample grid  {picture}")
    if curves:
        print(f"curves       {curves}")
    if cache := cache_savings(folder, cache_gib):
        print(f"cache        {cache}")


def command_line(given: Sequence[str]) -> str:
    """The command line as it can be given again; where it wrote to is left out."""
    kept: list[str] = []
    rest = iter(given)
    for argument in rest:
        name = argument.split("=", 1)[0]
        if name not in ("--results", "--report", "--workers", "--track"):
            kept.append(argument)
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

"""Write the reports, all figures and each experiment's page from the results alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.api import ConfigError, DataError
from bench.cli.experiment_options import add_results
from bench.suggest import hint

EPILOG = """Of one experiment: its REPORT.md, figures and report.html, in its folder.
Of all: those of each, and of those that are shared the short REPORT.md beside the results. An experiment is your own,
and out of version control, until you remove the .gitignore that its first run wrote into its folder.

Examples:
  bench report mine                                          of the experiment results/mine
  bench report --results results/mine                        the same
  bench report --check                                       do all reports and the results agree?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one experiment; default: all that there are")
    add_results(parser)
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="the short one of all; default: REPORT.md beside the results folder"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say where reports and results differ")


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where a check finds differences, or where results are not what was recorded."""
    from bench.results import report
    from bench.results.report.markdown import one_line, printable

    folder = _experiment(args.results, args.name)
    if folder and args.report:
        raise ConfigError(f"--report is of the report of all experiments: that of one stands in {folder}")
    short = args.report or args.results.parent / "REPORT.md"
    if args.check:
        found = report.check_experiment(folder) if folder else report.check_report(args.results, short)
        for difference in found:
            print(difference, file=sys.stderr)
        said = f"{len(found)} differences" if found else "reports, figures and pages agree with the results"
        print(f"{folder or args.results}: {said}")
        return 1 if found else 0
    document = report.write_experiment(folder) if folder else report.write_report(args.results, short)
    for reason in document.refused:
        print(printable(f"not reported: {one_line(reason)}"), file=sys.stderr)
    for place, _ in document.texts:
        print(place)
    return 1 if document.refused else 0


def _experiment(results: Path, name: str | None) -> Path | None:
    """The folder of the experiment that is meant; None where all are.

    Raises:
        DataError: there is none of this name.
    """
    from bench.paths import inside
    from bench.results.records.listing import list_results
    from bench.results.records.writer import EXPERIMENT

    if name is None:
        if not (results / EXPERIMENT).is_file() or list_results(results):
            return None
        whole = results if results.name not in ("", "..") else Path(os.path.abspath(results))  # noqa: PTH100
        return inside(whole.parent, whole.name)
    names = [folder.name for folder in list_results(results)]
    if name not in names:
        raise DataError(f"no experiment {name!r} in {results}{hint(name, names)}")
    return inside(results, name)

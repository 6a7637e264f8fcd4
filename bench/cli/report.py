"""Write the report, all figures and each experiment's page from the results alone."""

from __future__ import annotations

import argparse
import sys

from bench.cli.experiment_options import add_report, add_results, report_path

EPILOG = """Example:
  bench report --check                                       do REPORT.md and the results agree?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_results(parser)
    add_report(parser)
    parser.add_argument("--check", action="store_true", help="write nothing; say where report and results differ")


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where a check finds differences, or where results are not what was recorded."""
    from bench.results import report
    from bench.results.report.markdown import one_line, printable

    path = report_path(args)
    if not args.check:
        refused = report.write_report(args.results, path)
        for reason in refused:
            print(printable(f"not reported: {one_line(reason)}"), file=sys.stderr)
        print(path)
        return 1 if refused else 0
    differences = report.check_report(args.results, path)
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{path}: {'agrees with the results' if not differences else f'{len(differences)} differences'}")
    return 1 if differences else 0

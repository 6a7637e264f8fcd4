"""Say whether the results are what was recorded: places, hashes, settings, scores, ledgers, pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.api import DataError
from bench.cli.experiment_options import add_results

EPILOG = """Only reads.

Examples:
  bench verify                                               everything in results/
  bench verify --name demonstration"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_results(parser)
    parser.add_argument("--name", metavar="NAME", help="one experiment; default: all that there are")


def run(args: argparse.Namespace) -> int:
    """Print one line for each problem, and how much was looked at; the exit status is 1 where anything is wrong."""
    from bench.results.records.listing import list_results
    from bench.results.report.markdown import one_line, printable

    folders = [folder for folder in list_results(args.results) if args.name in (None, folder.name)]
    if not folders:
        what = "no experiment" if args.name is None else f"no experiment {args.name!r}"
        raise DataError(f"{args.results} holds {what}: run one (`python -m bench run`), or name another by --results")
    cells = unhashed = problems = 0
    for folder in folders:
        for count, without, problem, note in _verified(folder):
            cells, unhashed, problems = cells + count, unhashed + without, problems + bool(problem)
            if problem:
                print(printable(one_line(problem)), file=sys.stderr)
            if note:
                print(printable(one_line(note)))
    if unhashed:
        print(f"{unhashed} cells were recorded before hashes were: their lines and files have none to compare with")
    print(f"{len(folders)} experiments, {cells} cells: {f'{problems} problems' if problems else 'all is as recorded'}")
    return 1 if problems else 0


def _verified(folder: Path) -> Iterator[tuple[int, int, str, str]]:
    """Of an experiment, piece by piece: how many cells it has, how many without hashes, a problem or none, and a note.

    A registration that was changed after cells were recorded is no fault of theirs, and so a note.
    """
    from bench.results.records.hashes import changed_file
    from bench.results.records.reader import read_experiment
    from bench.results.report.registered import other_registrations

    try:
        experiment = read_experiment(folder)
    except DataError as error:
        yield 0, 0, str(error), ""
        return
    yield len(experiment.results) + len(experiment.refused), 0, "", other_registrations(experiment) or ""
    for cells, reason in experiment.refused_by_reason():
        yield 0, 0, f"{folder}/{cells}: {reason}", ""
    for cell in experiment.results:
        yield 0, int(not cell.is_hashed), "", ""
        for name, digest in cell.end.model.items() if cell.end else ():
            try:
                found = changed_file(cell.folder, name, digest) if (cell.folder / name).exists() else None  # no commit
            except DataError as error:  # a link, or a pipe, in its place
                found = str(error)
            yield 0, 0, f"{cell.folder}: {found}" if found else "", ""

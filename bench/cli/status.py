"""Say what runs, how far it is and how long it will take."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.api import ConfigError, DataError
from bench.cli.experiment_options import add_results
from bench.experiments.detach import LOG
from bench.experiments.status.progress import amount, cell_table, clock_text
from bench.experiments.status.view import ExperimentView, look
from bench.locks import lock_holder
from bench.paths import inside
from bench.results.records.listing import list_experiments
from bench.suggest import hint

EPILOG = """Only reads, while a run goes on or after it.

Examples:
  bench run --preset scenes --detach
  bench status --name scenes --watch"""

WATCH_SECONDS = 2.0
_ORDER = ("done", "failed", "training", "judging", "starting", "interrupted", "waiting")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_results(parser)
    parser.add_argument(
        "--name", metavar="NAME", help="one experiment, with all its cells; default: all that there are"
    )
    parser.add_argument(
        "--watch", action="store_true", help="what runs, again and again until it ends (Ctrl-C: enough)"
    )


def run(args: argparse.Namespace) -> int:
    """The exit status: 0, also where it was watched only for a while."""
    try:
        show(args.results, args.name, watch=args.watch)
    except KeyboardInterrupt:  # enough was seen; the run goes on
        print()
    return 0


def render_status(view: ExperimentView, *, finished: bool = True) -> Group:
    """The experiment for a terminal; `finished` says whether finished cells get a row each, too."""
    hidden = ("waiting",) if finished else ("waiting", "done")
    shown = [cell for cell in view.cells if cell.state.phase not in hidden]
    parts: list[object] = [Text(f"{view.name}: {_who(view)}", style="bold")]
    if shown:
        parts.append(cell_table((cell.state, cell.seconds_left) for cell in shown))
    parts.append(Text(_summary(view)))
    parts += [
        Text(f"{c.state.name} failed: {(c.reason or '').splitlines()[0]}", style="red") for c in shown if c.reason
    ]
    return Group(*parts)  # type: ignore[arg-type]


def _who(view: ExperimentView) -> str:
    if view.run is None:
        return "finished" if view.is_finished else "nothing runs; the same command goes on where it stopped"
    if not view.run.lives:
        return f"the run of {view.run} ended without a word; the same command goes on"
    since = clock_text((datetime.now(UTC) - view.run.began).total_seconds())
    unseen = "" if view.run.is_here else ", which cannot be looked at from here"
    return f"run by process {view.run.pid} on {view.run.host}{unseen}, for {since}"


def _summary(view: ExperimentView) -> str:
    counts = Counter(cell.state.phase for cell in view.cells)
    text = f"{len(view.cells)} cells: " + ", ".join(f"{counts[phase]} {phase}" for phase in _ORDER if counts[phase])
    text += f"; cost {amount(sum(cell.state.cost or 0.0 for cell in view.cells))}"
    left = view.seconds_left
    return text if left is None else f"{text}; about {clock_text(left)} left"


def _log_end(view: ExperimentView) -> list[Text]:
    """Where the log of a detached run that has ended is, and what it said last."""
    log = inside(view.folder, LOG)
    if view.is_running or view.is_finished or not log.is_file():
        return []
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return [Text(f"{log} ends: {lines[-1]}")] if lines else []


def show(results: Path, name: str | None, *, watch: bool, console: Console | None = None) -> None:
    """Print the experiments of a results folder, or the one of this name in full; with `watch` until its run ends.

    Raises:
        DataError: there are none, or a record is damaged.
        ConfigError: `watch` where no terminal is, or where nothing runs.
    """
    console = console or Console(soft_wrap=True)
    folders = _folders(results, name)
    if watch:
        _watch(folders, console)
        return
    for number, view in enumerate(map(look, folders)):
        if view.is_finished and name is None:
            console.print(Text(f"{view.name}: {_summary(view)}"))
            continue
        console.print(*([""] if number else []), render_status(view), *_log_end(view), sep="\n")


def _folders(results: Path, name: str | None) -> list[Path]:
    folders = list_experiments(results)
    names = [folder.name for folder in folders]
    if not names:
        raise DataError(
            f"{results} holds no experiment: run one (`python -m bench run`), or name another folder by --results"
        )
    if name is not None and name not in names:
        raise DataError(f"no experiment {name!r} in {results}{hint(name, names)}")
    return [folder for folder in folders if name in (None, folder.name)]


def _watch(folders: Sequence[Path], console: Console) -> None:
    if not console.is_terminal:
        raise ConfigError("--watch needs a terminal, and the output goes elsewhere: leave --watch out")
    running = [folder for folder in folders if (run := lock_holder(folder / "run.lock")) is not None and run.lives]
    if not running:
        raise ConfigError("nothing runs that could be watched: leave --watch out to see what is recorded")
    with Live(console=console, auto_refresh=False) as live:
        while True:
            views = [look(folder) for folder in running]
            live.update(Group(*(render_status(view, finished=not view.is_running) for view in views)), refresh=True)
            if not any(view.is_running for view in views):
                return
            time.sleep(WATCH_SECONDS)

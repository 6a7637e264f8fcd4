"""The command line: finds the command that is asked for, reads its options, and runs it.

Exit status: 0 all is well; 1 cells failed, or a check found differences; 2 the input was wrong (one message says how);
130 interrupted; 141 the reader of the output has gone. Only the module of the command that is asked for is imported, so
that `--help` and `list` stay quick.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bench import __version__
from bench.cli.commands import load_command, summaries
from bench.suggest import nearest_name

EPILOG = """Each command has a help of its own: python -m bench run --help

Examples:
  python -m bench run                                        the default: SFT, SOAR and Flow-GRPO, about 8 minutes
  python -m bench plan --preset scenes                       what would run, and for how long
  python -m bench list soar                                  what a method is, and its settings
  python -m bench report --check                             do REPORT.md and the results agree?"""


class _HasTold(Exception):
    """`--help` or `--version` has printed all that was asked for."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would exit, a ConfigError for mistakes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """What argparse calls after `--help` and `--version`."""
        raise _HasTold

    def error(self, message: str) -> NoReturn:
        """What argparse calls for every mistake."""
        from bench.api import ConfigError

        raise ConfigError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a user's mistake is one message on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # transformers warns at import of a package that is left out on purpose (see `bench doctor`)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    status = _run(given)
    if arguments is None:  # this process is the command: a plugin's thread must not keep it
        from bench.process_end import end_soon

        end_soon(status)
    return status


def _run(given: list[str]) -> int:
    try:
        status = _dispatch(given)
        sys.stdout.flush()
        return status
    except _HasTold:
        return 0
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141
    except KeyboardInterrupt:
        print("bench: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except _expected_error() as error:  # evaluated only when something was raised
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _reader_is_gone() -> bool:
    """Whether what reads our output has closed it, as `head` does; nothing more is then said to it."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _expected_error() -> type[Exception]:
    from bench.api import BenchError

    return BenchError


def _dispatch(given: list[str]) -> int:
    place = next((place for place, argument in enumerate(given) if not argument.startswith("-")), None)
    if place is None:
        parser = _parser_of_all()
        parser.parse_args(given)
        parser.print_help()
        return 2
    command = load_command(given[place])
    summary = (command.__doc__ or "").split("\n", 1)[0]
    parser = _Parser(prog=f"bench {given[place]}", description=summary, epilog=command.EPILOG)
    command.add_arguments(parser)
    args = _read(parser, [*given[:place], *given[place + 1 :]])
    args.given = given
    return command.run(args)


def _parser_of_all() -> argparse.ArgumentParser:
    """Knows nothing of the commands but their names, for `bench --help`."""
    parser = _Parser(
        prog="bench",
        description="Compare post-training methods for text-to-image diffusion models at exactly the same budget.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"bench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, summary in summaries().items():
        commands.add_parser(name, help=summary.replace("%", "%%"))
    return parser


def _read(parser: argparse.ArgumentParser, given: list[str]) -> argparse.Namespace:
    """The options of a command.

    Where it takes dotted options (its defaults hold `dotted`), these are told apart. What is unknown is refused here,
    unless it tells of that itself, together with all else that is wrong (its defaults hold `unknown`).
    """
    dotted: list[tuple[str, str | None]] = []
    if parser.get_default("dotted") is not None:
        given, dotted = _split_dotted(given)
    args, rest = parser.parse_known_args(given)
    unknown = _unknown(parser, rest)
    if unknown and parser.get_default("unknown") is None:
        from bench.api import ConfigError

        raise ConfigError("; ".join(unknown))
    args.dotted, args.unknown = dotted, unknown
    return args


def _split_dotted(given: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """The arguments without dotted options, and these with their values (None: a value is missing)."""
    rest: list[str] = []
    dotted: list[tuple[str, str | None]] = []
    waiting = list(reversed(given))
    while waiting:
        argument = waiting.pop()
        match = re.fullmatch(r"--([A-Za-z][\w+-]*(?:\.[\w+-]*)+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
        elif match[2] is not None:
            dotted.append((match[1], match[2]))
        else:
            dotted.append((match[1], waiting.pop() if waiting and not waiting[-1].startswith("--") else None))
    return rest, dotted


def _unknown(parser: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """A message for each argument that the command does not know."""
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    messages = []
    for position, argument in enumerate(arguments):
        if not argument.startswith("-"):
            if position == 0 or not arguments[position - 1].startswith("-"):
                messages.append(f"unexpected argument {argument!r}")
            continue
        option = argument.split("=", 1)[0]
        found = nearest_name(option, options)
        told = f"; did you mean {found}?" if found else f" (see {parser.prog} --help)"
        messages.append(f"no option {option}{told}")
    return messages

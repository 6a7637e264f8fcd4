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
from pathlib import Path
from typing import Any, NoReturn

from bench import __version__
from bench.cli.commands import load_command, summaries
from bench.interrupts import interrupts_after_imports
from bench.suggest import nearest_name

EPILOG = """Each command has a help of its own: python -m bench run --help

Examples:
  python -m bench run                                        the default: SFT, SOAR and Flow-GRPO, about 8 minutes
  python -m bench plan --preset scenes                       what would run, and for how long
  python -m bench list soar                                  what a method is, and its settings
  python -m bench report --check                             do REPORT.md and the results agree?"""


_SHOWN = 100  # letters of a path in a message


class _HasTold(Exception):
    """`--help` or `--version` has printed all that was asked for."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would exit, a ConfigError for mistakes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.register("type", Path, _path)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """What argparse calls after `--help` and `--version`."""
        raise _HasTold

    def error(self, message: str) -> NoReturn:
        """What argparse calls for every mistake."""
        from bench.api import ConfigError

        raise ConfigError(f"{message} (see {self.prog} --help)")


def _path(text: str) -> Path:
    """What an option of a path was given; nothing would mean the present folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


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
        with interrupts_after_imports(main.__code__):
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
    except OSError as error:  # a name that is too long, a folder that may not be read
        if error.filename is None:
            raise
        print(f"bench: {_shortened(str(error.filename))} cannot be used: {error.strerror}", file=sys.stderr)
        return 2
    except _expected_error() as error:  # evaluated only when something was raised
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


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
    args = read_options(given[place], [*given[:place], *given[place + 1 :]])
    args.given = given
    return command.run(args)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command's options; its `format_help` is what `--help` prints.

    Raises:
        ConfigError: there is no such command.
        PluginError: another package brings it, and it cannot be used.
    """
    command = load_command(name)
    summary = (command.__doc__ or "").split("\n", 1)[0]
    parser = _Parser(prog=f"bench {name}", description=summary, epilog=command.EPILOG)
    command.add_arguments(parser)
    return parser


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


def read_options(name: str, given: list[str]) -> argparse.Namespace:
    """The options that were given to a command.

    Where it takes dotted options (its defaults hold `dotted`), these are told apart. What is unknown is refused here,
    unless it tells of that itself, together with all else that is wrong (its defaults hold `unknown`).

    Raises:
        ConfigError: there is no such command, or it does not take them.
    """
    parser = parser_of(name)
    dotted: list[tuple[str, str | None]] = []
    if parser.get_default("dotted") is not None:
        given, dotted = _split_dotted(given)
    _refuse_repeated(parser, given)
    args, rest = parser.parse_known_args(given)
    unknown = _unknown(parser, rest)
    if unknown and parser.get_default("unknown") is None:
        from bench.api import ConfigError

        raise ConfigError("; ".join(unknown))
    args.dotted, args.unknown = dotted, unknown
    return args


def _refuse_repeated(parser: argparse.ArgumentParser, given: list[str]) -> None:
    """Raise ConfigError for an option that is given twice, where the second would be taken without a word."""
    seen: set[str] = set()
    for argument in given:
        action = parser._option_string_actions.get(argument.split("=", 1)[0])
        if action is None or isinstance(action, argparse._AppendAction):
            continue
        if action.dest in seen:
            from bench.api import ConfigError

            raise ConfigError(f"{argument.split('=', 1)[0]}: given twice: leave one out")
        seen.add(action.dest)


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

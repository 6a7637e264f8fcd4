"""The command line: run, status, replay, report, plan, fetch, rehearse, list, new, check, curate, sample, score,
serve-rewards, reward-env, prompts, pretrain, cache, doctor.

Exit status: 0 all is well; 1 cells failed, or a check found differences; 2 the input was wrong (one message says how);
130 interrupted; 141 the reader of the output has gone. What a command needs is imported when it runs, so that `--help`
and `list` stay quick.
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
from bench.cli.options import EXAMPLES
from bench.cli.table import COMMANDS, Command
from bench.suggest import hint, nearest_name


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
    name = next((argument for argument in given if not argument.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        from bench.api import ConfigError

        raise ConfigError(f"no command {name!r}{hint(name, COMMANDS)}")
    parser = _parser(given)
    if name is None:
        parser.parse_args(given)
        parser.print_help()
        return 2
    whole = given
    given, dotted = _split_dotted(given)
    args, unknown = parser.parse_known_args(given)
    args.dotted = dotted
    args.given = whole
    args.unknown = _unknown(parser, name, unknown)
    if args.unknown and not hasattr(args, "preset"):
        from bench.api import ConfigError

        raise ConfigError("; ".join(args.unknown))
    command: Command = COMMANDS[name][1]
    return command(args)


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


def _unknown(parser: argparse.ArgumentParser, name: str, arguments: list[str]) -> list[str]:
    """A message for each argument that the command does not know."""
    options = [option for option in _subparser(parser, name)._option_string_actions if option.startswith("--")]
    messages = []
    for position, argument in enumerate(arguments):
        if not argument.startswith("-"):
            if position == 0 or not arguments[position - 1].startswith("-"):
                messages.append(f"unexpected argument {argument!r}")
            continue
        option = argument.split("=", 1)[0]
        found = nearest_name(option, options)
        messages.append(
            f"no option {option}" + (f"; did you mean {found}?" if found else f" (see bench {name} --help)")
        )
    return messages


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices[name]


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bench",
        description="Compare post-training methods for text-to-image diffusion models at exactly the same budget.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (help_, _, add, epilog) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.", epilog=epilog)
        if name != "pretrain" or "pretrain" in given:
            add(sub)
    return parser

"""Run the conformance checks of methods and rewards.

Model libraries are imported once a plugin was found.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from bench import registry
from bench.api import CheckpointMissing, ConfigError, Method, Reward
from bench.cli.experiment_options import add_reward_server

if TYPE_CHECKING:
    from bench.preflight.conformance.check import CheckOutcome, ConformanceCheck
    from bench.preflight.conformance.fixtures import Fixtures

EPILOG = """Each check exists because real code failed so. A failure says what was expected, what came, and why.
Micro-batches, ledger, frozen parts and resume are looked at again with LoRA.
Plugins are named as in `run`: by registered name, package.module:Class, or path/to/file.py. A reward may be a function
in trl's convention: package.module:function, or path/to/file.py:function.

A plugin declares in its class what is known and meant:
  small = {"num_points": 1}                          settings that make a step cheap and let all fields act
  inert = {"clip": "acts from the second epoch on"}   a field that changes nothing under these settings
  expected_failures = {"resume": "the sampler is external"}

In a test: from bench.conformance import assert_conforms; assert_conforms(MyMethod)

Examples:
  bench check sft                 one method
  bench check my_method.py        a method or a reward of your own
  bench check --all               everything that is registered
  bench check --list              every check with its reason

Exit status: 0 all passed, or failed as declared; 1 a check failed; 2 there is no such plugin."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods or rewards, by name or file")
    parser.add_argument("--all", action="store_true", help="everything that is registered")
    parser.add_argument("--list", action="store_true", help="every check with its reason; runs nothing")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--process", action="store_true", help="rewards in a worker process of their own")
    add_reward_server(place)


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where a check failed."""
    if args.list:
        print(_list())
        return 0
    names = args.names
    if args.all:
        names = [*registry.names(registry.METHODS), *registry.names(registry.REWARDS)]
    if not names:
        raise ConfigError("check: expected names of methods or rewards, --all, or --list (see bench check --help)")
    return check_plugins(names, may_lack=args.all, process=args.process, server=args.reward_server)


def check_plugins(
    names: Sequence[str], *, may_lack: bool = False, process: bool = False, server: str | None = None
) -> int:  # fmt: skip
    """Examine the named plugins, of which some may have no checkpoint here if `may_lack`; returns the exit status.

    Rewards are examined in a worker process, or at the reward server of the address `server`, where that is asked for.

    Raises:
        ConfigError: there is no such plugin, or no reward among them that `process` or `server` are for.
        PluginError: a plugin cannot be imported, or breaks the contract of `bench.api`.
    """
    from bench.config.scorer_process import ScorerProcess

    plugins = [registry.load_plugin(name) for name in names]
    rewards = {name: plugin for name, plugin in zip(names, plugins, strict=True) if issubclass(plugin, Reward)}
    if (process or server) and not rewards:
        raise ConfigError("check --process and --reward-server are for rewards, but none was named")
    from bench.scoring.loading import Placement

    placement = Placement({cls.name: ScorerProcess() for cls in rewards.values()} if process else {}, server)
    made = {cls: placement.make_reward(name, cls) for name, cls in rewards.items()}
    placement.require_server_used(made.values())
    return _examined(plugins, made, may_lack=may_lack)


def _examined(
    plugins: Sequence[type[Method] | type[Reward]], rewards: Mapping[Any, Reward], *, may_lack: bool
) -> int:  # fmt: skip
    """Examine every plugin; `rewards` by their classes, of which some may have no checkpoint here if `may_lack`."""
    from bench.datasets.worlds import load_world
    from bench.preflight.conformance.fixtures import Fixtures

    fixtures = Fixtures(load_world("scenes"))
    failed, absent = [], []
    for plugin in plugins:
        try:
            failed += [] if _conforms(plugin, fixtures, rewards.get(plugin)) else [plugin.name]
        except CheckpointMissing as error:
            if not may_lack:
                raise
            print(f"  not checked: {error}\n", flush=True)
            absent.append(plugin.name)
    if len(plugins) > 1:
        count = len(plugins) - len(failed) - len(absent)
        told = [
            f"{word} {', '.join(names)}" for word, names in (("not", failed), ("no checkpoint here:", absent)) if names
        ]
        print("; ".join([f"{count} of {len(plugins)} conform", *told]))
    return 1 if failed else 0


def _conforms(plugin: type[Method] | type[Reward], fixtures: Fixtures, reward: Reward | None) -> bool:
    """Examine one plugin and print what comes of it; whether nothing failed."""
    from bench.preflight.conformance.check import Status
    from bench.preflight.conformance.suite import checks_of, run_checks
    from bench.scoring.loading import placement_of

    start, counts = time.perf_counter(), Counter[str]()
    place = "" if reward is None or placement_of(reward) == "here" else f" ({placement_of(reward)})"
    checks = checks_of(plugin)
    print(f"{'method' if reward is None else 'reward'} {plugin.name}{place}: {len(checks)} checks", flush=True)
    outcomes = run_checks(plugin, fixtures, reward)
    for number, check in enumerate(checks, 1):
        with _shown(f"  {number} of {len(checks)}".ljust(18) + check.name):
            outcome = next(outcomes)
        counts[outcome.status] += 1
        print(_line(outcome), flush=True)
    summary = ", ".join(f"{counts[status]} {status}" for status in get_args(Status) if counts[status])
    print(f"  {summary}, in {time.perf_counter() - start:.0f} s\n", flush=True)
    return not counts["failed"]


@contextmanager
def _shown(line: str) -> Iterator[None]:
    """A line on the terminal, where there is one, for as long as the block takes."""
    if not sys.stdout.isatty():
        yield
        return
    print(line, end="\r", flush=True)
    try:
        yield
    finally:
        print(" " * len(line), end="\r")


def _line(outcome: CheckOutcome) -> str:
    mark = "FAILED" if outcome.status == "failed" else outcome.status
    text = f"  {mark:<16}{outcome.check.name}"
    if outcome.status == "failed":
        why = f"{outcome.detail}\nwhy it matters: {outcome.check.reason}"
        return f"{text}\n{textwrap.indent(why, ' ' * 20)}"
    return f"{text}: {outcome.detail}" if outcome.detail else text


def _list() -> str:
    from bench.preflight.conformance.suite import METHOD_CHECKS, REWARD_CHECKS

    def table(title: str, checks: Sequence[ConformanceCheck[Any]]) -> list[str]:
        return [title, *(f"  {check.name:<26}{check.reason}" for check in checks)]

    return "\n".join([*table("methods", METHOD_CHECKS), "", *table("rewards", REWARD_CHECKS)])

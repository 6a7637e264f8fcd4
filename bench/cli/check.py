"""`bench check`: one line for each check of a plugin. Model libraries are imported once a plugin was found."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from bench import registry
from bench.api import CheckpointMissing, ConfigError, Method, Reward
from bench.config.scorer_process import ScorerProcess
from bench.preflight.conformance.check import CheckOutcome, ConformanceCheck, Status
from bench.scoring.workers.placement import Placement, placement_of

if TYPE_CHECKING:
    from bench.preflight.conformance.fixtures import Fixtures

_STATUSES = get_args(Status)


def main(
    names: Sequence[str], *, everything: bool = False, listed: bool = False, process: bool = False,
    server: str | None = None,
) -> int:  # fmt: skip
    """Examine the named plugins, or all, or list the checks; returns the exit status.

    Rewards are examined in a worker process, or at the reward server of the address `server`, where that is asked for.

    Raises:
        ConfigError: nothing was named, or there is no such plugin.
        PluginError: a plugin cannot be imported, or breaks the contract of `bench.api`.
    """
    if listed:
        print(_list())
        return 0
    if everything:
        names = [*registry.names(registry.METHODS), *registry.names(registry.REWARDS)]
    if not names:
        raise ConfigError("check: expected names of methods or rewards, --all, or --list (see bench check --help)")
    plugins = [registry.load_plugin(name) for name in names]
    rewards = {name: plugin for name, plugin in zip(names, plugins, strict=True) if issubclass(plugin, Reward)}
    if (process or server) and not rewards:
        raise ConfigError("check --process and --reward-server are for rewards, but none was named")
    elsewhere = Placement({cls.name: ScorerProcess() for cls in rewards.values()} if process else {}, server)
    made = {cls: elsewhere.reward(name, cls) for name, cls in rewards.items()}
    elsewhere.require_use(made.values())
    return _examined(plugins, made, may_lack=everything)


def _examined(
    plugins: Sequence[type[Method] | type[Reward]], rewards: Mapping[Any, Reward], *, may_lack: bool
) -> int:  # fmt: skip
    """Examine every plugin; `rewards` by their classes, of which some may have no checkpoint here if `may_lack`."""
    from bench.datasets.worlds import load_world
    from bench.preflight.conformance.fixtures import Fixtures

    laboratory = Fixtures(load_world("scenes"))
    failed, absent = [], []
    for plugin in plugins:
        try:
            failed += [] if _conforms(plugin, laboratory, rewards.get(plugin)) else [plugin.name]
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


def _conforms(plugin: type[Method] | type[Reward], laboratory: Fixtures, reward: Reward | None) -> bool:
    """Examine one plugin and print what comes of it; whether nothing failed."""
    from bench.preflight.conformance.suite import checks_of, run_checks

    start, counts = time.perf_counter(), Counter[str]()
    place = "" if reward is None or placement_of(reward) == "here" else f" ({placement_of(reward)})"
    checks = checks_of(plugin)
    print(f"{'method' if reward is None else 'reward'} {plugin.name}{place}: {len(checks)} checks", flush=True)
    outcomes = run_checks(plugin, laboratory, reward)
    for number, check in enumerate(checks, 1):
        with _shown(f"  {number} of {len(checks)}".ljust(18) + check.name):
            outcome = next(outcomes)
        counts[outcome.status] += 1
        print(_line(outcome), flush=True)
    summary = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
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

"""The conformance checks in a test of a plugin's own:

from bench.conformance import assert_conforms

def test_conforms() -> None:
    assert_conforms(MyMethod)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api import Method, Reward
    from bench.datasets.world import World

__all__ = ["assert_conforms"]


def assert_conforms(plugin: str | type[Method] | type[Reward], world: World | None = None) -> None:
    """Run all checks of a method or a reward, by name, file or class; the embedded world is the default.

    Raises:
        AssertionError: checks failed that the plugin does not declare in `expected_failures`; the message lists them.
        ConfigError, PluginError: there is no such plugin, or it breaks the contract of `bench.api`.
    """
    from bench.datasets.worlds import load_world
    from bench.preflight.conformance.fixtures import Fixtures
    from bench.preflight.conformance.suite import run_checks
    from bench.registry import load_plugin

    spec = plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}"
    cls = load_plugin(spec)
    failed = [o for o in run_checks(cls, Fixtures(world or load_world("scenes"))) if o.status == "failed"]
    lines = [f"\n- {outcome.check.name}: {outcome.detail}\n  why: {outcome.check.reason}" for outcome in failed]
    if failed:
        raise AssertionError(f"{cls.name} fails {len(failed)} conformance checks:{''.join(lines)}")

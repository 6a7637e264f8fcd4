"""Conformance: small named checks that every method and every reward has to pass, and what to do with them in a test.

In the tests of a plugin:

    from bench.conformance import assert_conforms

    def test_conforms() -> None:
        assert_conforms(MyMethod)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api import Method, Reward
    from bench.tasks.world import World

__all__ = ["assert_conforms"]


def assert_conforms(plugin: str | type[Method] | type[Reward], world: World | None = None) -> None:
    """Run all checks of a method or a reward, by name, file or class; the embedded world is the default.

    Raises:
        AssertionError: checks failed that the plugin does not declare in `expected_failures`; the message lists them.
        ConfigError, PluginError: there is no such plugin, or it breaks the contract of `bench.api`.
    """
    from bench.conformance.laboratory import Laboratory
    from bench.conformance.suite import examine
    from bench.registry import load_plugin
    from bench.tasks.worlds import load_world

    spec = plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}"
    cls = load_plugin(spec)
    failed = [o for o in examine(cls, Laboratory(world or load_world("scenes"))) if o.status == "failed"]
    lines = [f"\n- {outcome.check.name}: {outcome.detail}\n  why: {outcome.check.reason}" for outcome in failed]
    if failed:
        raise AssertionError(f"{cls.name} fails {len(failed)} conformance checks:{''.join(lines)}")

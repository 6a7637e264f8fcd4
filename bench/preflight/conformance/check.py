"""What a check is, and what comes of it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, TypeVar

from bench.api import BenchError, Needs, PluginError
from bench.plugin_errors import plugin_error
from bench.suggest import hint

S = TypeVar("S")
Status = Literal["passed", "failed", "expected", "not applicable"]
NO_NEEDS = Needs()


class Mismatch(Exception):
    """A check found something else than it expected."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}; came {came}")
        self.expected = expected
        self.came = came


class NotApplicable(Exception):
    """A check has nothing to look at in this plugin."""


@dataclass(frozen=True)
class ConformanceCheck(Generic[S]):
    """One property of a plugin; `reason` is the failure of real code that it guards against.

    `function` gets the plugin with its fixtures and raises `Mismatch`. The check applies to methods that have all of
    `needs`.
    """

    name: str
    reason: str
    function: Callable[[S], None]
    needs: Needs = NO_NEEDS

    def lacking(self, needs: Needs) -> list[str]:
        """The needs of this check that a plugin with these needs has not."""
        return [f.name for f in fields(Needs) if getattr(self.needs, f.name) and not getattr(needs, f.name)]


class CheckSuite(Generic[S]):
    """Checks in the order in which they are defined."""

    def __init__(self) -> None:
        self.checks: list[ConformanceCheck[S]] = []

    def check(
        self, name: str, reason: str, needs: Needs = NO_NEEDS
    ) -> Callable[[Callable[[S], None]], Callable[[S], None]]:
        """Make a function a check of this suite."""

        def add(function: Callable[[S], None]) -> Callable[[S], None]:
            self.checks.append(ConformanceCheck(name, reason, function, needs))
            return function

        return add


@dataclass(frozen=True)
class CheckOutcome:
    """What came of one check; `detail` says what was expected and what came, or why nothing was."""

    check: ConformanceCheck[Any]
    status: Status
    detail: str = ""


def run_each_check(
    checks: Iterable[ConformanceCheck[S]], subject: S, needs: Needs, excused: Mapping[str, str]
) -> Iterator[CheckOutcome]:
    """Run the checks one by one; `excused` is {check: why it may fail}.

    Raises:
        PluginError: a check is excused that does not exist.
    """
    checks = tuple(checks)
    names = [check.name for check in checks]
    for name in excused:
        if name not in names:
            raise PluginError(f"expected_failures: there is no check {name!r}{hint(name, names)}")
    return (_outcome(check, subject, needs, excused.get(check.name)) for check in checks)


def _outcome(check: ConformanceCheck[S], subject: S, needs: Needs, excuse: str | None) -> CheckOutcome:
    lacking = check.lacking(needs)
    if lacking:
        return CheckOutcome(check, "not applicable", f"the method does not need {' and '.join(lacking)}")
    try:
        check.function(subject)
    except NotApplicable as reason:
        return CheckOutcome(check, "not applicable", str(reason))
    except Mismatch as mismatch:
        detail = str(mismatch)
    except BenchError as error:
        detail = f"expected no error; came {type(error).__name__}: {error}"
    # A plugin may raise anything at all, and call sys.exit(): that is how it failed, and the outcome tells where
    except (Exception, SystemExit) as error:
        detail = f"expected no error; came {plugin_error(error)}"
    else:
        return CheckOutcome(check, "passed", f"declared to fail ({excuse}): remove the declaration" if excuse else "")
    return CheckOutcome(check, "expected", f"{excuse} ({detail})") if excuse else CheckOutcome(check, "failed", detail)

"""Budgets parse, ledgers add up, limits hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.api import BudgetExhausted, ConfigError
from bench.budget import Budget, Ledger, Limit


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("200k", 200e3, "cost"),
        ("1e15flops", 1e15, "flops"),
        ("10min", 600, "seconds"),
        ("2h", 7200, "seconds"),
        ("90s", 90, "seconds"),
        ("500updates", 500, "updates"),
        ("20kimages", 20e3, "images"),
        ("1.5m", 1.5e6, "cost"),
        (4000, 4000, "cost"),
    ],
)
def test_parse(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["", "0", "-3k", "10 parsecs", "k", "1e15flop", "nan", "inf", "1e15 flops extra"])
def test_parse_refuses(text):
    with pytest.raises(ConfigError, match="expected a positive amount"):
        Budget.parse(text)


def test_cost_is_the_sum_of_its_entries():
    ledger = Ledger(forward=10, backward=20, decode_cost=3, reward_cost=0.5, curation_reward_calls=1000)
    assert ledger.cost == 33.5
    assert ledger.facts()["cost"] == 33.5
    assert "seconds" not in ledger.facts()


def test_state_round_trip():
    ledger = Ledger(flops=1e12, updates=3, seconds=1.25)
    assert Ledger.from_state(ledger.state_dict()) == ledger
    with pytest.raises(ConfigError, match="ledger: expected"):
        Ledger.from_state({"flops": 1.0})


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=50), st.floats(1, 200))
def test_the_limit_is_never_exceeded(passes, amount):
    ledger = Ledger()
    limit = Limit(Budget(amount, "cost"), ledger)
    for cost in passes:
        if not limit.fits("step"):
            break
        limit.begin()
        try:
            limit.reserve(cost=cost)
        except BudgetExhausted:
            break
        ledger.forward += cost
        limit.finish("step")
    assert ledger.cost <= amount * (1 + 1e-6)


def test_a_phase_that_cannot_fit_is_not_begun():
    ledger = Ledger()
    limit = Limit(Budget(100, "cost"), ledger)
    for _ in range(3):
        limit.begin()
        ledger.forward += 30
        limit.finish("step")
    assert limit.left == pytest.approx(10)
    assert not limit.fits("step")
    assert limit.fits()


def test_a_stage_budget_starts_where_the_last_one_ended():
    ledger = Ledger(updates=40)
    limit = Limit(Budget(10, "updates"), ledger, already_spent=40)
    assert limit.fraction == 0
    limit.reserve(updates=1)
    ledger.updates = 50
    with pytest.raises(BudgetExhausted, match="10 updates"):
        limit.reserve(updates=1)

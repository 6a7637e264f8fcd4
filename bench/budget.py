"""Budgets and the ledger: what a method may spend, and what it has really spent.

The unit `cost` is one forward pass of the denoiser for one sample. Backward passes, VAE decoding and reward passes are
converted to it by their measured FLOPs. Evaluation is never charged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from bench.api import BudgetExhausted, ConfigError

UNITS = ("cost", "flops", "seconds", "updates", "images")
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SUFFIXES = {"": ("cost", 1.0), "flops": ("flops", 1.0), "updates": ("updates", 1.0), "images": ("images", 1.0),
             "s": ("seconds", 1.0), "min": ("seconds", 60.0), "h": ("seconds", 3600.0)}  # fmt: skip
_PATTERN = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e\d+)?)(?P<scale>[kmg]??)(?P<suffix>flops|updates|images|s|min|h|)")
_MOST = {"flops": 1e30}  # the largest models of today take 1e26
_MOST_ELSE = 1e15
_SHOWN = 60
_TOLERANCE = 1e-9  # relative; budgets are split and summed in floating point


@dataclass(frozen=True)
class Budget:
    """An amount of one unit, which stops the run: `cost`, `flops`, `seconds`, `updates` or `images`.

    text: as the user gave it, where it was read from a text.
    """

    amount: float
    unit: str
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str | int | float) -> Budget:
        """Read `200k` (cost), `1e15flops`, `10min`, `90s`, `2h`, `500updates`, `20kimages`.

        Raises:
            ConfigError: the text is none of these, or the amount is not positive, or above any use.
        """
        match = _PATTERN.fullmatch(str(text).strip().lower().replace("_", ""))
        unit, factor = _SUFFIXES[match["suffix"]] if match else ("", 0.0)
        amount = float(match["number"]) * _SCALES[match["scale"]] * factor if match else 0.0
        most = _MOST.get(unit, _MOST_ELSE)
        if not 0 < amount <= most:
            shown = repr(text) if len(str(text)) <= _SHOWN else f"{str(text)[:_SHOWN]!r}..."
            raise ConfigError(
                f"budget {shown}: expected a positive amount like 200k (forward-equivalents), 1e15flops, 10min, "
                f"500updates or 20kimages, of at most {most:g}"
            )
        return cls(amount, unit, str(text))

    @classmethod
    def stored(cls, text: str) -> Budget:
        """The inverse of `str`, as resolved settings hold it: `16000 cost`.

        Raises:
            ConfigError: the text is none of these.
        """
        amount, _, unit = str(text).partition(" ")
        try:
            budget = cls(float(amount), unit)
        except ValueError:
            budget = cls(0.0, unit)
        if unit in UNITS and 0 < budget.amount <= _MOST.get(unit, _MOST_ELSE):
            return budget
        raise ConfigError(
            f"stored budget {text!r}: expected an amount and one of {', '.join(UNITS)}, as in '16000 cost'"
        )

    def share(self, part: float) -> Budget:
        """The budget of one stage that gets `part` (0, 1] of the whole."""
        return Budget(self.amount * part, self.unit)

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass
class Ledger:
    """Everything spent in training, in every unit at once.

    forward, backward: denoiser passes in forward-equivalents. decode_cost, reward_cost: the same unit, by FLOPs.
    images: pictures decoded in training. samples: clean training samples drawn. reward_calls: pictures scored in
    training; curation_reward_calls: pictures scored to select the supervised data. filter_cost, encoding_cost: what
    that selection, and encoding the selected pictures, take once, in forward-equivalents, whether a cache had them or
    not (no parts of `cost`; what `bench curate` scored beforehand is in neither).
    seconds: training time; a clock's reading, so it is kept out of the deterministic record.
    """

    flops: float = 0.0
    updates: int = 0
    images: int = 0
    samples: int = 0
    forward: float = 0.0
    backward: float = 0.0
    decode_cost: float = 0.0
    reward_cost: float = 0.0
    reward_calls: int = 0
    curation_reward_calls: int = 0
    filter_cost: float = 0.0
    encoding_cost: float = 0.0
    skipped_updates: int = 0
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        """Forward-equivalents of the denoiser, everything charged."""
        return self.forward + self.backward + self.decode_cost + self.reward_cost

    def spent(self, unit: str) -> float:
        """What has been spent of one of `UNITS`."""
        if unit not in UNITS:
            raise ConfigError(f"unit {unit!r}: expected one of {', '.join(UNITS)}")
        if unit == "images":  # pictures that training saw, drawn from the data or generated
            return float(self.samples + self.images)
        return float(getattr(self, unit))

    def facts(self) -> dict[str, float]:
        """The deterministic entries and `cost`, JSON-able: everything but `seconds`."""
        entries = asdict(self)
        entries.pop("seconds")
        return {"cost": self.cost, **entries}

    def state_dict(self) -> dict[str, float]:
        """Everything, for a checkpoint."""
        return asdict(self)

    def agree(self, ledgers: Sequence[Mapping[str, float]]) -> None:
        """Take the mean of what `state_dict` gave on every rank.

        Each rank charges its own passes times the number of ranks, so the mean is the sum of what really ran.
        """
        for entry in fields(self):
            total = sum(ledger[entry.name] for ledger in ledgers)
            whole = isinstance(getattr(self, entry.name), int)
            setattr(self, entry.name, total // len(ledgers) if whole else total / len(ledgers))

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> Ledger:
        """The inverse of `state_dict`."""
        names = {f.name for f in fields(cls)}
        if set(state) != names:
            raise ConfigError(f"ledger: expected the entries {sorted(names)}, got {sorted(state)}")
        return cls(**state)  # type: ignore[arg-type]


class Limit:
    """Guards a ledger against one budget: asks before anything runs whether it still fits.

    `fits(phase)` predicts a phase (`step`, `collect`) by the dearest one seen so far; `reserve` refuses a single pass,
    which covers the first phase of its kind, whose cost nobody knows yet. Together the limit is never exceeded.
    """

    def __init__(self, budget: Budget, ledger: Ledger, already_spent: float = 0.0) -> None:
        self.budget = budget
        self.ledger = ledger
        self.end = already_spent + budget.amount
        self._dearest: dict[str, float] = {}
        self._phase_start = 0.0

    @property
    def left(self) -> float:
        """What remains, in the budget's unit."""
        return self.end - self.ledger.spent(self.budget.unit)

    @property
    def fraction(self) -> float:
        """The share of this budget that is spent, 0 to 1."""
        return min(1.0, 1.0 - self.left / self.budget.amount)

    def reserve(self, **amounts: float) -> None:
        """Make sure that a pass of these amounts fits, by unit.

        Raises:
            BudgetExhausted: it does not; nothing was charged.
        """
        amount = amounts.get(self.budget.unit, 0.0)
        if amount > self.left + _TOLERANCE * self.end:
            raise BudgetExhausted(
                f"budget of {self.budget}: {self.left:g} left, and the next pass takes {amount:g} {self.budget.unit}"
            )

    def fits(self, *phases: str) -> bool:
        """Whether one of each of these phases still fits, judged by the dearest of its kind so far (unseen: 0)."""
        need = sum(self._dearest.get(phase, 0.0) for phase in phases)
        return self.left > 0 and need <= self.left + _TOLERANCE * self.end

    def begin(self) -> None:
        """A phase begins."""
        self._phase_start = self.ledger.spent(self.budget.unit)

    def finish(self, phase: str) -> None:
        """A phase ended; remember what it took."""
        took = self.ledger.spent(self.budget.unit) - self._phase_start
        self._dearest[phase] = max(took, self._dearest.get(phase, 0.0))

    def state_dict(self) -> dict[str, float]:
        """What the phases took so far."""
        return dict(self._dearest)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self._dearest = dict(state)

"""Cards by name: memory, and the dense peak of their matrix units, from the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from bench.api import ConfigError
from bench.suggest import nearest_name

# The rest is for the driver's context, kernels' workspaces, error correction, and what fragmentation leaves unused.
USABLE = 0.93


@dataclass(frozen=True)
class Card:
    """A card: GiB of memory, and peak TFLOP/s without sparsity in bfloat16 (summed in float32) and plain float32."""

    title: str
    gib: float
    bfloat16: float
    float32: float

    def peak(self, precision: str) -> float:
        """FLOP/s at most in `bfloat16` or `float32`."""
        return 1e12 * (self.bfloat16 if precision == "bfloat16" else self.float32)

    @property
    def usable(self) -> float:
        """Bytes that tensors can have."""
        return USABLE * self.gib * 2**30


# Source: data sheets of A10, A100, L4, L40S, H100, H200 and B200 (Tensor Core figures "with sparsity" halved), NVIDIA's
# architecture papers GA102, AD102 and RTX Blackwell for the RTX cards, AMD's data sheet of MI300X.
CARDS: dict[str, Card] = {
    "rtx3090": Card("RTX 3090", 24, 71, 35.6),
    "rtx4090": Card("RTX 4090", 24, 165.2, 82.6),
    "rtx5090": Card("RTX 5090", 32, 209.5, 104.8),
    "a10": Card("A10", 24, 125, 31.2),
    "l4": Card("L4", 24, 121, 30.3),
    "l40s": Card("L40S", 48, 362, 91.6),
    "a100-40": Card("A100 40 GB", 40, 312, 19.5),
    "a100": Card("A100 80 GB", 80, 312, 19.5),
    "h100-pcie": Card("H100 PCIe", 80, 756, 51),
    "h100": Card("H100 SXM", 80, 989, 67),
    "h200": Card("H200 SXM", 141, 989, 67),
    "b200": Card("B200", 180, 2250, 75),
    "mi300x": Card("MI300X", 192, 1307, 163.4),
}


def card_named(name: str) -> Card:
    """The card of that name.

    Raises:
        ConfigError: no such card is known.
    """
    found = CARDS.get(name.lower())
    if found is None:
        close = nearest_name(name.lower(), CARDS)
        meant = f"did you mean {close!r}?" if close else f"choose from {', '.join(CARDS)}"
        raise ConfigError(f"--gpu: no card {name!r} is known; {meant}")
    return found

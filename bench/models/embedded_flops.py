"""The FLOPs of the embedded models' passes, counted when they were exported: so that a plan need not load them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bench.canonical import canonical_json
from bench.datasets.scenes.manifest import ASSETS
from bench.files import write_whole
from bench.models.flops import PassFlops
from bench.reading import read_json

_FILE = "flops.json"


@dataclass(frozen=True)
class EmbeddedFlops:
    """Of one sample, all weights trained; of one picture by each reward that trains. `shift`: of the noise schedule."""

    passes: PassFlops
    rewards: dict[str, float]
    shift: float


_FLOPS: TypeAdapter[EmbeddedFlops] = TypeAdapter(EmbeddedFlops)


def read_flops(assets: Path = ASSETS) -> EmbeddedFlops:
    """What was counted; DataError or pydantic's ValidationError where the file is not as it was written."""
    return _FLOPS.validate_python(read_json(assets / _FILE))


def write_flops(found: EmbeddedFlops, assets: Path) -> None:
    """Store what was counted."""
    write_whole(assets / _FILE, (canonical_json(asdict(found)) + "\n").encode())

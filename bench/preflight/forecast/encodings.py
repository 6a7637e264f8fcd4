"""Where the latents and text embeddings of a run lie: on disk as far as the cache's limit goes, else in memory."""

from __future__ import annotations

from dataclasses import dataclass

from bench.models.encoding_cache.cached_encoder import HELD_BYTES
from bench.preflight.forecast.memory import Parts


@dataclass(frozen=True)
class EncodingForecast:
    """How many texts and pictures have to be encoded, their bytes, and how many of these the cache may take."""

    texts: int
    pictures: int
    text_bytes: float
    picture_bytes: float
    limit: float

    @property
    def size(self) -> float:
        """Bytes of all."""
        return self.text_bytes + self.picture_bytes

    @property
    def on_disk(self) -> float:
        """Bytes that the cache takes."""
        return min(self.size, self.limit)

    def held(self) -> Parts:
        """Bytes in the memory of a worker: those used last of what lies on disk, and all that does not."""
        if not self.limit:
            return {
                f"embeddings of {self.texts:,} texts": self.text_bytes,
                f"latents of {self.pictures:,} pictures": self.picture_bytes,
            }
        return {
            f"of embeddings of {self.texts:,} texts": min(self.text_bytes, HELD_BYTES),
            f"of latents of {self.pictures:,} pictures": min(self.picture_bytes, HELD_BYTES),
            "what is over --cache-gib": max(0.0, self.size - self.limit),
        }

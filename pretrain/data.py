"""What the embedded world is trained on: rendered pictures kept in chunks on disk, and the scenes that they show.

A scene is a pure function of (stream, seed, index), so only pictures are stored; captions are drawn again when asked
for. Everything that is trained on comes from stream "pretrain", everything that is looked at meanwhile from
"pretrain-val"; neither shares a picture or its style with the candidates or the prompts of the experiments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_scenes
from bench.datasets.scenes.types import Scene

TRAIN_STREAM = "pretrain"
VALIDATION_STREAM = "pretrain-val"
# Share of wrong captions in the data of the base, as in the experiments' candidates.
WRONG_CAPTIONS = 0.1
CHUNK = 4000


def pretrain_cache() -> Path:
    """Where checkpoints and encoded data live: $BENCH_CACHE, else ~/.cache/bench/pretrain."""
    named = os.environ.get("BENCH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "bench" / "pretrain"


def scenes_at(
    stream: str, seed: int, indices: Iterable[int], *, style: str = "broad", wrong: float = 0.0
) -> list[Scene]:
    """The scenes of single indices of a stream."""
    return [sample_scenes(stream, seed, int(i), 1, style=style, wrong_caption_share=wrong)[0] for i in indices]


def validation(count: int, seed: int = 0, style: str = "broad", start: int = 0) -> tuple[np.ndarray, list[Scene]]:
    """Pictures uint8 (count, 64, 64, 3) that nothing is trained on, with their rightly captioned scenes."""
    scenes = sample_scenes(VALIDATION_STREAM, seed, start, count, style=style)
    return render_scenes(scenes), scenes


class TrainingPictures:
    """The pictures of the training stream, rendered on first use, in memory-mapped chunks.

    Item i belongs to scene i of the stream, whatever the number of pictures.
    """

    def __init__(self, folder: Path, count: int, seed: int = 0, chunk: int = CHUNK) -> None:
        self.folder, self.seed = folder / "pictures", seed
        self.count, self.chunk = count, chunk
        self.chunks: list[np.ndarray] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return self.count

    def scenes(self, indices: Iterable[int]) -> list[Scene]:
        """The scenes of single pictures, a share of them wrongly captioned."""
        return scenes_at(TRAIN_STREAM, self.seed, indices, wrong=WRONG_CAPTIONS)

    def render(self, part: int = 0, parts: int = 1) -> None:
        """Render what is missing; with `parts` > 1 only every parts-th chunk, so that processes can share the work."""
        for number in range(part, -(-self.count // self.chunk), parts):
            path = self._path(number)
            if not path.exists():
                first = number * self.chunk
                scenes = sample_scenes(TRAIN_STREAM, self.seed, first, self.chunk, wrong_caption_share=WRONG_CAPTIONS)
                half = path.with_suffix(f".{os.getpid()}.part")
                with half.open("wb") as file:
                    np.save(file, render_scenes(scenes))
                half.replace(path)

    def open(self) -> TrainingPictures:
        """Render what is missing, then map all chunks."""
        self.render()
        self.chunks = [np.load(self._path(n), mmap_mode="r") for n in range(-(-self.count // self.chunk))]
        return self

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Pictures uint8 (B, 64, 64, 3) of the given indices (B,)."""
        return np.stack([self.chunks[i // self.chunk][i % self.chunk] for i in indices.tolist()])

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.seed}-{number:05d}.npy"


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def to_images(tensor: Tensor) -> np.ndarray:
    """Float (B, 3, H, W) in [-1, 1], clamped, to uint8 (B, H, W, 3), rounded as diffusers' image processor does."""
    scaled = (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (scaled * 255).round().byte().contiguous().numpy()

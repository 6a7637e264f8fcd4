"""Gold scorer of the embedded world: published computational measures of how a picture looks, whatever it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.api import Reward

# Each term is value / (value + half), so half of its worth is reached at `half`; the sum of weight * term is squashed.
# The weights give each flaw of the world (pale, faded, grainy, blurred) a comparable loss; they were fixed before any
# model was trained.
HALVES = {"colorfulness": 45.0, "contrast": 0.15, "noise": 12.0, "sharpness": 0.30}
WEIGHTS = {"colorfulness": 5.0, "contrast": 4.0, "noise": -4.5, "sharpness": 5.0}
OFFSET = -6.2
# Rec. 601 luma.
LUMA = np.array([0.299, 0.587, 0.114])


def colorfulness(images: np.ndarray) -> np.ndarray:
    """Spread and mean of the opponent colours, (B,) float64, about 0 (grey) to 150, of uint8 (B, H, W, 3).

    Source: Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", SPIE 5007, equation for M-hat(3).
    """
    red, green, blue = _channels(images)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = np.sqrt(rg.var(1) + yb.var(1))
    colourfulness: np.ndarray = spread + 0.3 * np.sqrt(rg.mean(1) ** 2 + yb.mean(1) ** 2)
    return colourfulness


def contrast(images: np.ndarray) -> np.ndarray:
    """RMS contrast: standard deviation of luma in [0, 1], (B,) float64, 0 to 0.5, of uint8 (B, H, W, 3).

    Source: Peli 1990, "Contrast in complex images", JOSA A 7(10), equation 1. Grain counts too; `noise` outweighs it.
    """
    red, green, blue = _channels(images)
    deviation: np.ndarray = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).std(1)
    return deviation / 255


def noise(images: np.ndarray) -> np.ndarray:
    """Estimated deviation of white noise in luma, in grey levels of 255, (B,) float64, of uint8 (B, H, W, 3).

    Source: Immerkaer 1996, "Fast noise variance estimation", CVIU 64(2): the response to the difference of two
    Laplacians. Deviation: the median of its magnitude instead of the mean, so that edges (the number of objects) do not
    count as noise.
    """
    light = images.astype(np.float32) @ LUMA.astype(np.float32)
    rows = light[:, :-2] - 2 * light[:, 1:-1] + light[:, 2:]
    response = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    # The kernel's squared weights sum to 36; the median magnitude of a standard normal is 0.6745.
    deviation: np.ndarray = np.median(np.abs(response).reshape(len(images), -1), axis=1) / (6 * 0.6745)
    return deviation


def sharpness(images: np.ndarray) -> np.ndarray:
    """How steep the edges are relative to their height, (B,) float64, about 0.1 (blurred) to 0.6 (one pixel wide).

    Source: Tenengrad, the energy of the Sobel gradient (Tenenbaum 1970; Krotkov 1987, "Focusing", IJCV 1). Deviations:
    over the three channels; the mean gradient weighted by its cube instead of the sum of energies, which would count
    edges and grain; divided by the picture's range of colour, which would count contrast. 0 for a flat picture.
    """
    pixels = images.astype(np.float32) / 255
    down = pixels[:, 2:] - pixels[:, :-2]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    across = pixels[:, :, 2:] - pixels[:, :, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    energy = ((down * down + across * across).sum(-1) / 64).reshape(len(images), -1)
    cubes = energy**1.5
    steepness = (energy * energy).sum(1, dtype=np.float64) / (cubes.sum(1, dtype=np.float64) + 1e-6)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    smooth = ((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9).reshape(len(images), -1, 3)
    extent = np.sqrt(((smooth.max(1) - smooth.min(1)).astype(np.float64) ** 2).sum(1))
    sharpness: np.ndarray = steepness / (extent + 0.1)
    return sharpness


TERMS = {"colorfulness": colorfulness, "contrast": contrast, "noise": noise, "sharpness": sharpness}


def _channels(images: np.ndarray) -> np.ndarray:
    """Float64 channels (3, B, H * W): rows are contiguous, so that sums do not depend on the batch."""
    return np.ascontiguousarray(images.reshape(len(images), -1, 3).transpose(2, 0, 1), dtype=np.float64)


class ScenesAesthetic(Reward):
    """Colourful, rich in contrast, sharp and free of grain: 0 (worst) to 10, whatever the picture shows.

    10 / (1 + exp(-(OFFSET + sum of WEIGHTS[k] * t_k / (t_k + HALVES[k])))) over the four terms t_k, each of which the
    score is monotone in: more colourfulness, contrast and sharpness are better, more noise is worse. Prompts play no
    part. A measure that only looks at statistics can be exploited, and that is a use of it: see how far a method goes.

    Source: the terms' own (see `colorfulness`, `contrast`, `noise`, `sharpness`); their combination is this project's.
    """

    name = "scenes-aesthetic"
    version = "1"
    range = (0.0, 10.0)
    higher_is_better = True
    gold = True
    source = "Hasler & Suesstrunk 2003; Peli 1990; Immerkaer 1996; Krotkov 1987"
    held: ClassVar[Mapping[str, float]] = {}
    reads_prompts = False

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in (0, 10) of uint8 (B, H, W, 3), H and W at least 3.

        Raises: ValueError for another shape or type.
        """
        if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < 3 or images.dtype != np.uint8:
            raise ValueError(f"expected uint8 pictures (B, H, W, 3), got {images.dtype} {images.shape}")
        scores = np.zeros(len(images), np.float32)
        for start in range(0, len(images), 64):
            part = images[start : start + 64]
            total = np.full(len(part), OFFSET)
            for key, term in TERMS.items():
                value = term(part)
                total += WEIGHTS[key] * value / (value + HALVES[key])
            scores[start : start + 64] = 10 / (1 + np.exp(-total))
        return scores

"""How well a picture spells the text that its prompt quotes, as an optical character reader reads it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import ConfigError, DataError, Reward
from bench.datasets.prompts.ocr import quoted_text
from bench.datasets.scenes.verify import edit_distance
from rewards._clip import refuse_other_pictures

# As PaddleOCR reads by default, and Flow-GRPO with it; RapidOCR's own defaults enlarge every picture to 736 pixels.
_LONGEST_SIDE = 960


def spelling(read: str, wanted: str) -> float:
    """1 - min(edit distance, length) / length of the wanted text, in [0, 1]; 1 where the read text contains it.

    Spaces and case do not count, in either text, and neither does the way in which a letter is stored: both are brought
    to Unicode's normal form NFKC, so that an accent of its own is one with its letter.

    Raises:
        DataError: the wanted text is empty.

    Source: Flow-GRPO, arXiv 2505.05470, section 5.1, and `flow_grpo/ocr.py` of its repository.
    """
    read, wanted = map(_comparable, (read, wanted))
    if not wanted:
        raise DataError("the prompt quotes an empty text: expected one to compare with what the picture spells")
    distance = 0 if wanted in read else min(edit_distance(read, wanted), len(wanted))
    return 1.0 - distance / len(wanted)


def _comparable(text: str) -> str:
    """NFKC, small letters, without spaces of any kind; that of no width is none to Python."""
    whole = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return "".join(whole.replace("\u200b", "").split())


class OCR(Reward):
    """1 - min(edit distance, length) / length between what RapidOCR reads and the text that the prompt quotes.

    Spaces and case do not count, and neither does what is read around the text: all lines are joined, in the reader's
    order. The text is the metadata's `text`, or else what stands in the first quotes of the prompt.

    Source: Flow-GRPO, arXiv 2505.05470, section 5.1. Deviations: its code reads with PaddleOCR's English models, this
    with RapidOCR's PP-OCRv6 (small), which come with its package, and with that package's thresholds of where text
    stands; it gives the reader red and blue the wrong way round, which this does not; a picture that cannot be read is
    an error here, and scores 0 there.
    """

    name: ClassVar[str] = "ocr"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "2-ppocrv6-small"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = (
        "arXiv 2505.05470, section 5.1; RapidOCR's PP-OCRv6 and thresholds in the place of PaddleOCR's; red and blue "
        "as they are, not exchanged; unreadable pictures are errors, not 0; texts compared in the form NFKC"
    )

    held: ClassVar[Mapping[str, float]] = {}  # on the CPU

    def __init__(self) -> None:
        self._engine: Any = None
        self.fingerprint = ""

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        """Whether the prompt quotes a text, which whoever read the prompts put into its metadata."""
        return bool(str(metadata.get("text") or "").strip())

    @classmethod
    def require_checkpoint(cls) -> None:
        """Look for RapidOCR and its models."""
        cls.models()

    @classmethod
    def models(cls) -> dict[str, Path]:
        """The models that come with RapidOCR, by the part of the reader.

        Raises:
            ConfigError: the package is not installed.
            DataError: it came without these models.
        """
        try:
            import rapidocr
        except ImportError as error:
            raise ConfigError(
                f"reward 'ocr' reads with the packages rapidocr and onnxruntime ({error}): install them with "
                "`pip install -e '.[ocr]'`"
            ) from error
        folder = Path(rapidocr.__file__).parent / "models"
        models = {part: folder / f"PP-OCRv6_{part.lower()}_small.onnx" for part in ("Det", "Rec")}
        for path in models.values():
            if not path.is_file():  # RapidOCR would download another one
                raise DataError(f"{path}: expected a model that comes with rapidocr 3.10: install rapidocr>=3.10,<4")
        return models

    def load(self) -> None:
        """Read the models; raises as `models` does."""
        models = self.models()
        import rapidocr
        import torch

        from rewards._weights import weights_fingerprint

        self.fingerprint = weights_fingerprint(*models.values())
        self._engine = rapidocr.RapidOCR(
            params={
                **{f"{part}.model_path": str(path) for part, path in models.items()},
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
                "Global.log_level": "error",
                "Global.use_cls": False,  # upside-down text is not looked for
                "Det.limit_type": "max",
                "Det.limit_side_len": _LONGEST_SIDE,
            }
        )

    def read(self, image: np.ndarray) -> str:
        """All that a picture uint8 (H, W, 3) spells."""
        if self._engine is None:
            self.load()
        lines = self._engine(np.ascontiguousarray(image[..., ::-1])).txts  # it wants blue first
        return "".join(lines or ())

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, H, W, 3).

        Raises:
            DataError: pictures of another type, not one prompt for each, or a prompt that quotes no text.
        """
        refuse_other_pictures(self.name, images, prompts)
        scores = []
        for image, prompt, about in zip(images, prompts, metadata, strict=True):
            wanted = about.get("text") or quoted_text(prompt)
            if wanted is None:
                raise DataError(
                    f'ocr: expected a prompt with a text in quotes ("..."), got {prompt!r}: ask applies() first'
                )
            scores.append(spelling(self.read(image), wanted))
        return np.array(scores, np.float32)

"""ImageReward's network, in the environment of its package: a worker file of `bench.scoring.workers.worker_main`.

The package is used as it is published (image-reward 1.5): its network, its preprocessing and its `score`. Only its
loader is not: that one leaves out, without a word, what it does not find in a checkpoint.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")  # of packages that are older than their torch; errors are raised all the same

import torch  # noqa: E402
from ImageReward.ImageReward import ImageReward  # noqa: E402
from PIL import Image  # noqa: E402

_model: Any = None


def build(configuration: str, vocabulary: str, device: str, threads: int) -> dict[str, list[int]]:
    """Make the network with weights that are still random; returns the shape of every tensor that it stores.

    `configuration` is the path of med_config.json, `vocabulary` the folder of bert-base-uncased's tokenizer.
    """
    global _model
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 stays float32
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        # The package asks for the tokenizer by this name, which may be that of a folder.
        (Path(folder) / "bert-base-uncased").symlink_to(Path(vocabulary).resolve())
        os.chdir(folder)
        try:
            _model = ImageReward(med_config=configuration, device=device)
        finally:
            os.chdir(before)
    return {name: list(tensor.shape) for name, tensor in _model.state_dict().items()}


def load(weights: str) -> float:
    """Take the weights from a safetensors file; returns the FLOPs of one picture."""
    from safetensors.torch import load_file
    from torch.utils.flop_counter import FlopCounterMode

    tensors = load_file(weights)
    positions = {name: tensor for name, tensor in _model.state_dict().items() if name.endswith("position_ids")}
    _model.load_state_dict(positions | tensors, strict=True)
    _model.to(_model.device).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        _model.score("a picture", Image.new("RGB", (224, 224)))
    return float(counter.get_total_flops())


def score(images: Any, prompts: list[str], metadata: list[dict[str, Any]]) -> list[float]:
    """Scores of pictures uint8 (B, H, W, 3), one by one as the package does it."""
    with torch.inference_mode():
        return [
            float(_model.score(prompt, Image.fromarray(image))) for prompt, image in zip(prompts, images, strict=True)
        ]


if __name__ == "__main__" and sys.argv[1:] != ["--try"]:
    raise SystemExit(
        "expected --try, which imports what is needed here; bench.scoring.workers.worker_main runs it otherwise"
    )

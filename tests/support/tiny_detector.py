"""A Mask2Former in the real format (files, names of tensors), tiny, with random weights that see something."""

from __future__ import annotations

from pathlib import Path

import torch


def write_detector(folder: Path, seed: int = 0, **config: int) -> Path:
    """A folder as `facebook/mask2former-swin-small-coco-instance` has it."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    settings = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=8,
        **{"num_labels": 80, **config},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(settings)
        with torch.no_grad():  # sure of its classes, or nothing would pass the threshold
            model.class_predictor.weight *= 60
            for tensor in model.model.pixel_level_module.encoder.parameters():  # and of what it sees
                tensor += 0.1 * torch.randn(tensor.shape)
    model.save_pretrained(folder)
    return folder

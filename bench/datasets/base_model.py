"""Where the base model of a world lies."""

from __future__ import annotations

from pathlib import Path

from bench.api import DataError
from bench.config.architectures import BY_NAME
from bench.datasets.scenes.manifest import ASSETS, check_manifest
from bench.hub import is_hub_id, locate_model


def base_model(model: str | None) -> Path:
    """The pipeline folder of that path, or where a hub model was fetched to, or the embedded base.

    The name of an architecture that is known, which has random weights and no folder, is given back as it is.

    Raises:
        DataError: there is none, or it is of another family.
    """
    if model in BY_NAME:
        return Path(str(model))
    if model is not None and ((Path(model) / "model_index.json").is_file() or is_hub_id(model)):
        return locate_model(model)
    folder = Path(model) if model else ASSETS / "pipeline"
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"{folder}: expected a diffusers pipeline folder. The embedded base comes with the repository; "
            "`python -m bench pretrain` rebuilds it"
        )
    check_manifest(folder)
    return folder

"""The Hugging Face hub: names of models there, where its cache holds those that were fetched, and fetching them.

Nothing is downloaded but by `fetch_model` and `fetch_data_set`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.families import refuse_other_pipeline

# The parts of a pipeline; not the same weights once more in one file or in half precision, which lie beside them.
_WANTED = ("model_index.json", "scheduler/*", "tokenizer*/*", "*/config.json", "*/*.safetensors*")
_UNWANTED = ("*.fp16*", "*.msgpack", "*.bin")


def is_hub_id(text: str) -> bool:
    """Whether a text could name a model of the Hugging Face hub: organisation/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def locate_model(model: str | Path) -> Path:
    """The folder of a model: itself, or where the hub's cache holds a fetched one.

    Raises:
        DataError: there is neither.
    """
    folder = Path(model)
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise DataError(f"{folder}: expected a diffusers pipeline folder, but it has no model_index.json")
        refuse_other_pipeline(folder)
        return folder
    if not is_hub_id(str(model)):
        raise DataError(f"{model}: expected a folder in the diffusers format, or a hub id like organisation/name")
    found = _cached(str(model), allow_patterns=list(_WANTED))
    if found is None:
        raise DataError(
            f"{model}: there is no such folder, and no model of that name was fetched from the hub: run "
            f"`python -m bench fetch {model}` first, or give a folder by --model"
        )
    refuse_other_pipeline(found)
    return found


def is_model_here(model: str | None) -> bool:
    """Whether the model's weights are on this machine, or it can be nowhere else."""
    if model is None or Path(model).exists() or not is_hub_id(model):
        return True
    try:
        locate_model(model)
    except DataError:
        return False
    return True


def locate_data_set(name: str, patterns: Sequence[str]) -> Path:
    """Where the hub's cache holds the files of a fetched data set that match one of the `patterns`.

    Raises:
        DataError: it was not fetched.
    """
    found = _cached(name, repo_type="dataset", allow_patterns=list(patterns))
    if found is None:
        raise DataError(
            f"{name}: there is no such file, and no data set of that name was fetched from the hub: run `python -m "
            f"bench fetch --prompts {name}` first, or give a file"
        )
    return found


def _cached(name: str, **wanted: Any) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True, **wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None


def fetch_model(model: str, endpoint: str | None = None) -> Path:
    """Download a model's parts from the Hugging Face hub into its cache; returns the folder.

    Raises:
        DataError: it is no hub id, does not exist, or its licence was not accepted; or the hub cannot be reached.
    """
    page = f"https://huggingface.co/{model}"
    wanted = {"allow_patterns": list(_WANTED), "ignore_patterns": list(_UNWANTED)}
    return _fetched(model, "model", page, endpoint, **wanted)


def fetch_data_set(name: str, patterns: Sequence[str], endpoint: str | None = None) -> Path:
    """Download the files of a data set that match one of the `patterns`; returns and raises as `fetch_model`."""
    page = f"https://huggingface.co/datasets/{name}"
    return _fetched(name, "data set", page, endpoint, repo_type="dataset", allow_patterns=list(patterns))


def _fetched(name: str, kind: str, page: str, endpoint: str | None, **wanted: Any) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if not is_hub_id(name):
        raise DataError(f"{name!r}: expected a hub id like organisation/name")
    if constants.is_offline_mode():
        raise DataError(f"{name}: HF_HUB_OFFLINE is set, so nothing can be fetched: unset it")
    try:
        return Path(snapshot_download(name, endpoint=endpoint, **wanted))
    except GatedRepoError as error:
        raise DataError(
            f"{name}: its licence has to be accepted first: log in at {page}, accept it there, make a token at "
            "https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{name}: the hub has no such {kind}, or shows it only to some: look at {page}, and set HF_TOKEN to a "
            "token that may read it"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"{name}: fetching it failed: {error}. Look at the connection and the space left, then give the same "
            "command again: what has arrived is kept"
        ) from error

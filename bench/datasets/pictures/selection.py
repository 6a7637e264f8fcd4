"""The part of a source that `bench curate` selected: names and hashes beside the results, no copies of pictures.

{"schema": 2, "columns": {...}, "scorer": "aesthetic", "version": "1", "checkpoint": "0123456789abcdef",
"role": "filter", "rule": "score >= 6.8", "scored": 4000, "names": [...], "digests": [...]}. In schema 1, which lay
beside the data, `where` names it: a file of the same folder, the folder itself (`.`), or a dataset of the hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.api import DataError
from bench.canonical import canonical_json
from bench.config.pictures import Data
from bench.files import write_whole
from bench.paths import inside
from bench.reading import read_json


class SelectionColumns(BaseModel):
    """How the source was read; where pictures lie elsewhere, a run says so again by --data.pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    picture_column: str | None = None
    rejected_column: str | None = None
    caption_column: str | None = None
    tag_column: str | None = None
    subset: str = "train"


class Selection(BaseModel):
    """Which pictures were selected, from what, by which scorer and which rule, among how many.

    checkpoint: the hash of the scorer's weights (empty: it has none). role: what these scores serve for. digests: of
    the bytes of each picture, as it was when it was scored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1, 2] = Field(default=2, alias="schema")
    where: str | None = None
    on_the_hub: bool = False
    columns: SelectionColumns
    scorer: str
    version: str
    checkpoint: str = ""
    role: Literal["filter"] = "filter"
    rule: str
    scored: int
    names: tuple[str, ...] = Field(min_length=1)
    digests: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_its_schema(self) -> Selection:
        if (self.schema_ == 1) != (self.where is not None):
            raise ValueError("schema 1 says where its pictures lie, and schema 2 does not")
        if self.schema_ == 2 and len(self.digests) != len(self.names):
            raise ValueError(f"expected a digest for each of {len(self.names)} names, got {len(self.digests)}")
        return self

    def source(self, path: Path) -> str:
        """What was selected from, where the selection says so; `path` is the selection's own."""
        assert self.where is not None
        if self.on_the_hub:
            return self.where
        return str(path.parent if self.where == "." else inside(path.parent, self.where))


def read_selection(path: Path) -> Selection:
    """What `write_selection` wrote.

    Raises:
        DataError: the file is damaged, or no selection.
    """
    try:
        return Selection.model_validate_json(json.dumps(read_json(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{path}: expected what `bench curate` writes: {reason}: select again") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected what `bench curate` writes: {error}: select again") from error


def write_selection(path: Path, selection: Selection) -> None:
    """Store it; appears whole."""
    kept = selection.model_dump(by_alias=True, exclude={"where", "on_the_hub"} if selection.where is None else set())
    write_whole(path, (canonical_json(kept, indent=1) + "\n").encode())


def columns_of(settings: Data) -> SelectionColumns:
    """The settings that a later reading of the same source needs."""
    return SelectionColumns(**{name: getattr(settings, name) for name in SelectionColumns.model_fields})

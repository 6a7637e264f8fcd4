"""What the page hands out: scores as CSV and parquet, the resolved settings as YAML; each a function of the results."""

from __future__ import annotations

import gzip
import io
from base64 import b64encode
from dataclasses import dataclass
from hashlib import blake2b

import pandas as pd
import pyarrow as pa
import yaml
from pyarrow.csv import write_csv

from bench.paths import portable
from bench.results.statistics.analysis import Analysis

__all__ = ["Download", "downloads", "scores_digest", "settings_yaml"]

_ROWS = 2**16  # that are hashed at once: it takes several times the memory of their scores


@dataclass(frozen=True)
class Download:
    """One file. data: base64 of its bytes, compressed by gzip where `is_compressed`."""

    name: str
    kind: str
    data: str
    is_compressed: bool = False


def downloads(analysis: Analysis) -> list[Download]:
    """Scores of every evaluation and prompt set, one row a sample; and the settings of the experiment."""
    frame, parquet, text = _scores(analysis), io.BytesIO(), io.BytesIO()
    frame.to_parquet(parquet, index=False)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with gzip.GzipFile(fileobj=text, mode="wb", compresslevel=6, mtime=0) as file:
        write_csv(table, file)  # ten times as quick as pandas', and in little memory
    return [
        Download("scores.csv", "text/csv", b64encode(text.getvalue()).decode(), is_compressed=True),
        Download("scores.parquet", "application/vnd.apache.parquet", b64encode(parquet.getvalue()).decode()),
        Download("settings.yaml", "application/yaml", b64encode(settings_yaml(analysis).encode()).decode()),
    ]


def settings_yaml(analysis: Analysis) -> str:
    """The resolved configuration of the experiment, without paths of a machine."""
    text = yaml.safe_dump(analysis.experiment.header.config, sort_keys=True, allow_unicode=True)
    return portable(text, known=False)


def scores_digest(analysis: Analysis) -> str:
    """Hash of all scores, whatever the libraries that write them."""
    frame, digest = _scores(analysis), blake2b(digest_size=8)
    for start in range(0, len(frame), _ROWS):
        rows = pd.util.hash_pandas_object(frame.iloc[start : start + _ROWS], index=False)
        digest.update(rows.to_numpy().tobytes())
    digest.update("\n".join(map(str, frame.columns)).encode())
    return digest.hexdigest()


def _scores(analysis: Analysis) -> pd.DataFrame:
    """Samples, and below them the prompts of prompt sets, of all cells that were read."""
    frames = [frame for frame in (analysis.experiment.samples, analysis.experiment.sets) if len(frame)]
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

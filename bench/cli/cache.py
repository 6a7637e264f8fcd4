"""Say what the cache of latents and text embeddings holds, or clear it.

Also the line that ends a run: how much it has saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.models.encoding_cache.folder import entry_counts, files_of, folder_of_all, remove_all, size_of_all
from bench.results.records.listing import list_cells
from bench.results.records.writer import TELEMETRY, read_telemetry

EPILOG = "It lies in $BENCH_CACHE/encoded (~/.cache/bench/encoded); `run --cache-gib N` limits it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--clear", action="store_true", help="remove all of it; a living run encodes again what it still needs"
    )


def run(args: argparse.Namespace) -> int:
    """Print what it holds; returns 0."""
    print(describe_cache(clear=args.clear))
    return 0


def describe_cache(*, clear: bool) -> str:
    """Folder, size and entries, after all of it was removed where that is asked for.

    A living run encodes again what it still needs.

    Raises:
        DataError: the folder cannot be used.
    """
    folder = folder_of_all()
    lines = [f"cleared  {_size(remove_all(folder))}; a living run encodes again what it still needs"] if clear else []
    entries = ", ".join(f"{count:,} {kind}" for kind, count in sorted(entry_counts(folder).items())) or "none"
    sizes = [file.size for file in files_of(folder)]
    lines += [
        f"folder   {folder}",
        f"size     {_size(sum(sizes))} in {len(sizes):,} files",
        f"encoded  {entries}",
    ]
    return "\n".join(lines)


def cache_savings(folder: Path, limit_gib: float) -> str | None:
    """How many encodings the cells of an experiment found in the cache, and its size; None where none asked it.

    Raises:
        DataError: a cell's telemetry is damaged, or the cache's folder cannot be used.
    """
    told = [line.encodings for cell in list_cells(folder, TELEMETRY) for line in read_telemetry(cell)]
    counts = [count for count in told if count is not None]
    found, whole = sum(c.found for c in counts), sum(c.found + c.made for c in counts)
    if not whole:
        return None
    size = _size(size_of_all(folder_of_all()))
    return f"{found:,} of {whole:,} encodings found ({found / whole:.0%}); holds {size} of at most {limit_gib:g} GiB"


def _size(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:,.1f} MiB"

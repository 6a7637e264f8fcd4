"""What made the numbers: commit, dirty flag, hashes of the sources that really ran, versions, device."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path, PurePosixPath

from bench.api import DataError
from bench.canonical import hash_file
from bench.reading import read_json
from bench.results.records.schema import Provenance

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("bench", "methods", "rewards")
ASSETS = "assets"  # a folder beside a module, which reads what lies there
_COMMAND_LINE = "bench.cli"  # which the script `bench` imports into every worker, though no number passes through it
DISTRIBUTIONS = ("accelerate", "diffusers", "numpy", "pandas", "peft", "pyarrow", "torch", "transformers", "trl")
_SHOWN = 4  # changed files named in a message


def imported_files(root: Path = ROOT) -> list[Path]:
    """The modules of ours that this process has imported, and the assets beside them, relative to `root`, sorted."""
    found: set[Path] = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] not in PACKAGES or name.startswith(_COMMAND_LINE) or file is None:
            continue
        path = Path(file).resolve()
        if path.is_relative_to(root):
            found.add(path)
    for folder in {path.parent for path in found}:
        found.update(asset for asset in (folder / ASSETS).rglob("[!.]*") if asset.is_file())
    return sorted(path.relative_to(root) for path in found)


def commit_and_dirty(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """The commit checked out at `root`, and whether anything but results/ and REPORT.md differs from it.

    (None, None) where git is absent or does not track these sources.
    """
    if _git(root, "ls-files", "--error-unmatch", "bench/__init__.py") is None:
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)REPORT.md")
    return (None, None) if commit is None or changed is None else (commit, bool(changed))


def base_files(model: Path) -> list[Path]:
    """The files of a diffusers pipeline folder that a number can depend on: its index, and all of the parts it names.

    Where the index is damaged, which loading the base tells, the index alone. Raises DataError where there is none.
    """
    index = model / "model_index.json"
    if not index.is_file():
        raise DataError(f"{model}: expected a diffusers pipeline folder, but it has no model_index.json: restore it")
    try:
        parts = [name for name, value in read_json(index).items() if isinstance(value, list)]
    except (OSError, ValueError, AttributeError):
        parts = []
    return [index, *sorted(path for name in parts for path in (model / name).glob("[!.]*") if path.is_file())]


def collect(device: str, dtype: str, threads: int, sources: Mapping[str, str], root: Path = ROOT) -> Provenance:
    """Provenance of a run now, whose `sources` are those of `source_hashes`.

    Packages that are not installed have the version `absent`.
    """
    commit, dirty = commit_and_dirty(root)
    return Provenance(
        commit=commit,
        dirty=dirty,
        covers="imported",
        sources=dict(sources),
        sources_hash=hash_sources(sources),
        versions={name: _version(name) for name in DISTRIBUTIONS},
        python=platform.python_version(),
        device=device,
        dtype=dtype,
        threads=threads,
    )


def source_hashes(
    own: Mapping[str, Path | str], also: Iterable[str] = (), root: Path = ROOT, *, imported: bool = True
) -> dict[str, str]:
    """The hash of each source that numbers depend on, by name.

    Those are what this process has `imported`, the files `also` named (relative to `root`; what is missing, or leads
    out of it, is left out), and what is the user's own: `own` has a file for each name, or a text that stands for it,
    as the revision of a fetched model does.
    """
    below = (name for name in also if not (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts))
    hashes = {name: hash_file(root / name) for name in below if (root / name).is_file()}
    if imported:
        hashes |= {path.as_posix(): _hash_once(root / path) for path in imported_files(root)}
    return hashes | {name: hash_file(it) if isinstance(it, Path) else it for name, it in own.items()}


@cache
def _hash_once(path: Path) -> str:
    """Of a module that is imported: what runs is what was read first, whatever its file becomes."""
    return hash_file(path)


def changed_sources(held: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of recorded sources that are another file `now`, or none."""
    return sorted(name for name, digest in held.items() if now.get(name) != digest)


def shown_sources(changed: Iterable[str]) -> str:
    """A few names of changed sources, for a message."""
    names = list(changed)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def hash_sources(sources: Mapping[str, str]) -> str:
    """16 hex digits that name all of `source_hashes`."""
    whole = blake2b(digest_size=8)
    for name, digest in sorted(sources.items()):
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"

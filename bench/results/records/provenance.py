"""What made the numbers: commit, dirty flag, hashes of the sources that matter to numbers, versions, device."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from bench.api import DataError
from bench.canonical import hash_file
from bench.results.records.schema import Provenance

__all__ = [
    "SHOWN_ONLY",
    "base_files",
    "collect",
    "commit_and_dirty",
    "hash_file",
    "hash_sources",
    "source_files",
    "source_hashes",
]

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("bench", "methods", "rewards")
# These show, describe or launch, or make assets, whose own bytes count; no recorded number passes through them. What is
# new counts until it is named here.
SHOWN_ONLY = frozenset(
    [
        "__main__.py",
        "cli.py",
        "commands",
        "forecast",
        "plots",
        "presets",
        "pretrain",
        "processes/detach.py",
        "processes/lock.py",
        "processes/shadow.py",
        "processes/watchdog.py",
        "records/provenance.py",
        "records/results.py",
        "rehearsal",
        "report",
        "score",
        "statistics",
        "status",
        "suggest.py",
        "templates",
        "workers.py",
    ]
)
DISTRIBUTIONS = ("accelerate", "diffusers", "numpy", "pandas", "peft", "pyarrow", "torch", "transformers", "trl")


def source_files(root: Path = ROOT) -> list[Path]:
    """Modules and assets whose change could change a recorded number, relative to `root`, sorted."""
    found = []
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            inside = path.relative_to(root / package)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            shown = package == "bench" and any(inside.is_relative_to(place) for place in SHOWN_ONLY)
            if path.is_file() and not hidden and not shown:
                found.append(path.relative_to(root))
    return sorted(found)


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
        parts = [name for name, value in json.loads(index.read_bytes()).items() if isinstance(value, list)]
    except (ValueError, AttributeError):
        parts = []
    return [index, *sorted(path for name in parts for path in (model / name).glob("[!.]*") if path.is_file())]


def collect(
    device: str, dtype: str, threads: int, plugins: Iterable[Path] = (), base: Path | None = None, root: Path = ROOT
) -> Provenance:
    """Provenance of a run now; `plugins` and `base` as in `source_hashes`.

    Packages that are not installed have the version `absent`.
    """
    sources = source_hashes(plugins, base, root)
    commit, dirty = commit_and_dirty(root)
    return Provenance(
        commit=commit,
        dirty=dirty,
        sources=sources,
        sources_hash=hash_sources(sources),
        versions={name: _version(name) for name in DISTRIBUTIONS},
        python=platform.python_version(),
        device=device,
        dtype=dtype,
        threads=threads,
    )


def source_hashes(plugins: Iterable[Path] = (), base: Path | None = None, root: Path = ROOT) -> dict[str, str]:
    """The hash of every file that matters to numbers, by name; the world's own base is among the package's files.

    Of the user's own: `plugins` are files, kept as `plugin/<name>`; `base` is a pipeline folder, kept as `base/<file>`;
    of a fetched model the hub's revision tells all, kept as `base/revision`.
    """
    sources = {path.as_posix(): hash_file(root / path) for path in source_files(root)}
    sources |= {f"plugin/{path.name}": hash_file(path) for path in plugins}
    if base is not None and base.parent.name == "snapshots":  # of the hub's cache, named by its revision
        sources["base/revision"] = base.name
    elif base is not None:
        sources |= {f"base/{path.relative_to(base).as_posix()}": hash_file(path) for path in base_files(base)}
    return sources


def hash_sources(sources: Mapping[str, str]) -> str:
    """16 hex digits that name all of `source_hashes`."""
    whole = hashlib.blake2b(digest_size=8)
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

"""What made the numbers: commit, dirty flag, hashes of the sources that matter to numbers, versions, device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

from bench.schema import Provenance

__all__ = ["SHOWN_ONLY", "collect", "commit_and_dirty", "hash_file", "hash_sources", "source_files", "source_hashes"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "methods", "rewards")
# These show, describe or launch, or make assets, whose own bytes count; no recorded number passes through them. What is
# new counts until it is named here.
SHOWN_ONLY = frozenset(
    [
        "__main__.py",
        "analysis.py",
        "catalogue.py",
        "cli.py",
        "commands.py",
        "coverage.py",
        "doctor.py",
        "listing.py",
        "lock.py",
        "plan.py",
        "plots",
        "presets",
        "pretrain",
        "progress.py",
        "provenance.py",
        "rehearsal",
        "replay.py",
        "report",
        "results.py",
        "sample.py",
        "scaffold.py",
        "shadow.py",
        "stats.py",
        "suggest.py",
        "templates",
        "throughput.py",
        "watchdog.py",
        "workers.py",
    ]
)
DISTRIBUTIONS = ("accelerate", "diffusers", "numpy", "pandas", "peft", "pyarrow", "torch", "transformers", "trl")


def hash_file(path: Path) -> str:
    """16 hex digits of a file's BLAKE2b."""
    whole = blake2b(digest_size=8)
    with path.open("rb") as file:  # a checkpoint may be larger than memory
        while part := file.read(2**24):
            whole.update(part)
    return whole.hexdigest()


def source_files(root: Path = ROOT) -> list[Path]:
    """Modules and assets whose change could change a recorded number, relative to `root`, sorted."""
    found = []
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            inside = path.relative_to(root / package)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            shown = package == "bench" and inside.parts[0] in SHOWN_ONLY
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


def collect(device: str, dtype: str, threads: int, plugins: Iterable[Path] = (), root: Path = ROOT) -> Provenance:
    """Provenance of a run now. `plugins`: files of the user's own; only their names are kept.

    Packages that are not installed have the version `absent`.
    """
    sources = source_hashes(plugins, root)
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


def source_hashes(plugins: Iterable[Path] = (), root: Path = ROOT) -> dict[str, str]:
    """The hash of every source file that matters to numbers, by name; those of the user's own as `plugin/<name>`."""
    sources = {path.as_posix(): hash_file(root / path) for path in source_files(root)}
    return sources | {f"plugin/{path.name}": hash_file(path) for path in plugins}


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

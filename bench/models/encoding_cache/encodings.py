"""Sources (texts, or pictures by number) to their encodings: from memory, from the cache on disk, or made now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from bench.models.encoding_cache.cache_file import Entry, size_of
from bench.models.encoding_cache.store import Store

SHARD_BYTES = 64 * 2**20  # of one shard, about: what an interruption loses at most
HELD_BYTES = 2**30  # of what lies on disk, kept in memory too, for each kind in each process
_AT_ONCE = 64  # entries that are read at a time before they are held

Source = TypeVar("Source", bound=Hashable)


class Encodings(Generic[Source]):
    """Encodes every source once.

    `key` names an encoding by all that its bits depend on. `encode` gives the entries of some sources in their order,
    each with the same bits in whatever company. What `prepare` makes is kept in the store; what is met without having
    been prepared stays in memory, for a method could have changed the encoders by then. `share` is its part of
    `HELD_BYTES`.
    """

    def __init__(
        self, kind: str, key: Callable[[Source], str], encode: Callable[[Sequence[Source]], Iterable[Entry]],
        store: Store | None = None, share: float = 1.0,
    ) -> None:  # fmt: skip
        self.store = store
        self._kind = kind
        self._key = key
        self._encode = encode
        self._on_disk: set[str] = set()
        self._recent: OrderedDict[str, Entry] = OrderedDict()  # on disk too; those used last
        self._recent_bytes = 0
        self._share = share
        self._pinned: dict[str, Entry] = {}  # nowhere else

    def prepare(self, sources: Iterable[Source]) -> None:
        """Encode what neither memory nor the store has, and keep it; raises as `encode` and `Store.find` do."""
        wanted = {self._key(source): source for source in sources}
        new = {k: s for k, s in wanted.items() if k not in self._pinned and k not in self._on_disk}
        found: set[str] = set()
        if self.store is not None and new:
            found = self.store.find(new)
            self._on_disk |= found
            found -= self._warm_up([key for key in new if key in found])
            self.store.counts.found += len(found)
        self._make({key: source for key, source in new.items() if key not in found}, is_kept=self.store is not None)

    def __call__(self, sources: Sequence[Source]) -> list[Entry]:
        """The entry of each source, in main memory; raises as `encode` does."""
        keys = [self._key(source) for source in sources]
        absent = {k: s for k, s in zip(keys, sources, strict=True) if k not in self._recent and k not in self._pinned}
        read: Mapping[str, Entry] = {}
        if absent:
            read = self._read([key for key in absent if key in self._on_disk])
            self._make({key: source for key, source in absent.items() if key not in read}, is_kept=False)
        entries = []
        for key in keys:
            entry = self._pinned.get(key) or self._recent.get(key)
            entries.append(read[key] if entry is None else entry)
            if key in self._recent:
                self._recent.move_to_end(key)
        for key, entry in read.items():
            self._hold(key, entry)
        return entries

    def _warm_up(self, keys: Sequence[str]) -> set[str]:
        """Read into memory what fits; returns the keys that turned out to be damaged."""
        lost: set[str] = set()
        for start in range(0, len(keys), _AT_ONCE):
            if self._recent_bytes >= self._share * HELD_BYTES:
                break
            part = keys[start : start + _AT_ONCE]
            read = self._read(part)
            lost |= set(part) - read.keys()
            for key, entry in read.items():
                self._hold(key, entry)
        return lost

    def _read(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What the store still has of what it had."""
        if self.store is None or not keys:
            return {}
        read = self.store.read(keys)
        self._on_disk -= set(keys) - read.keys()
        return read

    def _make(self, missing: Mapping[str, Source], *, is_kept: bool) -> None:
        fresh: dict[str, Entry] = {}
        size = 0
        for key, entry in zip(missing, self._encode(list(missing.values())) if missing else (), strict=True):
            fresh[key] = entry
            size += size_of([entry])
            if size >= SHARD_BYTES:
                self._keep(fresh, is_kept=is_kept)
                fresh, size = {}, 0
        self._keep(fresh, is_kept=is_kept)

    def _keep(self, fresh: Mapping[str, Entry], *, is_kept: bool) -> None:
        if self.store is not None:
            self.store.counts.made += len(fresh)
        kept = self.store.add(self._kind, fresh) if is_kept and self.store is not None and fresh else set()
        self._on_disk |= kept
        for key, entry in fresh.items():
            if key in kept:
                self._hold(key, entry)
            else:
                self._pinned[key] = entry

    def _hold(self, key: str, entry: Entry) -> None:
        """Keep in memory what lies on disk too, as far as there is room."""
        self._recent[key] = entry
        self._recent_bytes += size_of([entry])
        while self._recent_bytes > self._share * HELD_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= size_of([oldest])

"""Sources (texts, or pictures by number) to their encodings: from memory, from the cache on disk, or made now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from bench.models.encoding_cache.store import Entry, Store

HELD_BYTES = 2**30  # of what lies on disk, kept in memory too, for each kind in each process

Source = TypeVar("Source", bound=Hashable)


class CachedEncoder(Generic[Source]):
    """Encodes every source once.

    `key` names an encoding by all that its bits depend on. `encode` gives the entries of some sources in their order,
    each with the same bits in whatever company. What `prepare` makes is kept in the store, as entries of a `kind`; what
    is met without having been prepared stays in memory, for a method could have changed the encoders by then. `share`
    is its part of `HELD_BYTES`.
    """

    def __init__(
        self, kind: str, key: Callable[[Source], str], encode: Callable[[Sequence[Source]], Iterable[Entry]],
        store: Store | None = None, share: float = 1.0,
    ) -> None:  # fmt: skip
        self.store = store
        self._kind = kind
        self._key = key
        self._encode = encode
        self._stored: set[str] = set()
        self._recent: OrderedDict[str, Entry] = OrderedDict()  # stored too; those used last
        self._recent_bytes = 0
        self._share = share
        self._pinned: dict[str, Entry] = {}  # nowhere else

    def prepare(self, sources: Iterable[Source]) -> None:
        """Encode what neither memory nor the store has, and keep it; raises as `encode` and `Store.find` do."""
        wanted = {self._key(source): source for source in sources}
        missing = {k: s for k, s in wanted.items() if k not in self._pinned and k not in self._stored}
        for key in self._find(missing):
            del missing[key]
        for key, entry in self._made(missing):
            if self.store is not None and self.store.add(self._kind, key, entry):
                self._stored.add(key)
                self._hold(key, entry)
            else:
                self._pinned[key] = entry

    def __call__(self, sources: Sequence[Source]) -> list[Entry]:
        """The entry of each source, in main memory; raises as `encode` and `Store.read` do."""
        keys = [self._key(source) for source in sources]
        entries = {key: entry for key in dict.fromkeys(keys) if (entry := self._known(key)) is not None}
        missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in entries}
        for key, entry in self._made(missing):
            entries[key] = self._pinned[key] = entry
        return [entries[key] for key in keys]

    def _find(self, keys: Collection[str]) -> set[str]:
        """Those that the store has, of which memory takes as many as it may hold."""
        if self.store is None or not keys:
            return set()
        found = self.store.find(self._kind, keys)
        self._stored |= found
        for key in [key for key in keys if key in found]:
            if self._recent_bytes >= self._share * HELD_BYTES:
                break
            if self._read(key) is None:
                found.remove(key)
        self.store.counts.found += len(found)
        return found

    def _known(self, key: str) -> Entry | None:
        """What memory or the store has."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        return self._read(key) if key in self._stored else self._pinned.get(key)

    def _read(self, key: str) -> Entry | None:
        """What the store still has."""
        assert self.store is not None
        entry = self.store.read(self._kind, key)
        if entry is None:
            self._stored.remove(key)
        else:
            self._hold(key, entry)
        return entry

    def _made(self, missing: Mapping[str, Source]) -> Iterator[tuple[str, Entry]]:
        for made in zip(missing, self._encode(list(missing.values())) if missing else (), strict=True):
            if self.store is not None:
                self.store.counts.made += 1
            yield made

    def _hold(self, key: str, entry: Entry) -> None:
        """Keep in memory what is stored too, as far as there is room."""
        self._recent[key] = entry
        self._recent_bytes += _size_of(entry)
        while self._recent_bytes > self._share * HELD_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= _size_of(oldest)


def _size_of(entry: Entry) -> int:
    """Bytes of its tensors."""
    return sum(tensor.nbytes for tensor in entry.values())

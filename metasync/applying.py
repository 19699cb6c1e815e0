"""How a change that is more than one transaction of a store is applied, so that readers see all of it at once.

It is put aside first, in *chunks* that fit a transaction. Then one transaction writes its *journal*: from there on the
change is a fact. Then the chunks are written to their places, one transaction each, which also writes the journal
anew; the last one deletes it. So whoever watches the keys hears of the journal before any of the change, and of its
end with the last of it. Whoever reads finds the journal in an index, and can read the state of just before it.

Where things stand, for a prefix ``/kubebus/<network>/nodes/<node>/<name>/`` (or ``sites/<site>``)::

    /kubebus/<network>/nodes/<node>/applying/<name>          the journal, among the keys that are watched
    /kubebus/<network>/sync/applying/nodes/<node>/<name>     its entry in the index
    /kubebus/<network>/sync/staged/nodes/<node>/<name>/…     the chunks, and who gathers them

Pure.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

from metasync.interfaces import StoreError, WatchObserver
from metasync.keys import ROOT, sync_prefix
from metasync.model import Event, EventType, KeyRange, Op, Put, WatchBatch
from metasync.opcodec import pack_op, unpack_ops

_NETWORK = re.compile(rf"{ROOT}/([^/]+)/".encode())
_AREA = re.compile(rf"({ROOT}/([^/]+)/)((?:nodes|sites)/[^/]+/)".encode())
_APPLYING = b"applying/"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts stand for one prefix."""

    prefix: bytes
    journal: bytes
    index: bytes
    staged: bytes

    @classmethod
    def of(cls, prefix: bytes) -> Places:
        """:raises StoreError: if there is no journal for such a prefix."""
        area = _AREA.match(prefix)
        name = prefix[area.end() :] if area else b""
        if area is None or not name.endswith(b"/") or name.count(b"/") != 1 or name == _APPLYING:
            raise StoreError(f"{prefix!r} is no prefix of a node or a site whose changes can be staged")
        sync = sync_prefix(area[2].decode()).encode()
        return cls(
            prefix,
            area[0] + _APPLYING + name[:-1],
            sync + _APPLYING + area[3] + name[:-1],
            sync + b"staged/" + area[3] + name,
        )

    @classmethod
    def of_index(cls, index: bytes) -> Places:
        network = _NETWORK.match(index)
        assert network is not None
        root = network[0] + b"sync/" + _APPLYING
        return cls.of(network[0] + index[len(root) :] + b"/")

    @property
    def owner(self) -> bytes:
        return self.staged + b"owner"

    def chunk(self, number: int) -> bytes:
        return self.staged + b"%08d" % number


def index_of(network: str) -> KeyRange:
    return KeyRange.prefix(sync_prefix(network).encode() + _APPLYING)


def network_of(keys: KeyRange) -> str | None:
    """The network in whose nodes' or sites' part a range has keys; ``None`` if it has none, or of several networks."""
    found = _NETWORK.match(keys.start)
    if found is None:
        return None
    within = any(overlap(keys, KeyRange.prefix(found[0] + part)) for part in (b"nodes/", b"sites/"))
    return found[1].decode() if within else None


def overlap(one: KeyRange, other: KeyRange) -> bool:
    first, second = (one, other) if one.start <= other.start else (other, one)
    return first.contains(second.start) or first.start == second.start


def widened(keys: KeyRange) -> KeyRange:
    """What to watch so that the journals of a range come with it."""
    area = _AREA.match(keys.start)
    if area is None:
        return keys
    whole = KeyRange.prefix(area[0])
    within = keys.end is None or (keys.end != b"\0" and whole.end is not None and keys.end <= whole.end)
    return whole if within else keys


@dataclass(frozen=True, slots=True)
class Journal:
    """A change that is a fact: how many chunks it has, how many are in their places, and what is put at the end."""

    chunks: int
    done: int
    last: tuple[tuple[bytes, bytes], ...]

    def advanced(self) -> Journal:
        return replace(self, done=self.done + 1)

    @property
    def puts(self) -> list[Op]:
        return [Put(key, value) for key, value in self.last]

    def pack(self) -> bytes:
        last = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in self.last]
        return json.dumps([self.chunks, self.done, last], separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Journal:
        """:raises StoreError: if it is none of :meth:`pack`."""
        try:
            chunks, done, last = json.loads(packed)
            puts = tuple((key.encode("latin-1"), value.encode("latin-1")) for key, value in last)
            return cls(int(chunks), int(done), puts)
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"not a journal of a change: {packed[:80]!r}") from error


def pack_chunk(ops: Sequence[Op]) -> bytes:
    return zlib.compress(b"".join(map(pack_op, ops)), 1)


def unpack_chunk(packed: bytes) -> list[Op]:
    return list(unpack_ops(BytesIO(zlib.decompress(packed))))


class Whole(WatchObserver):
    """Passes the events of a widened watch on to who asked, and those of a change under way all at once, at its end.

    They come as a batch of the revision that ends the change, each with the revision of its own.
    """

    def __init__(self, keys: KeyRange, observer: WatchObserver) -> None:
        self._keys = keys
        self._observer = observer
        self._held: dict[bytes, dict[bytes, Event]] = {}

    def batch(self, batch: WatchBatch) -> None:
        events: list[Event] = []
        ended: list[bytes] = []
        for event in batch.events:
            prefix = _prefix_of_journal(event.kv.key)
            if prefix is not None and event.type is EventType.PUT:
                self._held.setdefault(prefix, {})
            elif prefix is not None:
                ended.append(prefix)
        for event in batch.events:
            if self._keys.contains(event.kv.key) and not _is_hidden(event.kv.key):
                held = self._holding(event.kv.key)
                if held is None:
                    events.append(event)
                else:
                    held[event.kv.key] = event
        for prefix in ended:
            events.extend(self._held.pop(prefix, {}).values())
        if events:
            self._observer.batch(WatchBatch(batch.revision, tuple(events)))
        else:
            self.progress(batch.revision)

    def _holding(self, key: bytes) -> dict[bytes, Event] | None:
        return next((held for prefix, held in self._held.items() if key.startswith(prefix)), None)

    def progress(self, revision: int) -> None:
        if not self._held:
            self._observer.progress(revision)

    def failed(self, error: StoreError) -> None:
        self._observer.failed(error)


def _prefix_of_journal(key: bytes) -> bytes | None:
    if _APPLYING not in key:
        return None
    area = _AREA.match(key)
    if area is None or not key.startswith(_APPLYING, area.end()):
        return None
    return area[0] + key[area.end() + len(_APPLYING) :] + b"/"


def _is_hidden(key: bytes) -> bool:
    """Whether a key belongs to changes under way, and is nobody else's business."""
    if _APPLYING in key and _prefix_of_journal(key) is not None:
        return True
    return (b"/sync/applying/" in key or b"/sync/staged/" in key) and _NETWORK.match(key) is not None

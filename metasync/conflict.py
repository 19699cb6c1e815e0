"""The written rule for keys that both sides may write: which of two versions wins, without a clock.

Every version of a key has a *counter*, one more than that of the version it replaced where it was written, and an
*origin*, the store where that was. The version with the greater counter wins; of equal ones the one with the
greater origin, then the one with the greater digest of its value. That is one order for all stores, so they all end
with the same winner, in whatever order they hear of the versions. A write that has seen another has the greater
counter, so nothing is ever undone by what it replaced; a deletion is a version like any other.

Each version carries what it has *seen*: how many writes of each origin. Two versions of which neither has seen
the other are in conflict, and the loser is kept aside for people.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

_MAX_ORIGINS = 4096
_MAX_ORIGIN = 300
MAX_SEEN = 1000
"""So many origins a version remembers, those that wrote most; of more than that are read. Who is forgotten may be
taken for somebody who was not seen: then a loser is kept for nothing, and the winner is the same.
"""

MAX_COUNTER = (1 << 53) - 1
"""What a JSON number holds everywhere. No key is written so often: only a made-up version comes near, and then
counting stops here.
"""

SANE_COUNTER = 1 << 40
"""A key that is written a thousand times a second gets here in thirty years."""

_DIGEST = re.compile(r"[0-9]{1,12}-[0-9a-f]{24}")


class InvalidVersion(ValueError):
    """Bytes are no version. From a peer: it speaks another language, or lies."""


def digest_of(value: bytes | None) -> str:
    """Length and hash of a value; of a deletion nothing."""
    return "" if value is None else f"{len(value)}-{blake2b(value, digest_size=12).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a key. ``digest`` is of its value; a deletion has none."""

    counter: int
    origin: str
    seen: tuple[tuple[str, int], ...]
    digest: str

    @property
    def deleted(self) -> bool:
        return not self.digest

    @property
    def size(self) -> int:
        """Of the value, in bytes."""
        return int(self.digest.partition("-")[0] or 0)

    @property
    def rank(self) -> tuple[int, str, str]:
        return self.counter, self.origin, self.digest

    def has_seen(self, other: Version) -> bool:
        mine = dict(self.seen)
        return all(mine.get(origin, 0) >= count for origin, count in other.seen)

    def pack(self) -> bytes:
        """The same bytes for the same state everywhere."""
        return json.dumps([self.counter, self.origin, dict(self.seen), self.digest], separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Version:
        """:raises InvalidVersion: if the bytes are none of :meth:`pack`."""
        try:
            counter, origin, seen, digest = json.loads(packed)
            entries = tuple(sorted(seen.items()))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidVersion(f"not a version: {packed[:60]!r}") from error
        texts = isinstance(origin, str) and isinstance(digest, str) and len(entries) <= _MAX_ORIGINS
        texts = texts and max(map(len, (origin, *seen))) <= _MAX_ORIGIN
        texts = texts and (not digest or bool(_DIGEST.fullmatch(digest)))
        if not texts or not all(_is_count(n) for n in (counter, *(n for _, n in entries))):
            raise InvalidVersion(f"not a version: {packed[:60]!r}")
        return cls(counter, origin, entries, digest)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 < number <= MAX_COUNTER


def write(previous: Version | None, origin: str, value: bytes | None, floor: int = 0) -> Version:
    """The version of a write (``None``: a deletion) at ``origin``, where ``previous`` stood.

    :param floor: the greatest counter of what may have stood there before, and is forgotten.
    """
    seen = dict(previous.seen) if previous else {}
    mine = min(seen.pop(origin, 0) + 1, MAX_COUNTER)
    counter = min((previous.counter if previous else floor) + 1, MAX_COUNTER)
    return Version(counter, origin, tuple(sorted([*_most(seen, MAX_SEEN - 1), (origin, mine)])), digest_of(value))


def _most(seen: dict[str, int], count: int) -> list[tuple[str, int]]:
    """Those that wrote most. It does not matter in which order versions are merged, and what is left out when."""
    if len(seen) <= count:
        return list(seen.items())
    return sorted(seen.items(), key=lambda entry: (entry[1], entry[0]), reverse=True)[:count]


@dataclass(frozen=True, slots=True)
class Merge:
    """What comes of two versions: the winner, which has now seen both."""

    version: Version
    theirs_won: bool
    conflict: bool


def merge(mine: Version, theirs: Version) -> Merge:
    winner = max(mine, theirs, key=lambda version: version.rank)
    seen = dict(mine.seen)
    for origin, count in theirs.seen:
        seen[origin] = max(seen.get(origin, 0), count)
    merged = Version(winner.counter, winner.origin, tuple(sorted(_most(seen, MAX_SEEN))), winner.digest)
    apart = not mine.has_seen(theirs) and not theirs.has_seen(mine)
    return Merge(merged, winner is theirs and theirs.rank != mine.rank, apart and mine.digest != theirs.digest)


def pack_record(version: Version, value: bytes | None) -> bytes:
    """A version with its value, for the wire."""
    head = version.pack()
    return len(head).to_bytes(4, "big") + head + (value or b"")


def unpack_record(record: bytes) -> tuple[Version, bytes | None]:
    """:raises InvalidVersion: if it is no record, or its value is not the version's."""
    end = 4 + int.from_bytes(record[:4], "big")
    version = Version.unpack(record[4:end])
    value = None if version.deleted else record[end:]
    if digest_of(value) != version.digest:
        raise InvalidVersion("a value that is not its version's")
    return version, value


def pack_loser(version: Version, value: bytes | None, most: int = 1 << 30) -> bytes:
    """A version that lost, as people read it: at most so many bytes; of a larger value the beginning, and its size."""
    loser: dict[str, Any] = {"origin": version.origin, "counter": version.counter, "deleted": version.deleted}
    if value is None:
        return json.dumps(loser).encode()
    try:
        as_text = json.dumps({**loser, "value": value.decode()}).encode()
    except UnicodeDecodeError:
        as_text = b""
    if as_text and len(as_text) <= min(most, 2 * len(value) + 200):  # control characters are six bytes each
        return as_text
    room = (most - len(json.dumps(loser)) - 100) // 4 * 3
    if len(value) > room:
        loser["size"] = len(value)
    return json.dumps({**loser, "value64": b64encode(value[:room]).decode()}).encode()


def unpack_loser(packed: bytes) -> tuple[str, bytes | None]:
    """Who wrote what lost, and its value, or what was kept of it (``None``: it was a deletion)."""
    loser = json.loads(packed)
    if loser["deleted"]:
        return loser["origin"], None
    return loser["origin"], loser["value"].encode() if "value" in loser else b64decode(loser["value64"])

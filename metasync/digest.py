"""Finding what differs between two copies of a prefix without sending them.

Keys fall into buckets by their hash; a bucket's digest is the exclusive or of its items' hashes. The source sends
the digests, the target answers with the items of the buckets that differ. An item is a key, where the target
is known to hold an old state of the source (then only deletions are to be found), else a key with its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

ITEM = 16
"""Bytes of an item's hash."""

DIGEST = 8
"""Bytes of a bucket's digest."""

_PER_BUCKET = 16
MAX_BUCKETS = 4096
"""So digests are 32 KiB at most."""


def bucket_count(keys: int) -> int:
    """How many buckets suit so many keys: a power of two."""
    buckets = 1
    while buckets < MAX_BUCKETS and buckets * _PER_BUCKET < keys:
        buckets *= 2
    return buckets


def bucket_of(key: bytes, buckets: int) -> int:
    return int.from_bytes(blake2b(key, digest_size=4, person=b"bucket").digest(), "big") % buckets


def item_of(key: bytes, value: bytes | None) -> bytes:
    """The hash of a key (``value`` ``None``), or of a key with its value."""
    if value is None:
        return blake2b(key, digest_size=ITEM, person=b"key").digest()
    return blake2b(len(key).to_bytes(4, "big") + key + value, digest_size=ITEM, person=b"item").digest()


class Digests:
    """The digests of all buckets."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self._sums = [0] * buckets

    def add(self, key: bytes, item: bytes) -> None:
        self._sums[bucket_of(key, self.buckets)] ^= int.from_bytes(item[:DIGEST], "big")

    def pack(self) -> bytes:
        return b"".join(total.to_bytes(DIGEST, "big") for total in self._sums)

    def differing(self, packed: bytes) -> set[int]:
        """The buckets whose digests are not those of ``packed``, which has as many."""
        return {
            i
            for i, mine in enumerate(self._sums)
            if mine.to_bytes(DIGEST, "big") != packed[i * DIGEST : (i + 1) * DIGEST]
        }


def pack_buckets(numbers: Iterable[int], buckets: int) -> bytes:
    """A set of buckets as a bitmap."""
    bits = bytearray((buckets + 7) // 8)
    for number in numbers:
        bits[number // 8] |= 1 << number % 8
    return bytes(bits)


def unpack_buckets(bitmap: bytes, buckets: int) -> set[int]:
    return {i for i in range(min(buckets, len(bitmap) * 8)) if bitmap[i // 8] & 1 << i % 8}

"""What nodes and sites are to run, written to the cloud store: only what changed, in as few transactions as fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from metasync.interfaces import Store, StoreError
from metasync.keys import NodeKeys, SiteKeys
from metasync.model import Compare, Delete, KeyRange, Op, Put

_OVERHEAD = 64
"""Bytes allowed for an operation and its compare beside their keys and value: more than etcd's encoding takes."""


class WriteConflict(StoreError):
    """Somebody else has changed a key that is ours to write: look again before writing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A key of ``desired`` as it stands in the store. ``digest`` is the SHA-256 of its value."""

    mod_revision: int
    digest: bytes

    @classmethod
    def of(cls, value: bytes, mod_revision: int) -> Stored:
        return cls(mod_revision, sha256(value).digest())


@dataclass(slots=True)
class Batch:
    """One transaction: it changes nothing unless every key still stands as it did when this was planned."""

    compares: list[Compare] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    size: int = 0


def plan(
    keys: NodeKeys | SiteKeys,
    wanted: Mapping[bytes, bytes],
    stored: Mapping[bytes, Stored],
    max_ops: int,
    max_bytes: int,
) -> Iterator[Batch]:
    """The transactions that turn ``stored`` into ``wanted``: one, if it fits.

    Where it does not, what a pod uses comes before the pod, and goes after it.
    """
    batch = Batch()
    for key, value in _changes(keys, wanted, stored):
        cost = 2 * len(key) + len(value or b"") + _OVERHEAD
        if batch.ops and (len(batch.ops) >= max_ops or batch.size + cost > max_bytes):
            yield batch
            batch = Batch()
        known = stored.get(key)
        batch.compares.append(Compare.unchanged(key, known.mod_revision if known else 0))
        batch.ops.append(Delete.single(key) if value is None else Put(key, value))
        batch.size += cost
    if batch.ops:
        yield batch


def _changes(
    keys: NodeKeys | SiteKeys, wanted: Mapping[bytes, bytes], stored: Mapping[bytes, Stored]
) -> Sequence[tuple[bytes, bytes | None]]:
    pods = f"{keys.desired}pods/".encode()
    changed = [
        (key, value)
        for key, value in wanted.items()
        if key not in stored or stored[key].digest != sha256(value).digest()
    ]
    gone = [key for key in stored if key not in wanted]
    puts = sorted(changed, key=lambda change: (change[0].startswith(pods), change[0]))
    deletes = sorted(gone, key=lambda key: (not key.startswith(pods), key))
    return [*puts, *((key, None) for key in deletes)]


async def write(
    store: Store,
    keys: NodeKeys | SiteKeys,
    wanted: Mapping[bytes, bytes],
    stored: Mapping[bytes, Stored],
    guards: Sequence[Compare] = (),
) -> dict[bytes, Stored | None]:
    """Bring a node's or a site's ``desired`` to ``wanted``. Returns what has changed (``None``: removed).

    :param guards: conditions that must hold as well for every transaction, such as being the leader.
    :raises WriteConflict: if ``stored`` was not what is in the store. What was written before that stays.
    """
    written: dict[bytes, Stored | None] = {}
    guard_size = sum(len(guard.key) + _OVERHEAD for guard in guards)
    max_ops = store.max_txn_ops - len(guards)
    for batch in plan(keys, wanted, stored, max_ops, store.max_request_bytes - guard_size):
        result = await store.txn([*guards, *batch.compares], batch.ops)
        if not result.succeeded:
            raise WriteConflict(f"{keys.desired} was changed by somebody else")
        for op in batch.ops:
            if isinstance(op, Put):
                written[op.key] = Stored.of(op.value, result.revision)
            elif isinstance(op, Delete):
                written[op.keys.start] = None
    return written


async def purge(store: Store, keys: NodeKeys) -> None:
    """Remove everything of a node that is gone for good."""
    await store.txn([], [Delete(KeyRange.prefix(keys.prefix.encode()))])

"""The data model of a metadata store: etcd's own (https://etcd.io/docs/v3.5/learning/data_model/).

A store has one revision counter. Every transaction that changes anything takes the next revision, and all
its changes carry it. Keys and values are bytes; keys are ordered bytewise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key at one revision. ``version`` counts the changes since ``create_revision``, from 1."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys ``start <= key < end``. ``end`` ``None`` means the one key ``start``; ``b"\\0"`` means no end."""

    start: bytes
    end: bytes | None = None

    @classmethod
    def single(cls, key: bytes) -> KeyRange:
        return cls(key)

    @classmethod
    def prefix(cls, prefix: bytes) -> KeyRange:
        """All keys that begin with ``prefix``; every key for an empty prefix."""
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return cls(prefix or b"\0", b"\0")
        return cls(prefix, stem[:-1] + bytes([stem[-1] + 1]))

    def contains(self, key: bytes) -> bool:
        if self.end is None:
            return key == self.start
        return key >= self.start and (self.end == b"\0" or key < self.end)


class EventType(Enum):
    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one key. For a deletion ``kv`` has an empty value, version 0 and the deletion's revision."""

    type: EventType
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events of one revision that fall into the watched range: never half of a revision."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class RangeResult:
    """``revision`` is the store's own at the time of the read; ``count`` is of all keys in the range."""

    revision: int
    kvs: tuple[KeyValue, ...]
    count: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it was at ``revision``: seconds left, seconds it was granted for, keys that it holds (when asked)."""

    lease: int
    ttl: int
    granted: int
    revision: int
    keys: tuple[bytes, ...] = ()


class CompareTarget(Enum):
    VERSION = "version"
    CREATE = "create"
    MOD = "mod"
    VALUE = "value"
    LEASE = "lease"


class CompareOp(Enum):
    EQUAL = "="
    NOT_EQUAL = "!="
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key. A key that does not exist has version, create, mod and lease 0 (as in etcd)."""

    key: bytes
    target: CompareTarget
    op: CompareOp
    value: int | bytes

    @classmethod
    def absent(cls, key: bytes) -> Compare:
        return cls(key, CompareTarget.VERSION, CompareOp.EQUAL, 0)

    @classmethod
    def unchanged(cls, key: bytes, mod_revision: int) -> Compare:
        """True while the key's last change is ``mod_revision`` (0: the key does not exist)."""
        return cls(key, CompareTarget.MOD, CompareOp.EQUAL, mod_revision)


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    keys: KeyRange

    @classmethod
    def single(cls, key: bytes) -> Delete:
        return cls(KeyRange.single(key))


@dataclass(frozen=True, slots=True)
class Get:
    """A read inside a transaction: it sees the writes of the transaction that stand before it."""

    keys: KeyRange
    limit: int = 0


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class PutResult:
    previous: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    deleted: int
    previous: tuple[KeyValue, ...] = ()


OpResult = PutResult | DeleteResult | RangeResult


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``revision`` is the store's after the transaction: the one it took, if it changed anything."""

    succeeded: bool
    revision: int
    results: tuple[OpResult, ...] = field(default=())

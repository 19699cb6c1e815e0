"""etcd v3's JSON: requests in, operations of our model; results of our model, answers out.

The form is that of etcd's gRPC gateway (https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/): bytes in base64,
64-bit numbers as strings, fields of value zero left out. All keys stand below the caller's prefix, which no request
can name or leave.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metasync.model import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    DeleteResult,
    Event,
    EventType,
    KeyRange,
    KeyValue,
    Lease,
    OpResult,
    Put,
    PutResult,
    RangeResult,
)

MAX_OPS = 40
"""Of a transaction: so many keys are merged as one at the other end, even by an etcd with default limits."""

MAX_KEY = 2048
_MAX_INT = (1 << 63) - 1
_COMPARES = {
    "EQUAL": CompareOp.EQUAL,
    "GREATER": CompareOp.GREATER,
    "LESS": CompareOp.LESS,
    "NOT_EQUAL": CompareOp.NOT_EQUAL,
}
_TARGETS = {
    "VERSION": (CompareTarget.VERSION, "version"),
    "CREATE": (CompareTarget.CREATE, "create_revision"),
    "MOD": (CompareTarget.MOD, "mod_revision"),
    "VALUE": (CompareTarget.VALUE, "value"),
    "LEASE": (CompareTarget.LEASE, "lease"),
}
_SORTS: dict[str, Callable[[KeyValue], Any]] = {
    "KEY": lambda kv: kv.key,
    "VERSION": lambda kv: kv.version,
    "CREATE": lambda kv: kv.create_revision,
    "MOD": lambda kv: kv.mod_revision,
    "VALUE": lambda kv: kv.value,
}


class InvalidRequest(ValueError):
    """A request that etcd would refuse too. The message is for people."""


class Fields:
    """A JSON object's fields, by their snake_case names or, as the gateway takes too, their camelCase ones."""

    def __init__(self, found: object) -> None:
        if not isinstance(found, dict):
            raise InvalidRequest("not a JSON object")
        self._found = found

    def raw(self, name: str) -> Any:
        if name in self._found:
            return self._found[name]
        first, *rest = name.split("_")
        return self._found.get(first + "".join(map(str.capitalize, rest)))

    def data(self, name: str) -> bytes:
        value = self.raw(name)
        if value is None:
            return b""
        if isinstance(value, str):
            value = value.replace("\r", "").replace("\n", "")  # as Go's decoder
        try:
            return b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise InvalidRequest(f"{name} is not base64") from error

    def number(self, name: str, least: int = 0) -> int:
        value = self.raw(name)
        if not isinstance(value, str | int | None) or isinstance(value, bool):
            raise InvalidRequest(f"{name} is not a number")
        try:
            number = int(value or 0)
        except ValueError as error:
            raise InvalidRequest(f"{name} is not a number") from error
        if not least <= number <= _MAX_INT:
            raise InvalidRequest(f"{name} is not a number from {least} to {_MAX_INT}")
        return number

    def signed(self, name: str) -> int:
        """A number that etcd takes below zero too."""
        return self.number(name, -_MAX_INT - 1)

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if not isinstance(value, bool | None):
            raise InvalidRequest(f"{name} is neither true nor false")
        return bool(value)

    def choice(self, name: str, choices: list[str]) -> str:
        """An enumeration: its name or number; the first is the default."""
        return self._one_of(name, self.raw(name), choices)

    def choices(self, name: str, choices: list[str]) -> list[str]:
        """A list of an enumeration's names or numbers."""
        values = self.raw(name) or []
        if not isinstance(values, list):
            raise InvalidRequest(f"{name} is not a list")
        return [self._one_of(name, value, choices) for value in values]

    @staticmethod
    def _one_of(name: str, value: Any, choices: list[str]) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
            return choices[value]
        if value is None or value in choices:
            return value or choices[0]
        raise InvalidRequest(f"{name} is none of {', '.join(choices)}")

    def objects(self, name: str) -> list[Fields]:
        values = self.raw(name) or []
        if not isinstance(values, list):
            raise InvalidRequest(f"{name} is not a list")
        if len(values) > MAX_OPS:
            raise InvalidRequest(f"etcdserver: too many operations in txn request (at most {MAX_OPS} here)")
        return [Fields(value) for value in values]


@dataclass(frozen=True, slots=True)
class Reading:
    """A range request: what to read, and how to show it."""

    keys: KeyRange
    limit: int
    revision: int
    keys_only: bool
    count_only: bool
    order: str
    target: str
    least_mod: int = 0
    most_mod: int = 0
    least_created: int = 0
    most_created: int = 0

    @property
    def prunes(self) -> bool:
        """Whether it asks for keys by their revisions."""
        return any((self.least_mod, self.most_mod, self.least_created, self.most_created))

    @property
    def whole(self) -> bool:
        """Whether all of the range must be read to answer it."""
        return self.sorts or self.prunes

    def wants(self, kv: KeyValue) -> bool:
        return self.least_mod <= kv.mod_revision <= (
            self.most_mod or _MAX_INT
        ) and self.least_created <= kv.create_revision <= (self.most_created or _MAX_INT)

    @property
    def sorts(self) -> bool:
        """Whether the order is another than the store's own."""
        return self.order == "DESCEND" or (self.order != "NONE" and self.target != "KEY") or self.target != "KEY"


RESERVED = b"kubebus.io/"
"""Below this, in any scope, only the system writes: ``metasync.keys``, ``SiteKeys.takeover``."""


class Translator:
    """Between a caller, whose keys stand below ``prefix``, and the store."""

    def __init__(self, prefix: bytes, mask: int = 0, *, reserved: bool = False) -> None:
        """
        :param mask: the caller's own, so that nobody can name, or guess, another's leases.
        :param reserved: whether the prefix is a whole scope, of which :data:`RESERVED` is not the caller's to write.
        """
        self.prefix = self._prefix = prefix
        self._reserved = KeyRange.prefix(prefix + RESERVED) if reserved else None
        self._mask = mask
        self._all = KeyRange.prefix(prefix)

    # Requests

    def is_empty(self, fields: Fields) -> bool:
        """Whether a range ends where it begins, or before: a watch of it is refused, as etcd does."""
        start, end = fields.data("key") or b"\0", fields.data("range_end")
        return end not in (b"", b"\0") and end <= start

    def keys(self, fields: Fields, default: bytes = b"") -> KeyRange:
        """:param default: the key for a request that names none; an empty one is refused."""
        start, end = fields.data("key") or default, fields.data("range_end")
        if not start:
            raise InvalidRequest("etcdserver: key is not provided")
        if max(len(start), len(end)) > MAX_KEY:
            raise InvalidRequest(f"a key is over {MAX_KEY} bytes")
        if not end:
            return KeyRange(self._prefix + start)
        first = self._prefix if start == b"\0" else self._prefix + start
        return KeyRange(first, self._all.end if end == b"\0" else self._prefix + end)

    def reading(self, fields: Fields) -> Reading:
        return Reading(
            self.keys(fields),
            max(0, fields.signed("limit")),
            max(0, fields.signed("revision")),
            fields.flag("keys_only"),
            fields.flag("count_only"),
            fields.choice("sort_order", ["NONE", "ASCEND", "DESCEND"]),
            fields.choice("sort_target", list(_SORTS)),
            fields.signed("min_mod_revision"),
            fields.signed("max_mod_revision"),
            fields.signed("min_create_revision"),
            fields.signed("max_create_revision"),
        )

    def put(self, fields: Fields) -> Put:
        if fields.flag("ignore_value") and fields.data("value"):
            raise InvalidRequest("etcdserver: value is provided")
        if fields.flag("ignore_lease") and fields.number("lease"):
            raise InvalidRequest("etcdserver: lease is provided")
        keys = self.keys(fields)
        if keys.end is not None:
            raise InvalidRequest("a put has no range_end")
        self._check_free(keys)
        return Put(keys.start, fields.data("value"), self.lease(fields.number("lease")))

    def keeps(self, fields: Fields) -> tuple[str, ...]:
        """What a put leaves as it is: ``value``, ``lease``."""
        return tuple(name for name in ("value", "lease") if fields.flag(f"ignore_{name}"))

    def delete(self, fields: Fields) -> Delete:
        keys = self.keys(fields)
        self._check_free(keys)
        return Delete(keys)

    def _check_free(self, keys: KeyRange) -> None:
        """Applications do not write what the nodes tell each other."""
        reserved = self._reserved
        if reserved is None or reserved.end is None:
            return
        end = keys.start + b"\0" if keys.end is None else keys.end
        if keys.start < reserved.end and reserved.start < end:
            raise InvalidRequest(f"keys below {RESERVED.decode()} are the system's own, and only to be read")

    def compare(self, fields: Fields) -> Compare:
        target, name = _TARGETS[fields.choice("target", list(_TARGETS))]
        op = _COMPARES[fields.choice("result", list(_COMPARES))]
        keys = self.keys(fields)
        if keys.end is not None:
            raise InvalidRequest("a compare of a range is not known here")
        value = fields.data(name) if target is CompareTarget.VALUE else fields.signed(name)
        if target is CompareTarget.LEASE and isinstance(value, int):
            value = self.lease(value)
        return Compare(keys.start, target, op, value)

    def lease(self, number: int) -> int:
        """Between a lease's ID as the caller has it and as the store has it, either way. 0 stays: no lease."""
        return number ^ self._mask if number else 0

    # Answers

    def kv(self, kv: KeyValue, with_value: bool = True) -> dict[str, Any]:
        answer: dict[str, Any] = {"key": text(kv.key[len(self._prefix) :])}
        for name in ("create_revision", "mod_revision", "version"):
            if getattr(kv, name):
                answer[name] = str(getattr(kv, name))
        if kv.lease:
            answer["lease"] = str(self.lease(kv.lease))
        if kv.value and with_value:
            answer["value"] = text(kv.value)
        return answer

    def range(self, found: RangeResult, reading: Reading | None = None) -> dict[str, Any]:
        kvs, more = found.kvs, found.more
        if reading is not None and reading.whole:
            kvs = tuple(filter(reading.wants, kvs))
            if reading.sorts:
                kvs = tuple(sorted(kvs, key=_SORTS[reading.target], reverse=reading.order == "DESCEND"))
            more = bool(reading.limit) and len(kvs) > reading.limit
            kvs = kvs[: reading.limit] if reading.limit else kvs
        answer: dict[str, Any] = {}
        with_values = reading is None or not reading.keys_only
        if kvs and not (reading and reading.count_only):
            answer["kvs"] = [self.kv(kv, with_values) for kv in kvs]
        if more:
            answer["more"] = True
        if found.count:
            answer["count"] = str(found.count)
        return answer

    def result(self, result: OpResult, fields: Fields) -> dict[str, Any]:
        """A put's or deletion's answer; ``fields`` are those of its request."""
        answer: dict[str, Any] = {}
        previous = fields.flag("prev_kv")
        if isinstance(result, PutResult):
            if previous and result.previous:
                answer["prev_kv"] = self.kv(result.previous)
        elif isinstance(result, DeleteResult) and result.deleted:
            answer["deleted"] = str(result.deleted)
            if previous:
                answer["prev_kvs"] = [self.kv(kv) for kv in result.previous]
        return answer

    def granted(self, lease: Lease) -> dict[str, Any]:
        return {"ID": str(self.lease(lease.lease)), "TTL": str(lease.ttl)}

    def time_to_live(self, lease: Lease, with_keys: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {"ID": str(self.lease(lease.lease)), "grantedTTL": str(lease.granted)}
        if lease.ttl:
            answer["TTL"] = str(lease.ttl)
        keys = [key for key in lease.keys if key.startswith(self._prefix)]
        if keys and with_keys:
            answer["keys"] = [text(key[len(self._prefix) :]) for key in keys]
        return answer

    def event(self, event: Event, previous: KeyValue | None = None) -> dict[str, Any]:
        kind = {"type": "DELETE"} if event.type is EventType.DELETE else {}
        before = {"prev_kv": self.kv(previous)} if previous is not None else {}
        return {**kind, "kv": self.kv(event.kv), **before}


def text(data: bytes) -> str:
    return b64encode(data).decode()

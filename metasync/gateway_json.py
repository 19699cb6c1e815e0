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
    Get,
    KeyRange,
    KeyValue,
    Lease,
    Op,
    OpResult,
    Put,
    PutResult,
    RangeResult,
    TxnResult,
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
        try:
            return b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise InvalidRequest(f"{name} is not base64") from error

    def number(self, name: str) -> int:
        value = self.raw(name)
        try:
            number = int(value or 0)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{name} is not a number") from error
        if isinstance(value, bool | float) or not 0 <= number <= _MAX_INT:
            raise InvalidRequest(f"{name} is not a number")
        return number

    def flag(self, name: str) -> bool:
        return bool(self.raw(name))

    def choice(self, name: str, choices: list[str]) -> str:
        """An enumeration: its name or number; the first is the default."""
        value = self.raw(name)
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
        self._prefix = prefix
        self._reserved = KeyRange.prefix(prefix + RESERVED) if reserved else None
        self._mask = mask
        self._all = KeyRange.prefix(prefix)

    # Requests

    def keys(self, fields: Fields) -> KeyRange:
        start, end = fields.data("key"), fields.data("range_end")
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
            fields.number("limit"),
            fields.number("revision"),
            fields.flag("keys_only"),
            fields.flag("count_only"),
            fields.choice("sort_order", ["NONE", "ASCEND", "DESCEND"]),
            fields.choice("sort_target", list(_SORTS)),
        )

    def put(self, fields: Fields) -> Put:
        if fields.flag("ignore_value") or fields.flag("ignore_lease"):
            raise InvalidRequest("ignore_value and ignore_lease are not known here")
        keys = self.keys(fields)
        if keys.end is not None:
            raise InvalidRequest("a put has no range_end")
        self._check_free(keys)
        return Put(keys.start, fields.data("value"), self.lease(fields.number("lease")))

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
        value = fields.data(name) if target is CompareTarget.VALUE else fields.number(name)
        if target is CompareTarget.LEASE and isinstance(value, int):
            value = self.lease(value)
        return Compare(keys.start, target, op, value)

    def op(self, fields: Fields) -> Op:
        for name in ("request_put", "request_delete_range", "request_range"):
            found = fields.raw(name)
            if found is not None:
                return self._one_op(name, Fields(found))
        raise InvalidRequest("an operation is none of request_put, request_delete_range, request_range")

    def _one_op(self, name: str, fields: Fields) -> Op:
        if name == "request_put":
            return self.put(fields)
        if name == "request_delete_range":
            return self.delete(fields)
        reading = self.reading(fields)
        if reading.revision or reading.sorts or reading.count_only:
            raise InvalidRequest("a range in a transaction has key, range_end and limit only")
        return Get(reading.keys, reading.limit)

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
        if reading is not None and reading.sorts:
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
        """One operation's answer; ``fields`` are those of its request."""
        if isinstance(result, RangeResult):
            return self.range(result)
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

    def txn(self, done: TxnResult, requests: list[Fields]) -> dict[str, Any]:
        responses = []
        for result, request in zip(done.results, requests, strict=True):
            name = {RangeResult: "range", PutResult: "put", DeleteResult: "delete_range"}[type(result)]
            answer = self.result(result, Fields(request.raw(f"request_{name}")))
            revision = result.revision if isinstance(result, RangeResult) else done.revision
            responses.append({f"response_{name}": {"header": {"revision": str(revision)}, **answer}})
        return {**({"succeeded": True} if done.succeeded else {}), **({"responses": responses} if responses else {})}

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

    def event(self, event: Event) -> dict[str, Any]:
        if event.type is EventType.DELETE:
            return {"type": "DELETE", "kv": self.kv(event.kv)}
        return {"kv": self.kv(event.kv)}


def text(data: bytes) -> str:
    return b64encode(data).decode()

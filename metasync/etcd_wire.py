"""Between our model and etcd's messages. Importing this loads etcd's client: it is for cloud machines.

``etcd3``'s generated code predates protobuf 4, which takes it only in its pure Python implementation.
"""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

from collections.abc import Iterator, Sequence
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # hundreds, all of the generated code's age
    import etcd3.etcdrpc as rpc
    from etcd3.etcdrpc import kv_pb2

import grpc

from metasync.interfaces import LeaseExists, LeaseNotFound, LeaseTooLong, StoreError, StoreUnavailable, TxnTooLarge
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
    Op,
    OpResult,
    Put,
    PutResult,
    RangeResult,
    TxnResult,
    WatchBatch,
)

__all__ = [
    "batches_in",
    "capacity",
    "error_of",
    "grpc",
    "keys_of",
    "range_result",
    "rpc",
    "txn_of",
    "txn_result",
]

_TARGETS = {
    CompareTarget.VERSION: ("VERSION", "version"),
    CompareTarget.CREATE: ("CREATE", "create_revision"),
    CompareTarget.MOD: ("MOD", "mod_revision"),
    CompareTarget.VALUE: ("VALUE", "value"),
    CompareTarget.LEASE: ("LEASE", "lease"),
}
_OPS = {
    CompareOp.EQUAL: "EQUAL",
    CompareOp.NOT_EQUAL: "NOT_EQUAL",
    CompareOp.GREATER: "GREATER",
    CompareOp.LESS: "LESS",
}


def keys_of(keys: KeyRange) -> dict[str, bytes]:
    """The fields of a request that name a range."""
    if keys.end is None:
        return {"key": keys.start}
    return {"key": keys.start or b"\0", "range_end": keys.end}


def kv_of(kv: Any) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def compare_of(compare: Compare) -> Any:
    target, field = _TARGETS[compare.target]
    if isinstance(compare.value, bytes) != (compare.target is CompareTarget.VALUE):
        raise StoreError(f"compare of {compare.key!r}: {compare.target.value} cannot be {compare.value!r}")
    return rpc.Compare(
        key=compare.key,
        target=rpc.Compare.CompareTarget.Value(target),
        result=rpc.Compare.CompareResult.Value(_OPS[compare.op]),
        **{field: compare.value},
    )


def op_of(op: Op) -> Any:
    match op:
        case Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease, prev_kv=True))
        case Delete(keys):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(prev_kv=True, **keys_of(keys)))
        case Get(keys, limit):
            return rpc.RequestOp(request_range=rpc.RangeRequest(limit=limit, **keys_of(keys)))


def capacity(server_limit: int) -> int:
    """How many operations one transaction may have on a server started with ``--max-txn-ops=server_limit``.

    A transaction may hold transactions, and the server counts each level by itself: ``k`` inner transactions leave
    ``server_limit - k`` operations to each of them.
    """
    return max(server_limit, (server_limit // 2) * (server_limit - server_limit // 2))


def txn_of(compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op], limit: int) -> Any:
    return rpc.TxnRequest(
        compare=[compare_of(compare) for compare in compares],
        success=_nested(success, len(compares), limit),
        failure=_nested(failure, len(compares), limit),
    )


def _nested(ops: Sequence[Op], compares: int, limit: int) -> list[Any]:
    """Operations as a request's list: as they are if the server takes so many, else in inner transactions."""
    if len(ops) <= limit:
        return [op_of(op) for op in ops]
    inner = next((k for k in range(max(compares, 1), limit) if k * (limit - k) >= len(ops)), 0)
    if not inner:
        raise TxnTooLarge(f"{len(ops)} operations and {compares} compares; raise etcd's --max-txn-ops ({limit})")
    size = limit - inner
    return [
        rpc.RequestOp(request_txn=rpc.TxnRequest(success=[op_of(op) for op in ops[at : at + size]]))
        for at in range(0, len(ops), size)
    ]


def txn_result(response: Any) -> TxnResult:
    revision = response.header.revision
    results = tuple(_result(each, revision) for each in _flat(response.responses))
    return TxnResult(response.succeeded, revision, results)


def _flat(responses: Any) -> Iterator[Any]:
    for response in responses:
        if response.HasField("response_txn"):
            yield from _flat(response.response_txn.responses)
        else:
            yield response


def _result(response: Any, revision: int) -> OpResult:
    if response.HasField("response_put"):
        put = response.response_put
        return PutResult(kv_of(put.prev_kv) if put.HasField("prev_kv") else None)
    if response.HasField("response_delete_range"):
        deleted = response.response_delete_range
        return DeleteResult(deleted.deleted, tuple(map(kv_of, deleted.prev_kvs)))
    found = response.response_range
    return range_result(found, found.header.revision or revision)


def range_result(response: Any, revision: int) -> RangeResult:
    return RangeResult(revision, tuple(map(kv_of, response.kvs)), response.count, response.more)


def batches_in(response: Any) -> Iterator[WatchBatch]:
    """The revisions in a watch response. etcd never splits one between responses (we ask for no fragments)."""
    together: list[Event] = []
    for event in response.events:
        kind = EventType.PUT if event.type == kv_pb2.Event.PUT else EventType.DELETE
        kv = kv_of(event.kv)
        if together and together[-1].kv.mod_revision != kv.mod_revision:
            yield WatchBatch(together[-1].kv.mod_revision, tuple(together))
            together = []
        together.append(Event(kind, kv))
    if together:
        yield WatchBatch(together[-1].kv.mod_revision, tuple(together))


def error_of(error: grpc.RpcError, where: str) -> StoreError:
    """What a failed call means. A compaction is not told here: it needs another question."""
    text = error.details() or error.code().name
    code = error.code()
    if "too many operations" in text:
        return TxnTooLarge(f"etcd refuses the transaction: {text}; raise its --max-txn-ops")
    if "request is too large" in text or "larger than max" in text:
        return TxnTooLarge(f"etcd refuses the transaction: {text}; raise its --max-request-bytes")
    if "requested lease not found" in text:
        return LeaseNotFound(f"etcd at {where}: {text}")
    if "lease already exists" in text:
        return LeaseExists(f"etcd at {where}: {text}")
    if "too large lease TTL" in text:
        return LeaseTooLong(f"etcd refuses the lease: {text}")
    if "database space exceeded" in text:
        return StoreUnavailable(
            f"etcd at {where} is full (NOSPACE): compact and defragment it, or raise --quota-backend-bytes, then "
            "`etcdctl alarm disarm`"
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return StoreUnavailable(f"etcd at {where} refuses us: {text}; check user, password and role")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return StoreError(f"etcd refuses the request: {text}")
    return StoreUnavailable(f"etcd at {where} does not answer: {text}")

"""Transactions of etcd's JSON that are more than ours: within one another, and puts that keep a key's value or lease.

What decides them is read first, and guards what is then done: if it has changed meanwhile, all begins anew. So they
are as one, like any other. As in etcd, all compares are of the state before the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from metasync.gateway_json import MAX_OPS, Fields, InvalidRequest, Reading, Translator
from metasync.interfaces import Store, StoreUnavailable, TxnTooLarge
from metasync.model import (
    Compare,
    Delete,
    Get,
    KeyRange,
    KeyValue,
    Op,
    OpResult,
    Put,
    PutResult,
    RangeResult,
)
from metasync.mvcc import holds, txn_bytes

MAX_BYTES = 1_572_864 - 65_536
"""Of the keys and values that a transaction puts: what an etcd with default limits takes, which is where they go in the
end, with room for what the sync writes beside them.
"""

_ATTEMPTS = 50
_MAX_DEPTH = 8
_KINDS = ("request_put", "request_delete_range", "request_range", "request_txn")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. ``keeps`` names what of the key's present state a put keeps."""

    fields: Fields
    op: Op
    reading: Reading | None = None
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """A transaction within."""

    compares: Sequence[Compare]
    success: Sequence[Step | Branch]
    failure: Sequence[Step | Branch]


@dataclass(slots=True)
class Parser:
    """Counts what one request has, whatever stands within what."""

    translator: Translator
    count: int = 0

    def branch(self, fields: Fields, depth: int = 0) -> Branch:
        """:raises InvalidRequest: if it makes no sense, or is too much."""
        if depth > _MAX_DEPTH:
            raise InvalidRequest(f"transactions more than {_MAX_DEPTH} deep within one another")
        compares = [self.translator.compare(each) for each in fields.objects("compare")]
        success = [self._node(each, depth) for each in fields.objects("success")]
        return Branch(compares, success, [self._node(each, depth) for each in fields.objects("failure")])

    def _node(self, fields: Fields, depth: int) -> Step | Branch:
        self.count += 1
        if self.count > 2 * MAX_OPS:
            raise InvalidRequest(f"etcdserver: too many operations in txn request (at most {MAX_OPS} here)")
        name = next((name for name in _KINDS if fields.raw(name) is not None), None)
        if name is None:
            raise InvalidRequest(f"an operation is none of {', '.join(_KINDS)}")
        inner = Fields(fields.raw(name))
        match name:
            case "request_txn":
                return self.branch(inner, depth + 1)
            case "request_put":
                return put_step(self.translator, inner)
            case "request_range":
                reading = self.translator.reading(inner)
                return Step(inner, Get(reading.keys, 0 if reading.whole else reading.limit), reading)
            case _:
                return Step(inner, self.translator.delete(inner))


def put_step(translator: Translator, fields: Fields) -> Step:
    return Step(fields, translator.put(fields), None, translator.keeps(fields))


def puts(branch: Branch) -> list[Put]:
    """All that a transaction might put, whichever way it goes."""
    return [step.op for step in _steps(branch) if isinstance(step.op, Put)]


def deletions(branch: Branch) -> list[Delete]:
    """All that it might delete."""
    return [step.op for step in _steps(branch) if isinstance(step.op, Delete)]


def _steps(branch: Branch) -> Iterator[Step]:
    for node in (*branch.success, *branch.failure):
        if isinstance(node, Branch):
            yield from _steps(node)
        else:
            yield node


def plain(branch: Branch) -> bool:
    """Whether the store can do it as it is."""
    return all(
        isinstance(node, Step) and not node.keeps and not (node.reading and node.reading.revision)
        for node in (*branch.success, *branch.failure)
    )


@dataclass(slots=True)
class Run:
    """One attempt: what is done of a transaction, as its keys were seen."""

    seen: Mapping[bytes, KeyValue | None]
    ops: list[Op] = field(default_factory=list)

    def choose(self, branch: Branch) -> list[Step | Branch]:
        """What of a branch is to be done, with its operations added to ``ops``."""
        succeeds = self.succeeds(branch)
        for node in branch.success if succeeds else branch.failure:
            if isinstance(node, Branch):
                self.choose(node)
            else:
                self.ops.append(self._kept(node))
        return list(branch.success if succeeds else branch.failure)

    def succeeds(self, branch: Branch) -> bool:
        return all(holds(compare, self.seen[compare.key]) for compare in branch.compares)

    def _kept(self, step: Step) -> Op:
        if not step.keeps:
            return step.op
        assert isinstance(step.op, Put)
        now = self.seen[step.op.key]
        if now is None:
            raise InvalidRequest("etcdserver: key not found")
        put = replace(step.op, value=now.value) if "value" in step.keeps else step.op
        return replace(put, lease=now.lease) if "lease" in step.keeps else put


def _decisive(branch: Branch) -> set[bytes]:
    """The keys on which it depends what is done."""
    keys = {compare.key for compare in branch.compares}
    for node in (*branch.success, *branch.failure):
        if isinstance(node, Branch):
            keys |= _decisive(node)
        elif node.keeps and isinstance(node.op, Put):
            keys.add(node.op.key)
    return keys


class Transaction:
    """One request's."""

    def __init__(self, store: Store, translator: Translator, branch: Branch) -> None:
        self._store = store
        self._translator = translator
        self._branch = branch
        self._past: dict[int, RangeResult] = {}

    async def run(self) -> tuple[int, dict[str, Any]]:
        """The revision afterwards, and the answer.

        :raises TxnTooLarge: if it puts more than :data:`MAX_BYTES`.
        """
        if txn_bytes(puts(self._branch)) > MAX_BYTES:
            raise TxnTooLarge("etcdserver: request is too large")
        await self._read_past(self._branch)
        if plain(self._branch):
            done = await self._store.txn(
                self._branch.compares, *map(_ops, (self._branch.success, self._branch.failure))
            )
            results = list(done.results)
            nodes = self._branch.success if done.succeeded else self._branch.failure
            return done.revision, self._answer(done.succeeded, nodes, results, done.revision, None)
        keys = sorted(_decisive(self._branch))
        for _ in range(_ATTEMPTS):
            found = (await self._store.txn((), [Get(KeyRange.single(key)) for key in keys])).results
            kvs = [result.kvs[0] if result.kvs else None for result in found if isinstance(result, RangeResult)]
            run = Run(dict(zip(keys, kvs, strict=True)))
            nodes = run.choose(self._branch)
            if len(run.ops) > MAX_OPS:
                raise InvalidRequest(f"etcdserver: too many operations in txn request (at most {MAX_OPS} here)")
            guards = [Compare.unchanged(key, kv.mod_revision if kv else 0) for key, kv in run.seen.items()]
            done = await self._store.txn(guards, run.ops)
            if done.succeeded:
                results = list(done.results)
                return done.revision, self._answer(run.succeeds(self._branch), nodes, results, done.revision, run)
        raise StoreUnavailable("the keys of the transaction change too fast")

    async def _read_past(self, branch: Branch) -> None:
        """What is asked of earlier revisions, which no transaction changes."""
        for node in (*branch.success, *branch.failure):
            if isinstance(node, Branch):
                await self._read_past(node)
            elif node.reading is not None and node.reading.revision:
                keys, revision = node.reading.keys, node.reading.revision
                limit = 0 if node.reading.whole else node.reading.limit
                self._past[id(node)] = await self._store.range(keys, revision=revision, limit=limit)

    def _answer(
        self, succeeded: bool, nodes: Sequence[Step | Branch], results: list[OpResult], revision: int, run: Run | None
    ) -> dict[str, Any]:
        """``results`` are taken from the front, as the operations were done."""
        responses = []
        for node in nodes:
            if isinstance(node, Branch):
                assert run is not None
                inner = run.succeeds(node)
                chosen = node.success if inner else node.failure
                answer = self._answer(inner, chosen, results, revision, run)
                responses.append({"response_txn": {"header": {}, **answer}})
            else:
                responses.append(self._response(node, results.pop(0), revision))
        return {**({"succeeded": True} if succeeded else {}), **({"responses": responses} if responses else {})}

    def _response(self, step: Step, result: OpResult, revision: int) -> dict[str, Any]:
        if isinstance(result, RangeResult):
            answer = self._translator.range(self._past.get(id(step), result), step.reading)
            return {"response_range": {"header": {"revision": str(result.revision)}, **answer}}
        name = "put" if isinstance(result, PutResult) else "delete_range"
        answer = self._translator.result(result, step.fields)
        return {f"response_{name}": {"header": {"revision": str(revision)}, **answer}}


def _ops(nodes: Sequence[Step | Branch]) -> list[Op]:
    return [node.op for node in nodes if isinstance(node, Step)]

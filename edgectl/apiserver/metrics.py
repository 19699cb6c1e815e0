"""``metrics.k8s.io``: what ``kubectl top`` shows, measured when it is asked for.

Nodes count cpu time from their start, so each is asked twice, :data:`WINDOW` apart. What a node does not answer in time
is left out, as with a metrics server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater

from edgectl.apiserver import errors
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.nodeproxy import SERVICE, Kubelets, request_head
from edgectl.apiserver.resources import NODE, POD, Resource
from edgectl.apiserver.selectors import predicate
from edgectl.apiserver.verbs import Api

Obj = dict[str, Any]

WINDOW = 1.0
"""Seconds between the two measurements of a node."""

NODE_SECONDS = 30.0
"""Within which a node must answer one question; an engine may take a second for each container."""

AT_ONCE = 32
"""Nodes that are asked at a time."""

MAX_SUMMARY = 4 * 1024 * 1024
"""Bytes of one node's answer."""


class _Collect(TwistedProtocol):
    """Sends one request and collects the answer until the connection ends."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._parts: list[bytes] = []
        self._size = 0
        self.whole: Deferred[bytes] = Deferred(lambda _: self._close())

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._head)

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_SUMMARY:
            self._close()
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        if not self.whole.called:
            self.whole.callback(b"".join(self._parts))


def parse_summary(answer: bytes) -> Obj | None:
    """The ``/stats/summary`` in an HTTP answer that ended with its connection, or ``None`` if it is none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu`` in nanocores, ``memory`` in bytes."""

    cpu: int
    memory: int

    def shown(self) -> Obj:
        return {"cpu": f"{self.cpu}n", "memory": f"{self.memory // 1024}Ki"}


def usage_between(before: Any, after: Any, elapsed: float) -> Usage | None:
    """What was used between two readings ``elapsed`` seconds apart, or ``None`` if they tell nothing.

    The times in the readings are of whole seconds: too coarse to divide by.
    """
    try:
        counted = after["cpu"]["usageCoreNanoSeconds"] - before["cpu"]["usageCoreNanoSeconds"]
        memory = int(after["memory"]["workingSetBytes"])
    except (KeyError, TypeError, ValueError):
        return None
    return Usage(int(counted / elapsed), memory) if counted >= 0 and elapsed > 0 else None


Containers = dict[str, Usage]


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """Of a node and of its pods' containers, by pod uid and container name."""

    node: Usage | None
    pods: Mapping[str, Containers]


def _containers(summary: Obj) -> dict[tuple[str, str], Any]:
    found = {}
    for pod in _dicts(summary.get("pods")):
        uid = (pod.get("podRef") or {}).get("uid")
        for container in _dicts(pod.get("containers")):
            found[(str(uid), str(container.get("name")))] = container
    return found


def _dicts(value: Any) -> Iterable[Obj]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def compare(before: Obj, after: Obj, elapsed: float) -> NodeUsage:
    """What two summaries of one node tell of the seconds between them."""
    earlier = _containers(before)
    pods: dict[str, Containers] = {}
    for (uid, name), container in _containers(after).items():
        usage = usage_between(earlier.get((uid, name)), container, elapsed)
        if usage is not None:
            pods.setdefault(uid, {})[name] = usage
    return NodeUsage(usage_between(before.get("node"), after.get("node"), elapsed), pods)


class Metrics:
    """Answers reads of ``nodes`` and ``pods`` of ``metrics.k8s.io``."""

    def __init__(self, reactor: IReactorTime, api: Api, kubelets: Kubelets | None) -> None:
        self._reactor = reactor
        self._api = api
        self._kubelets = kubelets

    async def read(self, resource: Resource, namespace: str, name: str, label_selector: str) -> list[Obj]:
        """The metrics of one node or pod, or of those selected.

        :raises ApiError: (404) if there is nothing known of the one.
        """
        of = NODE if resource.kind == "NodeMetrics" else POD
        if name:
            wanted = [await self._api.get(of, namespace, name)]
        else:
            selected = predicate(of, label_selector, "")
            wanted = [one for one in self._api.cache.current(of, namespace) if selected(one)]
        if of == NODE:
            nodes = {one["metadata"]["name"] for one in wanted}
        else:
            nodes = {one["spec"]["nodeName"] for one in wanted if one["spec"].get("nodeName")}
        usages = await self._ask(sorted(nodes))
        now = timestamp(self._reactor.seconds())
        make = _node_metrics if of == NODE else _pod_metrics
        made = [one for one in (make(resource, obj, usages, now) for obj in wanted) if one is not None]
        if name and not made:
            raise errors.not_found(resource.group, resource.plural, name)
        return made

    async def _ask(self, nodes: Sequence[str]) -> dict[str, NodeUsage]:
        gate = DeferredSemaphore(AT_ONCE)
        asked = [gate.run(lambda node: Deferred.fromCoroutine(self._usage(node)), node) for node in nodes]
        answers = await gatherResults(asked)
        return {node: usage for node, usage in zip(nodes, answers, strict=True) if usage is not None}

    async def _usage(self, node: str) -> NodeUsage | None:
        first = self._reactor.seconds()
        before = await self._summary(node)
        if before is None:
            return None
        await deferLater(self._reactor, WINDOW)
        second = self._reactor.seconds()
        after = await self._summary(node)
        return compare(before, after, second - first) if after is not None else None

    async def _summary(self, node: str) -> Obj | None:
        if self._kubelets is None:
            return None
        head = request_head("GET", "/stats/summary", node, [])
        factory = Factory.forProtocol(lambda: _Collect(head))
        try:
            connecting = self._kubelets.endpoint(node, SERVICE).connect(factory)
            connection = await connecting.addTimeout(NODE_SECONDS, self._reactor)
            assert isinstance(connection, _Collect)
            return parse_summary(await connection.whole.addTimeout(NODE_SECONDS, self._reactor))
        except (OSError, TimeoutError, CancelledError):
            return None


def _metrics(resource: Resource, obj: Obj, now: str) -> Obj:
    meta = obj["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {**kept, "creationTimestamp": now},
        "timestamp": now,
        "window": f"{WINDOW:g}s",
    }


def _node_metrics(resource: Resource, node: Obj, usages: Mapping[str, NodeUsage], now: str) -> Obj | None:
    found = usages.get(node["metadata"]["name"])
    if found is None or found.node is None:
        return None
    return {**_metrics(resource, node, now), "usage": found.node.shown()}


def _pod_metrics(resource: Resource, pod: Obj, usages: Mapping[str, NodeUsage], now: str) -> Obj | None:
    found = usages.get(pod["spec"].get("nodeName", ""))
    containers = found.pods.get(pod["metadata"]["uid"]) if found is not None else None
    if not containers:
        return None
    listed = [{"name": name, "usage": usage.shown()} for name, usage in sorted(containers.items())]
    return {**_metrics(resource, pod, now), "containers": listed}

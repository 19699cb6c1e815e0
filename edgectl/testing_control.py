"""For tests of the controller: a Kubernetes API in memory, reached through the real client, and a node directory."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from edgectl.interfaces import CannotAdopt, EdgeNode
from edgectl.kubeconfig import ClusterConfig
from edgectl.nodes import rfc3339
from edgectl.watch import Object, object_key
from metasync.interfaces import Store, StoreError, Watch
from metasync.keys import NodeKeys
from metasync.model import Delete, EventType, KeyRange, Op, Put, WatchBatch

_STARTED = "2026-01-01T00:00:00Z"

FAKE_CONFIG = ClusterConfig("http://kubernetes.test")

_KINDS = {
    "nodes": ("v1", "Node"),
    "pods": ("v1", "Pod"),
    "configmaps": ("v1", "ConfigMap"),
    "secrets": ("v1", "Secret"),
    "events": ("v1", "Event"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "services": ("v1", "Service"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "certificatesigningrequests": ("certificates.k8s.io/v1", "CertificateSigningRequest"),
}


class Refusal(Exception):
    """The fake's error answer."""

    def __init__(self, code: int, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.code = code
        self.reason = reason


class Silence(Exception):
    """The fake does not answer."""


class FakeKubernetes(Resource):
    """As much of a Kubernetes API server as the controller uses, with its rules on versions, UIDs and grace.

    :ivar requests: ``"VERB path"`` of every request, watches as ``WATCH``, lists as ``LIST``.
    :ivar slice_version: of ``discovery.k8s.io``: the one there is.
    :ivar tokens: how many service account tokens were given.
    :ivar fail: called with the same before each request; what it raises (a :class:`Refusal` or
        :class:`Silence`) is the answer.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.objects: dict[str, dict[str, Object]] = {plural: {} for plural in _KINDS}
        self.requests: list[str] = []
        self.fail: Callable[[str], None] = lambda _: None
        self.page_size = 0
        self.slice_version = "v1"
        self.tokens = 0
        self.seconds: Callable[[], float] = time.time
        self._version = itertools.count(100)
        self._now = 100
        self._history: list[tuple[int, str, Object]] = []
        self._compacted = 0
        self._watches: list[_FakeWatch] = []

    # What a test does behind the controller's back, as a user with kubectl would.

    def put(self, plural: str, item: Object) -> Object:
        """Create or replace an object; its UID is kept or made."""
        api_version, kind = _KINDS[plural]
        item = deepcopy(item)
        metadata = item["metadata"]
        old = self.objects[plural].get(object_key(item))
        metadata.setdefault("uid", old["metadata"]["uid"] if old else str(uuid.uuid4()))
        metadata["resourceVersion"] = str(self._next())
        item = {"apiVersion": api_version, "kind": kind, **item}
        self.objects[plural][object_key(item)] = item
        self._emit("ADDED" if old is None else "MODIFIED", plural, item)
        return item

    def remove(self, plural: str, key: str) -> None:
        item = deepcopy(self.objects[plural].pop(key))
        item["metadata"]["resourceVersion"] = str(self._next())
        self._emit("DELETED", plural, item)

    def delete_pod(self, key: str, grace: int = 30) -> None:
        """``kubectl delete pod``."""
        self._delete("pods", key, {"gracePeriodSeconds": grace})

    def cut_watches(self) -> None:
        """Every watch's connection is lost."""
        for watch in list(self._watches):
            watch.request.transport.loseConnection()
        self._watches.clear()

    def end_watches(self) -> None:
        """Every watch ends as one does whose time is up."""
        for watch in list(self._watches):
            watch.request.finish()
        self._watches.clear()

    def compact(self) -> None:
        """Nothing before now can be watched from."""
        self._compacted = self._now
        self._history.clear()

    def pass_over(self) -> int:
        """Let the version grow without telling watchers, as changes of other kinds do."""
        return self._next()

    @property
    def watching(self) -> list[str]:
        return sorted(watch.plural for watch in self._watches)

    def render(self, request: Any) -> Any:
        try:
            answer = self._answer(request)
        except Silence:
            return NOT_DONE_YET
        except Refusal as refusal:
            request.setResponseCode(refusal.code)
            answer = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": refusal.code,
                "reason": refusal.reason,
                "message": str(refusal),
            }
        if answer is None:
            return NOT_DONE_YET
        request.setHeader("Content-Type", "application/json")
        return json.dumps(answer).encode()

    def _answer(self, request: Any) -> Object | None:
        method = request.method.decode()
        path = request.path.decode()
        arguments = {name.decode(): values[0].decode() for name, values in request.args.items()}
        parts = path.strip("/").split("/")
        if parts == ["apis", "discovery.k8s.io"]:
            return {"kind": "APIGroup", "versions": [{"version": self.slice_version}]}
        if parts[1] == "discovery.k8s.io" and parts[2] != self.slice_version:
            raise Refusal(404, "NotFound")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = parts[1] if parts[0] == "namespaces" else ""
        plural, *rest = parts[2:] if namespace else parts
        name, subresource = [*rest, "", ""][:2]
        verb = {"GET": "GET" if name else ("WATCH" if "watch" in arguments else "LIST")}.get(method, method)
        what = f"{verb} {path}"
        self.requests.append(what)
        self.fail(what)
        key = f"{namespace}/{name}" if namespace else name
        match verb:
            case "LIST":
                return self._list(plural, namespace, arguments)
            case "WATCH":
                self._watch(request, plural, namespace, arguments)
                return None
            case "GET":
                return self._get(plural, key)
        body = json.loads(request.content.read())
        if plural == "serviceaccounts" and subresource == "token":
            return self._token(namespace, name, body)
        match verb:
            case "POST":
                return self._create(plural, namespace, body)
            case "PUT":
                return self._update(plural, key, body, subresource)
            case "PATCH":
                return self._patch(plural, key, body, subresource)
            case "DELETE":
                return self._delete(plural, key, body)
        raise Refusal(405, "MethodNotAllowed")

    def _token(self, namespace: str, name: str, body: Object) -> Object:
        self.tokens += 1
        spec = body["spec"]
        expires = datetime.fromtimestamp(self.seconds() + spec["expirationSeconds"], UTC)
        token = f"{namespace}/{name}/{spec['boundObjectRef']['uid']}/{self.tokens}"
        return {"spec": spec, "status": {"token": token, "expirationTimestamp": rfc3339(expires.timestamp())}}

    def _get(self, plural: str, key: str) -> Object:
        try:
            return self.objects[plural][key]
        except KeyError:
            raise Refusal(404, "NotFound", f"{plural} {key!r} not found") from None

    def _list(self, plural: str, namespace: str, arguments: Mapping[str, str]) -> Object:
        items = [item for item in self.objects[plural].values() if _matches(item, namespace, arguments)]
        limit = self.page_size or int(arguments.get("limit", "0")) or len(items)
        start, _, version = arguments.get("continue", "").partition("@")
        if version and int(version) < self._compacted:
            raise Refusal(410, "Expired")
        first = int(start or 0)
        metadata: Object = {"resourceVersion": version or str(self._now)}
        if first + limit < len(items):
            metadata["continue"] = f"{first + limit}@{metadata['resourceVersion']}"
        return {"kind": "List", "metadata": metadata, "items": items[first : first + limit]}

    def _watch(self, request: Any, plural: str, namespace: str, arguments: Mapping[str, str]) -> None:
        since = int(arguments["resourceVersion"])
        if since < self._compacted:
            raise Refusal(410, "Expired", "too old resource version")
        watch = _FakeWatch(request, plural, namespace, arguments)
        self._watches.append(watch)
        request.notifyFinish().addErrback(lambda _: self._watches.remove(watch) if watch in self._watches else None)
        request.setHeader("Content-Type", "application/json")
        request.write(b"")
        for version, kind, item in self._history:
            if version > since:
                watch.tell(kind, item)

    def _create(self, plural: str, namespace: str, body: Object) -> Object:
        if namespace:
            body["metadata"].setdefault("namespace", namespace)
        if "generateName" in body["metadata"] and "name" not in body["metadata"]:
            body["metadata"]["name"] = body["metadata"]["generateName"] + uuid.uuid4().hex[:5]
        if object_key(body) in self.objects[plural]:
            raise Refusal(409, "AlreadyExists", f"{plural} {object_key(body)!r} already exists")
        return self.put(plural, body)

    def _update(self, plural: str, key: str, body: Object, subresource: str) -> Object:
        old = self._get(plural, key)
        _check(old, body.get("metadata", {}))
        return self._store(plural, old, body, subresource)

    def _patch(self, plural: str, key: str, patch: Object, subresource: str) -> Object:
        old = self._get(plural, key)
        _check(old, patch.get("metadata", {}))
        return self._store(plural, old, _merged(old, patch), subresource)

    def _store(self, plural: str, old: Object, new: Object, subresource: str) -> Object:
        """A write to the object leaves its status alone, one to its status everything else but annotations and labels.

        So it is with Nodes and Pods (kube-apiserver, ``podStatusStrategy.PrepareForUpdate``).
        """
        if subresource == "status":
            notes = {name: new["metadata"].get(name) for name in ("annotations", "labels")}
            metadata = {**old["metadata"], **{name: value for name, value in notes.items() if value is not None}}
            new = {**old, "metadata": metadata, "status": new.get("status")}
        else:
            new = {**new, "status": old.get("status")}
        new = {name: value for name, value in new.items() if value is not None}
        if subresource == "status":
            new = {**new, "status": _own_spelling(new.get("status") or {})}
        if new == {**old, "metadata": new["metadata"]} and _merged(old["metadata"], new["metadata"]) == old["metadata"]:
            return old
        return self.put(plural, {**new, "metadata": {**new["metadata"], "uid": old["metadata"]["uid"]}})

    def _delete(self, plural: str, key: str, options: Object) -> Object:
        old = self._get(plural, key)
        _check(old, options.get("preconditions", {}))
        grace = options.get("gracePeriodSeconds", 30)
        if plural == "pods" and grace and old["spec"].get("nodeName"):
            metadata = {
                **old["metadata"],
                "deletionTimestamp": "2026-01-01T00:00:30Z",
                "deletionGracePeriodSeconds": grace,
            }
            return self.put(plural, {**old, "metadata": metadata})
        self.remove(plural, key)
        return old

    def _next(self) -> int:
        self._now = next(self._version)
        return self._now

    def _emit(self, kind: str, plural: str, item: Object) -> None:
        item = deepcopy(item)
        self._history.append((self._now, kind, {**item, "_plural": plural}))
        for watch in list(self._watches):
            watch.tell(kind, {**item, "_plural": plural})


def _own_spelling(status: Object) -> Object:
    """As a real server shows what it was sent: some empty fields written out, quantities in their shortest form."""
    status = deepcopy(status)
    for container in status.get("containerStatuses") or ():
        container.setdefault("lastState", {})
    for condition in status.get("conditions") or ():
        condition.setdefault("lastProbeTime", None)
    for quantities in (status.get("capacity") or {}, status.get("allocatable") or {}):
        if quantities.get("memory") == "1024Mi":
            quantities["memory"] = "1Gi"
    return status


class _FakeWatch:
    def __init__(self, request: Any, plural: str, namespace: str, arguments: Mapping[str, str]) -> None:
        self.request = request
        self.plural = plural
        self._namespace = namespace
        self._arguments = arguments

    def tell(self, kind: str, item: Object) -> None:
        if item["_plural"] != self.plural or not _matches(item, self._namespace, self._arguments):
            return
        shown = {name: value for name, value in item.items() if name != "_plural"}
        self.request.write(json.dumps({"type": kind, "object": shown}).encode() + b"\n")


def _matches(item: Object, namespace: str, arguments: Mapping[str, str]) -> bool:
    if namespace and item["metadata"].get("namespace") != namespace:
        return False
    match arguments.get("fieldSelector", ""):
        case "spec.nodeName!=":
            return bool(item["spec"].get("nodeName"))
        case "spec.signerName=kubernetes.io/kubelet-serving":
            return bool(item["spec"]["signerName"] == "kubernetes.io/kubelet-serving")
        case "":
            return True
    raise Refusal(400, "BadRequest", "the fake does not know this field selector")


def _check(item: Object, conditions: Mapping[str, Any]) -> None:
    for name in ("uid", "resourceVersion"):
        if conditions.get(name) not in (None, "", item["metadata"][name]):
            raise Refusal(409, "Conflict", f"{name} is {item['metadata'][name]!r}")


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(old) if isinstance(old, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


class FakeDirectory:
    """An :class:`edgectl.interfaces.NodeDirectory` whose nodes a test sets.

    :ivar refusal: why no node can have other pod subnets, if so.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, EdgeNode] = {}
        self._observers: list[Callable[[str, EdgeNode | None], None]] = []
        self.endpoints: dict[tuple[str, str], IStreamClientEndpoint] = {}
        self.refusal = ""

    def __iter__(self) -> Iterator[EdgeNode]:
        return iter(self._nodes.values())

    def set(self, node: EdgeNode) -> None:
        self._nodes[node.name] = node
        for observer in self._observers:
            observer(node.name, node)

    def remove(self, name: str) -> None:
        del self._nodes[name]
        for observer in self._observers:
            observer(name, None)

    def subscribe(self, changed: Callable[[str, EdgeNode | None], None]) -> None:
        self._observers.append(changed)
        for name, node in list(self._nodes.items()):
            changed(name, node)

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        try:
            return self.endpoints[node, service]
        except KeyError:
            raise ConnectionError(f"node {node!r} is away") from None

    async def adopt(self, node: str, subnets: Sequence[IPv4Network | IPv6Network]) -> None:
        if self.refusal:
            raise CannotAdopt(self.refusal)
        self.set(replace(self._nodes[node], pod_subnets=tuple(subnets)))


def fake_agent(api: FakeKubernetes) -> RequestTraversalAgent:
    """Carries the client's requests to ``api`` in memory; call ``flush()`` to let data through."""
    return RequestTraversalAgent(api)  # type: ignore[no-untyped-call]


class SimulatedEdge:
    """A node that runs everything at once: it follows its ``desired`` and reports as an engine would.

    :ivar started: how often a container of each pod UID was started.
    """

    def __init__(self, store: Store, network: str, node: str, subnet: str = "10.192.1.") -> None:
        self.started: dict[str, int] = {}
        self._store = store
        self._keys = NodeKeys(network, node)
        self._prefix = f"{self._keys.desired}pods/".encode()
        self.subnet = subnet
        self._pods: dict[bytes, Object] = {}
        self._writing: Deferred[Any] = succeed(None)
        self._watch: Watch | None = None

    async def start(self) -> None:
        """Report the node, and begin to run what is desired of it."""
        await self.report_node()
        keys = KeyRange.prefix(self._prefix)
        now = await self._store.range(keys)
        for kv in now.kvs:
            self.desired(kv.key, kv.value)
        self._watch = self._store.watch(keys, now.revision + 1, self)

    async def report_node(self) -> None:
        status = {
            "capacity": {"cpu": "4", "memory": "1Gi", "pods": "110"},
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.29.0"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated", "lastTransitionTime": _STARTED}],
        }
        await self._store.txn([], [Put(self._keys.reported_node, json.dumps({"status": status}).encode())])

    def stop(self) -> None:
        """Go offline: neither follow nor report. What is running stays."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def batch(self, batch: WatchBatch) -> None:
        for event in batch.events:
            self.desired(event.kv.key, event.kv.value if event.type is EventType.PUT else None)

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        raise error

    def desired(self, key: bytes, value: bytes | None) -> None:
        """A pod of the node's ``desired`` has changed (``None``: was removed)."""
        old = self._pods.pop(key, None)
        pod = json.loads(value) if value is not None else None
        if old is not None and (pod is None or pod["metadata"]["uid"] != old["metadata"]["uid"]):
            self._write(Delete.single(self._record(old)))
        if pod is None:
            return
        self._pods[key] = pod
        uid = pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp"):
            self._report(pod, "Succeeded", True)
        else:
            if old is None or old["metadata"]["uid"] != uid:
                self.started[uid] = self.started.get(uid, 0) + 1
            self._report(pod, "Running", False)

    def _report(self, pod: Object, phase: str, gone: bool) -> None:
        address = f"{self.subnet}{2 + sum(pod['metadata']['uid'].encode()) % 250}"
        running = phase == "Running"
        state = {"running": {"startedAt": _STARTED}} if running else {"terminated": {"exitCode": 0}}
        status = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _STARTED,
            "conditions": [{"type": "Ready", "status": str(running), "lastTransitionTime": _STARTED}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "sha256:0",
                    "containerID": f"docker://{pod['metadata']['uid']}",
                    "ready": running,
                    "restartCount": 0,
                    "state": state,
                }
                for container in pod["spec"]["containers"]
            ],
        }
        metadata = {name: pod["metadata"][name] for name in ("namespace", "name", "uid")}
        report = {"metadata": metadata, "status": status, "gone": gone}
        self._write(Put(self._record(pod), json.dumps(report).encode()))

    def _record(self, pod: Object) -> bytes:
        metadata = pod["metadata"]
        return self._keys.reported_pod(metadata["namespace"], metadata["name"], metadata["uid"])

    def _write(self, op: Op) -> None:
        """One after the other, as the store of a node would give them."""
        self._writing.addCallback(lambda _: Deferred.fromCoroutine(self._store.txn([], [op])))

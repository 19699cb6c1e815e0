"""A controller with everything around it in memory, for the tests beside this file."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from edgectl.controller import ControllerOptions, EdgeController
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import KubernetesClient
from edgectl.testing_control import FAKE_CONFIG, FakeDirectory, FakeKubernetes, fake_agent
from edgectl.watch import Object
from metasync.keys import NodeKeys, nodes_prefix
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put

START = 1_700_000_000.0


def edge(name: str = "edge1", connected: bool = True, since: float = START, **other: Any) -> EdgeNode:
    return EdgeNode(name, (ip_address("10.250.0.2"),), (ip_network("10.192.1.0/24"),), connected, since, **other)


def pod(name: str, node: str = "edge1", uid: str = "", **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": "default"}
    if uid:
        metadata["uid"] = uid
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "busybox"}], **spec}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}}


def configmap(name: str, **data: str) -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


def running(ip: str = "10.192.1.5") -> Object:
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "c", "ready": True, "restartCount": 0}],
    }


NODE_STATUS: Object = {
    "capacity": {"cpu": "4", "memory": "1Gi", "pods": "50"},
    "nodeInfo": {"architecture": "aarch64", "operatingSystem": "linux", "kubeletVersion": "v1.29.0"},
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "EngineReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
}


class ControlTestCase(SynchronousTestCase):
    """:ivar api: Kubernetes. :ivar directory: the enrolled nodes. :ivar store: the cloud store."""

    options = ControllerOptions()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.api = FakeKubernetes()
        self.api.seconds = self.clock.seconds
        self.agent = fake_agent(self.api)
        self.directory = FakeDirectory()
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.stop)

    def start(self) -> None:
        client = KubernetesClient(self.clock, FAKE_CONFIG, self.agent)
        self.controller = EdgeController(
            self.clock, client, self.store, "default", self.directory, self.options, lambda: 0.5
        )
        self.controller.startService()
        self.settle()
        self.assertTrue(self.controller.ready)

    def stop(self) -> None:
        if hasattr(self, "controller") and self.controller.running:
            self.successResultOf(self.controller.stopService())

    def settle(self, seconds: float = 2.0) -> None:
        """Let everything that is under way happen, and ``seconds`` pass in small steps."""
        steps = max(20, int(seconds / 0.25))
        for _ in range(steps):
            self.clock.advance(seconds / steps)
            for _ in range(8):
                self.agent.flush()
                self.clock.advance(0)

    def report_node(self, name: str = "edge1", **status: Any) -> None:
        self.put(NodeKeys("default", name).reported_node, {"status": {**NODE_STATUS, **status}})

    def report_pod(
        self, name: str, status: Object | None = None, *, uid: str = "", node: str = "edge1", gone: bool = False
    ) -> None:
        uid = uid or self.api.objects["pods"][f"default/{name}"]["metadata"]["uid"]
        metadata = {"name": name, "namespace": "default", "uid": uid}
        report = {"metadata": metadata, "status": status or running(), "gone": gone}
        self.put(NodeKeys("default", node).reported_pod("default", name, uid), report)

    def put(self, key: bytes, value: Any) -> None:
        self.run_now(self.store.txn([], [Put(key, json.dumps(value).encode())]))

    def clear(self, key: bytes) -> None:
        self.run_now(self.store.txn([], [Delete.single(key)]))

    def run_now(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def desired(self, node: str = "edge1") -> dict[str, Any]:
        """What stands under ``desired`` of a node, by the rest of the key."""
        return self.below(NodeKeys("default", node).desired)

    def below(self, prefix: str) -> dict[str, Any]:
        """What stands below a prefix of the store, by the rest of the key."""
        result = self.run_now(self.store.range(KeyRange.prefix(prefix.encode())))
        return {kv.key.decode()[len(prefix) :]: json.loads(kv.value) for kv in result.kvs}

    def keys_of(self, node: str) -> list[str]:
        prefix = f"{nodes_prefix('default')}{node}/"
        result = self.run_now(self.store.range(KeyRange.prefix(prefix.encode())))
        return [kv.key.decode()[len(prefix) :] for kv in result.kvs]

    def node(self, name: str = "edge1") -> Object:
        return self.api.objects["nodes"][name]

    def condition(self, kind: str, name: str = "edge1") -> Object:
        return next(c for c in self.node(name)["status"]["conditions"] if c["type"] == kind)

    def pod(self, name: str) -> Object:
        return self.api.objects["pods"][f"default/{name}"]

    def writes(self) -> list[str]:
        """The requests since the last call that change anything, Leases aside."""
        made = [r for r in self.api.requests if r.split()[0] in ("POST", "PUT", "PATCH", "DELETE")]
        self.api.requests.clear()
        return [r for r in made if "/leases" not in r]

"""An engine in memory: a clock, a store, and a runtime whose containers are only told of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest

from appengine.runtime import ContainerView
from appengine.service import Engine
from appengine.testing import FixedNetwork, InlineThreads, MemoryRuntime, NoFirewall, place
from appengine.threads import Threads
from metasync.keys import NodeKeys
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put

Json = dict[str, Any]
START = 1_700_000_000.0


def pod_manifest(name: str = "web", uid: str = "", spec: Json | None = None, **container: Any) -> Json:
    """A v1 Pod with one container, ``main``."""
    main = {"name": "main", "image": "busybox:lab", **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
        "spec": {"containers": [main], **(spec or {})},
    }


class EngineWorld(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.directory = Path(mkdtemp(prefix="kubebus-unit-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.store = MemoryStore(self.clock)
        self.keys = NodeKeys("default", "edge-1")
        # Added to the reactor's time: somebody has set the clock.
        self.clock_error = 0.0
        self.runtime = MemoryRuntime(self.clock, wall=self.wall)
        self.firewall = NoFirewall()
        self.network = FixedNetwork(place("10.192.7.0/24"))
        self.files: Threads = InlineThreads()
        self.start()
        self.addCleanup(self.stop)

    def start(self) -> None:
        self.engine = Engine(
            self.clock,
            self.store,
            "default",
            "edge-1",
            "unix:///none",
            self.network,
            self.directory,
            runtime=self.runtime,
            files=self.files,
            firewall=self.firewall,
            wall=self.wall,
        )
        self.engine.startService()
        self.settle()

    def wall(self) -> float:
        return self.clock.seconds() + self.clock_error

    def stop(self) -> None:
        if self.engine.running:
            self.successResultOf(self.engine.stopService())

    def settle(self, seconds: float = 1.0) -> None:
        """Let time pass in small steps."""
        steps = max(1, int(seconds / 0.25))
        self.clock.pump([seconds / steps] * steps)

    def run_coroutine(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def put(self, plural: str, document: Json) -> None:
        metadata = document["metadata"]
        key = self.keys.desired_object(plural, metadata.get("namespace", "default"), metadata["name"])
        self.put_raw(key, json.dumps(document).encode())

    def put_raw(self, key: bytes, value: bytes) -> None:
        self.run_coroutine(self.store.txn([], [Put(key, value)]))
        self.settle()

    def apply(self, *pods: Json) -> None:
        for pod in pods:
            self.put("pods", pod)

    def delete(self, name: str) -> None:
        key = self.keys.desired_object("pods", "default", name)
        self.run_coroutine(self.store.txn([], [Delete.single(key)]))
        self.settle()

    def report(self, pod: Json) -> Json | None:
        metadata = pod["metadata"]
        key = self.keys.reported_pod("default", metadata["name"], metadata["uid"])
        found = self.run_coroutine(self.store.range(KeyRange.single(key)))
        return json.loads(found.kvs[0].value) if found.kvs else None

    def status(self, pod: Json) -> Json:
        report = self.report(pod)
        if report is None:
            raise AssertionError(f"nothing is reported of {pod['metadata']['name']}")
        status: Json = report["status"]
        return status

    def container_status(self, pod: Json, name: str = "main") -> Json:
        status = self.status(pod)
        for key in ("initContainerStatuses", "containerStatuses"):
            for container in status.get(key) or ():
                if container["name"] == name:
                    found: Json = container
                    return found
        raise AssertionError(f"no status of {name}: {status}")

    def condition(self, pod: Json, kind: str) -> str:
        return next(str(c["status"]) for c in self.status(pod)["conditions"] if c["type"] == kind)

    def node_status(self) -> Json:
        found = self.run_coroutine(self.store.range(KeyRange.single(self.keys.reported_node)))
        status: Json = json.loads(found.kvs[0].value)["status"]
        return status

    def named(self, name: str = "main") -> ContainerView:
        return self.runtime.named(name)

"""The engine as part of a whole node: what the cloud sees of it, and what becomes of it without the cloud."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any
from urllib.parse import quote

from twisted.trial import unittest

from examples.demo.world import Edge, World
from kubebus.adminclient import AdminClient
from metasync.keys import NodeKeys
from tests.integration.engine_world import SLEEP
from tests.lab.engine import BUSYBOX
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

# Long enough for each side to give the other up, several times over.
LONG = 12.0
QUICK = ("--heartbeat", "2", "--probe", "1")


def manifest(name: str, **container: Any) -> dict[str, Any]:
    main = {"name": "main", "image": BUSYBOX, "command": SLEEP, **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": "edge-1", "terminationGracePeriodSeconds": 1, "containers": [main]},
    }


class WholeNodeTests(SharedWorld, unittest.SynchronousTestCase):
    world: World
    edge: Edge

    @classmethod
    def build_world(cls) -> None:
        cls.world = world = cls.keep(World(("edge-1",), cloud_options=QUICK, edge_options=QUICK))
        world.start_cloud()
        (cls.edge,) = world.edges
        folder = cls.edge.path / "pods" / "manifests"
        folder.mkdir(parents=True)
        (folder / "local.json").write_text(json.dumps(manifest("local")))
        cls.edge.join(world.kubebus("token", "create", "--node", "edge-1").strip().splitlines()[-1])
        wait_until(lambda: world.node_ready("edge-1"), 60, "the node is Ready", 0.3)

    def run_pod(self, name: str, **container: Any) -> str:
        """The pod's address."""
        self.world.kubectl("apply", "-f", "-", input=json.dumps(manifest(name, **container)))
        self.addCleanup(lambda: self.world.kubectl("delete", "pod", name, "--wait=false"))
        self.world.wait_running(name)
        return self.world.pod_ip(name)

    def containers(self, name: str) -> dict[str, str]:
        """A pod's, its pause container too: ID → start of its process."""
        with closing(self.edge.engine.client()) as client:
            listed = client.containers.list(filters={"label": f"io.kubernetes.pod.name={name}"}, ignore_removed=True)
            return {str(each.id): each.attrs["State"]["StartedAt"] for each in listed}

    def restarts(self, name: str) -> int:
        return int(self.world.pod(name)["status"]["containerStatuses"][0]["restartCount"])

    def test_events_are_seen_by_kubectl(self) -> None:
        self.run_pod("noted")

        def described(name: str, *words: str) -> bool:
            text = self.world.kubectl("describe", "pod", name)
            return all(word in text for word in words)

        wait_until(lambda: described("noted", "Started container main"), 30, "kubectl describe shows the start", 0.5)
        bad = manifest("bad", image="127.0.0.1:1/none:1")
        self.world.kubectl("apply", "-f", "-", input=json.dumps(bad))
        self.addCleanup(lambda: self.world.kubectl("delete", "pod", "bad", "--wait=false"))
        wait_until(lambda: described("bad", "Warning", "127.0.0.1:1"), 30, "kubectl describe shows the failure", 0.5)
        events = self.world.kubectl.json("get", "events", "--field-selector", "involvedObject.name=noted")["items"]
        (started,) = [event for event in events if event["reason"] == "Started"]
        self.assertEqual(started["source"]["host"], "edge-1")
        self.assertEqual(started["involvedObject"]["uid"], self.world.pod("noted")["metadata"]["uid"])

    def test_long_cut_from_the_cloud_changes_nothing(self) -> None:
        address = self.run_pod("lasting")
        before = self.containers("lasting")
        nat = self.world.net.sites[0].nat
        nat.cut()
        try:
            wait_until(lambda: not self.world.net.eip.ping(address, timeout=1), 30, "the node is cut off")
            time.sleep(LONG)
            self.assertEqual(self.containers("lasting"), before)
            self.assertTrue(self.edge.site.node.ping(address), "the pod is reached on its node")
        finally:
            nat.mend()
        wait_until(lambda: self.world.net.eip.ping(address, timeout=1), 60, "the pod is reached from the cloud again")
        wait_until(lambda: self.world.node_ready("edge-1"), 60, "the node is Ready again", 0.3)
        self.assertEqual(self.containers("lasting"), before)
        self.assertEqual(self.restarts("lasting"), 0)
        # What the cloud wants now still arrives.
        self.run_pod("after")

    def test_network_forwards_while_the_container_engine_hangs(self) -> None:
        address = self.run_pod("reached")
        before = self.containers("reached")
        self.edge.engine.suspend()
        try:
            wait_until(lambda: not self.world.node_ready("edge-1"), 60, "the node is not Ready", 0.3)
            done = self.world.net.eip.run(["ping", "-i", "0.05", "-c", "60", "-W", "2", address], check=False)
            self.assertIn(" 0% packet loss", done.stdout)
            condition = self.ready_condition()
            self.assertEqual(condition["reason"], "ContainerRuntimeNotReady")
        finally:
            self.edge.engine.resume()
        wait_until(lambda: self.world.node_ready("edge-1"), 60, "the node is Ready again", 0.3)
        self.assertEqual(self.containers("reached"), before)

    def ready_condition(self) -> dict[str, Any]:
        conditions = self.world.kubectl.json("get", "node", "edge-1")["status"]["conditions"]
        (found,) = [each for each in conditions if each["type"] == "Ready"]
        result: dict[str, Any] = found
        return result

    def test_malformed_pods_affect_only_themselves(self) -> None:
        self.run_pod("sound")
        before = self.containers("sound")
        store = AdminClient(str(self.edge.socket))
        keys = NodeKeys("default", "edge-1")
        malformed: dict[str, bytes] = {
            "noise": b"\x00\xff\xfe not JSON",
            "list": b"[1, 2, 3]",
            "types": json.dumps(
                {"metadata": {"name": "types", "namespace": 7}, "spec": {"containers": "many"}}
            ).encode(),
            "unknown": json.dumps({**manifest("unknown"), "spec": {**manifest("x")["spec"], "newField": 1}}).encode(),
            "deep": b'{"spec":' * 5000 + b"1" + b"}" * 5000,
            "huge": json.dumps({**manifest("huge"), "x": "y" * 900_000}).encode(),
        }
        paths = {name: quote(keys.desired_object("pods", "default", name).decode(), safe="") for name in malformed}
        for name, value in malformed.items():
            with store.open("PUT", f"/v1/meta/keys?key={paths[name]}", value):
                pass

        def told() -> dict[str, dict[str, Any]]:
            items = store.get("/v1/kubelet/pods")["items"]
            return {item["metadata"]["name"]: item["status"] for item in items}

        def all_refused() -> bool:
            seen = told()
            return all(seen.get(name, {}).get("phase") == "Failed" for name in malformed)

        wait_until(all_refused, 30, "each is refused", 0.3)
        for name in malformed:
            self.assertTrue(told()[name]["message"], name)
        # The node goes on: others start, and after a restart of the agent too.
        self.run_pod("beside")
        self.edge.boot()
        wait_until(lambda: self.edge.socket.exists() and all_refused(), 60, "the agent has started again", 0.5)
        self.run_pod("later")
        self.assertEqual(self.containers("sound"), before)
        for path in paths.values():
            store.delete(f"/v1/meta/keys?key={path}")
        wait_until(lambda: not malformed.keys() & told().keys(), 30, "they are forgotten", 0.3)

    def test_static_pod_of_a_whole_node(self) -> None:
        wait_until(lambda: self.edge.containers("local-edge-1"), 60, "the static pod runs", 0.5)
        listed = self.edge.kubebus("pods")
        self.assertIn("local-edge-1", listed)

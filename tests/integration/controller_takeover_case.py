"""A pod that a node of the same site takes over, whatever Kubernetes shows it."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.internet.task import deferLater

from edgectl.interfaces import EdgeNode
from edgectl.testing_control import SimulatedEdge
from metasync.keys import TAKEN_OVER_BY, TAKEOVER, NodeKeys, SiteKeys
from metasync.model import Delete, KeyRange, Put
from tests.integration.controller_case import ControllerCase, pod, reactor, until

Obj = dict[str, Any]

STARTED = "2026-01-01T00:00:00Z"


def running(ip: str) -> Obj:
    state = {"running": {"startedAt": STARTED}}
    container = {"name": "c", "image": "busybox", "imageID": "x", "ready": True, "restartCount": 0, "state": state}
    return {
        "phase": "Running",
        "hostIP": "10.250.0.2",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": STARTED,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": STARTED} for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": [{**container, "started": True}],
    }


class TakeoverStory(ControllerCase):
    """Node ``a`` has the pod, and ``b`` and ``c`` are of its site. The edge is simulated."""

    timeout = 90

    async def begin(self) -> str:
        """A site of three nodes, and on the first a pod that opts in and runs; its UID."""
        self.start()
        for letter in "abc":
            self.place(letter)
            await SimulatedEdge(self.store, "default", self.node(letter)).report_node()
        await until(lambda: self.controller.idle)
        item = pod(self.name, self.node("a"))
        item["metadata"]["annotations"] = {TAKEOVER: "site"}
        settings = {"name": f"{self.name}-settings", "namespace": "default"}
        item["spec"]["volumes"] = [{"name": "v", "configMap": {"name": settings["name"]}}]
        await self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": settings, "data": {"a": "1"}}, item)
        uid = str((await self.get("pod", self.name))["metadata"]["uid"])
        await self.report("a", uid, running("10.192.1.5"))
        await self.shows(ip="10.192.1.5", ready="True", by=None)
        return uid

    def node(self, letter: str) -> str:
        return f"{self.name[:30]}-{letter}"

    def place(self, letter: str, connected: bool = True) -> None:
        number = "abc".index(letter) + 1
        since = reactor.seconds() - 60
        address, subnet = ip_address(f"10.250.0.{number + 1}"), ip_network(f"10.192.{number}.0/24")
        self.directory.set(EdgeNode(self.node(letter), (address,), (subnet,), connected, since, site=self.name))

    async def report(
        self, letter: str, uid: str, status: Obj, *, copy_of: str | None = None, gone: bool = False
    ) -> None:
        metadata = {"namespace": "default", "name": self.name, "uid": uid}
        report: Obj = {"metadata": metadata, "status": status, "gone": gone}
        if copy_of is not None:
            report["takenOver"] = {"uid": copy_of, "node": self.node("a")}
        await self.store.txn([], [Put(self.record(letter, uid), json.dumps(report).encode())])

    async def clear(self, letter: str, uid: str) -> None:
        await self.store.txn([], [Delete.single(self.record(letter, uid))])

    def record(self, letter: str, uid: str) -> bytes:
        return NodeKeys("default", self.node(letter)).reported_pod("default", self.name, uid)

    async def shows(self, *, ip: str | None = None, ready: str, by: str | None) -> None:
        """Wait until ``kubectl get pod`` does."""
        wanted, found = (ip, ready, self.node(by) if by else None), None
        for _ in range(100):
            item = await self.get("pod", self.name)
            status = item["status"]
            conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
            annotations = item["metadata"].get("annotations", {})
            address = status.get("podIP") if ip is not None else None
            found = (address, conditions.get("Ready"), annotations.get(TAKEN_OVER_BY))
            if found == wanted:
                return
            await deferLater(reactor, 0.2)
        raise TimeoutError(f"the pod shows {found}, not {wanted}")

    async def events(self) -> list[str]:
        await until(lambda: self.controller.idle)
        items = (await self.get("events"))["items"]
        mine = [item for item in items if item["involvedObject"].get("name") == self.name]
        return sorted(item["reason"] for item in mine if item["source"].get("component") == "kubebus")

    async def of_site(self) -> set[str]:
        prefix = SiteKeys("default", self.name).desired
        found = await self.store.range(KeyRange.prefix(prefix.encode()))
        return {kv.key.decode()[len(prefix) :] for kv in found.kvs}

    async def exists(self) -> bool:
        return bool(await self.kubectl("get", "pod", self.name, "-o", "name", "--ignore-not-found"))

    async def kill_the_controller(self) -> None:
        """And begin anew, with the store and the API alone."""
        await self.stop()
        self.start()
        await until(lambda: self.controller.ready)

    async def test_taken_over_and_given_back(self) -> None:
        uid = await self.begin()
        # The API itself has given it a token, and the CA's certificate with that.
        used = {name for name in await self.of_site() if "kube-root-ca" not in name and "kubebus-token" not in name}
        self.assertEqual({f"pods/default/{self.name}", f"configmaps/default/{self.name}-settings"}, used)
        self.place("a", connected=False)
        await self.report("b", "copy", running("10.192.2.5"), copy_of=uid)
        await self.shows(ip="10.192.2.5", ready="True", by="b")
        item = await self.get("pod", self.name)
        self.assertEqual((uid, self.node("a")), (item["metadata"]["uid"], item["spec"]["nodeName"]))
        self.assertEqual(["TakenOver"], await self.events())
        # What the owner said before it died comes late, and a controller was killed meanwhile.
        await self.report("a", uid, running("10.192.1.6"))
        await self.stop()
        await self.report("b", "copy", running("10.192.2.6"), copy_of=uid)
        self.place("a")
        await self.kill_the_controller()
        await self.shows(ip="10.192.2.6", ready="True", by="b")
        await self.report("a", uid, {"phase": "Pending"})
        await until(lambda: self.controller.idle)
        await self.shows(ip="10.192.2.6", ready="True", by="b")
        await self.clear("b", "copy")
        await self.report("a", uid, running("10.192.1.9"))
        await self.shows(ip="10.192.1.9", ready="True", by=None)
        self.assertEqual(["GivenBack", "TakenOver"], await self.events())
        await self.report("a", uid, running("10.192.1.9"), gone=True)
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")

    async def test_deleted_while_it_is_taken_over(self) -> None:
        uid = await self.begin()
        self.place("a", connected=False)
        await self.report("b", "copy", running("10.192.2.5"), copy_of=uid)
        await self.shows(ip="10.192.2.5", ready="True", by="b")
        await self.kubectl("delete", "pod", self.name, "--wait=false")
        await until(lambda: self.controller.idle)
        self.place("a")
        await self.report("a", uid, {"phase": "Failed"}, gone=True)
        await until(lambda: self.controller.idle)
        await self.kill_the_controller()
        await until(lambda: self.controller.idle)
        self.assertTrue(await self.exists())
        await self.report("b", "copy", {"phase": "Failed"}, copy_of=uid, gone=True)
        await self.kubectl("wait", "--for=delete", f"pod/{self.name}", "--timeout=20s")
        await until(lambda: self.controller.idle)
        self.assertEqual(set(), await self.of_site())

    async def test_the_copy_ends_and_nobody_runs_it(self) -> None:
        uid = await self.begin()
        self.place("a", connected=False)
        await self.report("b", "copy", running("10.192.2.5"), copy_of=uid)
        await self.shows(ip="10.192.2.5", ready="True", by="b")
        await self.clear("b", "copy")
        await self.shows(ready="False", by="b")
        await self.report("c", "copy-2", running("10.192.3.5"), copy_of=uid)
        await self.shows(ip="10.192.3.5", ready="True", by="c")
        self.assertEqual(["TakenOver", "TakenOver"], await self.events())
        await self.kubectl("delete", "pod", self.name, "--grace-period=0", "--force")
        await until(lambda: self.controller.idle)
        self.assertEqual(set(), await self.of_site())

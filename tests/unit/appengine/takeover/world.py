"""Nodes of one site in memory: an engine each, one arbiter of leases, one store, switches that outlive their agents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from ipaddress import ip_network
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall
from twisted.trial import unittest

from appengine.service import Engine
from appengine.takeover.deadman import Watched
from appengine.takeover.records import IPAddress, Records
from appengine.takeover.service import Takeover
from appengine.takeover.switch import Switch
from appengine.takeover.testing import MemorySite
from appengine.testing import FixedNetwork, InlineThreads, MemoryRuntime, NoFirewall, place
from metasync.keys import TAKEOVER, NodeKeys, SiteKeys
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put
from tests.unit.appengine.world import pod_manifest

Json = dict[str, Any]
STEP = 0.25


class FixedMembership:
    """What a test says."""

    def __init__(self, site: str | None, members: Collection[str]) -> None:
        self.site, self.names = site, set(members)
        self.others: set[IPAddress] = set()
        self._watchers: list[Callable[[], None]] = []

    def members(self) -> Collection[str]:
        return self.names

    def owns(self, node: str, address: IPAddress) -> bool:
        """Members have pod subnets of their own, all in one pool; ``others`` are somebody else's."""
        return address in ip_network("10.192.0.0/16") and address not in self.others

    def watch(self, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    def change(self, site: str | None) -> None:
        self.site = site
        for watcher in self._watchers:
            watcher()


class MemorySwitch:
    """A :class:`appengine.takeover.deadman.DeadMan` with the real rules, on containers that are only told of.

    It stays when its agent is killed. ``hangs``: it answers no agent; it goes on watching.
    """

    def __init__(self, clock: Clock, runtime: MemoryRuntime) -> None:
        self._clock, self._runtime = clock, runtime
        self.switch = Switch(self._kill)
        self.hangs = False
        self.lapsed: list[str] = []
        self._ends: dict[str, list[Deferred[None]]] = {}
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = clock
        self._ticks.start(0.1)

    def close(self) -> None:
        self._ticks.stop()

    def _kill(self, containers: Collection[str]) -> set[str]:
        found = {view.id for view in self._runtime.containers.values() if view.id in containers and view.running}
        for identity in found:
            self._runtime.end(self._runtime.containers[identity], 137)
        return found

    def _tick(self) -> None:
        self._told(self.switch.tick(self._clock.seconds()))

    def _say(self, line: str) -> None:
        self._told(self.switch.line(line, self._clock.seconds()))

    def _told(self, lines: list[str]) -> None:
        for line in lines:
            what, uid = line.split()
            if what == "lapsed":
                self.lapsed.append(uid)
            if what == "ended":
                for over in self._ends.pop(uid, ()):
                    over.callback(None)

    def armed(self) -> dict[str, Watched]:
        known = {}
        for line in self.switch.known():
            what, *words = line.split()
            if what == "pod":
                known[words[0]] = Watched(float(words[1]), set(words[2:]))
        return known

    # -- DeadMan

    async def look(self) -> dict[str, Watched]:
        return self.armed()

    async def arm(self, uid: str, until: float, container: str = "") -> None:
        if self.hangs:
            await Deferred[None]()
        for over in self._ends.pop(uid, ()):
            over.callback(None)
        self._say(f"pod {uid} {until} {container}")

    def extend(self, deadlines: dict[str, float]) -> None:
        for uid in deadlines.keys() & self.armed().keys() - self._ends.keys():
            self._say(f"pod {uid} {deadlines[uid]}")

    async def end(self, uid: str) -> None:
        if uid in self.armed():
            over: Deferred[None] = Deferred()
            self._ends.setdefault(uid, []).append(over)
            self._say(f"end {uid}")
            await over

    async def stop(self) -> None:
        self._ends.clear()


class MemoryNode:
    """One node: what dies with its agent, and what does not."""

    def __init__(self, world: SiteWorld, name: str, number: int) -> None:
        self.world, self.name = world, name
        self.directory = world.directory / name
        self.keys = NodeKeys("default", name)
        self.runtime = MemoryRuntime(world.clock)
        self.switch = MemorySwitch(world.clock, self.runtime)
        self.membership = FixedMembership("hall", world.names)
        self.network = FixedNetwork(place(f"10.192.{number}.0/24"))
        self.engine: Engine

    def start(self) -> None:
        world = self.world
        self.records = Records(world.clock, world.store, "default", self.membership)
        self.leases = world.site.node(self.name)
        self.takeover = Takeover(
            world.clock, world.store, self.keys, self.leases, self.membership, self.records, self.switch
        )
        self.engine = Engine(
            world.clock,
            world.store,
            "default",
            self.name,
            "unix:///none",
            self.network,
            self.directory,
            runtime=self.runtime,
            files=InlineThreads(),
            firewall=NoFirewall(),
            wall=world.clock.seconds,
            takeover=self.takeover,
        )
        self.records.startService()
        self.engine.startService()
        self._renewals = LoopingCall(self.takeover.leases_renewed)
        self._renewals.clock = world.clock
        self._renewals.start(5, now=False)

    def stop(self) -> None:
        """The agent goes; containers and switch stay."""
        if self.engine.running:
            self._renewals.stop()
            self.records.stopService()
            self.world.successResultOf(self.engine.stopService())

    def kill(self) -> None:
        """SIGKILL to the agent."""
        self.stop()
        self.world.site.kill(self.name)

    def power_cut(self) -> None:
        self.kill()
        self.runtime.power_cut()
        self.switch.close()
        self.switch = MemorySwitch(self.world.clock, self.runtime)

    def running(self, pod: str) -> list[str]:
        """The UIDs under which containers of a pod run here."""
        views = self.runtime.containers.values()
        return [view.pod.uid for view in views if view.running and view.name == "main" and view.pod.name == pod]


class SiteWorld(unittest.SynchronousTestCase):
    """Time passes in small steps, after each of which no pod may run twice."""

    names = ("a", "b", "c")

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000.0)
        self.directory = Path(mkdtemp(prefix="kubebus-unit-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.store = MemoryStore(self.clock)
        self.site = MemorySite(self.clock)
        self.site_keys = SiteKeys("default", "hall")
        self.watched: set[str] = set()
        self.nodes = {name: MemoryNode(self, name, number) for number, name in enumerate(self.names, 1)}
        for node in self.nodes.values():
            self.label(node.name, {"zone": "hall"})
            node.start()
            self.addCleanup(lambda node=node: node.switch.close())  # type: ignore[misc]
            self.addCleanup(node.stop)
        self.settle()

    def settle(self, seconds: float = 2.0) -> None:
        for _ in range(max(1, int(seconds / STEP))):
            self.clock.advance(STEP)
            for pod in self.watched:
                copies = self.copies(pod)
                self.assertLessEqual(len(copies), 1, f"{pod} runs on {copies}")

    def copies(self, pod: str) -> list[tuple[str, str]]:
        """(node, UID) of all that runs of a pod."""
        return [(node.name, uid) for node in self.nodes.values() for uid in node.running(pod)]

    def where(self, pod: str) -> str:
        """The node that runs it, if one does."""
        return "".join(name for name, _ in self.copies(pod))

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        for _ in range(int(seconds / STEP)):
            if condition():
                return
            self.settle(STEP)
        self.fail(f"not within {seconds} s; copies: {[self.copies(pod) for pod in self.watched]}")

    # -- the cloud

    def pod(self, name: str = "web", owner: str = "a", *, opt_in: bool = True, **spec: Any) -> Json:
        pod = pod_manifest(name, spec={"nodeName": owner, **spec})
        pod["metadata"]["annotations"] = {TAKEOVER: "site"} if opt_in else {}
        return pod

    def apply(self, pod: Json, site: bool = True) -> Json:
        """As the cloud does: to the owner, and to its site."""
        name = pod["metadata"]["name"]
        self.watched.add(name)
        data = json.dumps(pod).encode()
        self.write(Put(NodeKeys("default", pod["spec"]["nodeName"]).desired_object("pods", "default", name), data))
        if site and pod["metadata"].get("annotations"):
            self.write(Put(self.site_keys.desired_object("pods", "default", name), data))
        self.settle()
        return pod

    def delete(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        self.write(Delete.single(self.site_keys.desired_object("pods", "default", name)))
        self.write(Delete.single(NodeKeys("default", pod["spec"]["nodeName"]).desired_object("pods", "default", name)))
        self.settle()

    def label(self, node: str, labels: Json) -> None:
        document = {"metadata": {"name": node, "labels": labels}}
        self.write(Put(f"{NodeKeys('default', node).desired}nodes/{node}".encode(), json.dumps(document).encode()))

    def write(self, operation: Any) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.store.txn([], [operation])))

    def read(self, prefix: str) -> dict[str, Json]:
        found = self.successResultOf(Deferred.fromCoroutine(self.store.range(KeyRange.prefix(prefix.encode()))))
        return {kv.key.decode()[len(prefix) :]: json.loads(kv.value) for kv in found.kvs}

    def reports(self, node: str) -> dict[str, Json]:
        """``namespace/name/uid`` → PodReport."""
        return self.read(f"{NodeKeys('default', node).reported}pods/")

    def records(self) -> dict[str, Json]:
        return self.read(self.site_keys.takeover("").decode())

    def events(self, node: str) -> list[str]:
        return [event["reason"] for event in self.read(f"{NodeKeys('default', node).reported}events/").values()]

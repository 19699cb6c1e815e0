# mypy: disallow-untyped-calls=False
"""Three nodes on one LAN, with their own Docker engines, and no cloud: their pods move when one is gone, and come back.

By the engines' own words on the machine's one clock, no pod that is taken over ever runs twice.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from kubebus.adminclient import AdminClient
from metasync.keys import TAKEOVER, NodeKeys, SiteKeys
from tests.integration.takeover_journal import Journal
from tests.integration.test_identity_daemons import twistd
from tests.lab.daemon import Daemon
from tests.lab.engine import BUSYBOX, Engine
from tests.lab.internet import SITE_LAN4, Internet
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

Json = dict[str, Any]
PORT = 7443
LEASE = 15.0
CLUSTER_IP = "10.96.0.10"
SERVE = "mkdir /w; echo $UID_ > /w/index.html; exec httpd -f -p 8080 -h /w"
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=2).read().decode().strip())"


def pod(name: str, owner: str, **annotations: str) -> Json:
    uid = {"name": "UID_", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    main = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", SERVE], "env": [uid]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": annotations},
        "spec": {"nodeName": owner, "containers": [main], "terminationGracePeriodSeconds": 1},
    }


class TakeoverTests(SharedWorld, SynchronousTestCase):
    """``web`` of node ``a`` has opted in, ``plain`` has not, ``static`` is a manifest on its disk."""

    alone = True  # How soon another node takes over.

    net: Internet
    folder: Path
    router: Daemon
    cloud: AdminClient
    journal: Journal
    namespaces: dict[str, Namespace]
    engines: dict[str, Engine]
    agents: dict[str, Daemon]

    @classmethod
    def build_world(cls) -> None:
        cls.net = cls.keep(Internet(sites=1, nodes_per_site=3, cloud=False))
        cls.folder = Run.current().directory("takeover")
        cls.namespaces = dict(zip("abc", cls.net.sites[0].nodes, strict=True))
        cls.engines = {name: Engine(cls.namespaces[name]) for name in "abc"}
        for engine in cls.engines.values():
            engine.launch()
        cls.router = cls.keep(
            twistd(
                "router",
                "kubebus",
                *("--state-dir", str(cls.folder / "router"), "--socket", str(cls.folder / "router.sock")),
                *("--public-address", cls.net.eip_address, "--router-name", "r1"),
                namespace=cls.net.eip,
            )
        )
        cls.cloud = AdminClient(str(cls.folder / "router.sock"))
        cls.journal = Journal()
        for name in "abc":
            cls.keep(cls.engines[name])
            cls.journal.follow(name, cls.engines[name])
        cls.router.wait_for("Listening on", 60)
        cls.write_static()
        cls.agents = {name: cls.start_agent(name) for name in "abc"}
        for name in "abc":
            cls.agents[name].wait_for(lambda name=name: cls.neighbours(name) == set("abc") - {name}, 90)  # type: ignore[misc]

    @classmethod
    def start_agent(cls, name: str) -> Daemon:
        token = cls.cloud.post("/v1/tokens", {"site": "hall"})["joinString"]
        return cls.keep(
            twistd(
                name,
                "edgenode",
                *("--state-dir", str(cls.folder / name), "--socket", str(cls.folder / f"{name}.sock")),
                *("--docker", cls.engines[name].url, "--node-name", name, "--join", token),
                *("--site-listen", str(PORT)),
                namespace=cls.namespaces[name],
            )
        )

    @classmethod
    def write_static(cls) -> None:
        manifests = cls.folder / "a" / "pods" / "manifests"
        manifests.mkdir(parents=True)
        document = pod("static", "a", **{TAKEOVER: "site"})
        del document["metadata"]["uid"], document["spec"]["nodeName"]
        (manifests / "static.json").write_text(json.dumps(document))

    @classmethod
    def put(cls, key: bytes, value: Json) -> None:
        with cls.cloud.open("PUT", f"/v1/meta/keys?key={quote(key, safe='')}", json.dumps(value).encode()):
            pass

    @classmethod
    def neighbours(cls, name: str) -> set[str]:
        site = cls.ask(name, "status").get("site", {})
        return {each["name"] for each in site.get("neighbours", []) if each["connected"]}

    @classmethod
    def ask(cls, name: str, what: str) -> Json:
        return dict(AdminClient(str(cls.folder / f"{name}.sock")).get(f"/v1/{what}"))

    def fetch(self, name: str) -> str:
        """What the Service says to a node: the UID of the pod behind it."""
        command = [sys.executable, "-c", FETCH, f"http://{CLUSTER_IP}/"]
        return self.namespaces[name].run(command, check=False, timeout=10).stdout.strip()

    def await_runs(self, at: str, seconds: float) -> tuple[str, str]:
        """Wait until the pod runs on one of these nodes, and nowhere else; (node, UID)."""

        def found() -> tuple[str, str] | None:
            running = self.journal.running("web")
            return running[0] if len(running) == 1 and running[0][0] in at else None

        answer = wait_until(found, seconds, f"web runs on one of {at}", 0.05)
        assert answer is not None
        return answer

    def await_served(self, uid: str) -> None:
        for name in "abc":
            if self.agents[name].alive:
                wait_until(lambda name=name: self.fetch(name) == uid, 20, f"{name} reaches {uid} by the Service", 0.2)  # type: ignore[misc]

    def tell(self, what: str, began: float) -> None:
        """The figures of a run, for people who look (``pytest -s``)."""
        later, gap = time.time() - began, self.journal.gap("web")
        print(f"{what}: runs elsewhere after {later:.1f} s, nowhere for {gap:.2f} s")

    def assertOnce(self) -> None:
        for name in ("web", "plain", "static-a"):
            self.assertEqual(self.journal.overlaps(name), [], name)
        self.assertEqual({run.node for name in ("plain", "static-a") for run in self.journal.of(name)}, {"a"})

    def test_1_at_home(self) -> None:
        web, plain = pod("web", "a", **{TAKEOVER: "site"}), pod("plain", "a")
        home = NodeKeys("default", "a")
        self.put(SiteKeys("default", "hall").desired_object("pods", "default", "web"), web)
        for document in (web, plain):
            self.put(home.desired_object("pods", "default", document["metadata"]["name"]), document)
        service = {
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": CLUSTER_IP, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        }
        slice = {
            "metadata": {
                "namespace": "default",
                "name": "web-x",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
        self.assertEqual(self.await_runs("a", 60), ("a", "uid-web"))
        for name in ("plain", "static-a"):
            wait_until(lambda name=name: self.journal.running(name), 30, f"{name} runs")  # type: ignore[misc]
        address = wait_until(self.address, 20, "web has an address")
        target = {"kind": "Pod", "uid": "uid-web", "name": "web", "namespace": "default"}
        endpoint = {
            "addresses": [address],
            "conditions": {"ready": True},
            "nodeName": "a",
            "zone": "hall",
            "targetRef": target,
        }
        for name in "abc":
            keys = NodeKeys("default", name)
            self.put(keys.desired_object("services", "default", "web"), service)
            self.put(keys.desired_object("endpointslices", "default", "web-x"), {**slice, "endpoints": [endpoint]})
        self.await_served("uid-web")
        for name in "bc":
            wait_until(lambda name=name: self.knows(name), 20, f"{name} has the site's pods")  # type: ignore[misc]
        # From here on there is no cloud.
        self.router.kill9()
        self.assertOnce()

    def address(self) -> str:
        pods = self.ask("a", "kubelet/pods")["items"]
        return next(str(each["status"].get("podIP") or "") for each in pods if each["metadata"]["name"] == "web")

    def knows(self, name: str) -> bool:
        return any(each["name"] == "web" and each["owner"] == "a" for each in self.ask(name, "takeover")["pods"])

    def lease(self, name: str) -> Json:
        """What a node knows of the lease on the pod."""
        return next(each for each in self.ask(name, "takeover")["pods"] if each["uid"] == "uid-web")

    def test_2_the_agent_alone_is_killed(self) -> None:
        """Its containers live on in Docker: the switch stops those that may run elsewhere, before they do."""
        others = [self.journal.running(name) for name in ("plain", "static-a")]
        self.agents["a"].kill9()
        began = time.time()
        taker, uid = self.await_runs("bc", 2 * LEASE)
        self.assertNotEqual(uid, "uid-web")
        self.assertOnce()
        self.assertGreater(self.journal.gap("web"), 0)
        self.tell("agent killed", began)
        self.await_served(uid)
        self.assertEqual(self.ask(taker, "takeover")["pods"][0]["takenOver"]["node"], taker)
        self.agents["a"].start()
        self.assertEqual(self.await_runs("a", 60), ("a", "uid-web"))
        self.assertOnce()
        # Those that have not opted in never noticed.
        self.assertEqual([self.journal.running(name) for name in ("plain", "static-a")], others)
        self.await_served("uid-web")
        self.assertEqual([pod["takenOver"] for pod in self.ask("b", "takeover")["pods"]], [None])

    def test_3_an_agent_that_is_back_in_time(self) -> None:
        """As with an update of the agent: nothing moves, nothing is started anew."""
        before, began = self.journal.of("web"), time.time()
        self.agents["a"].kill9()
        self.agents["a"].start()
        # Only what it said itself stands there after a start: the lease is its own again, and newer than the kill.
        wait_until(lambda: self.lease("a")["holder"] == "a" and self.lease("a")["seconds"] > LEASE - 6, 30, "a has it")
        wait_until(lambda: time.time() - began > LEASE, LEASE + 1, "the lease of before is over")
        self.assertEqual(self.journal.of("web"), before)

    def test_4_a_split_lan(self) -> None:
        """One node alone has no majority: it stops before the two others start."""
        node = self.namespaces["a"]
        began = time.time()
        hook = "type filter hook input priority 0; policy accept"
        node.nft(f"""
            table inet split {{
                chain in {{ {hook}; ip saddr {SITE_LAN4}.0/24 drop; ip6 saddr fd00:1::/64 drop; }}
            }}
        """)
        self.addCleanup(node.run, ["nft", "delete", "table", "inet", "split"], check=False)
        self.await_runs("bc", 2 * LEASE)
        self.assertOnce()
        self.tell("LAN split", began)
        held = next(each for each in self.ask("a", "kubelet/pods")["items"] if each["metadata"]["name"] == "web")
        state = held["status"]["containerStatuses"][0]["state"]
        self.assertEqual(state.get("waiting", {}).get("reason"), "WaitingForSite", held)
        node.run(["nft", "delete", "table", "inet", "split"])
        self.assertEqual(self.await_runs("a", 60), ("a", "uid-web"))
        self.assertOnce()
        self.await_served("uid-web")

    def test_5_power_cut(self) -> None:
        """The node dies with all it has: its opted-in pod runs once elsewhere, the others wait for it."""
        began = time.time()
        os.killpg(self.agents["a"].pid, 9)
        self.agents["a"].kill9()
        self.engines["a"].power_cut()
        os.kill(int((self.folder / "a/pods/takeover/switch.sock.lock").read_text()), 9)
        self.journal.power_cut("a")
        _, uid = self.await_runs("bc", 2 * LEASE)
        self.tell("power cut", began)
        self.await_served(uid)
        self.assertEqual([self.journal.running(name) for name in ("plain", "static-a")], [[], []])
        self.assertOnce()
        self.engines["a"].start()
        self.journal.follow("a", self.engines["a"])
        self.agents["a"].start()
        self.assertEqual(self.await_runs("a", 90), ("a", "uid-web"))
        for name in ("plain", "static-a"):
            wait_until(lambda name=name: self.journal.running(name), 30, f"{name} runs again")  # type: ignore[misc]
        self.assertOnce()
        self.await_served("uid-web")

# mypy: disallow-untyped-calls=False
"""Nodes of one site on one LAN behind one NAT, with the real daemons: directly, with the cloud and without it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from kubebus.adminclient import AdminClient
from kubebus.ca import Authority, certificate_pem, issue_node, key_pem, new_key
from kubebus.credentials import Keyring
from kubebus.identity import PeerIdentity, Role
from kubebus.testing_net import udp_packet
from metasync.keys import SiteKeys, registry_prefix, sites_prefix
from tests.integration import site_intruder
from tests.integration.test_identity_daemons import twistd
from tests.lab.daemon import Daemon
from tests.lab.internet import SITE_LAN4, Internet
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

PORT = 7443
DATA = "/kubebus/default/data/site.hall/"


class SiteTests(SharedWorld, SynchronousTestCase):
    """``a``, ``b`` and ``c`` are of site ``hall``, where only ``b`` and ``c`` listen. ``d`` is of ``yard``, on the same
    LAN, and listens too."""

    net: Internet
    folder: Path
    router: Daemon
    client: AdminClient
    edges: dict[str, Daemon]
    pods: dict[str, Namespace]
    namespaces: dict[str, Namespace]
    addresses: dict[str, str]

    @classmethod
    def build_world(cls) -> None:
        cls.net = cls.keep(Internet(sites=1, nodes_per_site=4, cloud=False))
        cls.folder = Run.current().directory("site")
        cls.router = cls.keep(
            twistd(
                "router",
                "kubebus",
                *("--state-dir", str(cls.folder / "router"), "--socket", str(cls.folder / "router.sock")),
                *("--public-address", cls.net.eip_address, "--router-name", "r1"),
                namespace=cls.net.eip,
            )
        )
        cls.client = AdminClient(str(cls.folder / "router.sock"))
        cls.router.wait_for("Listening on", 60)
        cls.namespaces = dict(zip("abcd", cls.net.sites[0].nodes, strict=True))
        cls.edges = {
            name: cls.start_edge(name, "yard" if name == "d" else "hall", *cls.listen(name)) for name in "abcd"
        }
        cls.pods = {}
        for name in "abc":
            wait_until(lambda name=name: cls.node(name).get("connected"), 60, f"{name} is connected")  # type: ignore[misc]
            cls.pods[name] = cls.make_pod(name)
        cls.addresses = {name: f"{cls.subnets(name)[0]}.9" for name in "abc"}
        cls.await_direct()

    @staticmethod
    def listen(name: str) -> list[str]:
        return [] if name == "a" else ["--site-listen", str(PORT)]

    @classmethod
    def start_edge(cls, name: str, site: str, *options: str) -> Daemon:
        token = cls.client.post("/v1/tokens", {"site": site})["joinString"]
        return cls.keep(
            twistd(
                name,
                "edgenode",
                *("--state-dir", str(cls.folder / name), "--socket", str(cls.folder / f"{name}.sock"), "--no-pods"),
                *("--node-name", name, "--join", token, *options),
                namespace=cls.namespaces[name],
            )
        )

    @classmethod
    def make_pod(cls, name: str) -> Namespace:
        node, (subnet4, subnet6) = cls.namespaces[name], cls.subnets(name)
        pod = cls.net.namespace(f"pod-{name}")
        pod.veth("eth0", node, "pods", f"{subnet4}.9/24", f"{subnet6}9/64")
        node.ip(f"address add {subnet4}.1/24 dev pods", f"address add {subnet6}1/64 dev pods")
        pod.ip(f"route add default via {subnet4}.1", f"route add default via {subnet6}1")
        return pod

    @classmethod
    def subnets(cls, name: str) -> tuple[str, str]:
        """The beginnings of the addresses of the node's pods."""
        four, six = cls.node(name)["pod_subnets"]
        return four.removesuffix(".0/24"), six.removesuffix("/64")

    @classmethod
    def node(cls, name: str) -> dict[str, Any]:
        nodes = {node["name"]: node for node in cls.client.get("/v1/status")["nodes"]}
        return dict(nodes.get(name, {}))

    @classmethod
    def status(cls, name: str) -> dict[str, Any]:
        return dict(AdminClient(str(cls.folder / f"{name}.sock")).get("/v1/status"))

    @classmethod
    def direct(cls, name: str) -> set[str]:
        """To whom the node has a link of its own."""
        try:
            neighbours = cls.status(name).get("site", {}).get("neighbours", [])
        except Exception:
            return set()
        return {each["name"] for each in neighbours if each["connected"]}

    @classmethod
    def await_direct(cls, seconds: float = 60) -> None:
        for name in "abc":
            wait_until(lambda name=name: cls.direct(name) == set("abc") - {name}, seconds, f"{name} has its links")  # type: ignore[misc]

    def through_router(self) -> int:
        """Bytes that the router has carried for the site's nodes."""
        return sum(self.node(name)["link"]["received_bytes"] for name in "abc")

    def ping(self, one: str, other: str) -> bool:
        return self.pods[one].ping(self.addresses[other], timeout=0.5)

    def assertAllReach(self, seconds: float = 10) -> None:
        for one in "abc":
            for other in set("abc") - {one}:
                wait_until(lambda one=one, other=other: self.ping(one, other), seconds, f"{one} reaches {other}")  # type: ignore[misc]

    def test_1_directly(self) -> None:
        """Traffic within the site does not pass the router."""
        self.assertAllReach()
        before = self.through_router()
        for one, other in ("ab", "bc", "ca"):
            for target in (self.addresses[other], f"{self.subnets(other)[1]}9"):
                self.pods[one].run(["ping", "-n", "-q", "-c", "20", "-i", "0.01", "-s", "1400", target])
        # 120 packets of 1400 bytes; heartbeats and the like are a fraction of one.
        self.assertLess(self.through_router() - before, 10_000)
        site = self.status("a")["site"]
        self.assertEqual((site["name"], site["endpoints"]), ("hall", []))
        link = {each["name"]: each["link"] for each in site["neighbours"]}["b"]
        self.assertGreater(min(link["received_bytes"], link["sent_bytes"]), 2 * 20 * 1400)
        self.assertLess(link["rtt"], 1.0)
        self.assertEqual(link["address"], f"{SITE_LAN4}.12:{PORT}")

    def test_2_who_listens(self) -> None:
        """Only who is told to, and those tell where."""
        for name, expected in (("a", []), ("b", [PORT]), ("c", [PORT])):
            lines = self.namespaces[name].run(["ss", "-Hltnp"]).stdout.splitlines()
            ports = [
                int(line.split()[3].rpartition(":")[2]) for line in lines if f"pid={self.edges[name].pid}," in line
            ]
            self.assertEqual(ports, expected, name)
        self.assertEqual(self.status("b")["site"]["endpoints"][0], f"{SITE_LAN4}.12:{PORT}")
        # Another site's node is a neighbour on the LAN, and none of the site.
        self.assertEqual(self.status("d")["site"]["neighbours"], [])
        listing = {node["name"]: node["site"] for node in self.client.get("/v1/nodes")["nodes"]}
        self.assertEqual(listing, {"a": "hall", "b": "hall", "c": "hall", "d": "yard"})

    def test_3_strangers_are_refused(self) -> None:
        mine = Keyring(self.folder / "d" / "identity").present
        self.intrude("d", mine.key, mine.certificate)
        self.edges["b"].wait_for(r"Refused node 'd' of network 'default' .*: .* is not in site 'hall'", 10)
        foreign, key = Authority.create("kubebus default", time.time()), new_key()
        identity = PeerIdentity("default", Role.NODE, "a")
        self.intrude("d", key, issue_node(foreign, identity, key.public_key(), time.time() + 1000))
        self.edges["b"].wait_for("a certificate for node 'a'.* was not issued by a certificate authority", 10)
        # A certificate of this very network, for the right name, and for a key that the roster does not know.
        authority = Authority.load(self.folder / "router" / "ca.pem")
        self.intrude("d", key, issue_node(authority, identity, key.public_key(), time.time() + 1000))
        self.edges["b"].wait_for(r"Refused node 'a' .*: .* has another key in roster", 10)
        self.intrude("d", None, None)
        self.edges["b"].wait_for(r"Refused .*: it showed no certificate", 10)
        self.assertEqual(self.direct("b"), {"a", "c"})

    def intrude(self, where: str, key: Any, certificate: Any, *, packet: bytes = b"") -> dict[str, Any]:
        path = self.folder / "intruder.pem"
        path.write_bytes(b"" if key is None else key_pem(key) + certificate_pem(certificate))
        command = [sys.executable, site_intruder.__file__, f"{SITE_LAN4}.12", str(PORT), str(path), packet.hex()]
        return dict(json.loads(self.namespaces[where].run(command, timeout=30).stdout))

    def test_4_spoofed_sources_are_dropped(self) -> None:
        """A member that sends what is not its own: the other nodes see that without the router."""
        mine = Keyring(self.folder / "a" / "identity").present
        spoofed = udp_packet(self.addresses["c"], self.addresses["b"])
        before = self.spoofed()
        written = self.status("b")["tun"]["written"]
        answer = self.intrude("a", mine.key, mine.certificate, packet=spoofed)
        self.assertIn("hello", answer["heard"])
        wait_until(lambda: self.spoofed() == before + 1, 10, "it was counted")
        self.assertLessEqual(self.status("b")["tun"]["written"] - written, 5)
        self.await_direct()

    def spoofed(self) -> int:
        return {each["name"]: int(each["spoofed"]) for each in self.status("b")["site"]["neighbours"]}["a"]

    def test_5_a_split_lan(self) -> None:
        """What does not reach the neighbour goes by the router, and comes back."""
        node = self.namespaces["a"]
        self.assertAllReach()
        hook = "type filter hook input priority 0"
        node.nft(f"""
            table inet split {{
                chain in {{ {hook}; ip saddr {SITE_LAN4}.12 drop; ip6 saddr fd00:1::12 drop; }}
            }}
        """)
        self.addCleanup(node.run, ["nft", "delete", "table", "inet", "split"], check=False)
        before = self.through_router()
        wait_until(lambda: self.ping("a", "b"), 20, "the pods reach each other by the router")
        self.assertEqual(self.direct("a"), {"c"})
        self.pods["a"].run(["ping", "-n", "-q", "-c", "20", "-i", "0.01", "-s", "1400", self.addresses["b"]])
        self.assertGreater(self.through_router() - before, 2 * 20 * 1400)
        node.run(["nft", "delete", "table", "inet", "split"])
        self.await_direct(30)

    def test_6_without_the_cloud(self) -> None:
        """The router is killed; then a node is, and boots without it."""
        flow = self.pods["a"].popen(["ping", "-n", "-q", "-c", "40", "-i", "0.05", self.addresses["b"]], stdout=-1)
        time.sleep(0.5)  # In the middle of it.
        self.router.kill9()
        output = flow.communicate(timeout=30)[0].decode()
        self.assertIn(" 0% packet loss", output)
        # What the site shares goes on, too.
        self.put("c", "setpoint", b"7")
        for name in "abc":
            wait_until(lambda name=name: self.got(name, "setpoint") == b"7", 20, f"{name} has it")  # type: ignore[misc]
        self.edges["b"].kill9()
        wait_until(lambda: not self.ping("a", "b"), 10, "b is off")
        self.put("c", "setpoint", b"8")
        self.edges["b"].start()
        self.await_direct()
        self.assertAllReach()
        wait_until(lambda: self.got("b", "setpoint") == b"8", 20, "b has what was written while it was off")
        self.assertFalse(self.status("b")["connected"])
        self.assertIsNone(self.got("d", "setpoint"))
        self.router.start()
        self.router.wait_for("Listening on", 60)
        wait_until(lambda: all(self.node(name).get("connected") for name in "abc"), 90, "all are back")
        self.await_direct()
        wait_until(lambda: self.got("router", "setpoint") == b"8", 30, "the cloud has it")

    def put(self, name: str, key: str, value: bytes) -> None:
        with AdminClient(str(self.folder / f"{name}.sock")).open("PUT", f"/v1/meta/keys?key={DATA}{key}", value):
            pass

    def got(self, name: str, key: str) -> bytes | None:
        found = self.keys(name, f"key={DATA}{key}")
        return found[0][1].encode() if found else None

    def keys(self, name: str, what: str) -> list[tuple[str, str]]:
        found = AdminClient(str(self.folder / f"{name}.sock")).get(f"/v1/meta/keys?{what}")["kvs"]
        return [(str(kv["key"]), str(kv["value"])) for kv in found]

    def of_sites(self, name: str) -> dict[str, str]:
        """What a node has of what is to be run at sites, by site."""
        prefix = sites_prefix("default")
        return {key.removeprefix(prefix).partition("/")[0]: value for key, value in self.keys(name, f"prefix={prefix}")}

    def to_run(self, site: str, value: str) -> None:
        key = SiteKeys("default", site).desired_object("pods", "default", "web").decode()
        with AdminClient(str(self.folder / "router.sock")).open("PUT", f"/v1/meta/keys?key={key}", value.encode()):
            pass

    def test_7_revocation(self) -> None:
        """The router can tell one node only: the news reaches the others by the LAN, and the node is cut everywhere."""
        self.await_direct()
        node = self.namespaces["b"]
        # b does not hear of the router any more.
        hook = "type filter hook output priority 0"
        gone = f"ip daddr {self.net.eip_address} drop;"
        node.nft(f"table inet away {{\nchain out {{ {hook}; {gone} }}\n}}")
        self.addCleanup(node.run, ["nft", "delete", "table", "inet", "away"], check=False)
        self.client.post("/v1/nodes/c/revoke")
        wait_until(lambda: self.direct("a") == {"b"}, 10, "a has cut c")
        wait_until(lambda: self.direct("b") == {"a"}, 10, "b has, too")
        self.edges["b"].wait_for(r"Refused node 'c' .*was revoked|was cut off: node 'c' does not belong to site", 20)
        self.assertFalse(self.ping("a", "c"))

    def test_8_what_may_be_run_at_a_site(self) -> None:
        """Its members have it, and nobody else. A node moved while it is connected loses the old for the new."""
        self.to_run("hall", "of the hall")
        self.to_run("yard", "of the yard")
        for name, value in (("a", {"hall": "of the hall"}), ("d", {"yard": "of the yard"})):
            wait_until(lambda name=name, value=value: self.of_sites(name) == value, 20, f"{name} has it")  # type: ignore[misc]
        key = f"{registry_prefix('default')}nodes/d"
        ((_, record),) = self.keys("router", f"key={key}")
        moved = json.dumps({**json.loads(record), "site": "hall"})
        with AdminClient(str(self.folder / "router.sock")).open("PUT", f"/v1/meta/keys?key={key}", moved.encode()):
            pass
        wait_until(lambda: self.of_sites("d") == {"hall": "of the hall"}, 30, "d has what is the hall's, and no more")
        self.to_run("yard", "still of the yard")
        self.to_run("hall", "of all in the hall")
        for name in "ad":
            wait_until(
                lambda name=name: self.of_sites(name) == {"hall": "of all in the hall"},  # type: ignore[misc]
                20,
                f"{name} hears on",
            )

"""The rules for Services in a real kernel: a node with two pods on a bridge, and one at another node."""

from __future__ import annotations

import subprocess
import sys
import unittest
from ipaddress import ip_network
from typing import Any

from appengine.services.rules import remove_rules, rules
from appengine.services.table import Place, services_of
from tests.lab.namespace import Namespace
from tests.lab.world import SharedWorld

POD_SUBNETS = [ip_network("10.192.0.0/24"), ip_network("fd01::/64")]

# Says who asked, and who answers.
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 8080), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(f"{sys.argv[1]} {peer[0]}".encode())
    connection.close()
"""

CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as connection:
        print(connection.recv(200).decode())
except OSError as error:
    print(type(error).__name__)
"""

HAIRPIN = """
from ipaddress import ip_address
from kubebus.hairpin import reflect
assert reflect(ip_address("10.192.0.1")) == 2
assert reflect(ip_address("10.192.0.1")) == 0
assert reflect(ip_address("10.192.9.1")) == 0
"""

INSTALL = "import sys; from kubebus.nftables import Nftables; Nftables().run(sys.stdin.read())"


def service(name: str, cluster_ips: list[str], **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIPs": cluster_ips, "ports": ports, **spec},
    }


def endpoints(name: str, kind: str, *addresses: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": kind,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


class ServiceTests(SharedWorld, unittest.TestCase):
    node: Namespace
    pods: list[Namespace]
    far: Namespace

    @classmethod
    def build_world(cls) -> None:
        cls.node = node = cls.keep(Namespace("svc-node"))
        node.bridge("br0")
        node.ip("address add 10.192.0.1/24 dev br0", "address add fd01::1/64 dev br0 nodad")
        node.forward()
        cls.pods = [cls.keep(Namespace(f"svc-pod{number}")) for number in (2, 3)]
        for number, pod in enumerate(cls.pods, 2):
            pod.plug("eth0", node, "br0", f"pod{number}", f"10.192.0.{number}/24", f"fd01::{number}/64")
            pod.ip("route add default via 10.192.0.1", "route add ::/0 via fd01::1")
        node.run([sys.executable, "-c", HAIRPIN])
        # The tunnel is a plain cable here.
        cls.far = far = cls.keep(Namespace("svc-far"))
        node.veth("kb0", far, "eth0", "10.250.0.2/32", "fd02::2/128")
        far.ip("address add 10.192.1.2/32 dev eth0", "address add fd03::2/128 dev eth0 nodad")
        node.ip("route add 10.192.1.0/24 dev kb0 src 10.250.0.2", "route add fd03::/64 dev kb0 src fd02::2")
        # A default route elsewhere, as every device has: by it the source for a cluster IP is chosen first.
        node.ip("link add lan type bridge", "link set lan up", "address add 192.168.1.11/24 dev lan")
        node.ip("route add default via 192.168.1.1", "route add ::/0 dev lan")
        far.ip("route add default via 10.250.0.2 dev eth0 onlink", "route add ::/0 via fd02::2 dev eth0 onlink")
        for place, addresses in (
            (cls.pods[0], ("10.192.0.2", "fd01::2")), (cls.pods[1], ("10.192.0.3",)), (far, ("10.192.1.2", "fd03::2")),
        ):  # fmt: skip
            for address in addresses:
                cls._serve(place, address)
        cls._install(
            [
                service("all", ["10.96.0.10"]),
                service("itself", ["10.96.0.11"]),
                service("far", ["10.96.0.12", "fd96::12"]),
                service("sticky", ["10.96.0.13"], sessionAffinity="ClientIP"),
                service("nobody", ["10.96.0.14", "fd96::14"]),
            ],
            [
                endpoints("all", "IPv4", "10.192.0.2", "10.192.0.3", "10.192.1.2"),
                endpoints("itself", "IPv4", "10.192.0.2"),
                endpoints("far", "IPv4", "10.192.1.2"),
                endpoints("far", "IPv6", "fd03::2"),
                endpoints("sticky", "IPv4", "10.192.0.2", "10.192.0.3", "10.192.1.2"),
            ],
        )

    @classmethod
    def _serve(cls, place: Namespace, address: str) -> None:
        process = place.popen([sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE)
        assert process.stdout is not None
        # An IPv6 address may be tentative for a moment; the server's end would show as an empty line.
        assert process.stdout.readline() == b"listening\n"
        process.stdout.close()

    @classmethod
    def _install(cls, services: list[dict[str, Any]], slices: list[dict[str, Any]]) -> None:
        made = services_of(services, slices, {}, Place("here"))
        cls._commands(rules(made, "kb0", POD_SUBNETS))

    @classmethod
    def _commands(cls, commands: str) -> None:
        cls.node.run([sys.executable, "-c", INSTALL], input=commands)

    def ask(self, place: Namespace, address: str, port: int = 80) -> str:
        return place.run([sys.executable, "-c", CLIENT, address, str(port)]).stdout.strip()

    def test_connections_are_spread_over_all_endpoints(self) -> None:
        answers = {self.ask(self.pods[0], "10.96.0.10").split()[0] for _ in range(40)}
        self.assertEqual(answers, {"10.192.0.2", "10.192.0.3", "10.192.1.2"})

    def test_a_pod_reaches_itself(self) -> None:
        self.assertEqual(self.ask(self.pods[0], "10.96.0.11"), "10.192.0.2 10.192.0.1")

    def test_a_pod_is_seen_with_its_own_address_at_another_node(self) -> None:
        self.assertEqual(self.ask(self.pods[0], "10.96.0.12"), "10.192.1.2 10.192.0.2")
        self.assertEqual(self.ask(self.pods[0], "fd96::12"), "fd03::2 fd01::2")

    def test_the_node_itself_is_seen_with_its_address_in_the_network(self) -> None:
        self.assertEqual(self.ask(self.node, "10.96.0.12"), "10.192.1.2 10.250.0.2")
        self.assertEqual(self.ask(self.node, "10.96.0.11").split()[0], "10.192.0.2")

    def test_a_client_keeps_its_endpoint_where_affinity_is_wanted(self) -> None:
        self.assertEqual(len({self.ask(self.pods[1], "10.96.0.13") for _ in range(10)}), 1)

    def test_without_endpoints_a_connection_is_refused_at_once(self) -> None:
        for place in (self.pods[0], self.node):
            self.assertEqual(self.ask(place, "10.96.0.14"), "ConnectionRefusedError")
            self.assertEqual(self.ask(place, "fd96::14"), "ConnectionRefusedError")

    def test_new_rules_replace_all_old_ones_and_wrong_ones_none(self) -> None:
        before = self.node.run(["nft", "list", "ruleset"]).stdout
        with self.assertRaises(Exception):  # noqa: B017 - whatever the lab raises for a failed command
            self._commands(remove_rules() + "table ip nonsense { chain x { dnat dnat } }")
        self.assertEqual(self.node.run(["nft", "list", "ruleset"]).stdout, before)

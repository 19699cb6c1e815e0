"""The network with real namespaces, NAT, TLS and TUN devices: who reaches whom, and how it looks from there."""

from __future__ import annotations

from contextlib import closing

from twisted.trial import unittest

from kubebus.testing_net import node_record
from tests.integration.network_lab import NetworkLab
from tests.lab.namespace import Namespace
from tests.lab.world import SharedWorld


class NetworkTests(SharedWorld, unittest.SynchronousTestCase):
    lab: NetworkLab

    @classmethod
    def build_world(cls) -> None:
        cls.lab = lab = cls.keep(closing(NetworkLab()))
        lab.start()
        for namespace in (lab.net.vm, lab.net.pod, lab.net.eip, *lab.pods, *(site.node for site in lab.net.sites)):
            lab.serve(namespace)

    def ends(self) -> list[tuple[str, Namespace, str, str]]:
        """Every kind of endpoint: its name, where it is, its addresses."""
        lab, net = self.lab, self.lab.net
        ends = [
            ("EIP VM", net.eip, "10.250.0.1", "fd00:b::1"),
            ("cloud VM", net.vm, net.vm_address, net.vm_address6),
            ("cloud container", net.pod, net.pod_address, net.pod_address6),
        ]
        for number, (site, pod) in enumerate(zip(net.sites, lab.pods, strict=True), 2):
            record = node_record("", number)
            ends.append((f"edge{number - 1}", site.node, *map(str, record.addresses)))  # type: ignore[arg-type]
            ends.append((f"pod{number - 1}", pod, *(str(subnet[9]) for subnet in record.pod_subnets)))  # type: ignore[arg-type]
        return ends

    def test_the_matrix(self) -> None:
        """Everybody reaches everybody by ICMP, UDP and TCP over IPv4 and IPv6, and is seen with its own address."""
        ends = self.ends()
        for name, namespace, *sources in ends:
            for other, _, *targets in ends:
                if name == other or not {name[:3], other[:3]} & {"edg", "pod"}:
                    continue
                for source, target in zip(sources, targets, strict=True):
                    where = f"{name} -> {other} ({target})"
                    self.assertTrue(namespace.ping(target), where)
                    if name == "EIP VM" or {name[-1], other[-1]} in ({"1"}, {"2"}):
                        # It has several addresses of its own; a node and its pod need no tunnel.
                        continue
                    for kind, size in (("udp", 1200), ("tcp", 10000)):
                        seen = self.lab.traffic(namespace, kind, target, size)
                        self.assertEqual((seen["source"], seen["bytes"]), (source, size), where)

    def test_one_public_port(self) -> None:
        """The router listens on its port, the edges on none."""
        for process, namespace, ports in (
            (self.lab.router, self.lab.net.eip, {443}),
            *((edge, site.node, set()) for edge, site in zip(self.lab.edges, self.lab.net.sites, strict=True)),
        ):
            lines = namespace.run(["ss", "-Hltunp"]).stdout.splitlines()
            open_ports = {int(line.split()[4].rpartition(":")[2]) for line in lines if f"pid={process.pid}," in line}
            self.assertEqual(open_ports, ports)

    def test_full_size_packets_with_df(self) -> None:
        source, target = self.lab.pods[0], str(node_record("", 3).pod_subnets[0][9])
        self.assertEqual(self.lab.traffic(source, "udp", target, 1472)["bytes"], 1472)
        source.run(["ping", "-n", "-q", "-c", "2", "-i", "0.2", "-M", "do", "-s", "1472", target])

    def test_a_narrow_path_behind_the_tunnel(self) -> None:
        """A pod whose cable takes less than the tunnel: senders are told, and TCP finds its size, in both versions."""
        node, pod, vm = self.lab.net.sites[0].node, self.lab.pods[0], self.lab.net.vm
        subnets = node_record("", 2).pod_subnets
        for namespace, device in ((node, "pods"), (pod, "eth0")):
            namespace.ip(f"link set {device} mtu 1400")
            self.addCleanup(namespace.ip, f"link set {device} mtu 1500")
        for subnet, told in zip(subnets, ("(mtu = 1400)", "Packet too big: mtu=1400"), strict=True):
            target, version = str(subnet[9]), f"-{subnet.version}"
            size = {4: 1472, 6: 1452}[subnet.version]
            ping = vm.run(["ping", "-n", "-c1", "-W1", "-Mdo", f"-s{size}", target], check=False)
            self.assertIn(told, ping.stdout)
            vm.run(["ip", version, "route", "flush", "cache"])
            self.assertEqual(self.lab.traffic(vm, "tcp", target, 3_000_000)["bytes"], 3_000_000)
            vm.run(["ip", version, "route", "flush", "cache"])

    def test_bulk(self) -> None:
        size = 200_000_000
        for source, target in ((self.lab.pods[0], str(node_record("", 3).pod_subnets[0][9])),
                               (self.lab.net.vm, str(node_record("", 2).pod_subnets[1][9]))):  # fmt: skip
            seen = self.lab.traffic(source, "tcp", target, size)
            self.assertEqual(seen["bytes"], size)
            print(f"bulk to {target}: {size * 8 / seen['seconds'] / 1e6:.0f} Mbit/s")
        status = self.lab.router.status()
        # Packets this large come only with segmentation offload on all the way.
        link = status["nodes"][1]["link"]
        self.assertGreater(status["nodes"][0]["link"]["received_bytes"], size)
        self.assertEqual([node["malformed"] + node["spoofed"] for node in status["nodes"]], [0, 0])
        self.assertEqual(link["backlog"], 0)
        self.assertEqual(status["tun"]["refused"], 0)

    def test_spoofed_sources_are_dropped(self) -> None:
        """What is not the node's own source does not even leave it."""
        node = self.lab.net.sites[0].node
        before = self.lab.edges[0].status()["foreign"]
        node.run(["ping", "-n", "-c", "1", "-W", "0.3", "-I", "192.168.1.11", "10.10.0.11"], check=False)
        self.assertGreater(self.lab.edges[0].status()["foreign"], before)


class OuterIPv6Tests(unittest.SynchronousTestCase):
    def test_the_link_itself_over_ipv6(self) -> None:
        lab = NetworkLab(sites=1, outer_ipv6=True)
        self.addCleanup(lab.close)
        lab.start()
        self.assertEqual(lab.edges[0].status()["link"]["address"], f"[{lab.net.eip_address6}]:443")
        for address in (lab.net.vm_address, lab.net.vm_address6):
            self.assertTrue(lab.pods[0].ping(address), address)


class OverlapTests(unittest.SynchronousTestCase):
    def test_a_lan_that_overlaps_an_advertised_subnet(self) -> None:
        """The site's LAN is also a subnet of the cloud: that one route is refused, everything else works."""
        lab = NetworkLab(sites=1, advertise=["10.10.0.0/24", "192.168.0.0/16", "198.51.100.0/24"])
        self.addCleanup(lab.close)
        lab.start()
        status = lab.edges[0].status()
        self.assertEqual(status["routes"], ["10.250.0.0/16", "10.192.0.0/12", "fd00:b::/48", "10.10.0.0/24"])
        lan, router = status["refused"]
        self.assertIn("192.168.0.0/16 is not reached through the tunnel: it overlaps 192.168.1.0/24", lan)
        self.assertIn("(eth0)", lan)
        self.assertIn("198.51.100.0/24 is not reached through the tunnel: it holds the router's own public", router)
        node = lab.net.sites[0].node
        for address in ("192.168.1.1", "198.51.100.1", lab.net.vm_address):
            self.assertTrue(node.ping(address), address)

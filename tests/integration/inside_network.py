# mypy: disallow-untyped-calls=False
"""Tests of the TUN device and the host's network, to be run by trial inside a namespace (see test_host_network)."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from kubebus.control import AdvertisedRoute
from kubebus.hostnetwork import TunnelInterface
from kubebus.netconf import LinuxHostNetwork
from kubebus.testing_net import TunContract, temporary_path
from kubebus.tun import open_tun
from kubebus.tundevice import TunError


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


class LinuxTunTests(TunContract, TestCase):
    here, there = "10.250.0.2", "10.10.0.5"

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.device = open_tun(reactor, "kbt0")
        self.addCleanup(self.device.close)
        shell("sysctl -qw net.ipv6.conf.kbt0.disable_ipv6=1")
        shell(f"ip address add {self.here}/32 dev kbt0; ip link set kbt0 up; ip route add {self.there} dev kbt0")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind((self.here, 7000))
        self.socket.setblocking(False)
        self.send = lambda size: self.socket.sendto(bytes(size), (self.there, 9))  # type: ignore[assignment]
        self.got: list[bytes] = []

    def arrived(self) -> list[bytes]:
        try:
            while True:
                self.got.append(self.socket.recv(2000))
        except BlockingIOError:
            return self.got

    def spin(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            self.reactor.iterate(0.01)
        self.fail("it never happens")

    def test_a_name_that_is_taken(self) -> None:
        error = self.assertRaises(TunError, open_tun, self.reactor, "kbt0")
        self.assertIn("another process has it", str(error))

    async def test_the_device_is_removed_by_somebody(self) -> None:
        gone: Deferred[None] = Deferred()
        self.device.start(lambda payloads: None, lambda: gone.callback(None))
        shell("ip link delete kbt0")
        await gone.addTimeout(5, self.reactor)
        self.assertFalse(self.device.write(b"\0" * 40))


class HostNetworkTests(TestCase):
    """The host as it was is the host as it is afterwards, to the letter."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.host = LinuxHostNetwork(temporary_path(self))
        self.addCleanup(self.host.close)
        shell("ip link add eth7 type bridge; ip link set eth7 up; ip address add 10.10.0.7/24 dev eth7")
        shell("ip address add fd00:10::7/64 dev eth7 nodad; ip route add 10.20.0.0/24 via 10.10.0.1")
        self.addCleanup(shell, "ip link delete eth7")
        self.device = open_tun(reactor, "kbt1")
        self.addCleanup(self.device.close)
        self.interface = TunnelInterface(self.host, "kbt1")
        self.addCleanup(self.interface.undo)

    def snapshot(self) -> str:
        rules = "iptables -S; ip6tables -S"
        settings = "cd /proc/sys/net; grep -H . ipv4/ip_forward ipv6/conf/*/forwarding ipv6/conf/*/accept_ra"
        return shell(
            f"ip -o address; ip route show table all; ip -6 route show table all | grep -v kbt1; {settings}; {rules}"
        )

    def apply(self, *routes: str) -> None:
        self.interface.apply(
            [ip_address("10.250.0.2"), ip_address("fd00:b::2")],
            [AdvertisedRoute(ip_network(route), route in ("10.192.0.0/12", "fd00:b::/48")) for route in routes],
            [ip_network("10.192.2.0/24"), ip_network("fd00:b:0:2::/64")],
            1400,
        )

    def test_everything_is_undone(self) -> None:
        shell("ip link set kbt1 up")
        for conf in ("eth7/accept_ra=1", "lo/forwarding=1"):
            shell("sysctl -qw net/ipv6/conf/" + conf)
        before = self.snapshot()
        self.apply("10.192.0.0/12", "10.30.0.0/24", "fd00:b::/48", "fd00:30::/64")
        self.host.forward("kbt1", ipv6=True)
        self.assertNotEqual(self.snapshot(), before)
        self.assertEqual(shell("cat /proc/sys/net/ipv6/conf/eth7/accept_ra /proc/sys/net/ipv4/ip_forward"), "2\n1\n")
        self.interface.undo()
        self.host.restore_forwarding()
        self.assertEqual(self.snapshot(), before)

    def test_docker_leaves_a_way_through(self) -> None:
        """Docker's rules, as its engine makes them at its start, before and after us."""
        docker = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN"
        docker = f"{docker}; iptables -I FORWARD -j DOCKER-USER"
        self.addCleanup(shell, "iptables -P FORWARD ACCEPT; iptables -F; iptables -X")
        shell(f"{docker}; true")
        before = shell("iptables -S")
        self.host.forward("kbt1", ipv6=False)
        rules = shell("iptables -S DOCKER-USER")
        ours = '-A DOCKER-USER -{} kbt1 -m comment --comment "kbt1 tunnel" -j ACCEPT'
        expected = ["-N DOCKER-USER", ours.format("o"), ours.format("i"), "-A DOCKER-USER -j RETURN"]
        self.assertEqual(rules.splitlines(), expected)
        LinuxHostNetwork().forward("kbt1", ipv6=False)
        self.assertEqual(shell("iptables -S DOCKER-USER"), rules)
        self.host.restore_forwarding()
        self.assertEqual(shell("iptables -S"), before)

    def test_what_is_set_up(self) -> None:
        self.apply("10.192.0.0/12", "10.30.0.0/24", "fd00:b::/48", "fd00:30::/64")
        link = shell("ip address show kbt1")
        for text in ("mtu 1400", "inet 10.250.0.2/32", "inet6 fd00:b::2/128", "UP"):
            self.assertIn(text, link)
        self.assertNotIn("fe80", link)
        for address, answer in (
            ("10.192.9.9", "dev kbt1 src 10.250.0.2"),
            ("10.30.0.9", "dev kbt1 src 10.250.0.2"),
            ("fd00:b:0:9::9", "dev kbt1"),
        ):
            self.assertIn(answer, shell(f"ip route get {address}"))
        self.assertIn("No route to host", shell("ip route get 10.192.2.9 2>&1 || true"))

    def test_a_host_that_wants_no_ipv6_on_new_interfaces(self) -> None:
        shell("sysctl -qw net/ipv6/conf/kbt1/disable_ipv6=1")
        self.apply("fd00:b::/48")
        self.assertIn("inet6 fd00:b::2/128", shell("ip address show kbt1"))

    def test_overlaps_are_refused_and_the_rest_is_kept(self) -> None:
        self.apply("10.192.0.0/12", "10.10.0.0/16", "10.20.0.0/24", "10.30.0.0/24", "fd00:10::/64")
        self.assertEqual([str(route) for route in self.interface.routes], ["10.192.0.0/12", "10.30.0.0/24"])
        self.assertEqual(
            [str(refused.subnet) for refused in self.interface.refused],
            ["10.10.0.0/16", "10.20.0.0/24", "fd00:10::/64"],
        )
        self.assertIn("eth7", self.interface.refused[0].why)
        self.assertIn("dev eth7", shell("ip route get 10.20.0.9"))

    def test_a_container_engines_bridge_is_no_overlap(self) -> None:
        self.apply("10.192.0.0/12")
        shell("ip link add br7 type bridge; ip link set br7 up; ip address add 10.192.2.1/24 dev br7")
        self.addCleanup(shell, "ip link delete br7")
        self.assertIn("dev br7", shell("ip route get 10.192.2.9"))
        self.apply("10.192.0.0/12", "10.30.0.0/24")
        self.assertEqual(self.interface.refused, ())

    def test_what_a_killed_process_left_is_taken_over(self) -> None:
        self.apply("10.192.0.0/12")
        again = TunnelInterface(LinuxHostNetwork(), "kbt1")
        again.apply([ip_address("10.250.0.2")], [], [ip_network("10.192.2.0/24")], 1400)
        again.undo()
        self.assertNotIn("10.192.2.0/24", shell("ip route"))

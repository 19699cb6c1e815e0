"""Which routes a host takes over, how an interface follows what is wanted, and what is kept on disk."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from kubebus.backoff import Backoff
from kubebus.control import AdvertisedRoute
from kubebus.hostnetwork import HostNetworkError, HostSubnet, TunnelInterface, refusal
from kubebus.icmp import checksum, unreachable
from kubebus.netconf import SettingsJournal
from kubebus.network import Network
from kubebus.packets import check_packet
from kubebus.savedconfig import SavedConfig
from kubebus.testing_net import MemoryHostNetwork, tcp_gso_packet, temporary_path, udp_packet
from kubebus.tun import ioctl_write
from tests.unit.kubebus.test_control import CONFIG

POOL = AdvertisedRoute(ip_network("10.192.0.0/12"), True)
CLOUD = AdvertisedRoute(ip_network("10.10.0.0/24"))
CLOUD6 = AdvertisedRoute(ip_network("fd00:10::/64"))


class RefusalTests(SynchronousTestCase):
    def check(self, route: AdvertisedRoute, own: str, refused: bool) -> None:
        why = refusal(route, [HostSubnet(ip_network(own), "eth0")])
        self.assertEqual(why is not None, refused, f"{route} on a host with {own}: {why}")

    def test_overlaps(self) -> None:
        self.check(CLOUD, "192.168.1.0/24", False)
        self.check(CLOUD, "10.10.0.0/24", True)
        self.check(CLOUD, "10.0.0.0/8", True)
        self.check(CLOUD, "10.10.0.128/25", True)
        self.check(CLOUD, "fd00:10::/64", False)
        self.check(CLOUD6, "fd00:10::/48", True)

    def test_a_pool_with_a_hole_is_still_a_pool(self) -> None:
        self.check(POOL, "10.200.0.0/24", False)
        self.check(POOL, "10.192.0.0/12", True)
        self.check(POOL, "10.0.0.0/8", True)

    def test_one_nodes_subnet_is_wanted_where_the_host_reaches_a_larger_one(self) -> None:
        member = AdvertisedRoute(ip_network("10.244.3.0/24"), member=True)
        self.check(member, "10.244.0.0/16", False)
        self.check(member, "10.244.3.0/24", True)
        self.check(member, "10.244.3.128/25", True)

    def test_the_way_to_the_router_stays_outside(self) -> None:
        why = refusal(CLOUD, [], [ip_address("10.10.0.10")])
        self.assertIn("router's own public address 10.10.0.10", str(why))
        self.assertIsNone(refusal(CLOUD, [], [ip_address("198.51.100.10")]))


class TunnelInterfaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.host = MemoryHostNetwork()
        self.interface = TunnelInterface(self.host, "kb0")
        self.address = ip_address("10.250.0.2")

    def test_routes_come_and_go(self) -> None:
        self.interface.apply([self.address], [POOL, CLOUD], [], 1500)
        self.interface.apply([self.address], [POOL, CLOUD6], [], 1400)
        self.assertEqual(self.host.routes, [POOL.subnet, CLOUD6.subnet])
        self.assertEqual(self.host.addresses, [self.address])
        self.assertEqual(self.host.mtu, {"kb0": 1400})
        self.interface.apply([ip_address("10.250.0.3")], [], [], 1400)
        self.assertEqual((self.host.routes, self.host.addresses), ([], [ip_address("10.250.0.3")]))

    def test_a_refused_route_is_taken_when_the_host_has_moved(self) -> None:
        self.host.own = [HostSubnet(CLOUD.subnet, "eth0")]
        self.interface.apply([self.address], [POOL, CLOUD], [], 1500)
        self.assertEqual([refused.subnet for refused in self.interface.refused], [CLOUD.subnet])
        self.host.own = []
        self.interface.apply([self.address], [POOL, CLOUD], [], 1500)
        self.assertEqual((self.interface.refused, self.host.routes), ((), [POOL.subnet, CLOUD.subnet]))

    def test_a_subnet_inside_a_pool_is_told_of(self) -> None:
        self.host.own = [HostSubnet(ip_network("10.200.0.0/24"), "eth0")]
        self.interface.apply([self.address], [POOL], [ip_network("10.192.2.0/24")], 1500)
        self.assertEqual(self.host.routes, [POOL.subnet])
        (refused,) = self.interface.refused
        self.assertIn("10.200.0.0/24 of the pool 10.192.0.0/12", refused.why)

    def test_a_host_without_ipv6(self) -> None:
        self.host.ipv6 = False
        self.interface.apply([self.address, ip_address("fd00::2")], [POOL, CLOUD6], [ip_network("fd00::/64")], 1500)
        self.assertEqual((self.host.addresses, self.host.routes, self.host.held), ([self.address], [POOL.subnet], []))

    def test_undoing(self) -> None:
        self.interface.apply([self.address], [POOL], [ip_network("10.192.2.0/24")], 1500)
        self.interface.undo()
        self.assertEqual((self.host.addresses, self.host.routes, self.host.held), ([], [], []))
        self.interface.undo()

    def test_errors_are_told(self) -> None:
        self.host.broken = True
        self.assertRaises(HostNetworkError, self.interface.apply, [self.address], [POOL], [], 1500)


class SavedConfigTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = temporary_path(self) / "network.json"
        self.saved = SavedConfig(self.path)

    def test_there_and_back(self) -> None:
        self.assertIsNone(self.saved.load())
        self.saved.save(CONFIG)
        self.assertEqual(self.saved.load(), CONFIG)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_the_time_alone_is_not_written(self) -> None:
        self.saved.save(CONFIG)
        before = self.path.stat().st_ino
        self.saved.save(replace(CONFIG, time=CONFIG.time + 100))
        self.assertEqual(self.path.stat().st_ino, before)
        self.saved.save(replace(CONFIG, mtu=1400))
        self.assertNotEqual(self.path.stat().st_ino, before)

    def test_a_damaged_file(self) -> None:
        self.saved.save(CONFIG)
        for content in (b"", b"{", b"[]", b"\xff", b'{"network": 1}'):
            self.path.write_bytes(content)
            self.assertIsNone(self.saved.load())


class JournalTests(SynchronousTestCase):
    def test_settings_of_another_boot_are_not_ours(self) -> None:
        path = temporary_path(self)
        changed = [(Path("/proc/sys/net/ipv4/ip_forward"), "0")]
        SettingsJournal(path, "this boot").save(changed)
        self.assertEqual(SettingsJournal(path, "this boot").load(), changed)
        self.assertEqual(SettingsJournal(path, "another").load(), [])
        SettingsJournal(path, "this boot").save([])
        self.assertFalse(path.exists())

    def test_a_damaged_journal(self) -> None:
        path = temporary_path(self)
        path.write_text("{")
        self.assertEqual(SettingsJournal(path, "").load(), [])


class BackoffTests(SynchronousTestCase):
    def test_exponential_to_a_minute(self) -> None:
        backoff = Backoff(lambda: 1.0)
        self.assertEqual([backoff.wait(0) for _ in range(8)], [1, 2, 4, 8, 16, 32, 60, 60])

    def test_a_stable_minute_begins_anew(self) -> None:
        backoff = Backoff(lambda: 1.0)
        waits = [backoff.wait(up_for) for up_for in (0, 0, 59, 60, 0)]
        self.assertEqual(waits, [1, 2, 4, 1, 2])

    def test_jitter(self) -> None:
        self.assertEqual(Backoff(lambda: 0.0).wait(0), 0.5)


class IcmpTests(SynchronousTestCase):
    router = ip_address("10.250.0.1").packed, ip_address("fd00:b::1").packed

    def test_the_answer_is_a_good_packet(self) -> None:
        for source, destination in (("10.250.0.2", "10.192.3.4"), ("fd00:b::2", "fd00:b:0:3::4")):
            for payload in (udp_packet(source, destination), tcp_gso_packet(source, destination)):
                answer = unreachable(payload, *self.router)
                assert answer is not None
                found = check_packet(answer, 1280)
                router = self.router[len(found[0]) == 16]
                self.assertEqual(found, (router, ip_address(source).packed))
                packet = answer[10:]
                if len(router) == 4:
                    self.assertEqual(packet[20:22], b"\3\1")
                    self.assertEqual([checksum(packet[:20]), checksum(packet[20:])], [b"\0\0"] * 2)
                else:
                    pseudo = packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + b"\0\0\0\x3a"
                    self.assertEqual(packet[40:42], b"\1\3")
                    self.assertEqual(checksum(pseudo + packet[40:]), b"\0\0")

    def test_where_none_may_be_sent(self) -> None:
        error = unreachable(udp_packet("10.250.0.2", "10.192.3.4"), *self.router)
        assert error is not None
        fragment = bytearray(udp_packet("10.250.0.2", "10.192.3.4"))
        fragment[17] = 9
        for payload in (
            error,
            bytes(fragment),
            udp_packet("10.250.0.2", "224.0.0.1"),
            udp_packet("fe80::1", "fd00::1"),
            udp_packet("fd00::1", "ff02::1"),
        ):
            self.assertIsNone(unreachable(payload, *self.router))
        self.assertIsNone(unreachable(udp_packet("fd00::1", "fd00::2"), self.router[0], None))


class NetworkTests(SynchronousTestCase):
    def test_what_cannot_be(self) -> None:
        for options, what in (
            ({"name": "Nope"}, "network name"),
            ({"interface": "averyveryverylongname"}, "interface name"),
            ({"mtu": 500}, "MTU 500"),
            ({"advertise": (ip_network("0.0.0.0/0"),)}, "everything"),
        ):
            error = self.assertRaises(ValueError, Network, **options)
            self.assertIn(what, str(error))


class IoctlTests(SynchronousTestCase):
    def test_numbers_by_architecture(self) -> None:
        """As the C preprocessor makes them of TUNSETIFF, TUNSETOFFLOAD and TUNSETVNETLE."""
        for machine in ("x86_64", "aarch64", "armv7l", "riscv64"):
            numbers = [ioctl_write(number, machine) for number in (202, 208, 220)]
            self.assertEqual(numbers, [0x400454CA, 0x400454D0, 0x400454DC])
        for machine in ("mips", "mips64", "ppc64le"):
            numbers = [ioctl_write(number, machine) for number in (202, 208, 220)]
            self.assertEqual(numbers, [0x800454CA, 0x800454D0, 0x800454DC])

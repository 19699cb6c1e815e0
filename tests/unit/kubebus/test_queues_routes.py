"""Queues in order of service and within bounds; routes by the longest prefix."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kubebus.frames import CONTROL, PACKET, STREAM, frame
from kubebus.queues import BATCH, LinkQueues
from kubebus.routes import RouteTable
from kubebus.testing_net import FrameParser, tcp_gso_packet, udp_packet

A, B = "10.250.0.2", "10.192.3.4"


class QueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.streams: list[bytes] = []
        self.clock = Clock()
        self.queues = LinkQueues(self.next_frames, self.clock.seconds, max_bulk=100_000)

    def next_frames(self, budget: int) -> list[bytes]:
        taken: list[bytes] = []
        while self.streams and sum(map(len, taken)) < budget:
            taken.append(self.streams.pop(0))
        return taken

    def kinds(self) -> list[int]:
        """The types of the frames of the next batch; small packets count as 30."""
        data = b"".join(self.queues.next_batch().parts)
        return [30 if kind == PACKET and len(payload) < 512 else kind for kind, payload in FrameParser().feed(data)]

    def test_order_of_service(self) -> None:
        self.queues.put_packet(udp_packet(A, B))
        self.streams.append(frame(STREAM, b"stream"))
        self.queues.put_control(frame(CONTROL, b"{}"))
        self.assertEqual(self.kinds(), [CONTROL, STREAM, 30])
        self.assertEqual(self.kinds(), [])

    def test_what_is_not_held_up_stays_in_order(self) -> None:
        self.queues.put_packet(tcp_gso_packet(A, B, 20000))
        self.queues.put_packet(udp_packet(A, B))
        self.assertEqual(self.kinds(), [PACKET, 30])

    def test_many_at_once_stay_in_order(self) -> None:
        """Those that find no room among the passing ones do not overtake these when the peer stops taking."""
        sent = [udp_packet(A, B, b"%d" % number) for number in range(1500)]
        for payload in sent:
            self.queues.put_packet(payload)
        data = b"".join(self.queues.next_batch(4096).parts)
        self.queues.block()
        self.queues.unblock()
        while parts := self.queues.next_batch().parts:
            data += b"".join(parts)
        self.assertEqual([payload for _, payload in FrameParser().feed(data)], sent)

    def test_small_before_bulk_once_packets_wait(self) -> None:
        for _ in range(3):
            self.queues.put_packet(tcp_gso_packet(A, B, 30000))
        self.queues.block()
        self.queues.unblock()
        self.assertEqual(self.queues.next_batch(1).more, True)
        self.queues.put_packet(udp_packet(A, B))
        self.assertEqual(self.kinds(), [30, PACKET, PACKET])

    def test_streams_leave_a_part_to_packets(self) -> None:
        self.streams = [frame(STREAM, bytes(16000)) for _ in range(20)]
        self.queues.put_packet(udp_packet(A, B))
        kinds = self.kinds()
        self.assertEqual(kinds[-1], 30)
        self.assertLess(len(kinds), 6)

    def test_there_is_more_until_everything_is_taken(self) -> None:
        self.streams = [frame(STREAM, bytes(16000)) for _ in range(20)]
        for _ in range(5):
            self.queues.put_packet(tcp_gso_packet(A, B, 30000))
        total, more = 0, True
        while more:
            parts, _, more = self.queues.next_batch()
            total += sum(map(len, parts))
        self.assertGreater(total, 20 * 16000 + 5 * 30000)
        self.assertEqual(self.queues.next_batch(), ([], False, False))

    def test_bounds_while_the_peer_takes_nothing(self) -> None:
        self.queues.block()
        for _ in range(5):
            self.queues.put_packet(tcp_gso_packet(A, B, 30000))
        self.assertLessEqual(self.queues.packet_bytes, 100_000)
        self.assertEqual(self.queues.counters.dropped, 2)
        self.queues.clear()
        self.assertEqual((self.queues.packet_bytes, self.queues.counters.dropped), (0, 5))

    def test_a_batch_is_bounded(self) -> None:
        for _ in range(10):
            self.queues.put_packet(tcp_gso_packet(A, B, 30000))
        parts, has_data, more = self.queues.next_batch()
        self.assertLess(sum(map(len, parts)), BATCH + 35000)
        self.assertTrue(has_data)
        self.assertTrue(more)
        self.assertLess(sum(map(len, self.queues.next_batch(1000).parts)), 31000)

    def test_control_is_no_data(self) -> None:
        self.queues.put_control(frame(CONTROL, b"{}"))
        self.assertEqual(self.queues.next_batch(), ([frame(CONTROL, b"{}")], False, False))


_NETWORKS = st.builds(
    lambda number, bits: ip_network((number >> (32 - bits) << (32 - bits) if bits else 0, bits)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


class RouteTests(SynchronousTestCase):
    def test_longest_prefix(self) -> None:
        table: RouteTable[str] = RouteTable()
        for subnet in ("10.0.0.0/8", "10.192.0.0/12", "10.192.3.0/24", "10.192.3.4/32", "fd00::/48", "fd00:0:0:1::/64"):
            table.add(ip_network(subnet), subnet)
        for address, expected in (
            ("10.192.3.4", "10.192.3.4/32"),
            ("10.192.3.5", "10.192.3.0/24"),
            ("10.192.4.5", "10.192.0.0/12"),
            ("10.1.1.1", "10.0.0.0/8"),
            ("11.1.1.1", None),
            ("fd00:0:0:1::7", "fd00:0:0:1::/64"),
            ("fd00:0:0:2::7", "fd00::/48"),
            ("fe80::1", None),
        ):
            self.assertEqual(table.lookup(ip_address(address).packed), expected)

    @given(st.lists(st.tuples(st.booleans(), _NETWORKS), max_size=30), st.lists(st.integers(0, 2**32 - 1), max_size=10))
    def test_like_a_search_through_all(self, changes: list[tuple[bool, object]], addresses: list[int]) -> None:
        table: RouteTable[str] = RouteTable()
        known: dict[object, str] = {}
        for adds, subnet in changes:
            if adds:
                table.add(subnet, str(subnet))  # type: ignore[arg-type]
                known[subnet] = str(subnet)
            else:
                table.remove(subnet)  # type: ignore[arg-type]
                known.pop(subnet, None)
            for number in addresses:
                address = ip_address(number)
                fitting = [n for n in known if address in n]  # type: ignore[operator]
                best = max(fitting, key=lambda n: n.prefixlen, default=None)  # type: ignore[attr-defined]
                self.assertEqual(table.lookup(address.packed), None if best is None else str(best))
        self.assertEqual(dict(table), known)
        self.assertEqual(len(table), len(known))

    def test_many_addresses_do_not_fill_the_memory(self) -> None:
        table: RouteTable[int] = RouteTable()
        table.add(ip_network("0.0.0.0/0"), 1)
        for number in range(20_000):
            table.lookup(number.to_bytes(4, "big"))
        self.assertLessEqual(len(table._known), 4096)

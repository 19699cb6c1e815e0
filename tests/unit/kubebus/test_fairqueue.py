from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.fairqueue import INTERVAL, MIN_WAITING, QUANTUM, TARGET, FairQueue, QueueCounters
from kubebus.testing_net import udp_packet

LIMIT = 200_000


def packet(flow: int, size: int = 1000, mark: int = 0) -> bytes:
    """A packet of flow ``flow`` with a number in it."""
    return udp_packet(f"10.0.{flow >> 8}.{flow & 255}", "10.9.9.9", mark.to_bytes(4, "big") + bytes(size - 42))


def flow_of(payload: bytes) -> int:
    return payload[24] << 8 | payload[25]


def mark_of(payload: bytes) -> int:
    return int.from_bytes(payload[38:42], "big")


class FairQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = QueueCounters()
        self.queue = FairQueue(LIMIT, self.counters)

    def taken(self, count: int, now: float = 0.0) -> list[int]:
        """The flows of the next packets."""
        return [flow_of(self.queue.take(now) or bytes(40)) for _ in range(count)]

    def test_empty(self) -> None:
        self.assertIsNone(self.queue.take(0))
        self.assertEqual((self.queue.bytes, len(self.queue)), (0, 0))

    def test_a_flow_stays_in_order(self) -> None:
        for mark in range(50):
            self.queue.put(packet(1, mark=mark), 0)
        marks = [mark_of(self.queue.take(0) or b"") for _ in range(50)]
        self.assertEqual(marks, list(range(50)))
        self.assertIsNone(self.queue.take(0))
        self.assertEqual((self.queue.bytes, len(self.queue)), (0, 0))

    def test_a_new_flow_is_served_before_bulk(self) -> None:
        for _ in range(100):
            self.queue.put(packet(1), 0)
        self.taken(30)
        self.queue.put(packet(2, 100), 0)
        self.assertIn(2, self.taken(2))

    def test_flows_with_much_share_by_bytes(self) -> None:
        queue = FairQueue(2_000_000, self.counters)
        for _ in range(700):
            queue.put(packet(1, 1400), 0)
        for _ in range(4900):
            queue.put(packet(2, 200), 0)
        sent = {1: 0, 2: 0}
        for _ in range(3000):
            payload = queue.take(0)
            assert payload is not None
            sent[flow_of(payload)] += len(payload)
        self.assertLess(abs(sent[1] - sent[2]), 2 * QUANTUM)

    def test_super_packets_do_not_starve_small_ones(self) -> None:
        queue = FairQueue(1_000_000, self.counters)
        for _ in range(10):
            queue.put(packet(1, 60_000), 0)
        for _ in range(100):
            queue.put(packet(2, 1000), 0)
        order = [flow_of(queue.take(0) or b"") for _ in range(110)]
        # By the time that a third of the bulk is gone, so is an equal number of the other's bytes.
        third = [index for index, flow in enumerate(order) if flow == 1][3]
        self.assertGreater(order[:third].count(2), 90)

    def test_the_fattest_flow_makes_room(self) -> None:
        self.queue.put(packet(2), 0)
        for mark in range(500):
            self.queue.put(packet(1, mark=mark), 0)
        self.assertLessEqual(self.queue.bytes, LIMIT)
        flows, marks = [], []
        while (payload := self.queue.take(0)) is not None:
            flows.append(flow_of(payload))
            marks.append(mark_of(payload))
        self.assertEqual(flows.count(2), 1)
        self.assertEqual(marks[-1], 499)
        self.assertEqual(self.counters.dropped, 501 - len(flows))

    def test_a_packet_beyond_the_limit_is_dropped(self) -> None:
        self.assertFalse(FairQueue(500, self.counters).put(packet(1), 0))
        self.assertEqual(self.counters.dropped, 1)

    def test_nothing_is_dropped_for_a_short_wait(self) -> None:
        for _ in range(100):
            self.queue.put(packet(1), 0)
        for step in range(100):
            self.assertIsNotNone(self.queue.take(step * TARGET / 200))
        self.assertEqual(self.counters.dropped, 0)

    def test_a_standing_queue_is_dropped_from_more_and_more(self) -> None:
        dropped = []
        for step in range(200):
            for _ in range(11):
                self.queue.put(packet(1), step * 0.01)
            for _ in range(10):
                self.queue.take(step * 0.01)
            dropped.append(self.counters.dropped)
        self.assertGreater(dropped[99], 2)
        self.assertGreater(dropped[199] - dropped[99], dropped[99])

    def test_other_flows_are_not_punished(self) -> None:
        others = 0
        for step in range(200):
            now = step * 0.01
            for _ in range(12):
                self.queue.put(packet(1), now)
            self.queue.put(packet(2, 100), now)
            others += self.taken(11, now).count(2)
        self.assertGreater(self.counters.dropped, 0)
        self.assertGreaterEqual(others, 199)

    def test_a_slow_link_keeps_its_last_packets(self) -> None:
        now = 0.0
        for _ in range(50):
            self.queue.put(packet(1, MIN_WAITING // 2), now)
            self.queue.put(packet(1, MIN_WAITING // 2), now)
            now += 10 * INTERVAL
            self.assertIsNotNone(self.queue.take(now))
            self.assertIsNotNone(self.queue.take(now))
        self.assertEqual(self.counters.dropped, 0)

    def test_clearing_counts_what_is_lost(self) -> None:
        for flow in range(10):
            self.queue.put(packet(flow), 0)
        self.queue.clear()
        self.assertEqual((self.queue.bytes, len(self.queue), self.counters.dropped), (0, 0, 10))
        self.assertIsNone(self.queue.take(0))

    @given(st.lists(st.tuples(st.integers(0, 6), st.integers(50, 60_000), st.floats(0, 0.5)), max_size=60))
    def test_every_packet_is_sent_or_counted(self, steps: list[tuple[int, int, float]]) -> None:
        counters = QueueCounters()
        queue = FairQueue(LIMIT, counters)
        now, put, sent = 0.0, 0, 0
        for flow, size, wait in steps:
            now += wait
            queue.put(packet(flow, size), now)
            put += 1
            self.assertLessEqual(queue.bytes, LIMIT)
            if flow % 2 and queue.take(now) is not None:
                sent += 1
        while queue.take(now) is not None:
            sent += 1
        self.assertEqual(put, sent + counters.dropped)
        self.assertEqual((queue.bytes, len(queue)), (0, 0))

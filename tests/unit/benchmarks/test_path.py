from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.path import Path, PathSpec


class PathTests(SynchronousTestCase):
    def path(self, chances: list[float] | None = None, **spec: float) -> Path:
        remaining = iter(chances or ())
        return Path(PathSpec(**spec), lambda: next(remaining))

    def test_a_plain_path_carries_at_once_and_in_order(self) -> None:
        path = self.path()
        path.send(b"a", 1.0)
        path.send(b"b", 1.0)
        self.assertEqual(path.arrivals(1.0), [b"a", b"b"])
        self.assertIsNone(path.next_arrival())

    def test_delay(self) -> None:
        path = self.path(delay=0.1)
        path.send(b"a", 1.0)
        self.assertEqual(path.arrivals(1.09), [])
        self.assertEqual(path.next_arrival(), 1.1)
        self.assertEqual(path.arrivals(1.1), [b"a"])

    def test_loss(self) -> None:
        path = self.path([0.5, 0.01, 0.02], loss=0.02)
        for packet in (b"a", b"b", b"c"):
            path.send(packet, 0.0)
        self.assertEqual((path.arrivals(0.0), path.lost), ([b"a", b"c"], 1))

    def test_rate(self) -> None:
        path = self.path(rate=80_000.0, buffer=1.0)
        for _ in range(3):
            path.send(bytes(1000), 0.0)
        self.assertEqual([len(path.arrivals(at)) for at in (0.09, 0.1001, 0.2001, 0.3001)], [0, 1, 1, 1])

    def test_the_bottleneck_holds_so_much_and_drops_the_rest(self) -> None:
        path = self.path(rate=80_000.0, buffer=0.5)
        for _ in range(20):
            path.send(bytes(1000), 0.0)
        self.assertEqual(len(path.arrivals(10.0)), 6)
        self.assertEqual(path.dropped, 14)

    def test_the_slowest_path_still_takes_a_packet(self) -> None:
        path = self.path(rate=1000.0, buffer=0.1)
        path.send(bytes(1500), 0.0)
        path.send(bytes(1500), 0.0)
        self.assertEqual(path.dropped, 0)

    def test_a_stall_holds_everything_back(self) -> None:
        path = self.path(delay=0.1)
        path.send(b"a", 0.0)
        path.stall(0.05, 5.0)
        path.send(b"b", 1.0)
        self.assertEqual(path.arrivals(5.0), [])
        self.assertEqual(path.arrivals(5.16), [b"a", b"b"])

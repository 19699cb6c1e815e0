from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.idle import burst_rate


def counter(length: int, *bursts: tuple[int, float]) -> list[tuple[float, float]]:
    """A sample a second; each burst gives its bytes at its second."""
    return [(float(at), sum(size for when, size in bursts if when <= at)) for at in range(length)]


class BurstRateTests(SynchronousTestCase):
    def test_it_does_not_depend_on_when_it_is_measured(self) -> None:
        for first in range(3, 33):
            heartbeats = [(at, 300.0) for at in range(first, 150, 30)]
            self.assertAlmostEqual(burst_rate(counter(150, *heartbeats)), 10.0, msg=str(first))

    def test_a_burst_may_take_some_seconds(self) -> None:
        bursts = [(at + more, 100.0) for at in (10, 40, 70) for more in (0, 1, 2)]
        self.assertAlmostEqual(burst_rate(counter(80, *bursts)), 10.0)

    def test_a_burst_that_is_under_way_does_not_begin_anything(self) -> None:
        self.assertAlmostEqual(burst_rate(counter(80, (1, 100.0), (31, 300.0), (61, 300.0))), 10.0)

    def test_without_two_bursts_the_whole_time_counts(self) -> None:
        self.assertAlmostEqual(burst_rate(counter(61, (30, 60.0))), 1.0)
        self.assertEqual(burst_rate(counter(10)), 0.0)

    def test_what_never_pauses(self) -> None:
        self.assertAlmostEqual(burst_rate([(float(at), at * 5.0) for at in range(100)]), 5.0)

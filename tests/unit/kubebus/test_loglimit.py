from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kubebus.loglimit import LogLimit


class LogLimitTests(SynchronousTestCase):
    def test_a_burst_is_cut_and_counted(self) -> None:
        clock = Clock()
        limit = LogLimit(clock.seconds, burst=3, refill=10)
        self.assertEqual([limit.more("a") for _ in range(6)], ["", "", "", None, None, None])
        clock.advance(10)
        self.assertEqual(limit.more("a"), " (3 more like this were left out)")
        self.assertIsNone(limit.more("a"))

    def test_kinds_are_apart_and_rest_fills_up(self) -> None:
        clock = Clock()
        limit = LogLimit(clock.seconds, burst=1, refill=10)
        self.assertEqual([limit.more("a"), limit.more("b"), limit.more("a")], ["", "", None])
        clock.advance(1000)
        self.assertEqual([limit.more("b"), limit.more("b")], ["", None])

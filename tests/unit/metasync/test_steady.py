"""Timers do not care what becomes of the wall clock."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from metasync.steady import steady


class SteadyTests(SynchronousTestCase):
    def run_with_jump(self, seconds: float) -> float:
        """How long a timer of 50 ms takes while the wall clock jumps."""
        reactor: Any = EPollReactor()
        steady(reactor)
        self.patch(time, "time", lambda: 1e9 + seconds)
        self.patch(__import__("twisted.python.runtime", fromlist=["x"]), "seconds", lambda: 1e9 + seconds)
        fired: Deferred[float] = Deferred()
        began = time.monotonic()
        reactor.callLater(0.05, lambda: fired.callback(time.monotonic() - began))
        while not fired.called and time.monotonic() < began + 5:
            reactor.iterate(0.01)
        for reader in reactor.removeAll():
            reader.connectionLost(None)
        return self.successResultOf(fired)

    def test_backByAYear(self) -> None:
        self.assertLess(self.run_with_jump(-365 * 86400.0), 2)

    def test_aheadByAYear(self) -> None:
        self.assertGreaterEqual(self.run_with_jump(365 * 86400.0), 0.049)

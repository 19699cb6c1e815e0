from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from kubebus.fastpath.pacing import FIRST, HIGHEST, LOWEST, TARGET, UnsentLimit


class UnsentLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.total = 0.0

    def run_path(self, limit: UnsentLimit, rate: float, seconds: float) -> None:
        """A path that takes ``rate`` bytes a second, while there is always more until the end."""
        step = 0.005
        for _ in range(int(seconds / step)):
            limit.blocked(self.now, int(self.total))
            self.now += step
            self.total += rate * step
            limit.taken(self.now, int(self.total), drained=True)

    def test_begins_cautiously(self) -> None:
        self.assertEqual(UnsentLimit().limit, FIRST)

    def test_follows_a_middling_path(self) -> None:
        limit = UnsentLimit()
        self.run_path(limit, 2_500_000, 1)
        self.assertAlmostEqual(limit.limit, 2_500_000 * TARGET, delta=2_000)

    def test_grows_to_the_highest_on_a_fast_path_within_a_few_windows(self) -> None:
        limit = UnsentLimit()
        self.run_path(limit, 500e6, 0.25)
        self.assertEqual(limit.limit, HIGHEST)

    def test_shrinks_to_the_lowest_on_a_slow_path(self) -> None:
        limit = UnsentLimit()
        self.run_path(limit, 500e6, 0.25)
        self.run_path(limit, 8_000, 0.5)
        self.assertEqual(limit.limit, LOWEST)

    def test_time_without_anything_to_send_does_not_count(self) -> None:
        limit = UnsentLimit()
        self.run_path(limit, 2_500_000, 1)
        before = limit.limit
        self.now += 60
        self.run_path(limit, 2_500_000, 0.1)
        self.assertEqual(limit.limit, before)

    def test_small_changes_are_not_worth_a_call(self) -> None:
        limit = UnsentLimit()
        self.run_path(limit, 2_500_000, 1)
        before = limit.limit
        self.run_path(limit, 2_000_000, 1)
        self.assertEqual(limit.limit, before)

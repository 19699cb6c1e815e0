from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from kubebus.fastpath.pacing import (
    AHEAD_TIME,
    ENOUGH,
    FIRST,
    HIGHEST,
    LEAST_AHEAD,
    LONG_PATH,
    LOWEST,
    MOST_AHEAD,
    RELEASE,
    SHORT,
    SHORT_PATH,
    TARGET,
    CongestionChoice,
    ReceiveLimit,
    UnsentLimit,
)


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


class ReceiveLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.limit = ReceiveLimit()

    def fall_behind(self, rate: float, round_trip: float, seconds: float = 0.3, start: float = 100.0) -> float:
        """Read ``rate`` bytes a second while more waits; the time after it."""
        now = start
        while now < start + seconds:
            self.limit.behind(now, int((now - start) * rate), 2 * MOST_AHEAD, round_trip)
            now += 0.01
        return now

    def test_the_kernel_decides_while_we_are_fast_enough(self) -> None:
        self.assertFalse(self.limit.behind(1.0, 10**6, LEAST_AHEAD, 0.0001))
        self.assertFalse(self.limit.caught_up(2.0))
        self.assertIsNone(self.limit.limit)

    def test_little_on_a_short_path(self) -> None:
        for rate in (5e6, 50e6, 200e6, 2e9):
            self.limit = ReceiveLimit()
            self.fall_behind(rate, 0.0001)
            assert self.limit.limit is not None
            wanted = min(max(rate * AHEAD_TIME, LEAST_AHEAD), MOST_AHEAD)
            self.assertTrue(wanted / 2 <= self.limit.limit <= wanted * 2 + 2 * rate * 0.0001, rate)

    def test_what_was_read_long_ago_tells_nothing(self) -> None:
        self.assertFalse(self.limit.behind(100.0, 0, 2 * MOST_AHEAD, 0.0001))
        self.assertFalse(self.limit.behind(100.0 + 2 * RELEASE, 10**4, 2 * MOST_AHEAD, 0.0001))
        self.assertIsNone(self.limit.limit)

    def test_enough_to_keep_a_long_path_busy(self) -> None:
        self.fall_behind(50e6, 0.1)
        assert self.limit.limit is not None
        self.assertGreater(self.limit.limit, 50e6 * 0.1)

    def test_the_kernel_decides_again_later(self) -> None:
        now = self.fall_behind(200e6, 0.0001)
        self.assertFalse(self.limit.caught_up(now))
        self.assertTrue(self.limit.caught_up(now + RELEASE))
        self.assertIsNone(self.limit.limit)
        self.assertFalse(self.limit.caught_up(now + RELEASE))


class CongestionChoiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.choice = CongestionChoice()

    def test_short_and_long_paths(self) -> None:
        self.assertTrue(self.choice.judge(SHORT / 2, 5, 0))
        self.assertEqual(self.choice.name, SHORT_PATH)
        self.assertTrue(self.choice.judge(SHORT, 6, 0))
        self.assertEqual(self.choice.name, LONG_PATH)

    def test_says_so_only_when_it_changes(self) -> None:
        self.assertTrue(self.choice.judge(0.1, 5, 0))
        self.assertFalse(self.choice.judge(0.2, 5, 0))

    def test_a_short_path_that_loses_counts_as_a_long_one_for_good(self) -> None:
        self.choice.judge(0.0001, 5, 0)
        self.assertTrue(self.choice.judge(0.0001, 5 + ENOUGH, ENOUGH // 50))
        self.assertEqual(self.choice.name, LONG_PATH)
        self.assertFalse(self.choice.judge(0.0001, 5 + 10 * ENOUGH, ENOUGH // 50))

    def test_a_few_segments_tell_nothing(self) -> None:
        self.choice.judge(0.0001, 5, 0)
        self.assertFalse(self.choice.judge(0.0001, 105, 50))

    def test_losses_count_since_the_last_look(self) -> None:
        self.choice.judge(0.0001, 100 * ENOUGH, 0)
        self.assertTrue(self.choice.judge(0.0001, 101 * ENOUGH, ENOUGH // 50))

    def test_a_round_trip_that_nobody_knows_is_long(self) -> None:
        self.choice.judge(None, 0, 0)
        self.assertEqual(self.choice.name, LONG_PATH)

"""List and watch, and work by key: the parts without I/O."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from edgectl.errors import ApiUnreachable, StatusError
from edgectl.watch import Backoff, LineSplitter, LineTooLong, ListStep, Reflector, WatchStep
from edgectl.workqueue import Workers, WorkQueue


def pod(name: str, version: int, **spec: object) -> dict[str, Any]:
    return {"metadata": {"namespace": "a", "name": name, "resourceVersion": str(version)}, "spec": spec}


def page(version: int, *items: dict[str, Any], more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


class LineTests(SynchronousTestCase):
    @given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())), st.integers(1, 9))
    def test_any_cut_gives_the_same_lines(self, lines: list[bytes], size: int) -> None:
        splitter, stream = LineSplitter(10_000), b"".join(line + b"\n" for line in lines)
        got = [line for i in range(0, len(stream), size) for line in splitter.feed(stream[i : i + size])]
        self.assertEqual(lines, got)

    def test_an_endless_line_is_refused_before_it_is_held(self) -> None:
        splitter = LineSplitter(10)
        self.assertEqual([], list(splitter.feed(b"x" * 10)))
        self.assertRaises(LineTooLong, list, splitter.feed(b"x"))

    def test_a_long_line_that_ends_is_refused_too(self) -> None:
        self.assertRaises(LineTooLong, list, LineSplitter(10).feed(b"x" * 11 + b"\n"))


class ReflectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.core = Reflector(self.changed, lambda: 0.5)

    def changed(self, key: str, old: object, new: object) -> None:
        self.seen.append((("add" if old is None else "change") if new is not None else "remove", key))

    def test_lists_page_by_page_then_watches_from_the_lists_version(self) -> None:
        self.assertEqual(ListStep(), self.core.start())
        self.assertEqual(ListStep(continue_="c1"), self.core.listed(page(7, pod("p", 3), more="c1")))
        self.assertFalse(self.core.synced)
        self.assertEqual([], self.seen)
        self.assertEqual(WatchStep("7", 450.0), self.core.listed(page(7, pod("q", 4))))
        self.assertTrue(self.core.synced)
        self.assertEqual([("add", "a/p"), ("add", "a/q")], self.seen)

    def test_a_watch_is_resumed_where_it_stood_without_a_list(self) -> None:
        self.core.start()
        self.core.listed(page(7))
        self.core.event({"type": "ADDED", "object": pod("p", 8)})
        self.core.event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}})
        self.assertEqual(WatchStep("20", 450.0), self.core.watch_ended(300.0))
        step = self.core.watch_ended(10.0, ApiUnreachable("cut"))
        assert isinstance(step, WatchStep)
        self.assertEqual("20", step.resource_version)
        self.assertGreater(step.delay, 0)
        self.assertEqual(1, self.core.lists)

    def test_after_410_a_list_tells_only_what_differs(self) -> None:
        self.core.start()
        self.core.listed(page(7, pod("same", 1), pod("gone", 2), pod("other", 3)))
        self.seen.clear()
        step = self.core.watch_ended(5.0, StatusError(410, "Expired"))
        assert isinstance(step, ListStep)
        self.core.listed(page(30, pod("same", 1), pod("other", 29), pod("new", 28)))
        self.assertEqual([("remove", "a/gone"), ("change", "a/other"), ("add", "a/new")], self.seen)

    def test_an_expired_page_begins_the_list_anew(self) -> None:
        self.core.start()
        self.core.listed(page(7, pod("p", 3), more="c1"))
        step = self.core.list_failed(StatusError(410, "Expired"))
        assert isinstance(step, ListStep)
        self.assertEqual("", step.continue_)
        self.core.listed(page(9))
        self.assertEqual({}, self.core.items)

    def test_failures_wait_longer_each_time_and_as_long_as_the_server_says(self) -> None:
        self.core.start()
        delays = [self.core.list_failed(ApiUnreachable("down")).delay for _ in range(8)]
        self.assertEqual(sorted(delays), delays)
        self.assertLessEqual(delays[-1], 30.0)
        self.assertGreater(delays[1], delays[0])
        self.assertEqual(99.0, self.core.list_failed(StatusError(429, retry_after=99.0)).delay)

    def test_watches_that_never_last_do_not_become_a_loop(self) -> None:
        self.core.start()
        delays = []
        for _ in range(5):
            self.core.listed(page(7))
            delays.append(self.core.watch_ended(0.01, StatusError(410, "Expired")).delay)
        self.assertGreater(delays[-1], delays[0] * 4)

    def test_events_change_the_items(self) -> None:
        self.core.start()
        self.core.listed(page(1))
        self.core.event({"type": "ADDED", "object": pod("p", 2, n=1)})
        self.core.event({"type": "MODIFIED", "object": pod("p", 3, n=2)})
        self.assertEqual({"n": 2}, self.core.items["a/p"]["spec"])
        self.core.event({"type": "DELETED", "object": pod("p", 4)})
        self.core.event({"type": "DELETED", "object": pod("never-seen", 5)})
        self.assertEqual([("add", "a/p"), ("change", "a/p"), ("remove", "a/p")], self.seen)


class BackoffTests(SynchronousTestCase):
    def test_grows_to_its_maximum_and_starts_over(self) -> None:
        backoff = Backoff(lambda: 0.999999, 1.0, 8.0)
        self.assertEqual([1, 2, 4, 8, 8], [round(backoff.next()) for _ in range(5)])
        backoff.reset()
        self.assertEqual(1, round(backoff.next()))

    def test_is_never_less_than_half(self) -> None:
        self.assertEqual(0.5, Backoff(lambda: 0.0, 1.0, 8.0).next())


class WorkQueueTests(SynchronousTestCase):
    def test_a_key_added_twice_is_done_once(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        for key in "aba":
            queue.add(key)
        self.assertEqual(["a", "b", None], [queue.take(), queue.take(), queue.take()])

    def test_a_key_added_while_it_is_done_is_done_again_afterwards(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        queue.take()
        queue.add("a")
        queue.add("a")
        self.assertIsNone(queue.take())
        queue.done("a")
        self.assertEqual("a", queue.take())
        queue.done("a")
        self.assertTrue(queue.idle)


class WorkersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[str] = []
        self.waits: dict[str, list[Deferred[None]]] = {}
        self.workers = Workers(self.clock, "test", self.handle, lambda: 0.5, concurrency=2)

    async def handle(self, key: str) -> None:
        self.started.append(key)
        wait: Deferred[None] = Deferred()
        self.waits.setdefault(key, []).append(wait)
        await wait

    def test_no_more_than_its_concurrency_at_a_time_and_never_one_key_twice(self) -> None:
        self.workers.start()
        for key in "abca":
            self.workers.add(key)
        self.clock.advance(0)
        self.workers.add("a")
        self.clock.advance(0)
        self.assertEqual(["a", "b"], self.started)
        self.waits["a"][0].callback(None)
        self.clock.advance(0)
        self.assertEqual(["a", "b", "c"], self.started)
        self.waits["b"][0].callback(None)
        self.clock.advance(0)
        self.assertEqual(["a", "b", "c", "a"], self.started)

    def test_what_was_added_before_the_start_is_done_then(self) -> None:
        self.workers.add("a")
        self.clock.advance(1)
        self.assertEqual([], self.started)
        self.workers.start()
        self.clock.advance(0)
        self.assertEqual(["a"], self.started)

    def test_a_failure_is_tried_again_later_and_later(self) -> None:
        self.workers.start()
        self.workers.add("a")
        self.clock.advance(0)
        gaps = []
        for _ in range(4):
            self.waits["a"][-1].errback(ApiUnreachable("down"))
            self.assertFalse(self.workers.idle)
            failed_at, before = self.clock.seconds(), len(self.started)
            while len(self.started) == before:
                self.clock.advance(0.05)
            gaps.append(self.clock.seconds() - failed_at)
        self.assertEqual(sorted(gaps), gaps)
        self.assertGreater(gaps[-1], gaps[0] * 4)
        self.waits["a"][-1].callback(None)
        self.assertTrue(self.workers.idle)

    def test_who_only_looks_again_is_idle(self) -> None:
        self.workers.start()
        self.workers.add_after("a", 60, pending=False)
        self.assertTrue(self.workers.idle)
        self.workers.add_after("a", 90)
        self.assertFalse(self.workers.idle)
        self.clock.advance(60)
        self.clock.advance(0)
        self.assertEqual(["a"], self.started)
        self.waits["a"][-1].callback(None)
        self.assertTrue(self.workers.idle)
        self.workers.add_after("a", 90)
        self.workers.add_after("a", 60, pending=False)
        self.assertFalse(self.workers.idle)

    def test_a_bug_in_the_handler_is_logged_and_tried_again(self) -> None:
        self.workers.start()
        self.workers.add("a")
        self.clock.advance(0)
        self.waits["a"][0].errback(ZeroDivisionError())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.clock.pump([0.3, 0])
        self.assertEqual(["a", "a"], self.started)

    def test_stop_cancels_what_is_under_way_and_starts_nothing_more(self) -> None:
        self.workers.start()
        for key in "abc":
            self.workers.add(key)
        self.clock.advance(0)
        self.successResultOf(Deferred.fromCoroutine(self.workers.stop()))
        self.clock.advance(100)
        self.assertEqual(["a", "b"], self.started)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_the_sooner_of_two_delays_counts(self) -> None:
        self.workers.start()
        self.workers.add_after("a", 10)
        self.workers.add_after("a", 5)
        self.workers.add_after("a", 20)
        self.clock.pump([5, 0])
        self.assertEqual(["a"], self.started)

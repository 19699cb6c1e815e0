"""The balancing, without network and without time: transcripts of events and commands."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from appengine.balancer.core import Balancer, Command, Item, Probe, Refuse, Send, TakeBack
from appengine.balancer.policy import Place, Policy
from appengine.balancer.rates import Rates

HERE = Place("here", "http://here:9000/")
SITE = Place("site", "http://site:9000/")
CLOUD = Place("cloud", "http://cloud:9000/", in_flight=4, uplink=True)
POLICY = Policy((HERE, SITE, CLOUD), deadline=2.0, patience=0.5, queue=3, attempt=1.0, probe=2.0)


class Transcript(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.core = Balancer(POLICY)
        for place in POLICY.places:
            self.core.found(place.name, [f"{place.name}:9000"], self.now)

    def offer(self, source: str = "cam", size: int = 1000, wanted: float = 10.0) -> tuple[Item, list[Command]]:
        item = Item(source, size, wanted, self.now)
        return item, self.core.offered(item, self.now)

    def sent(self, commands: list[Command]) -> list[str]:
        return [each.worker.place for each in commands if isinstance(each, Send)]

    def refused(self, commands: list[Command]) -> list[str]:
        return [each.reason for each in commands if isinstance(each, Refuse)]

    def teach(self, place: str, work: float) -> None:
        """Let every worker of a place have shown how long an item takes it."""
        for worker in self.core._workers.values():
            if worker.place == place:
                worker.answered(work, 0.0, self.now)

    def later(self, seconds: float, step: float = 0.05) -> list[Command]:
        commands: list[Command] = []
        end = self.now + seconds
        while self.now < end:
            self.now += step
            commands += self.core.tick(self.now)
        return commands


class ChoiceTests(Transcript):
    def test_the_first_place_is_preferred(self) -> None:
        _, commands = self.offer()
        self.assertEqual(self.sent(commands), ["here"])

    def test_overflow_goes_in_the_order_of_places(self) -> None:
        for place, work in (("here", 0.3), ("site", 0.3), ("cloud", 0.1)):
            self.teach(place, work)
        places = [self.sent(self.offer()[1])[0] for _ in range(3)]
        # A second item here would be answered after 0.6 s, which is more than the patience of 0.5 s.
        self.assertEqual(places, ["here", "site", "cloud"])

    def test_a_busy_worker_that_others_use_too_is_seen_by_its_queue(self) -> None:
        self.teach("here", 0.3)
        (here,) = [each for each in self.core._workers.values() if each.place == "here"]
        here.answered(0.3, 0.4, self.now)
        self.assertEqual(self.sent(self.offer()[1]), ["site"])
        self.now += 5.0
        self.assertEqual(self.sent(self.offer()[1]), ["here"])

    def test_a_slow_uplink_is_avoided(self) -> None:
        self.teach("here", 0.4)
        self.teach("cloud", 0.01)
        self.core.found("site", [], self.now)
        self.core._links["cloud"].carried(1000, 10.0, self.now)
        self.offer()
        _, commands = self.offer(size=1000)
        # 0.8 s here are over the patience, and still better than ten seconds of uplink.
        self.assertEqual(self.sent(commands), ["here"])

    def test_the_uplink_is_shared_by_what_is_on_its_way(self) -> None:
        self.core.found("here", [], self.now)
        self.core.found("site", [], self.now)
        self.teach("cloud", 0.01)
        self.core._links["cloud"].carried(Item("cam", 1000, 1.0, 0.0).load, 0.3, self.now)
        sent = [len(self.sent(self.offer(size=1000)[1])) for _ in range(6)]
        # The fourth would take 1.2 s with what is ahead of it, and is to be taken back after 1 s.
        self.assertEqual(sum(sent), 3)

    def test_an_empty_item_that_is_stuck_does_not_make_the_link_one_of_no_speed(self) -> None:
        self.core.found("here", [], self.now)
        self.core.found("site", [], self.now)
        self.offer(size=0)
        self.assertEqual(self.refused(self.later(1.1)), ["failed"])
        self.assertGreater(self.core._links["cloud"].bytes_per_second or 0.0, 0.0)
        self.assertTrue(self.core.status(self.now))


class BoundTests(Transcript):
    def test_the_queue_is_bounded_and_the_oldest_goes(self) -> None:
        for place in POLICY.places:
            self.core.found(place.name, [], self.now)
        items = [self.offer() for _ in range(5)]
        refused = [each.item for _, commands in items for each in commands if isinstance(each, Refuse)]
        self.assertEqual(refused, [items[0][0], items[1][0]])

    def test_what_waited_too_long_is_refused(self) -> None:
        for place in POLICY.places:
            self.core.found(place.name, [], self.now)
        self.offer()
        self.assertEqual(self.refused(self.later(1.9)), [])
        self.assertEqual(self.refused(self.later(0.2)), ["late"])

    def test_what_no_worker_can_do_in_time_is_refused_at_once(self) -> None:
        self.core.found("cloud", [], self.now)
        self.core.found("site", [], self.now)
        self.teach("here", 3.0)
        _, commands = self.offer()
        self.assertEqual(self.refused(commands), ["late"])

    def test_a_source_that_has_gone_frees_its_worker(self) -> None:
        item, _ = self.offer()
        (taken,) = self.core.withdrawn(item, self.now)
        self.assertIsInstance(taken, TakeBack)
        self.assertEqual(self.core.withdrawn(item, self.now), [])
        self.assertTrue(all(not worker.in_flight for worker in self.core._workers.values()))


class FailureTests(Transcript):
    def test_an_item_that_is_refused_goes_to_another_worker(self) -> None:
        item, _ = self.offer()
        commands = self.core.failed(item, self.now, refused=True)
        self.assertEqual(self.sent(commands), ["site"])
        self.assertEqual(self.sent(self.offer()[1]), ["site"])

    def test_an_item_that_is_not_answered_is_taken_back_and_given_to_another(self) -> None:
        self.offer()
        commands = self.later(1.1)
        self.assertEqual([type(each) for each in commands if not isinstance(each, Probe)], [TakeBack, Send])
        self.assertEqual(self.sent(commands), ["site"])

    def test_the_late_answer_of_a_former_worker_counts_for_nothing(self) -> None:
        item, _ = self.offer()
        self.later(1.1)
        self.assertEqual(self.sent(self.core.answered(item, 0.1, 0.0, self.now)), [])
        self.assertEqual(self.core.answered(item, 0.1, 0.0, self.now), [])
        self.assertEqual(self.core.counts["answered"], 1)

    def test_a_worker_that_is_down_is_probed_and_comes_back(self) -> None:
        item, _ = self.offer()
        self.core.failed(item, self.now, refused=True)
        self.core.answered(item, 0.1, 0.0, self.now)
        probes = [each for each in self.later(2.1) if isinstance(each, Probe) and each.worker.place == "here"]
        self.assertEqual(len(probes), 1)
        self.assertEqual(self.sent(self.offer()[1]), ["site"])
        self.core.probed(probes[0].worker, 0, 0.01, self.now)
        self.assertEqual(self.sent(self.offer()[1]), ["here"])

    def test_an_idle_uplink_is_measured_by_probes(self) -> None:
        self.core._links["cloud"].carried(1000, 100.0, self.now)
        probe = next(each for each in self.later(2.1) if isinstance(each, Probe))
        self.assertEqual(probe.worker.place, "cloud")
        for _ in range(20):
            self.core.probed(probe.worker, probe.size, 0.01, self.now)
        self.assertGreater(self.core._links["cloud"].bytes_per_second or 0, 100_000)

    def test_nobody_left_to_try_is_a_refusal(self) -> None:
        self.core.found("site", [], self.now)
        self.core.found("cloud", [], self.now)
        item, _ = self.offer()
        self.assertEqual(self.refused(self.core.failed(item, self.now, refused=True)), ["failed"])


class RateTests(Transcript):
    """A worker that does five a second, and a source that would like ten."""

    def drive(self, seconds: float, work: Callable[[float], float]) -> tuple[list[float], list[int]]:
        """The delays of what was answered, and how many came and were refused in each second."""
        self.core.found("site", [], self.now)
        self.core.found("cloud", [], self.now)
        at_work: list[Item] = []
        ready = due = self.now
        delays: list[float] = []
        lost = [0] * (int(seconds) + 2)
        item = Item("cam", 1000, 10.0, self.now)
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            commands: list[Command] = []
            if at_work and self.now >= ready:
                item = at_work.pop(0)
                delays.append(self.now - item.came)
                commands += self.core.answered(item, work(self.now), 0.0, self.now)
                ready = self.now + work(self.now)
            if self.now >= due:
                item = Item("cam", 1000, 10.0, self.now)
                commands += self.core.offered(item, self.now)
                due = self.now + 1 / self.core.advised(item)
            commands += self.core.tick(self.now)
            for command in commands:
                if isinstance(command, Send):
                    if not at_work:
                        ready = self.now + work(self.now)
                    at_work.append(command.item)
                elif isinstance(command, TakeBack):
                    at_work.remove(command.item)
                elif isinstance(command, Refuse):
                    lost[int(self.now)] += 1
        return delays, lost

    def test_the_source_is_slowed_down_instead_of_being_refused(self) -> None:
        delays, lost = self.drive(40.0, lambda _: 0.2)
        self.assertLess(max(delays), POLICY.deadline)
        self.assertLess(sum(lost[10:]), 10, "of about 150 that came in the last 30 seconds")
        self.assertGreater(len(delays), 0.75 * 40 * 5, "the worker is kept busy")

    def test_a_source_that_wants_more_gets_it_at_once(self) -> None:
        item, _ = self.offer(wanted=2.0)
        self.assertEqual(self.core.advised(item), 2.0)
        item, _ = self.offer(wanted=16.0)
        self.assertEqual(self.core.advised(item), 16.0)

    def test_one_jam_is_cut_for_once(self) -> None:
        rates = Rates(patience=0.5, least=0.5)
        rates.offered("cam", 10.0, 0.0)
        # All of them came in the first second, and are answered late in the next three.
        for number in range(30):
            rates.settled("cam", number / 30, 1.6 + number / 10, answered=True)
        self.assertEqual(rates.advised("cam"), 8.5)

    def test_the_rate_comes_back(self) -> None:
        self.drive(60.0, lambda now: 0.4 if now < 20 else 0.02)
        self.assertEqual(self.core.advised(Item("cam", 1, 10.0, self.now)), 10.0)


class AnyCourseTests(SynchronousTestCase):
    """Whatever happens: every item is settled once, in time; no bound is exceeded."""

    @given(st.lists(st.tuples(st.sampled_from("oofaaptwd"), st.integers(0, 5), st.floats(0.0, 0.7)), max_size=80))
    @settings(max_examples=150, deadline=None)
    def test_items_are_settled_once(self, course: list[tuple[str, int, float]]) -> None:
        core = Balancer(POLICY)
        now = 0.0
        for place in POLICY.places:
            core.found(place.name, [f"{place.name}:1", f"{place.name}:2"], now)
        open_items: dict[Item, bool] = {}
        probes: list[Probe] = []

        def obey(commands: list[Command]) -> None:
            for command in commands:
                match command:
                    case Send(item, worker):
                        self.assertIn(item, open_items)
                        self.assertLessEqual(worker.in_flight, worker.limit)
                        self.assertNotIn(worker.address, item.tried)
                        open_items[item] = True
                    case TakeBack(item, _):
                        open_items[item] = False
                    case Refuse(item, _):
                        open_items.pop(item)
                    case Probe():
                        probes.append(command)

        for what, which, seconds in course:
            now += seconds
            flying = [item for item, sent in open_items.items() if sent]
            chosen = flying[which % len(flying)] if flying else None
            if what == "o":
                item = Item(f"cam-{which}", 1000 * which, 5.0, now)
                open_items[item] = False
                obey(core.offered(item, now))
            elif what == "f" and chosen is not None:
                open_items[chosen] = False
                obey(core.failed(chosen, now, refused=which % 2 == 0))
            elif what == "a" and chosen is not None:
                del open_items[chosen]
                obey(core.answered(chosen, seconds, 0.0, now))
            elif what == "w" and chosen is not None:
                del open_items[chosen]
                obey([each for each in core.withdrawn(chosen, now) if not isinstance(each, TakeBack)])
            elif what == "p" and probes:
                probe = probes.pop()
                obey(core.probed(probe.worker, probe.size, None if which % 2 else seconds, now))
            elif what == "d":
                obey(core.found("site", [f"site:{each}" for each in range(which)], now))
            obey(core.tick(now))
            self.assertLessEqual(sum(not sent for sent in open_items.values()), POLICY.queue)
        for _ in range(100):
            now += 0.1
            obey(core.tick(now))
        self.assertEqual(open_items, {})
        self.assertEqual([link.ahead for link in core._links.values()], [0])

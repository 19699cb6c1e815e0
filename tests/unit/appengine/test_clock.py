"""A device's clock begins in 1970 and is set at any moment, forward and back: pods do not notice."""

from __future__ import annotations

import json

from appengine.remembering import age
from metasync.model import KeyRange
from tests.unit.appengine.world import START, EngineWorld, Json, pod_manifest

# What the clock shows is as much off, before it is set right.
BOOTED_IN_1970 = -START
DAY = 86400.0


class ClockTests(EngineWorld):
    def set_clocks(self, error: float) -> None:
        self.clock_error = error
        self.settle()

    def events(self) -> list[Json]:
        found = self.run_coroutine(self.store.range(KeyRange.prefix(f"{self.keys.reported}events/".encode())))
        return [json.loads(kv.value) for kv in found.kvs]

    def test_times_are_shown_by_the_clock(self) -> None:
        self.clock_error = BOOTED_IN_1970
        pod = pod_manifest()
        self.apply(pod)
        self.assertTrue(self.status(pod)["startTime"].startswith("1970-01-01"))
        self.set_clocks(0)
        self.settle(10)
        self.runtime.end(self.named(), 1)
        self.settle()
        self.assertTrue(self.container_status(pod)["state"]["running"]["startedAt"].startswith("2023-11-14"))
        (started,) = [event for event in self.events() if event["reason"] == "Started"]
        self.assertEqual(
            (started["firstTimestamp"][:4], started["lastTimestamp"][:4], started["count"]), ("1970", "2023", 2)
        )

    def test_healthy_pods_are_left_alone(self) -> None:
        probe = {"exec": {"command": ["x"]}, "initialDelaySeconds": 5}
        pod = pod_manifest(livenessProbe=probe, spec={"activeDeadlineSeconds": 300})
        self.clock_error = BOOTED_IN_1970
        self.apply(pod)
        before = dict(self.runtime.containers)
        for error in (0.0, BOOTED_IN_1970, DAY, -DAY, 0.0):
            self.set_clocks(error)
            self.stop()
            self.set_clocks(error)
            self.start()
            self.settle(20)
        self.assertEqual(self.runtime.containers, before)
        self.assertEqual(self.status(pod)["phase"], "Running")

    def test_back_off_lasts_as_long_whatever_the_clock_shows(self) -> None:
        pod = pod_manifest()
        self.clock_error = BOOTED_IN_1970
        self.apply(pod)
        self.runtime.end(self.named(), 1)
        self.settle()
        for attempt, wait, error in ((1, 10, 0.0), (2, 20, BOOTED_IN_1970), (3, 40, DAY), (4, 80, -DAY), (5, 160, 0.0)):
            self.runtime.end(self.named(), 1)
            self.settle()
            self.set_clocks(error)
            self.settle(wait - 3)
            self.assertEqual(self.named().attempt, attempt, f"too early after the clock was set by {error}")
            self.assertIn(f"({pod['metadata']['uid']})", self.container_status(pod)["state"]["waiting"]["message"])
            self.settle(3)
            self.assertEqual(self.named().attempt, attempt + 1, f"too late after the clock was set by {error}")

    def test_back_off_is_forgotten_in_its_own_time(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        for _ in range(2):
            self.runtime.end(self.named(), 1)
            self.settle(12)
        self.set_clocks(DAY)
        self.runtime.end(self.named(), 1)
        self.settle(15)
        self.assertEqual(self.named().attempt, 2, "a day more on the clock is no day without failures")

    def test_pull_back_off(self) -> None:
        self.clock_error = BOOTED_IN_1970
        self.apply(pod_manifest(image="far.example/app:1"))
        self.assertEqual(len(self.runtime.pulls), 1)
        self.set_clocks(0)
        self.settle(5)
        self.assertEqual(len(self.runtime.pulls), 1)
        self.set_clocks(BOOTED_IN_1970)
        self.settle(6)
        self.assertEqual(len(self.runtime.pulls), 2)

    def test_deadline_counts_from_the_start(self) -> None:
        pod = pod_manifest(spec={"activeDeadlineSeconds": 60})
        self.clock_error = BOOTED_IN_1970
        self.apply(pod)
        self.set_clocks(0)
        self.settle(50)
        self.assertEqual(self.status(pod)["phase"], "Running")
        self.set_clocks(BOOTED_IN_1970)
        self.settle(10)
        self.assertEqual(self.status(pod)["reason"], "DeadlineExceeded")

    def test_deadline_outlives_the_agent(self) -> None:
        pod = pod_manifest(spec={"activeDeadlineSeconds": 60})
        self.apply(pod)
        self.settle(50)
        self.stop()
        self.start()
        self.settle(5)
        self.assertEqual(self.status(pod)["phase"], "Running")
        self.settle(5)
        self.assertEqual(self.status(pod)["reason"], "DeadlineExceeded")

    def test_grace_period(self) -> None:
        self.runtime.stubborn.add("main")
        pod = pod_manifest(spec={"terminationGracePeriodSeconds": 30})
        self.apply(pod)
        self.delete("web")
        self.set_clocks(DAY)
        self.assertTrue(self.named().running)
        self.set_clocks(-DAY)
        self.settle(30)
        self.assertEqual(self.runtime.containers, {})

    def test_events_grow_old_in_their_own_time(self) -> None:
        self.apply(pod_manifest())
        self.set_clocks(DAY)
        self.engine.pods()[0].event("Normal", "Test", "another")
        self.settle()
        self.assertEqual(sorted(event["reason"] for event in self.events()), ["Started", "Test"])

    def test_age(self) -> None:
        self.assertEqual(age("2023-11-14T22:13:20Z", START + 5), 5)
        self.assertEqual(age("1970-01-01T00:01:00Z", START), 0, "the clock had not been set")
        self.assertEqual(age("2023-11-14T22:13:20Z", 60), 0, "the clock has not been set")
        self.assertEqual(age("", START), 0)

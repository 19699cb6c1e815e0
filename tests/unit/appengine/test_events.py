"""Events: what happened, how often, and never too many."""

from __future__ import annotations

import json

from appengine.events import MAX_EVENTS
from metasync.model import KeyRange
from tests.unit.appengine.world import EngineWorld, Json, pod_manifest


class EventTests(EngineWorld):
    def events(self) -> list[Json]:
        prefix = f"{self.keys.reported}events/".encode()
        found = self.run_coroutine(self.store.range(KeyRange.prefix(prefix)))
        return [json.loads(kv.value) for kv in found.kvs]

    def reasons(self) -> set[str]:
        return {event["reason"] for event in self.events()}

    def test_the_life_of_a_pod(self) -> None:
        pod = pod_manifest(livenessProbe={"exec": {"command": ["x"]}})
        self.apply(pod)
        self.assertEqual(self.reasons(), {"Started"})
        (event,) = self.events()
        self.assertEqual(event["involvedObject"]["uid"], "uid-web")
        self.assertTrue(event["metadata"]["name"].startswith("web."))
        for _ in range(2):
            self.runtime.end(self.named(), 1)
            self.settle()
        self.assertIn("BackOff", self.reasons())
        self.delete("web")
        self.assertIn("Started", self.reasons())

    def test_the_same_again_is_counted(self) -> None:
        self.apply(pod_manifest(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]))
        self.settle(60)
        (event,) = [e for e in self.events() if e["reason"] == "Failed"]
        self.assertIn('secret "s" not found', event["message"])
        self.assertGreater(event["count"], 3)
        self.assertLess(event["firstTimestamp"], event["lastTimestamp"])

    def test_never_too_many_nor_too_old(self) -> None:
        pod = pod_manifest()
        self.apply(pod)
        worker = self.engine.pods()[0]
        for number in range(MAX_EVENTS + 50):
            worker.event("Normal", "Test", f"number {number}")
        self.settle()
        self.assertEqual(len(self.events()), MAX_EVENTS)
        self.clock.advance(3601)
        worker.event("Normal", "Test", "the last")
        self.settle()
        self.assertEqual([event["message"] for event in self.events()], ["the last"])

    def test_a_new_agent_goes_on_counting(self) -> None:
        self.apply(pod_manifest())
        self.stop()
        self.start()
        self.clock.advance(20)
        self.engine.pods()[0].event("Normal", "Started", "Started container main", "main")
        self.settle()
        self.assertEqual([event["count"] for event in self.events()], [2])

"""What nodes report, as Kubernetes Events."""

from __future__ import annotations

from typing import Any

from edgectl.nodes import rfc3339
from metasync.keys import NodeKeys
from tests.unit.edgectl.control_world import ControlTestCase, edge, pod


class EventTests(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory.set(edge())
        self.api.put("pods", pod("p", uid="u1"))
        self.api.put("pods", pod("theirs", node="other", uid="u2"))
        self.start()

    def report(self, name: str = "p.1", node: str = "edge1", about: Any = None, **fields: Any) -> None:
        about = about or {"kind": "Pod", "namespace": "default", "name": "p", "uid": "u1"}
        now = rfc3339(self.clock.seconds())
        event = {"involvedObject": about, "reason": "BackOff", "message": "m", "type": "Warning", "lastTimestamp": now}
        self.put(f"{NodeKeys('default', node).reported}events/default/{name}".encode(), {**event, **fields})
        self.settle()

    def events(self) -> dict[str, Any]:
        return self.api.objects["events"]

    def test_an_event_of_a_pod(self) -> None:
        self.report(count=1)
        event = self.events()["default/p.1"]
        self.assertEqual(("BackOff", "Warning", 1), (event["reason"], event["type"], event["count"]))
        self.assertEqual({"component": "kubebus", "host": "edge1"}, event["source"])
        self.assertEqual("u1", event["involvedObject"]["uid"])

    def test_counted_again_it_is_the_same_event(self) -> None:
        self.report(count=1)
        self.report(count=2)
        self.assertEqual(["default/p.1"], list(self.events()))
        self.assertEqual(2, self.events()["default/p.1"]["count"])

    def test_a_restarted_controller_makes_nothing_twice(self) -> None:
        self.report(count=1)
        before = self.events()["default/p.1"]
        self.stop()
        self.start()
        self.assertEqual(before, self.events()["default/p.1"])

    def test_an_event_of_the_node_itself(self) -> None:
        self.report("edge1.1", about={"kind": "Node", "name": "edge1"})
        self.assertEqual("Node", self.events()["default/edge1.1"]["involvedObject"]["kind"])

    def test_a_node_speaks_only_of_itself_and_its_own_pods(self) -> None:
        self.report("theirs.1", about={"kind": "Pod", "namespace": "default", "name": "theirs", "uid": "u2"})
        self.report("p.2", about={"kind": "Pod", "namespace": "default", "name": "p", "uid": "old"})
        self.report("other.1", about={"kind": "Node", "name": "other"})
        self.report("x.1", about={"kind": "Secret", "namespace": "default", "name": "x"})
        self.report("somebody-elses.1")
        self.report("p.3", lastTimestamp="yesterday")
        self.report("p.4", lastTimestamp="2020-01-01T00:00:00Z")
        self.assertEqual({}, self.events())

    def test_a_node_that_floods_is_slowed_down_and_loses_nothing(self) -> None:
        now = rfc3339(self.clock.seconds())
        about = {"kind": "Pod", "namespace": "default", "name": "p", "uid": "u1"}
        for number in range(40):
            key = f"{NodeKeys('default', 'edge1').reported}events/default/p.{number}".encode()
            self.put(key, {"involvedObject": about, "reason": "R", "lastTimestamp": now})
        self.settle()
        self.assertIn(len(self.events()), (25, 26))
        self.settle(200)
        self.assertEqual(40, len(self.events()))

    def test_too_long_a_message_is_cut(self) -> None:
        self.report(message="x" * 5000)
        self.assertEqual(1024, len(self.events()["default/p.1"]["message"]))

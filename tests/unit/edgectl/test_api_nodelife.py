"""Nodes that fall silent, and the pods on nodes that are tainted."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.meta import micro_timestamp
from edgectl.apiserver.resources import LEASE, NAMESPACE, NODE, POD
from edgectl.workloads.nodelife import EvictionController, NodeLifeController, stays_for
from tests.unit.edgectl.api_world import ApiTestCase, Kubelets, Obj


class NodeLifeTests(ApiTestCase):
    controllers = (NodeLifeController, EvictionController)

    def setUp(self) -> None:
        super().setUp()
        self.make(NAMESPACE, {"metadata": {"name": "kube-node-lease"}}, "")
        self.add_node("edge-a")
        self.kubelets = Kubelets(self.api)

    def lease(self) -> None:
        spec = {"holderIdentity": "edge-a", "renewTime": micro_timestamp(self.clock.seconds())}
        self.make(LEASE, {"metadata": {"name": "edge-a"}, "spec": spec}, "kube-node-lease")

    def renew(self) -> None:
        self.change(LEASE, "edge-a", "kube-node-lease", renewTime=micro_timestamp(self.clock.seconds()))

    def pod(self, name: str, **spec: Any) -> None:
        containers = [{"name": "c", "image": "x"}]
        self.make(POD, {"metadata": {"name": name}, "spec": {"nodeName": "edge-a", "containers": containers, **spec}})

    def taint(self, **taint: str) -> None:
        self.change(NODE, "edge-a", "", taints=[taint])

    def ready(self) -> str:
        conditions = self.one(NODE, "edge-a", "")["status"]["conditions"]
        return str(next(one["status"] for one in conditions if one["type"] == "Ready"))

    def taints(self) -> list[tuple[str, str]]:
        return [(one["key"], one["effect"]) for one in self.one(NODE, "edge-a", "").get("spec", {}).get("taints", ())]

    def test_a_node_that_renews_stays_ready(self) -> None:
        self.lease()
        for _ in range(10):
            self.settle(10)
            self.renew()
        self.assertEqual((self.ready(), self.taints()), ("True", []))

    def test_a_silent_node_is_unreachable_and_loses_its_pods_in_time(self) -> None:
        self.lease()
        self.pod("p")
        self.settle(41)
        self.assertEqual(self.ready(), "Unknown")
        key = "node.kubernetes.io/unreachable"
        self.assertEqual(self.taints(), [(key, "NoExecute"), (key, "NoSchedule")])
        self.settle(290)
        self.assertEqual(len(self.all(POD)), 1)
        self.settle(20)
        self.assertEqual(self.all(POD), [])

    def test_one_that_comes_back_keeps_its_pods(self) -> None:
        self.lease()
        self.pod("p")
        self.settle(100)
        self.renew()
        self.assertEqual(self.taints(), [])
        for _ in range(40):
            self.settle(10)
            self.renew()
        self.assertEqual(len(self.all(POD)), 1)

    def test_a_node_without_a_lease_is_left_alone(self) -> None:
        self.settle(1000)
        self.assertEqual((self.ready(), self.taints()), ("True", []))

    def test_the_time_before_the_start_does_not_count(self) -> None:
        self.lease()
        self.running[0].stop()
        self.settle(3600)
        again = NodeLifeController(self.clock, self.api)
        again.start()
        self.addCleanup(again.stop)
        self.settle(30)
        self.assertEqual(self.taints(), [])

    def test_a_no_schedule_taint_moves_nothing(self) -> None:
        self.pod("p")
        self.taint(key="away", effect="NoSchedule")
        self.settle(1000)
        self.assertEqual(len(self.all(POD)), 1)

    def test_a_no_execute_taint_moves_what_does_not_tolerate_it(self) -> None:
        self.pod("plain")
        self.pod("brave", tolerations=[{"key": "fire", "operator": "Exists"}])
        self.pod("slow", tolerations=[{"key": "fire", "operator": "Exists", "tolerationSeconds": 60}])
        self.taint(key="fire", effect="NoExecute")
        self.assertEqual([one["metadata"]["name"] for one in self.all(POD)], ["brave", "slow"])
        self.settle(61)
        self.assertEqual([one["metadata"]["name"] for one in self.all(POD)], ["brave"])

    def test_how_long_a_pod_stays(self) -> None:
        fire: Obj = {"key": "fire", "effect": "NoExecute"}
        away: Obj = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
        everything: Obj = {"spec": {"tolerations": [{"operator": "Exists"}]}}
        self.assertEqual((stays_for({"spec": {}}, fire), stays_for({"spec": {}}, away)), (0.0, 300.0))
        self.assertIsNone(stays_for(everything, fire))

"""Where pods go, and why they go nowhere."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.resources import EVENT, NAMESPACE, NODE, POD
from edgectl.scheduler import Scheduler
from edgectl.scheduler_fit import tolerates
from edgectl.workloads.housekeeping import EventCollector, PodCollector
from edgectl.workloads.namespaces import NamespaceController
from tests.unit.edgectl.api_world import ApiTestCase, Kubelets, Obj


def required(kind: str, key: str = "kubernetes.io/hostname", **labels: str) -> Obj:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": key}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


class SchedulerTests(ApiTestCase):
    controllers = (Scheduler,)

    def setUp(self) -> None:
        super().setUp()
        self.add_node("edge-a", **{"kubernetes.io/hostname": "edge-a", "site": "one", "speed": "5"})
        self.add_node("edge-b", **{"kubernetes.io/hostname": "edge-b", "site": "two", "speed": "9"})

    def pod(self, name: str, requests: Obj | None = None, labels: Obj | None = None, **spec: Any) -> str:
        """Make a pod; the node it came to, empty for none."""
        container = {"name": "main", "image": "x", "resources": {"requests": requests or {}}}
        spec = {"containers": [container], **spec}
        self.make(POD, {"metadata": {"name": name, "labels": labels or {"app": name}}, "spec": spec})
        return self.where(name)

    def where(self, name: str) -> str:
        return str(self.one(POD, name)["spec"].get("nodeName", ""))

    def reason(self, name: str) -> str:
        conditions = self.one(POD, name)["status"]["conditions"]
        return str(next(one["message"] for one in conditions if one["type"] == "PodScheduled"))

    def test_a_node_selector_decides(self) -> None:
        self.assertEqual(self.pod("p", nodeSelector={"site": "two"}), "edge-b")

    def test_a_selector_that_no_node_meets_is_told(self) -> None:
        self.assertEqual(self.pod("p", nodeSelector={"site": "three"}), "")
        self.assertEqual(
            self.reason("p"), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        )

    def test_a_pod_that_waits_goes_when_a_node_comes(self) -> None:
        self.pod("p", nodeSelector={"site": "three"})
        self.add_node("edge-c", site="three")
        self.assertEqual(self.where("p"), "edge-c")

    def test_node_affinity_by_number(self) -> None:
        faster = {"key": "speed", "operator": "Gt", "values": ["7"]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [faster]}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        self.assertEqual(self.pod("p", affinity=affinity), "edge-b")

    def test_a_preference_decides_among_those_that_fit(self) -> None:
        slow = {"matchExpressions": [{"key": "speed", "operator": "In", "values": ["5"]}]}
        preferred = [{"weight": 10, "preference": slow}]
        affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
        self.assertEqual([self.pod(f"p{n}", affinity=affinity) for n in range(3)], ["edge-a"] * 3)

    def test_pods_spread(self) -> None:
        places = [self.pod(f"p{n}") for n in range(4)]
        self.assertEqual(sorted(places), ["edge-a", "edge-a", "edge-b", "edge-b"])

    def test_cpu_runs_out_and_comes_back(self) -> None:
        self.assertEqual({self.pod("one", {"cpu": "3"}), self.pod("two", {"cpu": "3"})}, {"edge-a", "edge-b"})
        self.assertEqual(self.pod("three", {"cpu": "1500m"}), "")
        self.assertIn("2 Insufficient cpu", self.reason("three"))
        freed = self.where("one")
        self.remove(POD, "one", grace=0)
        self.assertEqual(self.where("three"), freed)

    def test_an_ended_pod_takes_no_room(self) -> None:
        self.pod("one", {"cpu": "4"}, nodeName="edge-a")
        ended = {"phase": "Succeeded"}
        self.done(self.api.rewrite(POD, "default", "one", lambda obj: {**obj, "status": ended}))
        self.settle()
        self.assertEqual(self.pod("two", {"cpu": "4"}, nodeSelector={"site": "one"}), "edge-a")

    def test_a_taint_keeps_off_who_does_not_tolerate_it(self) -> None:
        self.add_node("edge-c", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], site="three")
        self.assertEqual(self.pod("p", nodeSelector={"site": "three"}), "")
        self.assertIn("untolerated taint {gpu: yes}", self.reason("p"))
        toleration = {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
        self.assertEqual(self.pod("q", nodeSelector={"site": "three"}, tolerations=[toleration]), "edge-c")

    def test_a_node_that_is_not_ready_gets_none(self) -> None:
        self.add_node("edge-c", ready=False, site="three")
        self.assertEqual(self.pod("p", nodeSelector={"site": "three"}), "")

    def test_a_cordoned_node_gets_none(self) -> None:
        self.change(NODE, "edge-a", "", unschedulable=True)
        self.assertEqual([self.pod(f"p{n}") for n in range(3)], ["edge-b"] * 3)

    def test_a_host_port_is_taken_once_a_node(self) -> None:
        port = {"containerPort": 80, "hostPort": 80}
        containers = [{"name": "main", "image": "x", "ports": [port]}]
        self.assertEqual({self.pod(name, containers=containers) for name in ("one", "two")}, {"edge-a", "edge-b"})
        self.assertEqual(self.pod("three", containers=containers), "")
        self.assertIn("free ports", self.reason("three"))

    def test_anti_affinity_keeps_apart(self) -> None:
        rules = required("podAntiAffinity", app="web")
        labels = {"app": "web"}
        self.assertEqual(
            {self.pod(name, labels=labels, affinity=rules) for name in ("one", "two")}, {"edge-a", "edge-b"}
        )
        self.assertEqual(self.pod("three", labels=labels, affinity=rules), "")
        self.assertIn("anti-affinity", self.reason("three"))

    def test_the_anti_affinity_of_those_there_counts_too(self) -> None:
        self.pod("loner", affinity=required("podAntiAffinity", app="noisy"), nodeSelector={"site": "one"})
        self.assertEqual([self.pod(f"n{n}", labels={"app": "noisy"}) for n in range(2)], ["edge-b", "edge-b"])

    def test_affinity_keeps_together_and_the_first_goes_anywhere(self) -> None:
        rules, labels = required("podAffinity", "site", app="pair"), {"app": "pair"}
        places = {self.pod(f"p{n}", labels=labels, affinity=rules) for n in range(3)}
        self.assertEqual(len(places - {""}), 1)
        self.assertNotIn("", places)

    def test_affinity_to_what_is_not_there_waits(self) -> None:
        self.assertEqual(self.pod("p", affinity=required("podAffinity", app="absent")), "")

    def test_another_schedulers_pod_is_left_alone(self) -> None:
        self.assertEqual(self.pod("p", schedulerName="other"), "")
        self.assertNotIn("conditions", self.one(POD, "p")["status"])

    def test_a_pod_behind_a_gate_waits(self) -> None:
        self.assertEqual(self.pod("p", schedulingGates=[{"name": "wait"}]), "")

    def test_a_toleration_of_everything(self) -> None:
        taint = {"key": "any", "value": "x", "effect": "NoExecute"}
        self.assertTrue(tolerates([{"operator": "Exists"}], taint))
        self.assertFalse(tolerates([{"operator": "Exists", "effect": "NoSchedule"}], taint))
        self.assertFalse(tolerates([{"key": "any", "value": "y"}], taint))


class HousekeepingTests(ApiTestCase):
    controllers = (PodCollector, EventCollector, NamespaceController)

    def test_pods_of_a_lost_node_go_after_the_quarantine(self) -> None:
        self.add_node("edge-a")
        self.make(POD, {"metadata": {"name": "p"}, "spec": {"nodeName": "edge-a", "containers": [CONTAINER]}})
        self.remove(NODE, "edge-a", "")
        self.settle(39)
        self.assertEqual(len(self.all(POD)), 1)
        self.settle(2)
        self.assertEqual(self.all(POD), [])

    def test_pods_stay_when_the_node_comes_back(self) -> None:
        self.add_node("edge-a")
        self.make(POD, {"metadata": {"name": "p"}, "spec": {"nodeName": "edge-a", "containers": [CONTAINER]}})
        self.remove(NODE, "edge-a", "")
        self.settle(20)
        self.add_node("edge-a")
        self.settle(60)
        self.assertEqual(len(self.all(POD)), 1)

    def test_an_event_goes_an_hour_after_it_was_last_written(self) -> None:
        self.make(EVENT, {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "reason": "X"})
        self.settle(3599)
        self.assertEqual(len(self.all(EVENT)), 1)
        self.settle(2)
        self.assertEqual(self.all(EVENT), [])

    def test_a_namespace_waits_for_its_pods(self) -> None:
        self.make(NAMESPACE, {"metadata": {"name": "shop"}}, "")
        self.add_node("edge-a")
        spec = {"nodeName": "edge-a", "containers": [CONTAINER]}
        self.make(POD, {"metadata": {"name": "p"}, "spec": spec}, "shop")
        self.remove(NAMESPACE, "shop", "")
        self.settle(5)
        self.assertEqual(self.one(NAMESPACE, "shop", "")["status"]["phase"], "Terminating")
        Kubelets(self.api)
        self.done(
            self.api.change(
                POD, "shop", "p", lambda obj: {**obj, "metadata": {**obj["metadata"], "labels": {"a": "b"}}}
            )
        )
        self.settle(2)
        self.assertNotIn("shop", [one["metadata"]["name"] for one in self.all(NAMESPACE, "")])


CONTAINER: Obj = {"name": "main", "image": "x"}

"""Disruption budgets: what they allow, evictions that must wait, and what the budget is spent on."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.options import WriteOptions
from edgectl.apiserver.resources import DEPLOYMENT, DISRUPTION_BUDGET, POD
from edgectl.apiserver.subresources import evict
from edgectl.scheduler import Scheduler
from edgectl.workloads.collector import Collector
from edgectl.workloads.deployments import DeploymentController
from edgectl.workloads.disruption import DISRUPTED_SECONDS, DisruptionController
from edgectl.workloads.replicasets import ReplicaSetController
from tests.unit.edgectl.api_world import ApiTestCase, Kubelets

Obj = dict[str, Any]
LABELS = {"app": "web"}
EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction"}


class DisruptionTests(ApiTestCase):
    controllers = (Scheduler, DeploymentController, ReplicaSetController, Collector, DisruptionController)

    def setUp(self) -> None:
        super().setUp()
        self.kubelets = Kubelets(self.api)
        self.add_node("n1")

    def deploy(self, replicas: int, image: str = "web") -> None:
        template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": image}]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template}
        self.make(DEPLOYMENT, {"metadata": {"name": "web"}, "spec": spec})

    def budget(self, name: str = "web", **spec: Any) -> Obj:
        spec = {"selector": {"matchLabels": LABELS}, **spec}
        self.make(DISRUPTION_BUDGET, {"metadata": {"name": name}, "spec": spec})
        self.settle()
        return self.status(name)

    def status(self, name: str = "web") -> Obj:
        status: Obj = self.one(DISRUPTION_BUDGET, name)["status"]
        return status

    def counts(self, status: Obj) -> tuple[int, int, int, int]:
        return tuple(status[key] for key in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"))

    def evict(self, name: str, *, dry_run: bool = False) -> None:
        self.done(evict(self.api, "default", name, EVICTION, WriteOptions(dry_run=dry_run)))

    def names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.all(POD)]

    def refusal(self, name: str) -> ApiError:
        error = self.assertRaises(ApiError, self.evict, name)
        assert isinstance(error, ApiError)
        return error

    def test_what_budgets_allow(self) -> None:
        self.deploy(4)
        for name, spec, counts in (
            ("a", {"minAvailable": 3}, (1, 4, 3, 4)),
            ("b", {"minAvailable": "60%"}, (1, 4, 3, 4)),
            ("c", {"maxUnavailable": 1}, (1, 4, 3, 4)),
            ("d", {"maxUnavailable": "30%"}, (2, 4, 2, 4)),
            ("e", {"minAvailable": 5}, (0, 4, 5, 4)),
            ("f", {"maxUnavailable": 0}, (0, 4, 4, 4)),
            ("g", {"minAvailable": 1, "selector": {}}, (3, 4, 1, 4)),
            ("h", {"minAvailable": 1, "selector": {"matchLabels": {"app": "other"}}}, (0, 0, 1, 0)),
        ):
            with self.subTest(spec):
                self.assertEqual(counts, self.counts(self.budget(name, **spec)))
        (condition,) = self.status("f")["conditions"]
        self.assertEqual(("DisruptionAllowed", "False"), (condition["type"], condition["status"]))

    def test_an_eviction_is_paid_for_and_the_next_must_wait(self) -> None:
        self.deploy(2)
        self.budget(minAvailable=1)
        first, second = self.names()
        self.evict(first, dry_run=True)
        self.assertEqual(1, self.status()["disruptionsAllowed"])
        # Nothing runs in between: the second comes before the controller has looked.
        self.evict(first)
        error = self.refusal(second)
        self.assertEqual((429, "TooManyRequests"), (error.code, error.reason))
        self.assertIn("needs 1 healthy pods and has 2 currently", error.details["causes"][0]["message"])
        self.settle(1)
        self.assertEqual((1, 2, 1, 2), self.counts(self.status()), "its replacement is ready")
        self.assertNotIn("disruptedPods", self.status())
        self.evict(second)
        self.settle(1)
        self.assertNotIn(second, self.names())

    def test_an_eviction_that_was_allowed_and_never_came_is_forgotten(self) -> None:
        self.deploy(2)
        self.budget(minAvailable=1)
        name = self.names()[0]

        def pay(budget: Obj) -> Obj:
            status = {**budget["status"], "disruptionsAllowed": 0}
            return {**budget, "status": {**status, "disruptedPods": {name: "2023-11-14T22:13:20Z"}}}

        self.done(self.api.rewrite(DISRUPTION_BUDGET, "default", "web", pay))
        self.settle(1)
        self.assertEqual((0, 1, 1, 2), self.counts(self.status()))
        self.settle(DISRUPTED_SECONDS)
        self.assertEqual((1, 2, 1, 2), self.counts(self.status()))

    def test_pods_that_nobody_misses_go_at_once(self) -> None:
        self.kubelets.silent.add("n1")
        self.deploy(1)
        self.budget(minAvailable=1)
        (name,) = self.names()
        self.evict(name)

    def test_pods_that_are_not_ready(self) -> None:
        self.kubelets.broken.add("bad")
        self.deploy(1, "bad")
        self.budget(minAvailable=1)
        (name,) = self.names()
        self.assertEqual(429, self.refusal(name).code, "it may yet get ready")
        self.change(DISRUPTION_BUDGET, "web", unhealthyPodEvictionPolicy="AlwaysAllow")
        self.settle()
        self.evict(name)

    def test_a_budget_that_has_just_changed_is_waited_for(self) -> None:
        self.deploy(2)
        self.budget(minAvailable=1)
        self.running[-1].stop()
        self.change(DISRUPTION_BUDGET, "web", minAvailable=2)
        error = self.refusal(self.names()[0])
        self.assertEqual((429, 10), (error.code, error.details["retryAfterSeconds"]))

    def test_two_budgets_for_one_pod_are_one_too_many(self) -> None:
        self.deploy(2)
        self.budget("a", minAvailable=0)
        self.budget("b", minAvailable=0)
        self.assertEqual(500, self.refusal(self.names()[0]).code)

    def test_pods_without_a_scale_cannot_be_counted_by_share(self) -> None:
        pod = {"metadata": {"name": "alone", "labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        self.make(POD, pod)
        status = self.budget("a", maxUnavailable=1)
        self.assertEqual(0, status["disruptionsAllowed"])
        self.assertIn("found no controllers", status["conditions"][0]["message"])
        self.assertEqual((1, 1, 0, 1), self.counts(self.budget("b", minAvailable=0)))

    def test_what_is_no_budget(self) -> None:
        for spec, field in (
            ({"minAvailable": 1, "maxUnavailable": 1}, "spec"),
            ({"minAvailable": -1}, "spec.minAvailable"),
            ({"maxUnavailable": "half"}, "spec.maxUnavailable"),
            ({"maxUnavailable": "101%"}, "spec.maxUnavailable"),
            ({"minAvailable": 1, "unhealthyPodEvictionPolicy": "Never"}, "spec.unhealthyPodEvictionPolicy"),
        ):
            with self.subTest(spec):
                error = self.assertRaises(ApiError, self.budget, "x", **spec)
                assert isinstance(error, ApiError)
                self.assertEqual([field], [cause["field"] for cause in error.details["causes"]])

"""Deployments, ReplicaSets and DaemonSets on simulated nodes, and what goes when their owners go."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from edgectl.apiserver.resources import (
    CONFIGMAP,
    DAEMON_SET,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    POD,
    REPLICA_SET,
    SERVICE,
)
from edgectl.scheduler import Scheduler
from edgectl.workloads.collector import Collector
from edgectl.workloads.controller import Controller
from edgectl.workloads.daemonsets import DaemonSetController
from edgectl.workloads.deployments import DeploymentController
from edgectl.workloads.endpoints import EndpointsController
from edgectl.workloads.pods import is_active, is_ready
from edgectl.workloads.replicasets import ReplicaSetController
from edgectl.workloads.rollout import Limits, Set, next_step
from metasync.interfaces import StoreUnavailable
from tests.unit.edgectl.api_world import ApiTestCase, Kubelets, Obj


def template(image: str = "web:1", **spec: Any) -> Obj:
    container = {"name": "main", "image": image}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container], **spec}}


def workload(name: str = "web", image: str = "web:1", **spec: Any) -> Obj:
    selector = {"matchLabels": {"app": "web"}}
    return {"metadata": {"name": name}, "spec": {"selector": selector, "template": template(image), **spec}}


class WorkloadCase(ApiTestCase):
    controllers: tuple[type[Controller], ...] = (
        Scheduler,
        Collector,
        DaemonSetController,
        DeploymentController,
        ReplicaSetController,
    )

    def setUp(self) -> None:
        super().setUp()
        self.kubelets = Kubelets(self.api)
        for name, site in (("edge-a", "a"), ("edge-b", "b")):
            self.add_node(name, site=site)

    def images(self) -> Counter[str]:
        return Counter(one["spec"]["containers"][0]["image"] for one in self.all(POD) if is_active(one))

    def nodes(self) -> Counter[str]:
        return Counter(one["spec"].get("nodeName", "") for one in self.all(POD) if is_active(one))


class EndpointsTests(WorkloadCase):
    controllers = (*WorkloadCase.controllers, EndpointsController)

    def addresses(self) -> list[str]:
        (found,) = self.all(ENDPOINT_SLICE)
        return [address for one in found.get("endpoints", ()) for address in one["addresses"]]

    def test_the_slice_of_a_service_without_pods_is_there_and_empty(self) -> None:
        self.make(SERVICE, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
        self.assertEqual(self.addresses(), [])
        self.make(REPLICA_SET, workload(replicas=2))
        self.assertEqual(len(self.addresses()), 2)
        self.remove(REPLICA_SET, "web")
        self.assertEqual(self.addresses(), [])


class ReplicaSetTests(WorkloadCase):
    def test_it_makes_as_many_pods_as_asked_and_spreads_them(self) -> None:
        self.make(REPLICA_SET, workload(replicas=4))
        self.assertEqual(self.nodes(), {"edge-a": 2, "edge-b": 2})
        status = self.one(REPLICA_SET, "web")["status"]
        self.assertEqual((status["replicas"], status["readyReplicas"], status["availableReplicas"]), (4, 4, 4))

    def test_it_replaces_a_deleted_pod(self) -> None:
        self.make(REPLICA_SET, workload(replicas=2))
        name = self.all(POD)[0]["metadata"]["name"]
        self.remove(POD, name)
        pods = self.all(POD)
        self.assertEqual(len(pods), 2)
        self.assertNotIn(name, [one["metadata"]["name"] for one in pods])

    def test_it_scales_down_to_nothing(self) -> None:
        self.make(REPLICA_SET, workload(replicas=3))
        self.change(REPLICA_SET, "web", replicas=0)
        self.assertEqual(self.all(POD), [])
        self.assertEqual(self.one(REPLICA_SET, "web")["status"]["replicas"], 0)

    def test_a_pod_that_never_got_a_node_goes_first(self) -> None:
        self.make(REPLICA_SET, workload(replicas=25))
        self.assertEqual(self.nodes()[""], 5)
        self.change(REPLICA_SET, "web", replicas=20)
        self.assertEqual(self.nodes(), {"edge-a": 10, "edge-b": 10})

    def test_it_adopts_pods_that_nobody_manages(self) -> None:
        stray = self.make(POD, {"metadata": {"name": "stray", "labels": {"app": "web"}}, "spec": template()["spec"]})
        self.make(REPLICA_SET, workload(replicas=1))
        pods = self.all(POD)
        self.assertEqual([one["metadata"]["uid"] for one in pods], [stray["metadata"]["uid"]])

    def test_its_pods_go_with_it(self) -> None:
        self.make(REPLICA_SET, workload(replicas=2))
        self.remove(REPLICA_SET, "web")
        self.assertEqual(self.all(POD), [])

    def test_its_pods_stay_when_orphaned(self) -> None:
        self.make(REPLICA_SET, workload(replicas=2))
        self.remove(REPLICA_SET, "web", propagation="Orphan")
        self.assertEqual(self.all(REPLICA_SET), [])
        self.assertEqual([one["metadata"].get("ownerReferences") for one in self.all(POD)], [None, None])

    def test_in_the_foreground_it_waits_for_its_pods(self) -> None:
        self.make(REPLICA_SET, workload(replicas=1))
        self.kubelets.silent = {"edge-a", "edge-b"}
        self.remove(REPLICA_SET, "web", propagation="Foreground")
        self.assertEqual(self.one(REPLICA_SET, "web")["metadata"]["finalizers"], ["foregroundDeletion"])
        (pod,) = self.all(POD)
        self.remove(POD, pod["metadata"]["name"], grace=0)
        self.assertEqual(self.all(REPLICA_SET), [])


class OutageTests(WorkloadCase):
    def test_controllers_go_on_after_the_store_was_away(self) -> None:
        self.make(REPLICA_SET, workload(replicas=1))
        away = self.patch(self.store, "range", _unavailable)
        self.cache.failed(StoreUnavailable("away"))
        self.settle(10)
        away.restore()
        self.settle(5)
        self.settle(5)
        self.assertEqual(len(self.all(POD)), 1)
        self.change(REPLICA_SET, "web", replicas=3)
        self.settle(5)
        self.assertEqual(len(self.all(POD)), 3)


async def _unavailable(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("away")


class DeploymentTests(WorkloadCase):
    def test_it_runs_its_pods(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=3))
        self.assertEqual(self.images(), {"web:1": 3})
        status = self.one(DEPLOYMENT, "web")["status"]
        counts = [status[f"{name}Replicas"] for name in ("updated", "ready", "available")]
        self.assertEqual(counts, [3, 3, 3])
        reasons = {one["type"]: one["reason"] for one in status["conditions"]}
        self.assertEqual(reasons, {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"})

    def test_a_new_template_replaces_all_pods(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=3))
        self.change(DEPLOYMENT, "web", template=template("web:2"))
        self.assertEqual(self.images(), {"web:2": 3})
        sizes = {
            one["spec"]["template"]["spec"]["containers"][0]["image"]: one["spec"]["replicas"]
            for one in self.all(REPLICA_SET)
        }
        self.assertEqual(sizes, {"web:1": 0, "web:2": 3})
        revision = self.one(DEPLOYMENT, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
        self.assertEqual(revision, "2")

    def test_pods_that_do_not_get_ready_hold_the_rollout(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=4))
        self.kubelets.broken = {"web:bad"}
        self.change(DEPLOYMENT, "web", template=template("web:bad"))
        serving = [one for one in self.all(POD) if is_ready(one)]
        self.assertEqual(len(serving), 3)
        self.settle(601)
        status = self.one(DEPLOYMENT, "web")["status"]
        progressing = next(one for one in status["conditions"] if one["type"] == "Progressing")
        self.assertEqual((progressing["status"], progressing["reason"]), ("False", "ProgressDeadlineExceeded"))

    def test_a_rollback_uses_the_old_set_again(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=2))
        self.change(DEPLOYMENT, "web", template=template("web:2"))
        self.change(DEPLOYMENT, "web", template=template("web:1"))
        self.assertEqual(self.images(), {"web:1": 2})
        self.assertEqual(len(self.all(REPLICA_SET)), 2)
        revision = self.one(DEPLOYMENT, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
        self.assertEqual(revision, "3")

    def test_recreate_never_runs_both(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=2, strategy={"type": "Recreate"}))
        self.kubelets.silent = {"edge-a", "edge-b"}
        self.change(DEPLOYMENT, "web", template=template("web:2"))
        self.assertEqual(self.images(), {})
        self.kubelets.silent = set()
        for pod in self.all(POD):
            self.remove(POD, pod["metadata"]["name"], grace=0)
        self.assertEqual(self.images(), {"web:2": 2})

    def test_a_paused_one_does_not_roll(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=2))
        self.change(DEPLOYMENT, "web", paused=True, template=template("web:2"))
        self.assertEqual(self.images(), {"web:1": 2})
        self.change(DEPLOYMENT, "web", paused=False)
        self.assertEqual(self.images(), {"web:2": 2})

    def test_scaling_keeps_the_set(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=1))
        self.change(DEPLOYMENT, "web", replicas=5)
        self.assertEqual(len(self.all(REPLICA_SET)), 1)
        self.assertEqual(self.images(), {"web:1": 5})

    def test_old_sets_past_the_history_are_deleted(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=1, revisionHistoryLimit=1))
        for image in ("web:2", "web:3", "web:4"):
            self.change(DEPLOYMENT, "web", template=template(image))
        self.assertEqual(len(self.all(REPLICA_SET)), 2)

    def test_everything_goes_with_it(self) -> None:
        self.make(DEPLOYMENT, workload(replicas=2))
        self.remove(DEPLOYMENT, "web")
        self.assertEqual((self.all(REPLICA_SET), self.all(POD)), ([], []))


class DaemonSetTests(WorkloadCase):
    def test_one_pod_on_each_node(self) -> None:
        self.make(DAEMON_SET, workload())
        self.assertEqual(self.nodes(), {"edge-a": 1, "edge-b": 1})
        status = self.one(DAEMON_SET, "web")["status"]
        self.assertEqual((status["desiredNumberScheduled"], status["numberReady"]), (2, 2))

    def test_a_new_node_gets_its_pod(self) -> None:
        self.make(DAEMON_SET, workload())
        self.add_node("edge-c")
        self.assertEqual(self.nodes()["edge-c"], 1)

    def test_a_node_selector_narrows_it(self) -> None:
        obj = workload()
        obj["spec"]["template"]["spec"]["nodeSelector"] = {"site": "b"}
        self.make(DAEMON_SET, obj)
        self.assertEqual(self.nodes(), {"edge-b": 1})

    def test_a_cordoned_node_gets_it_and_a_tainted_one_does_not(self) -> None:
        self.add_node("edge-c", taints=[{"key": "own", "effect": "NoSchedule"}])
        self.change_node("edge-a", unschedulable=True)
        self.make(DAEMON_SET, workload())
        self.assertEqual(self.nodes(), {"edge-a": 1, "edge-b": 1})

    def change_node(self, name: str, **spec: Any) -> None:
        from edgectl.apiserver.resources import NODE

        def edit(obj: Obj) -> Obj:
            obj.setdefault("spec", {}).update(spec)
            return obj

        self.done(self.api.change(NODE, "", name, edit))
        self.settle()

    def test_a_no_schedule_taint_leaves_a_running_pod(self) -> None:
        self.make(DAEMON_SET, workload())
        before = {one["metadata"]["uid"] for one in self.all(POD)}
        self.change_node("edge-a", taints=[{"key": "edge-away", "effect": "NoSchedule"}])
        self.assertEqual({one["metadata"]["uid"] for one in self.all(POD)}, before)

    def test_a_new_template_replaces_one_pod_at_a_time(self) -> None:
        self.make(DAEMON_SET, workload())
        self.kubelets.broken = {"web:bad"}
        self.change(DAEMON_SET, "web", template=template("web:bad"))
        self.assertEqual(self.images(), {"web:1": 1, "web:bad": 1})
        self.change(DAEMON_SET, "web", template=template("web:2"))
        self.assertEqual(self.images(), {"web:2": 2})

    def test_on_delete_waits_for_the_pod_to_be_deleted(self) -> None:
        self.make(DAEMON_SET, workload(updateStrategy={"type": "OnDelete"}))
        self.change(DAEMON_SET, "web", template=template("web:2"))
        self.assertEqual(self.images(), {"web:1": 2})
        self.remove(POD, self.all(POD)[0]["metadata"]["name"])
        self.assertEqual(self.images(), {"web:1": 1, "web:2": 1})


class CollectorTests(ApiTestCase):
    controllers = (Collector,)

    def owned(self, name: str, *owners: Obj) -> Obj:
        references = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]}
            for one in owners
        ]
        return self.make(CONFIGMAP, {"metadata": {"name": name, "ownerReferences": references}})

    def test_an_object_stays_while_one_owner_is_there(self) -> None:
        first, second = (self.make(CONFIGMAP, {"metadata": {"name": name}}) for name in ("first", "second"))
        self.owned("child", first, second)
        self.remove(CONFIGMAP, "first")
        self.assertIn("child", [one["metadata"]["name"] for one in self.all(CONFIGMAP)])
        self.remove(CONFIGMAP, "second")
        self.assertEqual(self.all(CONFIGMAP), [])

    def test_a_chain_goes_to_its_end(self) -> None:
        top = self.make(CONFIGMAP, {"metadata": {"name": "top"}})
        middle = self.owned("middle", top)
        self.owned("bottom", middle)
        self.remove(CONFIGMAP, "top")
        self.assertEqual(self.all(CONFIGMAP), [])

    def test_an_owner_of_the_same_name_but_another_uid_does_not_count(self) -> None:
        first = self.make(CONFIGMAP, {"metadata": {"name": "top"}})
        self.owned("child", first)
        self.running[0].stop()
        self.remove(CONFIGMAP, "top")
        self.make(CONFIGMAP, {"metadata": {"name": "top"}})
        again = Collector(self.clock, self.api)
        again.start()
        self.addCleanup(again.stop)
        self.settle()
        self.assertEqual([one["metadata"]["name"] for one in self.all(CONFIGMAP)], ["top"])

    def test_a_restarted_collector_knows_all_owners_before_it_judges(self) -> None:
        owner = self.make(REPLICA_SET, workload())
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner["metadata"]["uid"]}
        pod = template()
        pod["metadata"] |= {"name": "web-1", "ownerReferences": [reference]}
        self.make(POD, pod)
        self.running[0].stop()
        again = Collector(self.clock, self.api)
        again.start()
        self.addCleanup(again.stop)
        self.settle()
        self.assertEqual([one["metadata"]["name"] for one in self.all(POD)], ["web-1"])


class RolloutTests(SynchronousTestCase):
    """The arithmetic of one step."""

    def test_surge_comes_first(self) -> None:
        self.assertEqual(next_step(4, Set("new", 0, 0, 0), [Set("old", 4, 4, 4)], Limits(1, 1)), {"new": 1})

    def test_no_more_go_than_may_be_missing(self) -> None:
        self.assertEqual(next_step(4, Set("new", 1, 1, 0), [Set("old", 4, 4, 4)], Limits(1, 1)), {"old": 3})

    def test_broken_old_pods_go_before_serving_ones(self) -> None:
        old = [Set("broken", 2, 2, 0), Set("good", 2, 2, 2)]
        self.assertEqual(next_step(4, Set("new", 0, 0, 0), old, Limits(0, 2)), {"broken": 0})

    def test_nothing_is_left_to_do(self) -> None:
        self.assertEqual(next_step(2, Set("new", 2, 2, 2), [Set("old", 0, 0, 0)], Limits(1, 0)), {})

    def test_recreate_waits_for_the_last_old_pod(self) -> None:
        self.assertEqual(next_step(2, Set("new", 0, 0, 0), [Set("old", 2, 2, 2)], None), {"old": 0})
        self.assertEqual(next_step(2, Set("new", 0, 0, 0), [Set("old", 0, 1, 0)], None), {})
        self.assertEqual(next_step(2, Set("new", 0, 0, 0), [Set("old", 0, 0, 0)], None), {"new": 2})

    def test_limits_that_would_stand_still_let_one_go(self) -> None:
        spec = {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}}
        self.assertEqual(Limits.of(spec), Limits(0, 1))

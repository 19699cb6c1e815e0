"""The real kubectl against the embedded control plane on a SQLite store, over a real port."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from edgectl.testing import MERGE, STRATEGIC, ApiClient
from tests.integration.api_process import EmbeddedApi
from tests.lab.kubernetes import KubeApiServer, Kubectl
from tests.lab.waiting import LabError, wait_until
from tests.lab.world import SharedWorld


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "busybox", "command": ["sleep", "1000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], **spec},
    }


SETTINGS = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}

READY = {
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
        "capacity": {"cpu": "4", "memory": "4Gi", "pods": "20"},
        "addresses": [{"type": "InternalIP", "address": "10.250.0.2"}],
        "nodeInfo": {"kubeletVersion": "v1.29.0"},
    }
}


class Story(SharedWorld, SynchronousTestCase):
    """What people do with kubectl, on any server. ``program`` is which kubectl."""

    api: EmbeddedApi | KubeApiServer
    client: ApiClient
    program = "kubectl"

    @classmethod
    def prepare(cls) -> None:
        """Two nodes that are ready."""
        cls.client = ApiClient(cls.api.admin_kubeconfig)
        for name, site in (("edge-a", "a"), ("edge-b", "b")):
            cls.client.request("POST", "/api/v1/nodes", node(name, site=site))
            cls.client.request("PATCH", f"/api/v1/nodes/{name}/status", READY, content_type=MERGE)

    def setUp(self) -> None:
        super().setUp()
        self.kubectl = Kubectl(self.api.admin_kubeconfig, program=self.program)
        self.namespace = self.id().rpartition(".")[2].replace("_", "-").lower()
        self.kubectl("create", "namespace", self.namespace)
        self.addCleanup(self.kubectl, "delete", "namespace", self.namespace, "--wait=false")

    def in_namespace(self, *arguments: str, **options: Any) -> str:
        return self.kubectl("-n", self.namespace, *arguments, **options)

    def applied(self, *objects: dict[str, Any]) -> str:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self.in_namespace("apply", "-f", "-", input=json.dumps(items))

    def row(self, *arguments: str) -> list[str]:
        return self.in_namespace("get", *arguments, "--no-headers").split()

    def test_apply_creates_then_changes_nothing_then_changes(self) -> None:
        settings = {**SETTINGS, "data": {"a": "1"}}
        self.assertIn("configmap/settings created", self.applied(settings))
        self.assertIn("configmap/settings unchanged", self.applied(settings))
        self.assertIn("configmap/settings configured", self.applied({**settings, "data": {"b": "2"}}))
        found = json.loads(self.in_namespace("get", "cm", "settings", "-o", "json"))
        self.assertEqual(found["data"], {"b": "2"})

    def test_a_pod_with_a_node_name_stays_there(self) -> None:
        self.applied(pod("web", nodeName="edge-a"))
        self.assertEqual(self.row("pod", "web", "-o", "wide")[6], "edge-a")

    def test_wide_shows_address_and_node_once_the_node_reports(self) -> None:
        self.applied(pod("web", nodeName="edge-a"))
        status = {"phase": "Running", "podIP": "10.192.0.5", "podIPs": [{"ip": "10.192.0.5"}]}
        state = {"name": "main", "ready": True, "restartCount": 0, "image": "busybox", "imageID": "x"}
        status["containerStatuses"] = [{**state, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]
        path = f"/api/v1/namespaces/{self.namespace}/pods/web/status"
        self.client.request("PATCH", path, {"status": status}, content_type=STRATEGIC)
        name, ready, word, restarts, _, address, where, *_ = self.row("pod", "web", "-o", "wide")
        self.assertEqual(
            (name, ready, word, restarts, address, where), ("web", "1/1", "Running", "0", "10.192.0.5", "edge-a")
        )

    def test_watch_shows_a_pod_come_and_go(self) -> None:
        self.applied(pod("first", nodeName="edge-a"))
        command = self.kubectl.command("-n", self.namespace, "get", "pods", "--watch", "--no-headers")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            self.addCleanup(watching.kill)
            assert watching.stdout is not None
            self.assertEqual(watching.stdout.readline().split()[0], "first")
            self.applied(pod("second", nodeName="edge-a"))
            self.assertEqual(watching.stdout.readline().split()[:3], ["second", "0/1", "Pending"])
            self.in_namespace("delete", "pod", "second", "--wait=false")
            self.assertEqual(watching.stdout.readline().split()[:3], ["second", "0/1", "Terminating"])
            watching.kill()

    def test_a_deleted_pod_waits_for_its_node_and_then_is_gone(self) -> None:
        self.applied(pod("web", nodeName="edge-a"))
        self.in_namespace("delete", "pod", "web", "--wait=false")
        found = json.loads(self.in_namespace("get", "pod", "web", "-o", "json"))
        self.assertEqual(found["metadata"]["deletionGracePeriodSeconds"], 30)
        self.in_namespace("delete", "pod", "web", "--grace-period=0", "--force")
        self.assertEqual(self.row("pods", "--ignore-not-found"), [])

    def test_a_pod_on_no_node_is_gone_at_once(self) -> None:
        self.applied(pod("web", nodeSelector={"site": "nowhere"}))
        self.in_namespace("delete", "pod", "web", "--timeout=10s")
        self.assertEqual(self.row("pods", "--ignore-not-found"), [])

    def test_a_misspelt_field_is_refused_by_name(self) -> None:
        with self.assertRaises(LabError) as refused:
            self.applied(pod("web", nodeNaem="edge-a"))
        self.assertRegex(str(refused.exception), r'unknown field "(spec.)?nodeNaem"')

    def test_an_impossible_name_is_refused_with_its_field(self) -> None:
        with self.assertRaises(LabError) as refused:
            self.applied(pod("Web_1"))
        self.assertIn("metadata.name: Invalid value", str(refused.exception))

    def test_explain_tells_of_fields(self) -> None:
        self.assertIn("There must be at least one", self.kubectl("explain", "pod.spec.containers"))
        self.assertRegex(self.kubectl("explain", "deployment.spec.replicas"), r"replicas:? <integer>")

    def test_labels_and_annotations_are_set_and_removed(self) -> None:
        self.in_namespace("create", "configmap", "c")
        self.in_namespace("label", "configmap", "c", "colour=red")
        self.in_namespace("annotate", "configmap", "c", "note=x")
        self.assertIn("c ", self.in_namespace("get", "configmap", "-l", "colour=red", "--no-headers"))
        self.in_namespace("label", "configmap", "c", "colour-")
        self.assertEqual(
            self.in_namespace("get", "configmap", "-l", "colour", "--no-headers", "--ignore-not-found"), ""
        )

    def test_edit_changes_what_the_editor_changed(self) -> None:
        self.in_namespace("create", "configmap", "c", "--from-literal=a=old")
        command = self.kubectl.command("-n", self.namespace, "edit", "configmap", "c")
        editor = {**os.environ, "EDITOR": "sed -i s/old/new/"}
        subprocess.run(command, env=editor, check=True, capture_output=True, timeout=30)
        self.assertEqual(self.in_namespace("get", "configmap", "c", "-o", "jsonpath={.data.a}"), "new")

    def test_patches_of_all_kinds(self) -> None:
        self.in_namespace("create", "configmap", "c", "--from-literal=a=1")
        for kind, patch in (
            ("merge", '{"data":{"m":"1"}}'),
            ("strategic", '{"data":{"s":"1"}}'),
            ("json", '[{"op":"add","path":"/data/j","value":"1"}]'),
        ):
            self.in_namespace("patch", "configmap", "c", f"--type={kind}", "-p", patch)
        found = json.loads(self.in_namespace("get", "configmap", "c", "-o", "json"))
        self.assertEqual(sorted(found["data"]), ["a", "j", "m", "s"])

    def test_apply_on_the_server(self) -> None:
        text = json.dumps({**SETTINGS, "data": {"a": "1"}})
        self.in_namespace("apply", "--server-side", "-f", "-", input=text)
        self.in_namespace("apply", "--server-side", "-f", "-", input=text.replace('"1"', '"2"'))
        self.assertEqual(self.in_namespace("get", "configmap", "settings", "-o", "jsonpath={.data.a}"), "2")

    def test_wait_for_a_condition(self) -> None:
        self.kubectl("wait", "--for=condition=Ready", "node/edge-a", "--timeout=5s")

    def test_events_are_listed_with_their_object(self) -> None:
        self.applied(pod("web", nodeName="edge-a"))
        uid = self.in_namespace("get", "pod", "web", "-o", "jsonpath={.metadata.uid}")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "web."},
            "involvedObject": {"kind": "Pod", "namespace": self.namespace, "name": "web", "uid": uid},
            "reason": "Pulled",
            "message": "it is here",
            "type": "Normal",
            "source": {"component": "kubelet", "host": "edge-a"},
            "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:00:00Z",
            "count": 1,
        }
        self.client.request("POST", f"/api/v1/namespaces/{self.namespace}/events", event)
        self.assertRegex(self.in_namespace("get", "events"), r"Normal +Pulled +pod/web +it is here")
        self.assertIn("it is here", self.in_namespace("describe", "pod", "web"))


class WholeStory(Story):
    """What takes a scheduler and controllers as well."""

    def test_a_pod_goes_where_its_node_selector_says(self) -> None:
        self.applied(pod("web", nodeSelector={"site": "b"}))
        wait_until(lambda: self.row("pod", "web", "-o", "wide")[6] == "edge-b", 10, "the pod is bound")

    def test_a_pod_that_fits_nowhere_says_why(self) -> None:
        self.applied(pod("web", nodeSelector={"site": "nowhere"}))

        def told() -> bool:
            found = json.loads(self.in_namespace("get", "pod", "web", "-o", "json"))
            return "didn't match Pod's node affinity" in json.dumps(found["status"])

        wait_until(told, 10, "the condition says why")

    def test_a_namespace_goes_with_all_that_is_in_it(self) -> None:
        self.kubectl("create", "namespace", "shortlived")
        self.kubectl("-n", "shortlived", "create", "configmap", "one", "--from-literal=a=b")
        self.kubectl("delete", "namespace", "shortlived", "--timeout=20s")
        self.assertEqual(self.kubectl("get", "namespace", "shortlived", "--ignore-not-found"), "")

    def deployed(self, replicas: int) -> None:
        self.in_namespace("create", "deployment", "web", "--image=busybox:1")
        self.in_namespace("scale", "deployment", "web", f"--replicas={replicas}")

    def test_a_deployment_makes_its_pods(self) -> None:
        self.deployed(2)
        wait_until(lambda: self.in_namespace("get", "pods", "--no-headers").count("web-") == 2, 10, "two pods")
        name, ready, current, *_ = self.row("deployment", "web")
        self.assertEqual((name, ready, current), ("web", "0/2", "2"))

    def test_describe_tells_of_pods_nodes_and_deployments(self) -> None:
        self.deployed(1)
        wait_until(lambda: "edge-" in self.in_namespace("get", "pods", "-o", "wide"), 10, "the pod is bound")
        self.assertIn("Image:        busybox:1", self.in_namespace("describe", "pods"))
        self.assertIn("StrategyType:           RollingUpdate", self.in_namespace("describe", "deployment", "web"))
        told = self.kubectl("describe", "node", "edge-a")
        self.assertIn("InternalIP:  10.250.0.2", told)
        self.assertIn("Non-terminated Pods", told)

    def test_cordon_keeps_pods_away_and_drain_moves_them(self) -> None:
        self.kubectl("cordon", "edge-b")
        self.addCleanup(self.kubectl, "uncordon", "edge-b")
        self.assertIn("Ready,SchedulingDisabled", self.kubectl("get", "node", "edge-b"))
        self.deployed(2)
        placed = "{.items[*].spec.nodeName}"
        wait_until(
            lambda: self.in_namespace("get", "pods", "-o", f"jsonpath={placed}") == "edge-a edge-a",
            10,
            "both on edge-a",
        )
        self.kubectl("uncordon", "edge-b")
        self.addCleanup(self.kubectl, "uncordon", "edge-a")
        drained = self.kubectl(
            "drain", "edge-a", "--pod-selector=app=web", "--grace-period=0", "--force", "--timeout=10s"
        )
        self.assertRegex(drained, "node/edge-a (drained|evicted|deleted)")
        self.assertRegex(drained, r"pod/web\S* evicted")
        wait_until(
            lambda: self.in_namespace("get", "pods", "-o", f"jsonpath={placed}") == "edge-b edge-b",
            10,
            "both on edge-b",
        )

    def test_drain_waits_for_a_disruption_budget(self) -> None:
        self.kubectl("cordon", "edge-b")
        self.addCleanup(self.kubectl, "uncordon", "edge-b")
        self.addCleanup(self.kubectl, "uncordon", "edge-a")
        self.deployed(2)
        wait_until(lambda: self.in_namespace("get", "pods", "-o", "wide").count("edge-a") == 2, 10, "both on edge-a")
        for found in json.loads(self.in_namespace("get", "pods", "-o", "json"))["items"]:
            found["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            path = f"/api/v1/namespaces/{self.namespace}/pods/{found['metadata']['name']}/status"
            self.client.request("PUT", path, found)
        spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
        budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec}
        self.applied(budget)
        wait_until(lambda: self.row("pdb", "web")[:4] == ["web", "2", "N/A", "0"], 10, "the budget to be worked out")
        self.kubectl("uncordon", "edge-b")
        drain = ("drain", "edge-a", "--pod-selector=app=web", "--grace-period=0", "--force", "--timeout=6s")
        refused = self.kubectl.run(*drain, check=False)
        self.assertNotEqual(0, refused.returncode)
        self.assertIn("Cannot evict pod as it would violate the pod's disruption budget", refused.stderr)
        self.assertEqual(2, self.in_namespace("get", "pods", "-o", "wide").count("edge-a"))
        self.applied({**budget, "spec": {**spec, "minAvailable": 0}})
        wait_until(lambda: self.row("pdb", "web")[3] == "2", 10, "the budget to allow both")
        self.assertRegex(self.kubectl(*drain), r"pod/web\S* evicted")
        wait_until(lambda: self.in_namespace("get", "pods", "-o", "wide").count("edge-b") == 2, 10, "both on edge-b")

    def test_a_pod_has_its_accounts_token_unless_somebody_says_no(self) -> None:
        self.in_namespace("create", "serviceaccount", "robot")
        self.applied(pod("a", serviceAccountName="robot"), pod("b", automountServiceAccountToken=False))
        mount = "jsonpath={.spec.containers[0].volumeMounts[*].mountPath}"
        told = self.in_namespace("get", "pod", "a", "-o", mount)
        self.assertEqual("/var/run/secrets/kubernetes.io/serviceaccount", told)
        self.assertEqual("", self.in_namespace("get", "pod", "b", "-o", mount))
        self.applied(pod("a", serviceAccountName="robot"))
        refused = self.kubectl.run(
            *("-n", self.namespace, "apply", "-f", "-"),
            input=json.dumps(pod("c", serviceAccountName="nobody")),
            check=False,
        )
        self.assertIn('serviceaccount "nobody" not found', refused.stderr)

    def test_the_api_is_a_service(self) -> None:
        told = json.loads(self.kubectl("get", "service", "-n", "default", "kubernetes", "-o", "json"))
        self.assertEqual("10.96.0.1", told["spec"]["clusterIP"])
        self.assertEqual("443/TCP", self.kubectl("get", "service", "kubernetes", "--no-headers").split()[4])

    def test_rollout_status_and_history(self) -> None:
        self.deployed(0)
        self.assertIn(
            "successfully rolled out", self.in_namespace("rollout", "status", "deployment/web", "--timeout=10s")
        )
        self.in_namespace("set", "image", "deployment/web", "busybox=busybox:2")
        wait_until(lambda: "2 " in self.in_namespace("rollout", "history", "deployment/web"), 10, "a second revision")
        self.in_namespace("rollout", "undo", "deployment/web")
        image = "jsonpath={.spec.template.spec.containers[0].image}"
        self.assertEqual(self.in_namespace("get", "deployment", "web", "-o", image), "busybox:1")

    def test_a_service_finds_its_pods(self) -> None:
        self.applied(pod("web", nodeName="edge-a"))
        ready = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": "10.192.0.9", "podIPs": [{"ip": "10.192.0.9"}], "conditions": ready}
        path = f"/api/v1/namespaces/{self.namespace}/pods/web/status"
        self.client.request("PATCH", path, {"status": status}, content_type=STRATEGIC)
        self.in_namespace("expose", "pod", "web", "--port=80", "--target-port=8080")
        wait_until(lambda: self.row("endpoints", "web")[1] == "10.192.0.9:8080", 10, "the endpoints")
        self.assertIn("10.192.0.9", self.in_namespace("get", "endpointslices"))
        self.assertIn("10.192.0.9:8080", self.in_namespace("describe", "service", "web"))

    def test_what_was_written_is_there_after_a_kill(self) -> None:
        self.in_namespace("create", "configmap", "kept", "--from-literal=a=b")
        self.api.kill9()
        self.api.start()
        self.assertEqual(self.row("configmap", "kept")[:2], ["kept", "1"])


def old_kubectl() -> str:
    """The path of an old kubectl.

    :raises unittest.SkipTest: if none is named.
    """
    program = os.environ.get("KUBECTL_OLD", "")
    if not program:
        raise SkipTest("KUBECTL_OLD is not set: set it to the path of an old kubectl (1.20) to run this")
    return program


class CurrentKubectlTests(WholeStory):
    """The kubectl of this machine, and the embedded control plane."""

    @classmethod
    def build_world(cls) -> None:
        cls.api = cls.keep(EmbeddedApi())
        cls.prepare()


class OldKubectlTests(WholeStory):
    """Debian's kubectl 1.20, or whichever ``KUBECTL_OLD`` names, and the embedded control plane."""

    @classmethod
    def build_world(cls) -> None:
        cls.program = old_kubectl()
        cls.api = cls.keep(EmbeddedApi())
        cls.prepare()


class RealServerTests(Story):
    """The kubectl of this machine, and a real kube-apiserver: what is expected above is what Kubernetes does."""

    @classmethod
    def build_world(cls) -> None:
        cls.api = cls.keep(KubeApiServer())
        cls.prepare()


class OldKubectlRealServerTests(Story):
    @classmethod
    def build_world(cls) -> None:
        cls.program = old_kubectl()
        cls.api = cls.keep(KubeApiServer())
        cls.prepare()


del Story, WholeStory

"""Races between Kubernetes and devices that come and go, through the real daemons."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples.demo.world import CHECKOUT, Edge, World
from tests.lab.namespace import checked
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

IMAGE = "busybox:lab"
_SILENCE = (
    "add table inet silence",
    "add chain inet silence out {{ type filter hook output priority 0; }}",
    "add rule inet silence out tcp sport {port} drop",
)
MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
CALL_API = """
import http.client, json, socket, ssl, sys
mounted = json.load(sys.stdin)
context = ssl.create_default_context(cadata=mounted["ca.crt"])
plain = socket.create_connection((mounted["host"], mounted["port"]), 10)
connection = http.client.HTTPSConnection("kubernetes.default.svc")
connection.sock = context.wrap_socket(plain, server_hostname="kubernetes.default.svc")
review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
headers = {"Authorization": "Bearer " + mounted["token"], "Content-Type": "application/json"}
connection.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json.dumps(review), headers)
print(connection.getresponse().read().decode())
"""
"""Run in a pod's network with what is mounted there (busybox has no TLS to speak of)."""

SECRET = "for-the-other-alone"
CALL_LOG = """
import http.client, json, ssl, sys, tempfile
proof = json.load(sys.stdin)
context = ssl._create_unverified_context()
if "identity" in proof:
    mine = json.load(open(proof["identity"] + "/credentials.json"))
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(mine["certificate"] + mine["key"])
        file.flush()
        context.load_cert_chain(file.name)
headers = {"Authorization": "Bearer " + proof["token"]} if "token" in proof else {}
try:
    connection = http.client.HTTPSConnection("10.250.0.1", 6443, timeout=10, context=context)
    connection.request("POST", "/api/v1/namespaces/default/pods/victim/exec?command=cat&command=/config/value&stdout=1",
                       headers=headers)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
except (ssl.SSLError, ConnectionResetError) as error:
    print(type(error).__name__, error)
"""


def pod(name: str, node: str, *, config: str = "") -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": IMAGE}
    container["command"] = ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]
    spec: dict[str, Any] = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]}
    if config:
        container["volumeMounts"] = [{"name": "config", "mountPath": "/config"}]
        spec["volumes"] = [{"name": "config", "configMap": {"name": config}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def config_map(name: str, value: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}


class DaemonsCase(SharedWorld, SynchronousTestCase):
    world: World

    @classmethod
    def build_world(cls) -> None:
        quick = ("--heartbeat", "2", "--probe", "1", "--redial", "2")
        # Only the devices are quick to notice: the router's old link is there when the new one comes.
        cls.world = world = cls.keep(World(cloud_options=("--api-address", "0.0.0.0"), edge_options=quick))
        world.start_cloud()
        for edge in world.edges:
            edge.join(world.kubebus("token", "create", "--node", edge.name).strip().splitlines()[-1])
        for edge in world.edges:
            cls.waits(edge, partial(world.node_ready, edge.name))

    @staticmethod
    def waits(edge: Edge, condition: Any, seconds: float = 60) -> None:
        assert edge.agent is not None
        edge.agent.wait_for(condition, seconds)

    def connected(self, edge: Edge) -> str:
        return self.world.condition("node", edge.name, "EdgeConnected")

    def gone(self, name: str) -> bool:
        return self.world.kubectl.run("get", "pod", name, check=False).returncode != 0

    def same_run(self, edge: Edge, name: str, container: object) -> None:
        self.assertEqual([container], edge.containers(name, everything=True), f"{name} was made once, started once")
        (status,) = self.world.wait_running(name)["status"]["containerStatuses"]
        self.assertEqual(0, status["restartCount"])


class DaemonsTests(DaemonsCase):
    def test_a_pod_calls_the_api_as_its_service_account(self) -> None:
        world, edge = self.world, self.world.edges[0]
        world.kubectl.apply(pod("caller", edge.name))
        world.wait_running("caller")
        mounted = {name: edge.execute("caller", "cat", f"{MOUNT}/{name}") for name in ("token", "ca.crt", "namespace")}
        self.assertEqual("default", mounted["namespace"])
        given = dict(line.partition("=")[::2] for line in edge.execute("caller", "env").splitlines())
        mounted |= {"host": given["KUBERNETES_SERVICE_HOST"], "port": given["KUBERNETES_SERVICE_PORT"]}
        self.assertEqual(("10.96.0.1", "443"), (mounted["host"], mounted["port"]))
        (container,) = edge.containers("caller")
        with closing(edge.engine.client()) as client:
            pid = client.api.inspect_container(container.id)["State"]["Pid"]
        command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", CALL_API]
        # Its node is told of the Service at about the same time.
        tried = partial(checked, command, input=json.dumps(mounted), check=False, timeout=15)
        wait_until(lambda: "system:serviceaccount:default:default" in tried().stdout, 30, "the API to know the pod")

    def test_a_pod_finds_the_api_by_name(self) -> None:
        """With and without namespace, as libraries and as ``nslookup`` look; soon, though no site's server answers."""
        world, edge = self.world, self.world.edges[1]
        world.kubectl.apply(pod("asker", edge.name))
        world.wait_running("asker")
        script = "begun=$(date +%s); {}; echo took $(($(date +%s) - begun))"
        for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local"):
            told = edge.execute("asker", "sh", "-c", script.format(f"ping -c 1 -W 1 kubernetes{rest} 2>&1"))
            self.assertIn("(10.96.0.1)", told)
            self.assertRegex(told, "took [01]$")
        told = edge.execute("asker", "sh", "-c", script.format("nslookup kubernetes.default.svc.cluster.local 2>&1"))
        self.assertIn("10.96.0.1", told)
        self.assertRegex(told, "took [01]$")
        told = edge.execute("asker", "sh", "-c", script.format("nslookup nothing.default.svc.cluster.local 2>&1"))
        self.assertRegex(told, "(?s)NXDOMAIN.*took [01]$")
        # busybox's nslookup takes a name with a dot for whole: it asks the site's servers, and there are none.
        told = edge.execute("asker", "sh", "-c", script.format("nslookup kubernetes.default 2>&1"))
        self.assertRegex(told, "(?s)SERVFAIL.*took [0-6]$")

    def test_drain_moves_pods_to_the_other_edge_within_their_disruption_budget(self) -> None:
        world, (edge, other) = self.world, self.world.edges
        labels = {"app": "drained"}
        container = {
            "name": "main",
            "image": IMAGE,
            "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
        template = {"metadata": {"labels": labels}, "spec": spec}
        deployment = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
        world.kubectl("cordon", other.name)
        self.addCleanup(world.kubectl, "uncordon", other.name)
        self.addCleanup(world.kubectl, "uncordon", edge.name)
        self.addCleanup(world.kubectl, "delete", "deployment,pdb", "drained")
        world.kubectl.apply(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "drained"}, "spec": deployment},
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": "drained"},
                "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
            },
        )
        world.kubectl("rollout", "status", "deployment/drained", "--timeout=60s")
        before = world.kubectl("get", "pods", "-l", "app=drained", "-o", "jsonpath={.items[*].metadata.name}").split()
        world.kubectl("uncordon", other.name)
        # One goes; the second must wait until the first has its successor at the other edge, and kubectl tries again.
        told = world.kubectl.run("drain", edge.name, "--pod-selector=app=drained", "--timeout=90s", timeout=100)
        self.assertIn("Cannot evict pod as it would violate the pod's disruption budget", told.stderr)
        for name in before:
            self.assertIn(f"pod/{name} evicted", told.stdout)
            self.assertEqual([], edge.containers(name, everything=True), "nothing of it is left on the device")
        world.kubectl("rollout", "status", "deployment/drained", "--timeout=60s")
        nodes = world.kubectl("get", "pods", "-l", "app=drained", "-o", "jsonpath={.items[*].spec.nodeName}")
        self.assertEqual({other.name}, set(nodes.split()))

    def test_create_update_delete_while_the_node_is_away(self) -> None:
        world, edge = self.world, self.world.edges[0]
        world.kubectl.apply(config_map("settings", "old"), pod("kept", edge.name, config="settings"))
        world.kubectl.apply(pod("leaves", edge.name))
        world.wait_running("kept")
        world.wait_running("leaves")
        (container,) = edge.containers("kept")
        edge.site.nat.cut()
        self.addCleanup(edge.site.nat.mend)
        self.waits(edge, lambda: self.connected(edge) == "False", 90)
        world.kubectl.apply(config_map("settings", "new"), pod("comes", edge.name))
        world.kubectl("delete", "pod", "leaves", "--wait=false")
        self.assertTrue(world.pod("leaves")["metadata"]["deletionTimestamp"])
        self.assertTrue(edge.containers("leaves"), "it runs on: nobody could tell the node")
        self.assertEqual("old", edge.execute("kept", "cat", "/config/value"))
        edge.site.nat.mend()
        world.wait_running("comes")
        self.waits(edge, lambda: self.gone("leaves"))
        self.waits(edge, lambda: edge.execute("kept", "cat", "/config/value") == "new")
        self.assertEqual([], edge.containers("leaves", everything=True))
        self.same_run(edge, "kept", container)
        self.assertEqual("True", self.connected(edge))

    def test_the_controller_is_killed_between_write_and_acknowledgement(self) -> None:
        world, edge = self.world, self.world.edges[0]
        assert edge.agent is not None
        # The device is there, but says nothing: what is written for it stays unanswered.
        edge.agent.suspend()
        try:
            world.kubectl.apply(pod("unanswered", edge.name))
            keys = partial(
                world.kubebus, "meta", "get", "--prefix", f"/kubebus/default/nodes/{edge.name}/desired/pods/"
            )
            wait_until(lambda: "unanswered" in keys(), 20, "the pod to be written for the node")
            world.cloud.kill9()
        finally:
            edge.agent.resume()
        world.start_cloud()
        world.wait_running("unanswered", 90)
        (container,) = edge.containers("unanswered")
        # And the other way: it is reported, and who would take note of it dies.
        world.cloud.kill9()
        world.start_cloud()
        self.waits(edge, lambda: self.connected(edge) == "True", 90)
        self.same_run(edge, "unanswered", container)
        world.kubectl("delete", "pod", "unanswered", "--wait=false")
        world.cloud.kill9()
        world.start_cloud()
        self.waits(edge, lambda: self.gone("unanswered"), 90)
        self.assertEqual([], edge.containers("unanswered", everything=True))

    def test_the_old_link_closes_after_the_new_one(self) -> None:
        world, edge = self.world, self.world.edges[1]
        world.kubectl.apply(pod("linked", edge.name))
        world.wait_running("linked")
        (container,) = edge.containers("linked")
        since = self.since(edge)
        assert edge.agent is not None
        # Nothing of the old link gets out any more, not even its end: the router still has it when the new one comes.
        port = self.port_of_link(edge)
        for rule in _SILENCE:
            edge.site.node.run(["nft", rule.format(port=port)])
        self.addCleanup(edge.site.node.run, ["nft", "delete table inet silence"])
        edge.agent.kill9()
        edge.boot()
        self.waits(edge, "is connected to", 12)
        world.cloud.wait_for(f"(?s)(Node {edge.name} is connected from.*){{2}}", 5)
        world.kubectl.apply(pod("later", edge.name))
        world.wait_running("later")
        self.assertEqual(("True", since), (self.connected(edge), self.since(edge)), "it was never told to be away")
        self.same_run(edge, "linked", container)

    def since(self, edge: Edge) -> str:
        for each in self.world.kubectl.json("get", "node", edge.name)["status"]["conditions"]:
            if each["type"] == "EdgeConnected":
                return str(each["lastTransitionTime"])
        return ""

    def port_of_link(self, edge: Edge) -> str:
        """The device's end of its link."""
        flows = edge.site.node.run(["ss", "-Htn", "dst", f"{self.world.net.eip_address}:443"]).stdout
        (port,) = {line.split()[3].rpartition(":")[2] for line in flows.splitlines()}
        return port

    def test_a_node_can_do_nothing_to_another(self) -> None:
        """With its own key, as another node's, through the sync, the link's streams and the API of logs and exec."""
        world, (edge, other) = self.world, self.world.edges
        world.kubectl.apply(config_map("private", SECRET), pod("victim", other.name, config="private"))
        victim = world.wait_running("victim")
        (container,) = other.containers("victim")
        world.kubectl.apply(pod("own", edge.name))
        world.wait_running("own")
        token = edge.execute("own", "cat", f"{MOUNT}/token")
        for proof in ({}, {"token": token}, {"identity": str(edge.path / "identity")}):
            self.assertNotIn(SECRET, self.call_api(edge, proof), "the log and the shell of the other's pod stay closed")
            self.assertRegex(self.call_api(edge, proof), "^(401|403|SSLError|ConnectionResetError)")
        assert edge.agent is not None
        edge.agent.stop()
        self.addCleanup(edge.boot)
        command = [sys.executable, "-m", "tests.integration.hostile_process", str(edge.path), other.name]
        hostile = edge.site.node.command([*command, victim["metadata"]["uid"]])
        told = json.loads(checked(hostile, timeout=60, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}).stdout)
        self.assertNotIn("open", told["services"]["kubelet/1"])
        self.assertIn("open", told["services"]["metasync/1"], "it was connected, so it did try")
        self.assertNotIn(SECRET, json.dumps(told["store"]))
        reported = world.kubebus("meta", "get", "--prefix", f"/kubebus/default/nodes/{other.name}/")
        self.assertIn("victim", reported)
        self.assertNotIn("forged-by-another", reported)
        self.assertTrue(world.node_ready(other.name))
        self.same_run(other, "victim", container)

    def call_api(self, edge: Edge, proof: dict[str, str]) -> str:
        command = edge.site.node.command([sys.executable, "-c", CALL_LOG])
        return checked(command, input=json.dumps(proof), check=False, timeout=20).stdout.strip()

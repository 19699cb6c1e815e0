"""Real daemons, real engines and a real kube-apiserver on a cloud VM: pod subnets, certificates, and an attack."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples.demo.world import Edge
from tests.integration.cluster_world import ClusterWorld, sleeper
from tests.lab.namespace import Namespace, checked
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

CALL = """
import http.client, json, ssl, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
targets, paths, credentials, seconds = json.load(sys.stdin)
def ask(asked):
    address, port, path = asked
    context = ssl._create_unverified_context()
    if credentials:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(credentials)
            file.flush()
            context.load_cert_chain(file.name)
    try:
        connection = http.client.HTTPSConnection(address, port, timeout=seconds, context=context)
        connection.request("GET" if "exec" not in path else "POST", path)
        answer = connection.getresponse()
        return f"{address}:{port}{path}", f"{answer.status} {answer.read().decode()[:3000]}"
    except OSError as error:
        return f"{address}:{port}{path}", f"{type(error).__name__} {error}"
everything = [(*target, path) for target in targets for path in paths]
with ThreadPoolExecutor(len(everything)) as pool:
    print(json.dumps(dict(pool.map(ask, everything))))
"""
"""Run on a machine: what there is to be got at each target, with the certificate and key if there are some."""

PATHS = (
    "/containerLogs/default/{pod}/main",
    "/exec/default/{pod}/main?command=cat&command=/etc/hostname&output=1",
    "/stats/summary",
    "/metrics/resource",
    "/pods",
)
SECRET = "for-the-api-server-alone"


class ClusterTests(SharedWorld, SynchronousTestCase):
    world: ClusterWorld

    @classmethod
    def build_world(cls) -> None:
        cls.world = world = cls.keep(ClusterWorld("--adopt-pod-cidr", "--advertise", "10.244.0.0/16"))
        world.start_cloud()
        world.enrol()
        # The other's is not approved yet.
        world.sign("edge-1")

    def stats(self, name: str) -> str:
        """Of a node, as the API server gets them from its kubelet; or why it does not."""
        done = self.world.kubectl.run("get", "--raw", f"/api/v1/nodes/{name}/proxy/stats/summary", check=False)
        return done.stdout + done.stderr

    def test_serving_certificates_of_the_clusters_signer(self) -> None:
        world = self.world
        wait_until(lambda: '"nodeName"' in self.stats("edge-1"), 20, "the certificate that was issued to be used")
        self.assertIn("certificate signed by unknown authority", self.stats("edge-2"))
        request = world.sign("edge-2")
        wait_until(lambda: '"nodeName"' in self.stats("edge-2"), 20, "the other's to be used as well")
        world.cloud.kill9()
        world.start_cloud()
        wait_until(lambda: '"nodeName"' in self.stats("edge-2"), 40, "the device to be back")
        requests = world.kubectl("get", "csr", "-o", "name").split()
        self.assertEqual(2, len(requests), "a restarted router asks for nothing anew")
        self.assertIn(request, "".join(requests))

    def call(
        self, namespace: Namespace, targets: list[tuple[str, int]], pod: str, credentials: str, seconds: int = 4
    ) -> dict[str, str]:
        asked = json.dumps([targets, [path.format(pod=pod) for path in PATHS], credentials, seconds])
        done = checked(namespace.command([sys.executable, "-c", CALL]), input=asked, timeout=120)
        answers: dict[str, str] = json.loads(done.stdout)
        return answers

    def test_a_node_reaches_the_kubelet_api_of_no_node(self) -> None:
        """Whatever it dials, with its own key: not another's logs, shell and figures, and not by its own name."""
        world, (edge, other) = self.world, self.world.edges
        victim = sleeper("victim", other.name, command=f"echo {SECRET}; sleep 1000")
        victim["spec"]["hostNetwork"] = True
        world.kubectl.apply(victim)
        world.wait_running("victim")
        addresses = {
            name: world.kubectl.json("get", "node", name)["status"]["addresses"][0]["address"]
            for name in (edge.name, other.name)
        }
        pair = world.server.kubelet_client_pair
        server = pair.certificate.read_text() + pair.key.read_text()
        allowed = self.call(world.net.vm, [(addresses[other.name], 10250)], "victim", server, 30)
        refused = [answer for path, answer in allowed.items() if "/exec/" not in path and not answer.startswith("200")]
        self.assertEqual([], refused, "the API server's own key opens what is closed below")
        logs, _, summary, metrics, _ = allowed.values()
        self.assertIn(SECRET, logs)
        self.assertIn('"nodeName": "edge-2"', summary)
        # What metrics-server needs of a node; the pod may be too young to have used anything.
        self.assertRegex(metrics, r"(?m)^node_cpu_usage_seconds_total [0-9.]+ [0-9]{13}$")
        self.assertRegex(metrics, r"(?m)^node_memory_working_set_bytes [0-9]+ [0-9]{13}$")
        mine = json.loads((edge.path / "identity" / "credentials.json").read_text())
        eip = world.net.eip_address
        everywhere = [
            *((address, port) for address in addresses.values() for port in (10250, 10300)),
            *((address, port) for address in ("10.250.0.1", eip) for port in (10250, 10300)),
        ]
        for credentials in ("", mine["certificate"] + mine["key"], server):
            answers = self.call(edge.site.node, everywhere, "victim", credentials)
            self.assertEqual(len(everywhere) * len(PATHS), len(answers))
            for target, answer in answers.items():
                self.assertRegex(answer, r"^\w*(Error|timeout|Timeout)", f"{target} is open to {edge.name}: {answer}")
        stranger = self.call(
            world.net.vm, [(addresses[other.name], 10250)], "victim", mine["certificate"] + mine["key"]
        )
        for target, answer in stranger.items():
            self.assertRegex(answer, r"^(401|403|\w*Error)", f"{target} takes a node's key for a caller's: {answer}")

    def subnets(self, edge: Edge) -> list[str]:
        """Of the pods' network in the device's engine."""
        with closing(edge.engine.client()) as client:
            found = client.api.networks(names=["kubebus-default"])
        return [str(config["Subnet"]) for network in found for config in network["IPAM"]["Config"]]

    def moved(self, name: str, prefix: str) -> dict[str, Any] | None:
        pod = self.world.wait_running(name)
        return pod if pod["status"]["podIP"].startswith(prefix) else None

    def await_moved(self, name: str, prefix: str) -> dict[str, Any]:
        pod = wait_until(partial(self.moved, name, prefix), 60, f"pod {name} to have an address {prefix}*")
        assert pod is not None
        return pod

    def test_adopted_pod_subnets(self) -> None:
        """In one piece, since each part rests on the one before."""
        self.waits_for_the_allocation()
        self.takes_it_over_and_routes_follow()
        self.refuses_what_another_has_and_moves_on_a_new_allocation()
        self.survives_kills_amid_a_move()

    def waits_for_the_allocation(self) -> None:
        world, (one, _) = self.world, self.world.edges
        world.kubectl.apply(*(sleeper(f"on-{edge.name}", edge.name) for edge in world.edges))
        for edge in world.edges:
            world.wait_condition(edge.name, "NetworkUnavailable", "PodCIDRMissing")
        assert one.agent is not None
        one.agent.wait_for("the node has no pod subnet yet", 30)
        self.assertEqual([], one.containers("on-edge-1", everything=True), "no pod starts before")

    def takes_it_over_and_routes_follow(self) -> None:
        world, (one, two) = self.world, self.world.edges
        world.allocate(one.name, "10.244.3.0/24")
        world.allocate(two.name, "10.244.4.0/24")
        first, second = (world.pod_ip(world.wait_running(f"on-{e.name}")["metadata"]["name"]) for e in (one, two))
        self.assertRegex(first, r"^10\.244\.3\.")
        self.assertRegex(second, r"^10\.244\.4\.")
        self.assertEqual("10.244.3.0/24", self.subnets(one)[0])
        world.wait_condition(one.name, "NetworkUnavailable", "PodCIDRAdopted")
        self.assertIn("0% packet loss", one.execute("on-edge-1", "ping", "-c", "2", second), "from edge to edge")
        self.assertTrue(world.net.pod.ping(first), "from a container of the cloud")
        self.assertTrue(world.net.eip.ping(second), "from the EIP VM")
        hello = world.kubectl("exec", "on-edge-1", "--", "hostname")
        self.assertEqual("on-edge-1", hello.strip(), "by the API server's own way to the kubelet")
        before = [one.containers("on-edge-1"), two.containers("on-edge-2")]
        world.cloud.kill9()
        world.start_cloud()
        for edge in (one, two):
            wait_until(partial(world.registered, edge.name), 40, "the device to be back")
        self.assertEqual(before, [one.containers("on-edge-1"), two.containers("on-edge-2")], "nothing was moved again")
        self.assertTrue(world.net.pod.ping(first), "the routes are there again")

    def refuses_what_another_has_and_moves_on_a_new_allocation(self) -> None:
        world, (one, two) = self.world, self.world.edges
        (kept,) = one.containers("on-edge-1")
        uid = world.pod("on-edge-2")["metadata"]["uid"]
        # A Node that is made anew gets an allocation anew; here first one that cannot be.
        world.kubectl("delete", "node", two.name)
        world.wait_condition(two.name, "NetworkUnavailable", "PodCIDRMissing")
        world.allocate(two.name, "10.244.3.128/25")
        refused = world.wait_condition(two.name, "NetworkUnavailable", "PodCIDRRefused")
        self.assertIn("10.244.3.128/25 overlaps 10.244.3.0/24, which node 'edge-1' has", refused["message"])
        self.assertEqual("10.244.4.0/24", self.subnets(two)[0], "what it has stays")
        world.kubectl("delete", "node", two.name)
        world.wait_condition(two.name, "NetworkUnavailable", "PodCIDRMissing")
        world.allocate(two.name, "10.244.5.0/24")
        pod = self.await_moved("on-edge-2", "10.244.5.")
        self.assertEqual(uid, pod["metadata"]["uid"], "it is the same pod, at another address")
        self.assertEqual(1, pod["status"]["containerStatuses"][0]["restartCount"])
        self.assertEqual("10.244.5.0/24", self.subnets(two)[0])
        self.assertEqual([kept], one.containers("on-edge-1"), "the other node is left alone")
        self.assertTrue(world.net.pod.ping(pod["status"]["podIP"]))
        self.assertIn("0% packet loss", one.execute("on-edge-1", "ping", "-c", "2", pod["status"]["podIP"]))

    def survives_kills_amid_a_move(self) -> None:
        world, (one, two) = self.world, self.world.edges
        assert two.agent is not None
        world.kubectl("delete", "node", two.name)
        world.wait_condition(two.name, "NetworkUnavailable", "PodCIDRMissing")
        world.allocate(two.name, "10.244.6.0/24")
        # As soon as it has been told, and then the router as well.
        wait_until(lambda: "10.244.6.0/24" in (two.path / "network.json").read_text(), 30, "the device to be told")
        two.agent.kill9()
        world.cloud.kill9()
        two.boot()
        wait_until(lambda: self.subnets(two)[:1] == ["10.244.6.0/24"], 60, "the network to be made without the cloud")
        wait_until(lambda: two.containers("on-edge-2"), 60, "the pod to run without the cloud")
        world.start_cloud()
        pod = self.await_moved("on-edge-2", "10.244.6.")
        self.assertTrue(world.net.pod.ping(pod["status"]["podIP"]))
        self.assertEqual(1, len(one.containers("on-edge-1")))

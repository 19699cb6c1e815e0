"""``--adopt-pod-cidr`` with real daemons, real engines and a real kube-apiserver."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples.demo.world import Edge
from tests.integration.cluster_world import ClusterWorld, sleeper
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld


class AdoptedPodCidrTests(SharedWorld, SynchronousTestCase):
    world: ClusterWorld

    @classmethod
    def build_world(cls) -> None:
        cls.world = world = cls.keep(ClusterWorld("--adopt-pod-cidr", "--advertise", "10.244.0.0/16"))
        world.start_cloud()
        world.enrol()

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

    def test_the_story(self) -> None:
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

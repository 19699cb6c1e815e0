"""What breaks mends itself: NAT state lost, half-open links, killed routers and edges, revoked nodes, slow peers."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import closing

from twisted.trial import unittest

from kubebus.testing_net import node_record
from tests.integration.network_lab import NetworkLab
from tests.lab.waiting import wait_until
from tests.lab.world import SharedWorld

POD2 = str(node_record("", 3).pod_subnets[0][9])


class FailureTests(SharedWorld, unittest.SynchronousTestCase):
    alone = True  # How soon a link is known to be dead.

    lab: NetworkLab

    @classmethod
    def build_world(cls) -> None:
        cls.lab = lab = cls.keep(closing(NetworkLab()))
        lab.start()
        for namespace in (lab.net.vm, *lab.pods):
            lab.serve(namespace)

    def setUp(self) -> None:
        """Whatever the test before has broken is whole again."""
        super().setUp()
        for daemon in (self.lab.router, *self.lab.edges):
            if not daemon.alive:
                daemon.start()
        for site in self.lab.net.sites:
            site.nat.mend()
        self.lab.wait_connected()
        wait_until(lambda: self.lab.pods[0].ping(POD2, timeout=0.5), 30, "the pods reach each other")

    def epoch(self, name: str) -> float:
        """When the live session of a node began."""
        (node,) = (node for node in self.lab.router.status()["nodes"] if node["name"] == name)
        return float(node["link"]["since"]) if node["link"] else 0.0

    def flow(self, seconds: float) -> subprocess.Popen[bytes]:
        """A TCP transfer of 4 MB from pod to pod, under way."""
        edge = self.lab.edges[0]
        before = edge.status()["link"]["sent_bytes"]
        flow = self.lab.start_traffic(self.lab.pods[0], POD2, 4_000_000, seconds)
        self.addCleanup(flow.communicate)
        self.addCleanup(flow.kill)
        wait_until(lambda: edge.status()["link"]["sent_bytes"] - before > 500_000, 15, "some of it is sent")
        return flow

    def arrives(self, flow: subprocess.Popen[bytes]) -> None:
        output, _ = flow.communicate(timeout=60)
        self.assertEqual(json.loads(output)["bytes"], 4_000_000)

    def test_a_tcp_flow_survives_a_cut_of_five_seconds(self) -> None:
        before = self.epoch("edge1")
        flow = self.flow(8)
        began = time.monotonic()
        self.lab.net.sites[0].nat.cut()
        wait_until(lambda: time.monotonic() - began > 5, 10, "five seconds are over")
        self.lab.net.sites[0].nat.mend()
        self.arrives(flow)
        self.assertEqual(self.epoch("edge1"), before, "the link itself survived")

    def test_nat_state_is_lost_in_the_middle_of_a_transfer(self) -> None:
        before = self.epoch("edge1")
        flow = self.flow(4)
        began = time.monotonic()
        self.lab.net.sites[0].nat.flush()
        wait_until(lambda: self.epoch("edge1") > before, 20, "the edge has a new session")
        self.assertLess(time.monotonic() - began, 15 + 2)
        self.arrives(flow)

    def test_a_half_open_link_is_noticed_on_both_sides(self) -> None:
        """Packets are dropped silently in both directions while there is traffic."""
        ping = self.lab.pods[0].popen(["ping", "-q", "-i", "0.5", "-w", "40", POD2], stdout=-3)
        self.addCleanup(ping.wait)
        self.addCleanup(ping.kill)
        began = time.monotonic()
        self.lab.net.sites[0].nat.cut()
        wait_until(lambda: not self.epoch("edge1"), 15, "the router notices")
        wait_until(lambda: not self.lab.edges[0].status()["connected"], 15 - (time.monotonic() - began), "so the edge")
        self.assertIn("nothing was heard", self.lab.edges[0].status()["error"])
        self.lab.net.sites[0].nat.mend()
        wait_until(lambda: self.epoch("edge1"), 40, "the edge is back")

    def test_a_killed_router_comes_back(self) -> None:
        flow = self.flow(4)
        self.lab.router.kill9()
        wait_until(lambda: not self.lab.edges[0].status()["connected"], 5, "the edge notices")
        self.lab.router.start()
        self.lab.wait_connected(10)
        self.arrives(flow)

    def test_a_killed_edge_comes_back(self) -> None:
        flow = self.flow(4)
        edge = self.lab.edges[0]
        edge.kill9()
        edge.start()
        wait_until(lambda: edge.status()["connected"], 10, "the edge is back")
        self.arrives(flow)

    def test_stopping_in_good_order_undoes_everything(self) -> None:
        node, eip = self.lab.net.sites[0].node, self.lab.net.eip
        for daemon, namespace in ((self.lab.edges[0], node), (self.lab.router, eip)):
            self.assertRegex(namespace.run(["ip", "-o", "link"]).stdout, r"\bkb0\b")
            self.assertEqual(daemon.stop(), 0, daemon.tail())
            for what in (["ip", "-o", "link"], ["ip", "route", "show", "table", "all"], ["ip", "-6", "route"]):
                text = namespace.run(what).stdout
                self.assertNotRegex(text, r"\bkb0\b")  # a lab's namespaces are named here too, such as kb024df7-pod1
                self.assertNotIn("proto 107", text)
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/eth1/forwarding"):
                found = namespace.run(["sh", "-c", f"cat /proc/sys/net/{name} 2>/dev/null || echo 0"]).stdout
                self.assertEqual(found.strip(), "0", name)


class RevocationTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.lab = NetworkLab()
        self.addCleanup(self.lab.close)
        self.lab.start()

    def test_a_revoked_node_is_cut_within_a_second_and_stays_out(self) -> None:
        pod = self.lab.pods[0]
        self.assertTrue(pod.ping(self.lab.net.vm_address))
        began = time.monotonic()
        self.lab.router.ask("revoke", "edge1")
        wait_until(lambda: not self.lab.edges[0].status()["connected"], 1, "the link is cut")
        self.assertLess(time.monotonic() - began, 1)
        self.assertFalse(pod.ping(self.lab.net.vm_address, timeout=0.5))
        edge = self.lab.edges[0]
        dialled = edge.text().count("was revoked")
        wait_until(lambda: edge.text().count("was revoked") > dialled or "revoked" in edge.status()["error"], 10,
                   "it is told why")  # fmt: skip
        self.assertFalse(edge.status()["connected"])

    def test_a_peer_that_stops_reading_costs_nobody_else_anything(self) -> None:
        lab = self.lab
        for namespace in (lab.net.vm, *lab.pods):
            lab.serve(namespace)
        vm = lab.net.vm
        before = lab.router.status()["rss"]
        lab.edges[0].suspend()
        self.addCleanup(lab.edges[0].resume)
        flood = vm.popen(["ping", "-f", "-q", "-s", "1400", "-w", "4", str(node_record("", 2).addresses[0])], stdout=-3)
        flows = [lab.start_traffic(vm, str(node_record("", 2).addresses[0]), 50_000_000, 0) for _ in range(2)]
        for process in (flood, *flows):
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
        seen = lab.traffic(vm, "tcp", POD2, 100_000_000, timeout=30)
        self.assertLess(seen["seconds"], 10)
        round_trips = vm.run(["ping", "-q", "-c", "20", "-i", "0.05", POD2]).stdout
        average = float(round_trips.rsplit("=", 1)[1].split("/")[1])
        self.assertLess(average, 50, round_trips)
        status = lab.router.status()
        self.assertLess(status["rss"] - before, 16_000_000)
        (slow,) = (node for node in status["nodes"] if node["name"] == "edge1")
        if slow["link"]:
            self.assertLess(slow["link"]["backlog"], 1_500_000)

"""``--adopt-pod-cidr``: what the cluster allocates to a Node becomes its node's pod subnets."""

from __future__ import annotations

from ipaddress import ip_network

from edgectl.controller import ControllerOptions
from edgectl.nodes import NodeOptions
from edgectl.podcidr import NETWORK_UNAVAILABLE, allocated
from tests.unit.edgectl.control_world import ControlTestCase, edge


class AdoptionTests(ControlTestCase):
    options = ControllerOptions(nodes=NodeOptions(adopt_pod_cidr=True))

    def allocate(self, *cidrs: str) -> None:
        node = self.node()
        spec = {**node["spec"], "podCIDR": cidrs[0], "podCIDRs": list(cidrs)}
        self.api.put("nodes", {**node, "spec": spec})
        self.settle()

    def state(self) -> tuple[str, str]:
        condition = self.condition(NETWORK_UNAVAILABLE)
        return condition["status"], condition["reason"]

    def subnets(self) -> list[str]:
        (node,) = self.directory
        return list(map(str, node.pod_subnets))

    def test_it_waits_for_the_allocation_and_takes_it_over(self) -> None:
        self.directory.set(edge())
        self.start()
        self.assertEqual(("True", "PodCIDRMissing"), self.state())
        self.assertNotIn("podCIDR", self.node()["spec"])
        self.allocate("10.244.3.0/24")
        self.assertEqual(["10.244.3.0/24"], self.subnets())
        self.assertEqual(("False", "PodCIDRAdopted"), self.state())
        self.assertEqual("10.244.3.0/24", self.node()["metadata"]["annotations"]["kubebus.io/pod-subnets"])
        self.writes()
        self.settle(120)
        self.assertEqual([], self.writes(), "there is nothing more to do")

    def test_an_allocation_that_is_there_is_taken_over_after_a_restart(self) -> None:
        self.test_it_waits_for_the_allocation_and_takes_it_over()
        self.stop()
        self.directory.set(edge())
        self.start()
        self.assertEqual(["10.244.3.0/24"], self.subnets())
        self.assertEqual(("False", "PodCIDRAdopted"), self.state())

    def test_a_refusal_is_shown_and_tried_again(self) -> None:
        self.directory.set(edge())
        self.directory.refusal = "pod subnet 10.244.3.0/24 overlaps 10.244.0.0/16, which node 'b' has"
        self.start()
        self.allocate("10.244.3.0/24")
        self.assertEqual(("True", "PodCIDRRefused"), self.state())
        self.assertEqual(self.directory.refusal, self.condition(NETWORK_UNAVAILABLE)["message"])
        self.directory.refusal = ""
        self.settle(70)
        self.assertEqual(("False", "PodCIDRAdopted"), self.state())
        self.assertEqual(["10.244.3.0/24"], self.subnets())

    def test_what_is_no_subnet_is_refused(self) -> None:
        self.directory.set(edge())
        self.start()
        self.allocate("10.244.3.1/24")
        self.assertEqual(("True", "PodCIDRRefused"), self.state())
        self.assertIn("10.244.3.1/24", self.condition(NETWORK_UNAVAILABLE)["message"])

    def test_a_node_made_anew_gets_its_new_allocation(self) -> None:
        self.directory.set(edge())
        self.start()
        self.allocate("10.244.3.0/24")
        self.api.remove("nodes", "edge1")
        self.settle()
        self.assertEqual(("True", "PodCIDRMissing"), self.state())
        self.allocate("10.244.9.0/24", "fd00:244::/64")
        self.assertEqual(["10.244.9.0/24", "fd00:244::/64"], self.subnets())

    def test_without_the_option_the_condition_is_settled(self) -> None:
        self.directory.set(edge())
        self.start()
        self.stop()
        self.options = ControllerOptions()
        self.start()
        self.assertEqual(("False", "PodSubnetAssigned"), self.state())
        self.settle(60)
        self.assertEqual(("False", "PodSubnetAssigned"), self.state())

    def test_both_families_ipv4_first(self) -> None:
        spec = {"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.244.3.0/24"]}
        self.assertEqual((ip_network("10.244.3.0/24"), ip_network("fd00::/64")), allocated({"spec": spec}))
        self.assertEqual((ip_network("10.244.3.0/24"),), allocated({"spec": {"podCIDR": "10.244.3.0/24"}}))
        self.assertEqual((), allocated({"spec": {}}))

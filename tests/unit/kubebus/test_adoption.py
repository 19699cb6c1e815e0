"""Pod subnets that a cluster has allocated: what is taken over, what is refused, and races of routers."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_network

from twisted.trial.unittest import TestCase

from kubebus.addresses import AddressPlan
from kubebus.adoption import CannotAdopt, PodSubnets
from kubebus.interfaces import IPNetwork, NodeRecord, RegistryError
from kubebus.members import Members
from kubebus.records import ADDRESSES, NODES
from kubebus.testing import MemoryRegistry

ADVERTISED = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/56"))
FIRST = ip_network("10.244.3.0/24")
SIX = ip_network("fd00:244:0:3::/64")


class AdoptionTests(TestCase):
    def setUp(self) -> None:
        self.registry = MemoryRegistry()
        self.plan = AddressPlan(IPv6Network("fd00:b::/48"), assign_pods=False)
        self.members = Members("default", self.registry, self.plan, lambda: 1000.0)
        self.subnets = PodSubnets(self.registry, self.plan, ADVERTISED)

    async def enrol(self, name: str) -> NodeRecord:
        token, secret = await self.members.create_token()
        return await self.members.enrol(token.id, secret, name, f"key of {name}")

    async def claims(self) -> set[str]:
        return {record.name for record in await self.registry.list(ADDRESSES)}

    async def refused(self, name: str, *given: str) -> str:
        before = await self.registry.list(NODES), await self.registry.list(ADDRESSES)
        with self.assertRaises(CannotAdopt) as raised:
            await self.subnets.adopt(name, [ip_network(each) for each in given])
        self.assertEqual(before, (await self.registry.list(NODES), await self.registry.list(ADDRESSES)))
        return str(raised.exception)

    async def test_a_node_waits_for_its_subnets_and_gets_what_is_given(self) -> None:
        self.assertEqual((), (await self.enrol("a")).pod_subnets)
        node = await self.subnets.adopt("a", [FIRST])
        own = ip_network("fd00:b:0:1::/64")
        self.assertEqual((FIRST, own), node.pod_subnets, "of the other version it has one of the network's")
        self.assertEqual(node, await self.members.node("a"))
        self.assertLessEqual({"10.244.3.0-24", "fd00:b:0:1::-64"}, await self.claims())
        both = await self.subnets.adopt("a", [FIRST, SIX])
        self.assertEqual((FIRST, SIX), both.pod_subnets)
        self.assertNotIn("fd00:b:0:1::-64", await self.claims(), "what it has no more is free")

    async def test_doing_it_again_writes_nothing(self) -> None:
        await self.enrol("a")
        await self.subnets.adopt("a", [FIRST])
        before = await self.registry.list(NODES), await self.registry.list(ADDRESSES)
        await self.subnets.adopt("a", [FIRST])
        self.assertEqual(before, (await self.registry.list(NODES), await self.registry.list(ADDRESSES)))

    async def test_a_node_with_a_subnet_of_the_pool_moves_and_frees_it(self) -> None:
        self.members.plan = AddressPlan(self.plan.ula)
        node = await self.enrol("a")
        self.assertEqual("10.192.0.0/24", str(node.pod_subnets[0]))
        moved = await self.subnets.adopt("a", [FIRST])
        self.assertEqual((FIRST, node.pod_subnets[1]), moved.pod_subnets)
        self.assertEqual(node.addresses, moved.addresses)
        self.members = Members("default", self.registry, self.members.plan, lambda: 1000.0)
        self.assertEqual("10.192.0.0/24", str((await self.enrol("b")).pod_subnets[0]))

    async def test_what_cannot_be_is_refused_by_name(self) -> None:
        await self.enrol("a")
        self.assertIn("range 10.192.0.0/12", await self.refused("a", "10.200.1.0/24"))
        self.assertIn("range 10.250.0.0/16", await self.refused("a", "10.250.0.0/24"))
        self.assertIn("range fd00:b::/48", await self.refused("a", "10.244.1.0/24", "fd00:b:0:7::/64"))
        self.assertIn("--advertise", await self.refused("a", "10.245.1.0/24"))
        self.assertIn("--advertise", await self.refused("a", "10.244.0.0/15"))
        self.assertIn("too small", await self.refused("a", "10.244.0.0/30"))
        self.assertIn("one of each IP version", await self.refused("a", "10.244.1.0/24", "10.244.2.0/24"))
        self.assertIn("at least", await self.refused("a"))
        self.assertIn("no node 'x'", await self.refused("x", "10.244.1.0/24"))

    async def test_what_another_node_has_is_refused_until_that_is_gone(self) -> None:
        await self.enrol("a")
        await self.enrol("b")
        await self.subnets.adopt("a", [FIRST])
        for overlapping in ("10.244.3.0/24", "10.244.3.128/25", "10.244.0.0/20"):
            self.assertIn("overlaps 10.244.3.0/24, which node 'a' has", await self.refused("b", overlapping))
        await self.members.revoke("a")
        self.assertIn("node 'a' is revoked", await self.refused("a", "10.244.4.0/24"))
        self.assertIn("which node 'a' has", await self.refused("b", "10.244.3.0/24"))
        await self.members.remove("a")
        self.assertEqual(FIRST, (await self.subnets.adopt("b", [FIRST])).pod_subnets[0])

    async def race(self, first: IPNetwork) -> None:
        """Before ``b`` gets what it is given, another router gives ``first`` to ``a``."""
        await self.enrol("a")
        await self.enrol("b")
        other = PodSubnets(self.registry, self.plan, ADVERTISED)

        def before() -> None:
            coroutine = other.adopt("a", [first])
            with self.assertRaises(StopIteration):
                coroutine.send(None)

        self.registry.before_commit = before
        await self.subnets.adopt("b", [FIRST])

    async def test_two_at_once_both_pass_where_they_do_not_meet(self) -> None:
        await self.race(ip_network("10.244.4.0/24"))
        nodes = {node.name: node.pod_subnets for node in await self.members.nodes()}
        self.assertEqual({"a": "10.244.4.0/24", "b": "10.244.3.0/24"}, {n: str(s[0]) for n, s in nodes.items()})
        self.assertNotEqual(nodes["a"][1], nodes["b"][1])

    async def test_two_at_once_that_overlap_do_not_both_pass(self) -> None:
        with self.assertRaises(CannotAdopt):
            await self.race(ip_network("10.244.0.0/22"))
        self.assertEqual("10.244.0.0/22", str((await self.members.nodes())[0].pod_subnets[0]))

    async def test_a_registry_that_is_away_is_no_refusal(self) -> None:
        await self.enrol("a")
        self.registry.unavailable = True
        with self.assertRaises(RegistryError):
            await self.subnets.adopt("a", [FIRST])

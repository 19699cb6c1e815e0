# mypy: disallow-untyped-calls=False
"""Members over the memory registry: enrolment, addresses, tokens, revocation."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus.addresses import AddressPlan, InvalidPlan, PoolExhausted, claim_of, random_ula
from kubebus.identity import InvalidIdentity, PeerIdentity, Role
from kubebus.interfaces import Change, NodeRecord, Registry, RegistryError
from kubebus.members import Members, NotFound, NotRevoked
from kubebus.records import DamagedRecord, NodeEntry
from kubebus.testing import MemoryRegistry, RegistryContract
from kubebus.tokens import Refusal, Refused

ULA = IPv6Network("fd00:1:2::/48")
KEY, OTHER_KEY, THIRD_KEY = "a" * 64, "b" * 64, "c" * 64


class MemoryRegistryTests(RegistryContract, TestCase):
    """The memory registry keeps the contract."""

    def make_registry(self) -> Registry:
        self._registry = getattr(self, "_registry", None) or MemoryRegistry()
        return self._registry


class _Counted(set[str]):
    """Counts how often it is searched."""

    lookups = 0

    def __contains__(self, item: object) -> bool:
        self.lookups += 1
        return super().__contains__(item)


class AddressPlanTests(SynchronousTestCase):
    """The first free addresses of each pool are given."""

    def test_first_and_next(self) -> None:
        plan = AddressPlan(ULA)
        first = plan.assign(())
        self.assertEqual(first.addresses, (ip_address("10.250.0.2"), ip_address("fd00:1:2::2")))
        self.assertEqual(first.pod_subnets, (ip_network("10.192.0.0/24"), ip_network("fd00:1:2:1::/64")))
        second = plan.assign(first.claims)
        self.assertEqual(second.addresses, (ip_address("10.250.0.3"), ip_address("fd00:1:2::3")))
        self.assertEqual(second.pod_subnets, (ip_network("10.192.1.0/24"), ip_network("fd00:1:2:2::/64")))

    def test_default_pools_give_4096_subnets_that_stay_clear_of_the_node_subnet(self) -> None:
        plan = AddressPlan(ULA)
        subnets = list(plan.pod_pool.subnets(new_prefix=24))
        self.assertEqual(len(subnets), 4096)
        self.assertFalse(any(subnet.overlaps(plan.node_pool) for subnet in subnets))
        self.assertEqual(plan.assign([claim_of(s) for s in subnets[:-1]]).pod_subnets[0], subnets[-1])
        with self.assertRaisesRegex(PoolExhausted, r"pod subnets' pool 10\.192\.0\.0/12 has no free"):
            plan.assign([claim_of(s) for s in subnets])

    def test_small_node_subnet(self) -> None:
        plan = AddressPlan(ULA, node_pool=IPv4Network("10.9.0.0/29"))
        taken: list[str] = []
        for last in range(2, 7):
            assignment = plan.assign(taken)
            self.assertEqual(str(assignment.addresses[0]), f"10.9.0.{last}")
            taken += assignment.claims
        self.assertRaises(PoolExhausted, plan.assign, taken)

    def test_what_was_found_full_is_not_searched_again(self) -> None:
        plan, full, searched = AddressPlan(ULA), dict[str, int](), _Counted()
        given = [plan.assign(searched, full)]
        for _ in range(99):
            searched.update(given[-1].claims)
            given.append(plan.assign(searched, full))
        plain = plan.assign({claim for each in given for claim in each.claims})
        searched.update(given[-1].claims)
        self.assertEqual(plan.assign(searched, full), plain)
        self.assertLess(searched.lookups, 10 * len(given))

    def test_plans_that_cannot_work(self) -> None:
        net = IPv4Network
        with self.assertRaisesRegex(InvalidPlan, "overlap"):
            AddressPlan(ULA, node_pool=net("10.200.0.0/16"))
        with self.assertRaisesRegex(InvalidPlan, "too small"):
            AddressPlan(ULA, node_pool=net("10.1.0.0/30"))
        with self.assertRaisesRegex(InvalidPlan, "from 12 to 29"):
            AddressPlan(ULA, pod_prefix=8)
        with self.assertRaisesRegex(InvalidPlan, "/48"):
            AddressPlan(IPv6Network("fd00::/40"))

    def test_random_ula(self) -> None:
        one, two = random_ula(), random_ula()
        self.assertNotEqual(one, two)
        self.assertTrue(one.subnet_of(IPv6Network("fd00::/8")))
        self.assertEqual(one.prefixlen, 48)


class MembersCase(TestCase):
    def setUp(self) -> None:
        self.now = 1_000_000.0
        self.registry = MemoryRegistry()
        self.members = self.make_members()

    def make_members(self, plan: AddressPlan | None = None) -> Members:
        return Members("default", self.registry, plan or AddressPlan(ULA), lambda: self.now)

    async def join(self, name: str, key: str = KEY) -> NodeRecord:
        token, secret = await self.members.create_token()
        return await self.members.enrol(token.id, secret, name, key)

    async def assertRefused(self, refusal: Refusal, awaitable: object, pattern: str = ".") -> None:
        try:
            await awaitable  # type: ignore[misc]
        except Refused as error:
            self.assertEqual(error.refusal, refusal)
            self.assertRegex(str(error), pattern)
        else:
            self.fail("not refused")


class EnrolTests(MembersCase):
    async def test_new_node(self) -> None:
        node = await self.join("edge-1")
        self.assertEqual(node.enrolled_at, self.now)
        self.assertEqual(node.public_key, KEY)
        self.assertEqual(await self.members.node("edge-1"), node)
        self.assertEqual(await self.members.nodes(), [node])
        self.assertIsNone(await self.members.node("edge-2"))

    async def test_addresses_differ(self) -> None:
        nodes = [await self.join(f"edge-{n}", f"{n:064d}") for n in range(20)]
        for values in zip(*((*node.addresses, *node.pod_subnets) for node in nodes), strict=True):
            self.assertEqual(len(set(values)), 20)

    async def test_same_addresses_after_enrolling_again(self) -> None:
        first = await self.join("edge-1")
        await self.join("edge-2", OTHER_KEY)
        self.members = self.make_members()
        again = await self.join("edge-1", THIRD_KEY)
        self.assertEqual((again.addresses, again.pod_subnets), (first.addresses, first.pod_subnets))
        self.assertEqual(again.public_key, THIRD_KEY)

    async def test_the_old_key_is_no_longer_accepted(self) -> None:
        identity = PeerIdentity("default", Role.NODE, "edge-1")
        await self.join("edge-1")
        await self.members.check(identity, KEY)
        await self.join("edge-1", OTHER_KEY)
        await self.assertRefused(Refusal.OTHER_KEY, self.members.check(identity, KEY), "another key")

    async def test_live_name_cannot_be_claimed_by_a_second_key(self) -> None:
        await self.join("edge-1")
        token, secret = await self.members.create_token()
        await self.assertRefused(
            Refusal.NAME_TAKEN,
            self.members.enrol(token.id, secret, "edge-1", OTHER_KEY, lambda name: name == "edge-1"),
            "'edge-1' belongs to a node that is connected",
        )
        # The refusal used nothing up.
        await self.members.enrol(token.id, secret, "edge-1", OTHER_KEY, lambda name: False)

    async def test_the_same_key_may_enrol_again_while_live(self) -> None:
        first = await self.join("edge-1")
        token, secret = await self.members.create_token()
        again = await self.members.enrol(token.id, secret, "edge-1", KEY, lambda name: True)
        self.assertEqual(again.addresses, first.addresses)

    async def test_exhaustion(self) -> None:
        plan = AddressPlan(ULA, pod_pool=IPv4Network("10.192.0.0/23"))
        self.members = self.make_members(plan)
        await self.join("edge-1")
        await self.join("edge-2", OTHER_KEY)
        await self.assertRefused(Refusal.EXHAUSTED, self.join("edge-3", THIRD_KEY), "10.192.0.0/23 has no free")
        await self.members.revoke("edge-1")
        await self.assertRefused(Refusal.EXHAUSTED, self.join("edge-3", THIRD_KEY))
        await self.members.remove("edge-1")
        self.assertEqual(str((await self.join("edge-3", THIRD_KEY)).pod_subnets[0]), "10.192.0.0/24")

    async def test_bad_name(self) -> None:
        token, secret = await self.members.create_token()
        for name in ("", "Edge", "-a", "a/b", "a" * 64, "a\n"):
            with self.assertRaises(InvalidIdentity):
                await self.members.enrol(token.id, secret, name, KEY)

    async def test_registry_away(self) -> None:
        self.registry.unavailable = True
        with self.assertRaises(RegistryError):
            await self.members.enrol("0" * 8, "x", "edge-1", KEY)

    async def test_damaged_record(self) -> None:
        await self.registry.commit([Change("nodes", "edge-1", b'{"name": 3}', 0)])
        with self.assertRaisesRegex(DamagedRecord, "'edge-1' is damaged"):
            await self.members.node("edge-1")

    async def test_damaged_record_does_not_end_a_subscription(self) -> None:
        seen: list[str] = []
        subscription = self.members.subscribe(lambda name, node: seen.append(name))
        await self.registry.commit([Change("nodes", "edge-1", b"rubbish", 0)])
        await self.join("edge-2")
        subscription.cancel()
        self.assertEqual(seen, ["edge-2"])


class RacingRouters(MembersCase):
    """Two routers over one registry."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.make_members()

    def first(self, coroutine: object) -> None:
        """Let the other router's work come just before the next commit."""

        def run() -> None:
            try:
                coroutine.send(None)  # type: ignore[attr-defined]
            except StopIteration:
                return
            raise AssertionError("the memory registry never waits")

        self.registry.before_commit = run

    async def test_one_token_two_joiners(self) -> None:
        token, secret = await self.members.create_token()
        self.first(self.other.enrol(token.id, secret, "edge-2", OTHER_KEY))
        await self.assertRefused(Refusal.USED_TOKEN, self.members.enrol(token.id, secret, "edge-1", KEY), "edge-2")
        self.assertEqual([node.name for node in await self.members.nodes()], ["edge-2"])

    async def test_one_address_two_nodes(self) -> None:
        await self.join("edge-0", THIRD_KEY)  # both have now read what is taken
        token, secret = await self.members.create_token()
        token2, secret2 = await self.members.create_token()
        self.first(self.other.enrol(token2.id, secret2, "edge-2", OTHER_KEY))
        one = await self.members.enrol(token.id, secret, "edge-1", KEY)
        two = await self.members.node("edge-2")
        assert two is not None
        self.assertEqual(str(two.addresses[0]), "10.250.0.3")
        self.assertEqual(str(one.addresses[0]), "10.250.0.4")
        self.assertFalse(set(one.pod_subnets) & set(two.pod_subnets))

    async def test_revocation_is_seen_by_both(self) -> None:
        node = await self.join("edge-1")
        seen: list[tuple[str, bool]] = []
        subscription = self.other.subscribe(
            lambda name, node: seen.append((name, node is not None and node.revoked_at is not None))
        )
        await self.members.revoke("edge-1")
        subscription.cancel()
        self.assertEqual(seen, [("edge-1", False), ("edge-1", True)])
        identity = PeerIdentity("default", Role.NODE, "edge-1")
        await self.assertRefused(Refusal.REVOKED, self.other.check(identity, node.public_key))

    async def test_revocation_races_re_enrolment(self) -> None:
        await self.join("edge-1")
        token, secret = await self.members.create_token()
        self.first(self.other.revoke("edge-1"))
        node = await self.members.enrol(token.id, secret, "edge-1", OTHER_KEY)
        self.assertIsNone(node.revoked_at)
        token, secret = await self.members.create_token()
        await self.assertRefused(Refusal.REVOKED, self.members.enrol(token.id, secret, "edge-1", KEY))


class TokenTests(MembersCase):
    async def test_used_once(self) -> None:
        token, secret = await self.members.create_token()
        await self.members.enrol(token.id, secret, "edge-1", KEY)
        await self.assertRefused(
            Refusal.USED_TOKEN,
            self.members.enrol(token.id, secret, "edge-2", OTHER_KEY),
            "used already, by node 'edge-1'",
        )
        await self.assertRefused(Refusal.USED_TOKEN, self.members.enrol(token.id, secret, "edge-1", OTHER_KEY))

    async def test_lost_answer_may_be_asked_for_again(self) -> None:
        token, secret = await self.members.create_token()
        node = await self.members.enrol(token.id, secret, "edge-1", KEY)
        self.now += 5
        self.assertEqual(await self.members.enrol(token.id, secret, "edge-1", KEY), node)

    async def test_expired(self) -> None:
        token, secret = await self.members.create_token(60)
        self.now += 59
        early, early_secret = await self.members.create_token(60)
        self.now += 1
        await self.assertRefused(
            Refusal.EXPIRED_TOKEN, self.members.enrol(token.id, secret, "edge-1", KEY), "has expired"
        )
        await self.members.enrol(early.id, early_secret, "edge-1", KEY)

    async def test_other_name(self) -> None:
        token, secret = await self.members.create_token(node="edge-1")
        await self.assertRefused(
            Refusal.OTHER_NAME,
            self.members.enrol(token.id, secret, "edge-2", KEY),
            "is for node 'edge-1', not for 'edge-2'",
        )
        await self.members.enrol(token.id, secret, "edge-1", KEY)

    async def test_wrong_secret_tells_nothing(self) -> None:
        token, secret = await self.members.create_token(node="edge-1")
        for token_id, guess in ((token.id, secret + "x"), ("0" * 8, secret), (token.id, "")):
            await self.assertRefused(
                Refusal.UNKNOWN_TOKEN, self.members.enrol(token_id, guess, "edge-2", KEY), "not known"
            )

    async def test_revoked(self) -> None:
        token, secret = await self.members.create_token()
        await self.members.revoke_token(token.id)
        await self.assertRefused(Refusal.UNKNOWN_TOKEN, self.members.enrol(token.id, secret, "edge-1", KEY))
        with self.assertRaisesRegex(NotFound, token.id):
            await self.members.revoke_token(token.id)

    async def test_secret_is_not_kept(self) -> None:
        token, secret = await self.members.create_token()
        records = await self.registry.list("tokens")
        self.assertEqual([r.name for r in records], [token.id])
        self.assertNotIn(secret.encode(), records[0].value)
        self.assertNotIn(secret, repr(token))

    async def test_list_and_forget(self) -> None:
        first, _ = await self.members.create_token(60)
        self.now += 10
        second, _ = await self.members.create_token(3600)
        self.assertEqual(await self.members.tokens(), [first, second])
        self.now += 1000
        self.assertEqual(await self.members.forget_old_tokens(100), 1)
        self.assertEqual(await self.members.tokens(), [second])

    async def test_limits(self) -> None:
        for lifetime in (0, -1, 366 * 86400, float("nan"), float("inf")):
            with self.assertRaises(ValueError):
                await self.members.create_token(lifetime)
        with self.assertRaises(InvalidIdentity):
            await self.members.create_token(node="Not a name")


class RevokeTests(MembersCase):
    async def test_revoked_key_never_returns(self) -> None:
        identity = PeerIdentity("default", Role.NODE, "edge-1")
        await self.join("edge-1")
        revoked = await self.members.revoke("edge-1")
        self.assertEqual(revoked.revoked_at, self.now)
        await self.assertRefused(Refusal.REVOKED, self.members.check(identity, KEY), "was revoked")
        await self.assertRefused(Refusal.REVOKED, self.join("edge-1", KEY))
        again = await self.join("edge-1", OTHER_KEY)
        self.assertEqual(again.addresses, revoked.addresses)
        await self.members.check(identity, OTHER_KEY)
        await self.assertRefused(Refusal.REVOKED, self.members.check(identity, KEY))

    async def test_twice_keeps_the_first_time(self) -> None:
        await self.join("edge-1")
        first = await self.members.revoke("edge-1")
        self.now += 10
        self.assertEqual(await self.members.revoke("edge-1"), first)

    async def test_unknown(self) -> None:
        with self.assertRaisesRegex(NotFound, "'edge-9'"):
            await self.members.revoke("edge-9")

    async def test_remove_needs_revocation(self) -> None:
        await self.join("edge-1")
        with self.assertRaisesRegex(NotRevoked, "kubebus node revoke edge-1"):
            await self.members.remove("edge-1")

    async def test_removed_node_is_unknown_and_its_addresses_are_free(self) -> None:
        node = await self.join("edge-1")
        await self.members.revoke("edge-1")
        await self.members.remove("edge-1")
        self.assertIsNone(await self.members.node("edge-1"))
        identity = PeerIdentity("default", Role.NODE, "edge-1")
        await self.assertRefused(Refusal.UNKNOWN_NODE, self.members.check(identity, KEY))
        self.assertEqual((await self.join("edge-2", OTHER_KEY)).addresses, node.addresses)

    async def test_check_of_others(self) -> None:
        self.assertIsNone(await self.members.check(PeerIdentity("default", Role.ROUTER, "r1"), KEY))
        await self.assertRefused(
            Refusal.OTHER_NETWORK, self.members.check(PeerIdentity("blue", Role.NODE, "edge-1"), KEY), "'blue'"
        )

    def test_entry_round_trip(self) -> None:
        node = NodeRecord("n", (ip_address("10.0.0.1"),), (ip_network("fd00::/64"),), KEY, 1.5)
        entry = NodeEntry(node, (OTHER_KEY,)).revoke(2.5)
        self.assertEqual(NodeEntry.decode("n", entry.encode()), entry)
        self.assertEqual(entry.revoked_keys, (OTHER_KEY, KEY))

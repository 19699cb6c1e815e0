"""The data of a site, shared by its nodes with the cloud and without it."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from metasync.neighbours import NeighbourSync
from metasync.sitefeed import site_scope
from tests.unit.metasync.pairs import FakeAddress, FakePeer, PumpedEndpoint
from tests.unit.metasync.world import World

SITES = {"n1": "hall", "n2": "hall", "n3": "hall", "n4": "yard"}
HALL = ("n1", "n2", "n3")


class SiteWorld(World):
    """A cloud and four nodes, of which three share a site and have links to each other."""

    def __init__(self) -> None:
        self.direct: dict[tuple[str, str], PumpedEndpoint] = {}
        self.syncs: dict[str, NeighbourSync] = {}
        super().__init__(*SITES, sites=dict(SITES))
        for name, client in self.clients.items():
            self.syncs[name] = sync = NeighbourSync(
                self.clock,
                self.stores[name],
                "default",
                name,
                client,
                lambda name=name: self.sites[name],  # type: ignore[misc]
                members=lambda name=name: [each for each in SITES if self.sites[each] == self.sites[name]],  # type: ignore[misc]
                jitter=lambda: 0.0,
            )
            sync.startService()
        for node in SITES:
            self.server.look_again(node)
            self.cut(node)

    def link(self, one: str, other: str) -> None:
        """A link between two nodes comes up; each is told. Who has it as an address dials the other."""
        for here, there in ((one, other), (other, one)):
            endpoint = PumpedEndpoint(self.syncs[there].factory(), FakePeer(name=here))  # type: ignore[arg-type]
            self.direct[here, there] = endpoint
            self.endpoints[f"{here}-{there}"] = endpoint
            self.syncs[here].neighbour(there, endpoint)
        self.settle(2)

    def unlink(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            self.direct.pop((here, there)).cut()
            del self.endpoints[f"{here}-{there}"]
            self.syncs[here].neighbour(there, None)
        self.settle(1)

    def link_all(self) -> None:
        for one, other in (("n1", "n2"), ("n1", "n3"), ("n2", "n3")):
            if (one, other) not in self.direct:
                self.link(one, other)

    def stop(self) -> None:
        for sync in self.syncs.values():
            sync.stopService()
        super().stop()

    def of_site(self, name: str, site: str = "hall") -> dict[str, str]:
        return self.contents(name, site_scope(site))

    def put(self, name: str, key: str, value: str | None, site: str = "hall") -> None:
        self.write(name, **{f"site.{site}_{key}": value})


class NeighbourTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = SiteWorld()
        self.addCleanup(self.world.stop)

    def assertSame(self, expected: dict[str, str], *names: str) -> None:
        for name in names:
            self.assertEqual(self.world.of_site(name), expected, name)

    def test_without_the_cloud(self) -> None:
        world = self.world
        world.put("n1", "early", "1")
        world.link_all()
        world.put("n2", "later", "2")
        world.put("n3", "early", "3")
        world.settle(2)
        self.assertSame({"early": "3", "later": "2"}, *HALL)
        world.put("n2", "early", None)
        world.settle(2)
        self.assertSame({"later": "2"}, *HALL)
        self.assertEqual((world.of_site("n4"), world.of_site("cloud")), ({}, {}))

    def test_the_cloud_hears_of_it_later(self) -> None:
        world = self.world
        world.link_all()
        world.put("n1", "x", "1")
        world.put("cloud", "y", "2")
        world.settle(2)
        world.mend("n3")
        world.settle(5)
        # One node has the cloud: all of them do.
        self.assertSame({"x": "1", "y": "2"}, "cloud", *HALL)
        for name in ("n1", "n2", "n4"):
            world.mend(name)
        world.settle(5)
        self.assertSame({"x": "1", "y": "2"}, "cloud", *HALL)
        self.assertEqual(world.of_site("n4"), {})
        self.assertEqual(world.clients["n1"].scopes(), ("all", "node.n1", "site.hall"))
        self.assertEqual(world.clients["n4"].scopes(), ("all", "node.n4", "site.yard"))

    def test_only_the_sites_scope(self) -> None:
        world = self.world
        world.link_all()
        world.write("n1", all_x="1", **{"node.n1_x": "2", "site.yard_x": "3"})
        world.settle(2)
        for scope in ("all", "node.n1", "site.yard"):
            self.assertEqual(world.contents("n2", scope), {})

    def test_conflicts(self) -> None:
        """Written on both sides of a split LAN: one wins, everywhere the same, and the other is kept."""
        world = self.world
        world.link_all()
        world.put("n1", "x", "0")
        world.settle(2)
        world.unlink("n1", "n2")
        world.unlink("n1", "n3")
        world.put("n1", "x", "from n1")
        world.put("n2", "x", "from n2")
        world.settle(2)
        self.assertSame({"x": "from n2"}, "n2", "n3")
        world.link_all()
        world.settle(2)
        self.assertSame({"x": "from n2"}, *HALL)
        self.assertIn(("n1", b"from n1"), [loser for name in HALL for loser in world.losers(name, "site.hall_x")])

    def test_a_node_in_between(self) -> None:
        """What one neighbour says is passed on to the others."""
        world = self.world
        world.link("n1", "n2")
        world.link("n2", "n3")
        world.put("n1", "x", "1")
        world.settle(2)
        self.assertSame({"x": "1"}, *HALL)

    def test_news_come_to_rest(self) -> None:
        """Three nodes that tell each other, and the cloud, everything: a write ends nowhere, and goes round once."""
        world = self.world
        world.link_all()
        for name in SITES:
            world.mend(name)
        world.settle(5)
        world.put("n1", "x", "1")
        world.settle(5)
        before = world.wire
        world.settle(50)
        self.assertEqual(world.wire, before)

    def test_another_site(self) -> None:
        """The link is of a moment when both were of one site."""
        world = self.world
        world.link("n1", "n4")
        world.write("n1", **{"site.hall_x": "1", "site.yard_x": "1"})
        world.settle(2)
        self.assertEqual((world.of_site("n4"), world.contents("n4", "site.yard")), ({}, {}))
        world.sites["n4"] = None
        self.assertIsNone(world.syncs["n4"].factory().buildProtocol(FakeAddress(FakePeer(name="n1"))))

    def test_status(self) -> None:
        world = self.world
        self.assertEqual(world.syncs["n1"].status(), {})
        world.link_all()
        status: dict[str, Any] = world.syncs["n1"].status()["neighbours"]
        self.assertEqual(sorted(status), ["n2", "n3"])
        self.assertEqual({feed["feed"] for feed in status["n2"]}, {"data/site.hall"})
        world.unlink("n1", "n2")
        self.assertEqual(sorted(world.syncs["n1"].status()["neighbours"]), ["n3"])

    def test_a_session_that_breaks(self) -> None:
        world = self.world
        world.link_all()
        for endpoint in world.direct.values():
            endpoint.cut()
        world.put("n1", "x", "1")
        world.settle(4)
        self.assertSame({"x": "1"}, *HALL)


class CollectionTests(SynchronousTestCase):
    """Stamps of what was deleted in a site go once every member has them, and the cloud."""

    def setUp(self) -> None:
        self.world = world = SiteWorld()
        self.addCleanup(world.stop)
        world.link_all()
        for name in SITES:
            world.mend(name)
        world.settle(5)
        world.put("n1", "kept", "1")
        world.put("n1", "gone", "1")
        world.settle(5)

    def collected(self, *sides: str) -> list[int]:
        """Which have no stamp of a deletion left, of those asked."""
        for _ in range(2):
            for side in sides:
                self.world.collect(side)
            self.world.settle(3)
        return [self.world.stamps(side) for side in sides]

    def test_everybodyHasThem(self) -> None:
        self.world.put("n2", "gone", None)
        self.world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [1, 1, 1, 1])
        self.world.put("n3", "gone", "again")
        self.world.settle(5)
        for side in ("cloud", *HALL):
            self.assertEqual(self.world.of_site(side), {"kept": "1", "gone": "again"})

    def test_aMemberIsAway(self) -> None:
        """From its neighbours and from the cloud; it comes back with a write that is older than the deletion."""
        world = self.world
        world.unlink("n1", "n3")
        world.unlink("n2", "n3")
        world.cut("n3")
        world.put("n3", "gone", "old")
        world.put("n1", "gone", "2")
        world.settle(2)
        world.put("n2", "gone", None)
        world.settle(5)
        self.assertEqual(self.collected("cloud", "n1", "n2"), [2, 2, 2])
        world.link("n1", "n3")
        world.settle(5)
        self.assertEqual([world.of_site(name) for name in HALL], [{"kept": "1"}] * 3)
        world.link("n2", "n3")
        world.mend("n3")
        world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [1] * 4)

    def test_aMemberThatTheCloudHasNeverSeen(self) -> None:
        """It is of the site by its record, and may have anything from a neighbour."""
        world = self.world
        world.cut("n4")
        world.sites["n4"] = "hall"
        world.server.look_again("n4")
        world.put("n2", "gone", None)
        world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [2] * 4)
        world.server.forget("n4")
        world.sites["n4"] = None
        world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [1] * 4)

    def test_twoMembersWithoutALink(self) -> None:
        """Theirs stay, one for each key however often it was deleted, until they had a link for once."""
        world = self.world
        world.unlink("n1", "n3")
        for side in ("n1", "n3"):  # as after a restart of both
            world.syncs[side]._known.clear()
        for number in range(5):
            world.put("n1", "gone", str(number))
            world.settle(2)
            world.put("n3", "gone", None)
            world.settle(2)
        self.assertEqual(self.collected("cloud", *HALL), [1, 2, 1, 2])
        world.link("n1", "n3")
        world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [1] * 4)

    def test_withoutARoster(self) -> None:
        for sync in self.world.syncs.values():
            sync._members = lambda: None
        self.world.put("n2", "gone", None)
        self.world.settle(5)
        self.assertEqual(self.collected("cloud", *HALL), [1, 2, 2, 2])


class SitePartitions(RuleBasedStateMachine):
    """A site's nodes and the cloud write, are cut off from each other and come back; stamps are collected meanwhile."""

    sides = st.sampled_from(("cloud", *HALL))
    nodes = st.sampled_from(HALL)
    pairs = st.sampled_from((("n1", "n2"), ("n1", "n3"), ("n2", "n3")))
    names = st.sampled_from(["a", "b"])

    @initialize(together=st.booleans())
    def begin(self, together: bool) -> None:
        self.world = SiteWorld()
        self.count = 0
        self.replaced: dict[str, set[str]] = {"a": set(), "b": set()}
        if together:
            self.agree()

    @rule(side=sides, name=names, delete=st.booleans())
    def write(self, side: str, name: str, delete: bool) -> None:
        """What was there, and was seen, must never come back."""
        seen = self.world.of_site(side).get(name)
        self.count += 1
        self.world.put(side, name, None if delete else f"{side} {self.count}")
        if seen is not None:
            self.replaced[name].add(seen)

    @rule(pair=pairs)
    def link(self, pair: tuple[str, str]) -> None:
        if pair not in self.world.direct:
            self.world.link(*pair)

    @rule(pair=pairs)
    def unlink(self, pair: tuple[str, str]) -> None:
        if pair in self.world.direct:
            self.world.unlink(*pair)

    @rule(node=nodes)
    def cut(self, node: str) -> None:
        self.world.cut(node)

    @rule(node=nodes)
    def mend(self, node: str) -> None:
        self.world.mend(node)

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        self.world.settle(seconds)

    @rule()
    def collect(self) -> None:
        """All that may go now goes."""
        for _ in range(2):
            self.world.settle(1.5)
            for side in ("cloud", *HALL):
                self.world.collect(side)

    @rule(node=nodes, name=names)
    def somebody_is_away(self, node: str, name: str) -> None:
        """As is ordinary: while the others delete, and forget what they deleted if they may."""
        self.agree()
        self.world.cut(node)
        for pair in [pair for pair in self.world.direct if pair[0] == node]:
            self.world.unlink(*pair)
        self.write(next(other for other in HALL if other != node), name, delete=True)
        self.world.settle(3)
        self.collect()

    @rule()
    def agree(self) -> None:
        self.world.link_all()
        for node in HALL:
            self.world.mend(node)
        self.world.settle(8)
        states = [self.world.of_site(side) for side in ("cloud", *HALL)]
        assert all(state == states[0] for state in states), states
        for name, value in states[0].items():
            assert value not in self.replaced[name], (name, value)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.agree()
            self.world.stop()


class SitePartitionTests(SynchronousTestCase):
    def test_allConvergeAndNothingComesBack(self) -> None:
        quick: Any = settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(SitePartitions, settings=quick)


class ConvergenceTests(SynchronousTestCase):
    STEP = st.tuples(
        st.sampled_from(("n1", "n2", "n3", "cloud", "link", "unlink", "mend", "cut")),
        st.integers(0, 2),
        st.sampled_from(("x", "y")),
        st.sampled_from(("1", "2", None)),
    )

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEP, max_size=14))
    def test_any_order(self, steps: list[tuple[str, int, str, str | None]]) -> None:
        world = SiteWorld()
        pairs = (("n1", "n2"), ("n1", "n3"), ("n2", "n3"))
        try:
            for what, which, key, value in steps:
                pair = pairs[which]
                if what == "link" and pair not in world.direct:
                    world.link(*pair)
                elif what == "unlink" and pair in world.direct:
                    world.unlink(*pair)
                elif what == "mend":
                    world.mend(HALL[which])
                elif what == "cut":
                    world.cut(HALL[which])
                elif what in world.stores:
                    world.put(what, key, value)
                world.settle(1)
            world.link_all()
            for name in SITES:
                world.mend(name)
            world.settle(6)
            contents = [world.of_site(name) for name in ("cloud", *HALL)]
            self.assertEqual(contents[1:], contents[:1] * 3)
        finally:
            world.stop()

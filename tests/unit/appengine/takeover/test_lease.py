"""Leases of a site whose nodes die, are cut off, come back, join and leave: one story each."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.lease import Ending, Gained, WantedBack
from appengine.takeover.rank import ranked
from appengine.takeover.timing import LONGEST, LeaseTiming
from tests.unit.appengine.takeover.model import ModelSite

LENGTH, HOLD = 15.0, 15.0 * 1.01 / 0.99


def site(names: str = "abc", owners: dict[str, str] | None = None) -> ModelSite:
    """A site that has begun: its nodes have met, and remember what they said."""
    made = ModelSite(names, {"u": "a"} if owners is None else owners)
    for name in names:
        made.start(name)
    made.advance(20)
    return made


class StoryTests(SynchronousTestCase):
    def told(self, made: ModelSite, name: str) -> list[object]:
        told, made.nodes[name].told = made.nodes[name].told, []
        return told

    def test_the_owner_has_it_and_keeps_it(self) -> None:
        made = site()
        self.assertEqual(made.holders("u"), {"a"})
        made.advance(100)
        self.assertEqual([self.told(made, name) for name in "abc"], [[Gained("u")], [], []])

    def test_nobody_votes_before_a_lease_is_over(self) -> None:
        made = ModelSite("abc", {"u": "a"})
        for name in "abc":
            made.start(name)
        made.advance(HOLD - 0.1)
        self.assertEqual(made.holders("u"), set())
        made.advance(3)
        self.assertEqual(made.holders("u"), {"a"})

    def test_death(self) -> None:
        """The first in rank of those left has it once the lease is over, and within a few seconds of that."""
        made = site()
        self.assertEqual(made.holders("u"), {"a"})
        died = made.time
        made.kill("a")
        while made.nodes["a"].ghosts["u"] > made.time:
            made.advance(0.1)
        made.advance(3)
        taker = ranked("u", "bc")[0]
        self.assertEqual(made.holders("u"), {taker})
        self.assertLess(made.time - died, LENGTH + 4)

    def test_given_back(self) -> None:
        """Not before the taker has stopped it."""
        made = site()
        made.kill("a")
        made.advance(25)
        (taker,) = made.holders("u")
        made.gives_back = False
        self.told(made, taker)
        self.told(made, "a")
        made.start("a")
        made.advance(60)
        self.assertEqual(self.told(made, taker), [WantedBack("u")])
        self.assertEqual(made.holders("u"), {taker})
        core = made.nodes[taker].core
        assert core is not None
        core.release("u", made.time)
        made.act(made.nodes[taker])
        made.advance(0.1)
        self.assertEqual((made.holders("u"), self.told(made, "a")), ({"a"}, [Gained("u")]))

    def test_withdrawn_while_it_is_asked_for(self) -> None:
        """The answers, that another has it, still come: they are for nobody."""
        made = site(owners={})
        for name in "bc":
            core = made.nodes[name].core
            assert core is not None
            core.claim("v", name, made.time)
            core.tick(made.time)
            if name == "c":
                core.withdraw("v")
            made.act(made.nodes[name])
            made.advance(0.5)
        self.assertEqual(made.holders("v"), {"b"})

    def test_an_agent_that_is_started_again_goes_on_at_once(self) -> None:
        """Its own votes of before are still its, at the others."""
        made = site()
        made.kill("a")
        made.advance(0.5)
        made.start("a")
        made.advance(0.1)
        self.assertEqual(made.holders("u"), {"a"})

    def test_an_owner_that_is_cut_off_stops_in_time(self) -> None:
        made = site()
        self.told(made, "a")
        made.split("a", "bc")
        cut = made.time
        made.advance(LENGTH - 0.5)
        (ending,) = self.told(made, "a")
        assert isinstance(ending, Ending)
        self.assertLessEqual(ending.stop_by, cut + LENGTH - 1)
        self.assertGreater(ending.stop_by, cut + LENGTH - 7)
        made.advance(5)
        self.assertEqual(made.holders("u"), {ranked("u", "bc")[0]})
        made.split("abc")
        made.advance(0.1)
        self.assertEqual(made.holders("u"), {"a"})

    def test_clocks_that_go_differently(self) -> None:
        """A holder whose clock is slow by all that is allowed, and voters whose clocks are as fast."""
        made = ModelSite("abc", {"u": "a"})
        made.rude = True
        made.gives_back = False
        for name, rate in zip("abc", (0.99, 1.01, 1.01), strict=True):
            made.nodes[name].rate = rate
            made.start(name)
        for _ in range(5):
            made.advance(20)
            (holder,) = made.holders("u")
            # It has just renewed, and nobody hears of it again; all others ask all the time.
            made.advance(0.05)
            made.split([holder], [name for name in "abc" if name != holder])
            made.advance(17)
            self.assertNotEqual(made.holders("u"), {holder})
            made.split("abc")

    def test_a_voter_that_was_started_anew(self) -> None:
        """It has forgotten whom it voted for: it votes for nobody until that is over."""
        made = ModelSite("abc", {"u": "a"})
        made.rude = True
        made.gives_back = False
        for name in "abc":
            made.start(name)
        made.advance(20)
        (holder,) = made.holders("u")
        voter, other = (name for name in "abc" if name != holder)
        made.split([holder], [voter, other])
        made.kill(voter)
        made.kill(other)
        made.start(voter)
        made.start(other)
        made.advance(14)
        self.assertIn(made.holders("u"), ({holder}, set()))
        made.advance(6)
        self.assertEqual(len(made.holders("u") - {holder}), 1)

    def test_a_voter_that_is_started_anew_with_a_shorter_lease(self) -> None:
        """It votes for nobody before the longer one is over that it may have voted for: also if it is killed again."""
        made = ModelSite("abc", {"u": "a"}, LeaseTiming.of(60))
        made.rude = True
        made.gives_back = False
        for name in "abc":
            made.start(name)
        made.advance(70)
        (holder,) = made.holders("u")
        others = [name for name in "abc" if name != holder]
        made.split([holder], others)
        made.kill(holder)
        for _ in range(2):
            for name in others:
                made.kill(name)
                made.nodes[name].timing = LeaseTiming.of(6)
                made.start(name)
            made.advance(10)
        made.advance(19)
        self.assertEqual(made.holders("u"), {holder})
        made.advance(60)
        self.assertEqual(len(made.holders("u") & set(others)), 1)
        # From then on it is quick.
        self.assertEqual({made.nodes[name].saved.lease for name in others}, {6.0})  # type: ignore[union-attr]

    def test_longer_leases_than_the_others(self) -> None:
        """One node alone that has them gets no votes, gives up in time, and says why; the others go on."""
        made = site()
        made.kill("a")
        made.nodes["a"].timing = LeaseTiming.of(30)
        made.start("a")
        made.advance(100)
        core = made.nodes["a"].core
        assert core is not None
        self.assertEqual(
            core.waiting_for(made.time),
            "b, c have leases of 15 s, and do not vote for this node's of 30 s: give all nodes of the site the same "
            "--takeover-lease",
        )
        self.assertNotIn("a", made.holders("u"))
        for name in "bc":
            made.kill(name)
            made.nodes[name].timing = LeaseTiming.of(30)
            made.start(name)
        made.advance(40)
        self.assertEqual((made.holders("u"), core.waiting_for(made.time)), ({"a"}, None))

    def test_no_majority_no_lease(self) -> None:
        made = site("abcde")
        made.split("ab", "cd", "e")
        made.advance(100)
        self.assertEqual(made.holders("u"), set())
        made.split("ab", "cde")
        made.advance(HOLD + 5)
        self.assertIn(made.holders("u"), ({"c"}, {"d"}, {"e"}))

    def test_a_node_alone_is_its_own_majority(self) -> None:
        made = site("a")
        self.assertEqual(made.holders("u"), {"a"})
        made.advance(100)
        self.assertEqual((made.holders("u"), made.sent), ({"a"}, 0))

    def test_two_nodes(self) -> None:
        """There is no majority without the other."""
        made = site("ab")
        self.assertEqual(made.holders("u"), {"a"})
        made.kill("b")
        made.advance(20)
        self.assertEqual(made.holders("u"), set())
        made.start("b")
        made.advance(20)
        made.kill("a")
        made.advance(100)
        self.assertEqual(made.holders("u"), set())

    def test_nobody_asks_while_the_owner_is_there(self) -> None:
        """Though it has not got the lease: it may not want it."""
        made = site()
        for name in "abc":
            core = made.nodes[name].core
            assert core is not None
            if name == "a":
                core.withdraw("u")
                core.release("u", made.time)
                made.act(made.nodes[name])
        made.advance(60)
        self.assertEqual(made.holders("u"), set())
        self.assertEqual([self.told(made, name) for name in "bc"], [[], []])

    def test_a_sleeping_machine(self) -> None:
        """When it wakes it finds its lease over, before it does anything else."""
        made = site()
        node = made.nodes["a"]
        core, node.core = node.core, None  # Asleep, with its links.
        assert core is not None
        made.advance(100)
        for other in "bc":
            made._tell_link(other, "a", False)
        made.advance(20)
        self.assertEqual(made.holders("u"), {ranked("u", "bc")[0]})
        self.assertIsNone(core.held_until("u", node.clock(made.time)))
        node.core = core
        self.told(made, "a")
        made.advance(0)
        (ending,) = self.told(made, "a")
        assert isinstance(ending, Ending)
        self.assertLess(ending.stop_by, made.time)

    def test_thousands(self) -> None:
        """Are spread over those left, and take few letters."""
        uids = {f"00000000-0000-0000-0000-{number:012}": "a" for number in range(1100)}
        made = ModelSite("abc", uids)
        for name in "abc":
            made.start(name)
        made.advance(20)
        self.assertEqual(made.holders(next(iter(uids))), {"a"})
        before = made.sent
        made.advance(15)
        # Three renewals in three parts to two nodes, and their answers.
        self.assertLessEqual(made.sent - before, 3 * 3 * 2 * 2 + 8)
        made.kill("a")
        made.advance(25)
        counts = {name: len(made.nodes[name].running) for name in "bc"}
        self.assertEqual(sum(counts.values()), 1100)
        self.assertTrue(all(count > 450 for count in counts.values()), counts)


class RosterTests(SynchronousTestCase):
    """Who belongs to the site changes."""

    def test_a_site_that_nobody_has_seen_whole(self) -> None:
        """Nobody has a lease before all have met once; after that a majority is enough."""
        made = ModelSite("abc", {"u": "a"})
        made.start("a")
        made.start("b")
        made.advance(60)
        self.assertEqual(made.holders("u"), set())
        core = made.nodes["a"].core
        assert core is not None
        self.assertIn("missing c", str(core.waiting_for(made.time)))
        made.start("c")
        made.advance(2)
        self.assertEqual(made.holders("u"), {"a"})
        for name in "abc":
            made.kill(name)
        made.start("a")
        made.start("b")
        made.advance(20)
        self.assertEqual(made.holders("u"), {"a"})

    def test_a_site_that_grows_while_a_node_is_cut_off(self) -> None:
        """A node alone goes on; those who join know nothing of what it has, and take nothing."""
        made = site("a")
        made.add("bc")
        for name in "bc":
            made.tell_roster(name)
            made.start(name)
        made.split("a", "bc")
        made.advance(100)
        self.assertEqual(made.holders("u"), {"a"})
        made.split("abc")
        made.tell_roster("a")
        made.advance(40)
        self.assertEqual(made.holders("u"), {"a"})
        # Now they are three.
        self.assertEqual({len(made.nodes[name].saved.configs) for name in "abc"}, {1})  # type: ignore[union-attr]
        made.kill("a")
        made.advance(30)
        self.assertEqual(made.holders("u"), {ranked("u", "bc")[0]})

    def test_a_majority_that_moves_from_under_a_holder(self) -> None:
        """The owner goes on by the old roster with one voter; when that one passes to the new, the lease ends first."""
        made = site()
        made.set_cut("a", "c", True)
        made.add("de")
        for name in "de":
            made.set_cut("a", name, True)
        for name in "cdeb":
            made.tell_roster(name)
            made.start(name)
        made.advance(100)
        self.assertIn(made.holders("u"), ({"c"}, {"d"}, {"e"}))

    def test_growth_does_not_interrupt(self) -> None:
        made = site()
        made.add("de")
        for name in "debca":
            made.tell_roster(name)
            made.start(name)
            made.advance(1)
        made.advance(60)
        self.assertEqual(made.nodes["a"].told, [Gained("u")])
        self.assertEqual({made.nodes[name].saved for name in "bcde"}, {made.nodes["a"].saved})
        # Two of five may die.
        made.kill("b")
        made.kill("c")
        made.advance(60)
        self.assertEqual((made.nodes["a"].told, made.holders("u")), ([Gained("u")], {"a"}))

    def test_a_majority_that_died_is_removed(self) -> None:
        made = site()
        made.remove("b")
        made.remove("c")
        made.advance(60)
        self.assertEqual(made.holders("u"), set())
        made.tell_roster("a")
        made.advance(LENGTH)
        self.assertEqual(made.holders("u"), set())
        made.advance(3)
        self.assertEqual(made.holders("u"), {"a"})

    def test_new_nodes_with_shorter_leases_than_the_holder(self) -> None:
        """They drop the old roster no sooner than what was agreed by that one alone is over."""
        made = ModelSite("abc", {"u": "a"}, LeaseTiming.of(60))
        for name in "abc":
            made.start(name)
        made.advance(70)
        # The owner goes on with the vote of one other; then it is alone, and knows nothing of the new ones.
        made.set_cut("a", "b", True)
        made.advance(100)
        made.timing = LeaseTiming.of(6)
        made.add("de")
        for name in "cde":
            made.set_cut("a", name, True)
        for name in "bcde":
            made.tell_roster(name)
            made.start(name)
        made.advance(35)
        self.assertEqual(made.holders("u"), {"a"})
        made.advance(100)
        self.assertEqual(len(made.holders("u") & set("bcde")), 1)

    def test_removed_nodes_with_longer_leases(self) -> None:
        made = ModelSite("abc", {"u": "a"}, LeaseTiming.of(60))
        made.nodes["c"].timing = LeaseTiming.of(6)
        for name in "abc":
            made.start(name)
        made.advance(70)
        self.assertEqual(made.holders("u"), {"a"})
        made.split("ab", "c")
        made.advance(10)
        made.split("a", "b", "c")
        made.roster = type(made.roster)(2, ("c",))
        made.owners["u"] = "c"
        made.tell_roster("c")
        core = made.nodes["c"].core
        assert core is not None
        core.claim("u", "c", made.time)
        made.advance(30)
        self.assertEqual(made.holders("u"), {"a"})
        made.advance(35)
        self.assertEqual(made.holders("u"), {"c"})

    def test_removed_nodes_of_which_nothing_was_heard(self) -> None:
        """They may have had the longest of all leases."""
        made = site()
        made.kill("a")
        made.remove("b")
        made.remove("c")
        made.tell_roster("a")
        made.start("a")
        made.advance(LONGEST)
        self.assertEqual(made.holders("u"), set())
        made.advance(5)
        self.assertEqual(made.holders("u"), {"a"})

    def test_removed_long_after_a_start_in_which_nothing_was_heard_of_them(self) -> None:
        made = site()
        made.split("a", "bc")
        made.kill("a")
        made.start("a")
        made.advance(100)
        made.remove("b")
        made.remove("c")
        made.tell_roster("a")
        made.advance(LONGEST)
        self.assertEqual(made.holders("u"), set())
        made.advance(5)
        self.assertEqual(made.holders("u"), {"a"})

    def test_the_owner_is_revoked_while_it_has_it(self) -> None:
        """It is cut off by all at once; its lease still has its time. Then nobody asks for what is no member's."""
        made = site()
        made.gives_back = False
        owner = made.nodes["a"]
        made.dead_for_good.add("a")
        made.roster = type(made.roster)(2, ("b", "c"))
        made.tell_roster("b")
        made.tell_roster("c")
        made.advance(100)
        self.assertEqual(made.holders("u"), set())
        self.assertIsInstance(owner.told[-1], Ending)

    def test_the_taker_is_revoked_while_it_has_it(self) -> None:
        made = site("abcd")
        made.kill("a")
        made.advance(30)
        (taker,) = made.holders("u")
        others = sorted({"b", "c", "d"} - {taker})
        made.dead_for_good.add(taker)
        made.roster = type(made.roster)(2, ("a", *others))
        for name in others:
            made.tell_roster(name)
        made.advance(8)
        self.assertEqual(made.holders("u"), {taker})
        made.advance(30)
        self.assertEqual(made.holders("u"), {ranked("u", others)[0]})

    def test_a_disk_that_cannot_be_written(self) -> None:
        """A node that could forget whose votes count gives none."""
        made = ModelSite("abc", {"u": "a"})
        made.nodes["c"].readonly = True
        for name in "abc":
            made.start(name)
        made.advance(40)
        self.assertEqual(made.holders("u"), {"a"})
        made.kill("b")
        made.advance(20)
        self.assertEqual(made.holders("u"), set())
        made.nodes["c"].readonly = False
        made.advance(10)
        self.assertEqual(made.holders("u"), {"a"})
        self.flushLoggedErrors()

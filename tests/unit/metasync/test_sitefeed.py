"""What the members of a site may run for each other comes to them, to all of them, and to nobody else."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from metasync.delta import Change
from metasync.keys import SiteKeys, cursor_key, sites_prefix
from metasync.model import Delete, KeyRange, Put
from metasync.server import SyncServerFactory, scopes_by_site
from metasync.wire import Ack, Changes, Entries, FeedMessage, Held, Hello, Message, Reconcile, Subscribe
from tests.unit.metasync.pairs import now
from tests.unit.metasync.test_hostile import SECRET, HostileCase
from tests.unit.metasync.world import World

POD = SiteKeys("default", "plant").desired_object("pods", "default", "web")
CONFIG = SiteKeys("default", "plant").desired_object("configmaps", "default", "web")
HARBOUR = SiteKeys("default", "harbour").desired_object("pods", "default", "crane")


class SiteFeedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World("n1", "n2", "n3", sites={"n1": "plant", "n2": "plant", "n3": "harbour"})
        self.addCleanup(self.world.stop)
        self.write({POD: b"pod", CONFIG: b"config", HARBOUR: b"crane"})

    def write(self, values: dict[bytes, bytes | None]) -> None:
        ops = [Delete.single(key) if value is None else Put(key, value) for key, value in values.items()]
        now(self.world.stores["cloud"].txn((), ops))
        self.world.settle()

    def has(self, node: str) -> dict[bytes, bytes]:
        found = now(self.world.stores[node].range(KeyRange.prefix(sites_prefix("default").encode())))
        return {kv.key: kv.value for kv in found.kvs}

    def cursors(self, node: str) -> list[str]:
        prefix = cursor_key("default", node, "site/")
        found = now(self.world.stores[node].range(KeyRange.prefix(prefix)))
        return [kv.key[len(prefix) :].decode() for kv in found.kvs]

    def move(self, node: str, site: str | None) -> None:
        self.world.sites[node] = site
        self.world.server.look_again(node)

    def test_all_members_get_what_is_their_sites_and_nobody_else_does(self) -> None:
        for node in ("n1", "n2"):
            self.assertEqual({POD: b"pod", CONFIG: b"config"}, self.has(node))
        self.assertEqual({HARBOUR: b"crane"}, self.has("n3"))
        self.write({POD: b"newer", CONFIG: None})
        self.assertEqual({POD: b"newer"}, self.has("n1"))
        self.assertEqual({HARBOUR: b"crane"}, self.has("n3"))

    def test_what_is_written_as_one_comes_as_one(self) -> None:
        self.write({POD: b"2", CONFIG: b"2"})
        found = now(self.world.stores["n1"].range(KeyRange.prefix(sites_prefix("default").encode()))).kvs
        self.assertEqual(1, len({kv.mod_revision for kv in found}))

    def test_a_session_goes_on_where_the_last_one_ended(self) -> None:
        before = {kv.key: kv.mod_revision for kv in now(self.world.stores["n1"].range(KeyRange.prefix(POD))).kvs}
        self.world.cut("n1")
        self.write({CONFIG: b"while away"})
        self.world.mend("n1")
        self.world.settle(10)
        self.assertEqual({POD: b"pod", CONFIG: b"while away"}, self.has("n1"))
        after = {kv.key: kv.mod_revision for kv in now(self.world.stores["n1"].range(KeyRange.prefix(POD))).kvs}
        self.assertEqual(before, after)

    def test_a_node_without_a_site_has_nothing_of_the_kind(self) -> None:
        self.move("n1", None)
        self.world.settle(10)
        self.assertEqual({}, self.has("n1"))
        self.assertEqual([], self.cursors("n1"))

    def test_a_node_that_is_moved_loses_the_old_and_gets_the_new(self) -> None:
        self.move("n1", "harbour")
        self.write({POD: b"not for n1 any more"})  # at once: the old session must have ended
        self.assertNotIn(b"not for n1 any more", self.has("n1").values())
        self.world.settle(10)
        self.assertEqual({HARBOUR: b"crane"}, self.has("n1"))
        self.assertEqual(["harbour"], self.cursors("n1"))
        self.write({POD: b"x", HARBOUR: b"another"})
        self.assertEqual({HARBOUR: b"another"}, self.has("n1"))
        self.move("n1", "plant")
        self.world.settle(10)
        self.assertEqual({POD: b"x", CONFIG: b"config"}, self.has("n1"))
        self.assertEqual({POD: b"x", CONFIG: b"config"}, self.has("n2"))

    def test_a_node_that_is_moved_while_it_is_away_learns_it_when_it_is_back(self) -> None:
        self.world.cut("n1")
        self.move("n1", "harbour")
        self.world.settle()
        self.assertEqual({POD: b"pod", CONFIG: b"config"}, self.has("n1"))
        self.world.mend("n1")
        self.world.settle(10)
        self.assertEqual({HARBOUR: b"crane"}, self.has("n1"))

    def test_looking_again_at_a_node_that_stays_costs_nothing(self) -> None:
        connects = self.world.endpoints["n1"].connects
        self.world.server.look_again("n1")
        self.world.server.look_again("nobody")
        self.world.settle(10)
        self.assertEqual(connects, self.world.endpoints["n1"].connects)

    def test_sites_whose_names_begin_alike_are_told_apart(self) -> None:
        near = SiteKeys("default", "plant-2").desired_object("pods", "default", "web")
        before = SiteKeys("default", "plan").desired_object("pods", "default", "web")
        self.write({near: b"other", before: b"other"})
        self.assertEqual({POD: b"pod", CONFIG: b"config"}, self.has("n1"))
        for site, key in (("plant-2", near), ("plan", before)):
            self.move("n1", site)
            self.world.settle(10)
            self.assertEqual({key: b"other"}, self.has("n1"))
            self.assertEqual([site], self.cursors("n1"))
        self.move("n1", "plant")
        self.world.settle(10)
        self.assertEqual({POD: b"pod", CONFIG: b"config"}, self.has("n1"))


class HostileToSitesTests(HostileCase):
    """n1, who connects, is of ``harbour``; of ``plant`` is n2."""

    def setUp(self) -> None:
        super().setUp()
        self.sites: dict[str, str | None] = {"n1": "harbour", "n2": "plant"}
        for key in (POD, CONFIG):
            now(self.store.txn((), [Put(key, SECRET)]))
        now(self.store.txn((), [Put(HARBOUR, b"crane")]))
        self.server = SyncServerFactory(self.clock, self.store, "default", scopes=scopes_by_site(self.sites.get))
        now(self.server.start())
        self.clock.advance(0)
        self.before = self.foreign()
        self.connect()

    def about(self, feed: str, *messages: Message) -> list[Message]:
        """What the server answers about that feed."""
        return [each for each in self.send(*messages) if isinstance(each, FeedMessage) and each.feed == feed]

    def words(self, feed: str) -> list[Message]:
        changes = (Change(b"pods/default/crane", b"forged"), Change(b"../../plant/desired/pods/default/web", b"forged"))
        return [
            *self.messages(feed),
            Changes(feed, changes, b"", b"cursor"),
            Entries(feed, b"\xff" * 8, bytes(160), True),
            Reconcile(feed, True, bytes(8)),
        ]

    def test_a_node_of_another_site_or_of_none_gets_nothing_whatever_it_sends(self) -> None:
        names = (
            "site/plant",
            "site/",
            "site",
            "site/../plant",
            "site/harbour/../plant",
            "sites/plant/desired",
            "data/site.plant",
        )
        for site in ("harbour", None):
            self.sites["n1"] = site
            for name in names:
                self.connect()
                answers = self.about(
                    name, Hello(scopes=("all", "site.plant")), Subscribe(name, None, True, 100, 1 << 20)
                )
                self.assertEqual([Held], [type(answer) for answer in answers], name)
                for message in self.words(name):
                    self.connect()
                    self.send(Hello(scopes=("site.plant",)), message)
                    self.send(message)
                    self.assertUnharmed()

    def test_a_member_reads_and_cannot_write(self) -> None:
        answers = self.send(Hello(), Subscribe("site/harbour", None, True, 100, 1 << 20))
        self.assertIn(b"crane", [change.value for a in answers if isinstance(a, Changes) for change in a.changes])
        for message in self.words("site/harbour"):
            self.connect()
            self.send(Hello(), message)
            self.send(Subscribe("site/harbour", None, True, 100, 1 << 20), message)
            self.assertUnharmed()
        self.connect()
        self.send(Hello(), Changes("site/harbour", (Change(b"pods/default/crane", b"forged"),), b"", b"c"))
        self.assertFalse(self.transport.connected)
        self.assertEqual(b"crane", now(self.store.range(KeyRange.single(HARBOUR))).kvs[0].value)

    def test_a_member_that_was_moved_hears_no_more(self) -> None:
        *_, changes = self.about("site/harbour", Hello(), Subscribe("site/harbour", None, True, 100, 1 << 20))
        assert isinstance(changes, Changes)
        self.send(Ack("site/harbour", changes.cursor or b""))
        self.sites["n1"] = "plant"
        self.server.look_again("n1")
        now(self.store.txn((), [Put(HARBOUR, SECRET)]))
        self.before = self.foreign()
        self.assertEqual([], self.send())
        self.assertFalse(self.transport.connected)
        self.assertEqual([], self.send(Subscribe("site/harbour", None, True, 100, 1 << 20)))
        self.assertUnharmed()

"""Leases over streams: what is opened when, what is kept on disk, and what nobody can do who talks nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.agreement import FILE, Agreement
from appengine.takeover.electorate import CHANGES_BURST
from appengine.takeover.messages import Answer, Config, Hello, Kind, Letter, Refused, Request, Standing, Why
from appengine.takeover.talk import LETTERS_BURST
from appengine.takeover.timing import LONGEST, SHORTEST, LeaseTiming
from appengine.takeover.wire import MAX_LETTER, InvalidLetter, Reader, Writer
from tests.unit.appengine.takeover.test_memory import Heard
from tests.unit.metasync.pairs import FakeAddress, FakePeer, PumpedEndpoint

NAMES = ("a", "b", "c")


class World:
    """Three nodes of a site over streams in memory, on one clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        self.endpoints: dict[tuple[str, str], PumpedEndpoint] = {}
        self.nodes: dict[str, Agreement] = {}
        self.heard: dict[str, Heard] = {}
        self.signed: set[tuple[int, tuple[str, ...]]] = {(1, NAMES)}
        for name in NAMES:
            self.make(name)

    def make(self, name: str, timing: LeaseTiming | None = None) -> Agreement:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        made = Agreement(
            self.clock,
            name,
            lambda peer: self.endpoint(name, peer),
            folder,
            vouched=lambda revision, members: (revision, tuple(members)) in self.signed,
            timing=timing,
            clock=lambda: 1e6 + self.clock.seconds(),
        )
        self.nodes[name], self.heard[name] = made, Heard()
        made.watch(self.heard[name])
        made.startService()
        made.roster("hall", 1, NAMES)
        return made

    def endpoint(self, name: str, peer: str) -> Any:
        made = PumpedEndpoint(self.nodes[peer].factory(), FakePeer(name=name))  # type: ignore[arg-type]
        return self.endpoints.setdefault((name, peer), made)

    def link(self, *pairs: str, up: bool = True) -> None:
        for pair in pairs:
            one, other = tuple(pair)
            for here, there in ((one, other), (other, one)):
                endpoint = self.endpoints.pop((here, there), None)
                if endpoint is not None:
                    endpoint.cut()
                self.nodes[here].link(there, up)

    def settle(self, seconds: float = 0.0) -> None:
        end = self.clock.seconds() + seconds
        while True:
            for _ in range(1000):
                self.clock.advance(0)
                moved = [endpoint.pump() for endpoint in self.endpoints.values()]
                if not any(moved):
                    break
            if self.clock.seconds() >= end:
                return
            self.clock.advance(min(0.1, end - self.clock.seconds()))

    def wire(self) -> int:
        return sum(endpoint.wire for endpoint in self.endpoints.values())

    def held(self, uid: str = "u") -> set[str]:
        return {name for name, node in self.nodes.items() if node.held_until(uid) is not None}


class AgreementTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(Path(FilePath(self.mktemp()).path))
        self.world.link("ab", "ac", "bc")

    def tearDown(self) -> None:
        for node in self.world.nodes.values():
            node.stopService()

    def claim(self, uid: str = "u", owner: str = "a") -> None:
        for node in self.world.nodes.values():
            node.claim(uid, owner=owner)

    def test_nothing_without_a_claim(self) -> None:
        """No stream, no timer, no file."""
        self.world.settle(100)
        self.assertEqual(self.world.endpoints, {})
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        self.assertEqual(list(self.world.folder.rglob(FILE)), [])

    def test_gained_kept_taken_over_and_given_back(self) -> None:
        world = self.world
        self.claim()
        self.assertEqual(world.heard["a"].told, [])
        world.settle(17)
        self.assertEqual((world.held(), world.heard["a"].told[0]), ({"a"}, ("gained", "u")))
        world.settle(60)
        self.assertIn(("renewed",), world.heard["a"].told)
        world.link("ab", "ac", up=False)
        world.settle(22)
        (taker,) = world.held()
        self.assertIn(("gained", "u"), world.heard[taker].told)
        self.assertEqual([each[0] for each in world.heard["a"].told if each[0] != "renewed"], ["gained", "ending"])
        world.link("ab", "ac")
        world.settle(1)
        self.assertEqual(world.heard[taker].told[-1], ("wanted back", "u"))
        world.nodes[taker].release("u")
        self.assertIsNone(world.nodes[taker].held_until("u"))
        world.settle(0.1)
        self.assertEqual(world.held(), {"a"})
        self.assertEqual([(h.owner, h.holder) for h in world.nodes["b"].holdings()], [("a", "a")])

    def test_quiet_again_when_nothing_is_claimed(self) -> None:
        world = self.world
        self.claim()
        world.settle(17)
        for node in world.nodes.values():
            node.withdraw("u")
            node.release("u")
        world.settle(10)
        before = world.wire()
        world.settle(100)
        self.assertEqual(world.wire() - before, 0)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertTrue(all(io.disconnected for e in world.endpoints.values() for p in e.pumps for io in (p.clientIO,)))

    def test_leases_of_another_length(self) -> None:
        """People are told at both ends, once; what is kept says for how long this node may have voted."""
        world = self.world
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.claim()
        world.settle(17)
        world.link("ac", "bc", up=False)
        world.nodes["c"].stopService()
        world.make("c", LeaseTiming.of(6)).claim("u", owner="a")
        world.link("ac", "bc")
        world.settle(5)
        kept = world.folder / "c" / FILE
        self.assertEqual(json.loads(kept.read_text())["lease"], 15.0)
        world.settle(40)
        self.assertEqual((world.held(), json.loads(kept.read_text())["lease"]), ({"a"}, 6.0))
        warned = [event for event in told if "--takeover-lease" in str(event.get("log_format"))]
        self.assertEqual(
            sorted((event["log_source"].node, event["peer"], event["lease"], event["mine"]) for event in warned),
            [("a", "c", 6.0, 15.0), ("c", "a", 15.0, 6.0)],
        )

    def test_what_agents_kept_that_knew_one_length_only(self) -> None:
        """It is taken for the usual one; a longer one is kept before the first vote."""
        world = self.world
        old = {"site": "hall", "voter": True, "rosters": [[1, ["a", "b", "c"]]]}
        for name in NAMES:
            (world.folder / name / FILE).write_text(json.dumps(old))
            world.nodes[name].stopService()
            world.make(name, LeaseTiming.of(30)).claim("u", owner="a")
        world.link("ab", "ac", "bc", up=False)
        world.link("ab", "ac", "bc")
        world.settle(30)
        self.assertEqual(world.held(), set())
        self.assertEqual({json.loads((world.folder / n / FILE).read_text())["lease"] for n in NAMES}, {30.0})
        world.settle(5)
        self.assertEqual(world.held(), {"a"})

    def test_what_is_kept_on_disk(self) -> None:
        """After a boot a majority goes on; elsewhere, or damaged, it counts for nothing."""
        world = self.world
        self.claim()
        world.settle(17)
        kept = json.loads((world.folder / "a" / FILE).read_text())
        self.assertEqual(kept, {"site": "hall", "voter": True, "rosters": [[1, ["a", "b", "c"]]], "lease": 15.0})
        world.link("ab", "ac", "bc", up=False)
        for name in "ab":
            world.nodes[name].stopService()
            world.make(name).claim("u", owner="a")
        world.link("ab")
        world.settle(17)
        self.assertEqual(world.held(), {"a"})
        world.link("ab", up=False)
        (world.folder / "b" / FILE).write_text("{")
        for name in "ab":
            world.nodes[name].stopService()
            world.make(name).claim("u", owner="a")
        world.settle(1)
        self.assertIn("reaches nobody", str(world.nodes["a"].waiting_for()))
        self.assertIn("missing a, c", str(world.nodes["b"].waiting_for()))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_another_site(self) -> None:
        """What was held at the one must be stopped at once."""
        world = self.world
        self.claim()
        world.settle(17)
        world.nodes["a"].roster("yard", 9, ["a"])
        self.assertEqual(world.held(), set())
        world.settle(0)
        self.assertEqual(world.heard["a"].told[-1][0], "ending")
        # It asks itself alone, who remembers nothing of before.
        world.settle(17)
        self.assertEqual(world.heard["a"].told[-1][0], "gained")
        self.assertEqual(world.held(), {"a"})
        self.assertEqual(json.loads((world.folder / "a" / FILE).read_text())["site"], "yard")

    def test_to_another_site_and_back(self) -> None:
        """It has forgotten whom it gave its vote, so it gives none before that is over."""
        world, c = self.world, self.world.nodes["c"]
        self.claim()
        world.settle(17)
        world.link("ab", "ac", up=False)
        world.nodes["b"].claim("v", owner="b")
        world.settle(2)
        self.assertEqual(world.held("v"), {"b"})
        core = c.core()
        assert core is not None
        run = core._run
        c.roster("yard", 9, ["c"])
        c.roster("hall", 1, NAMES)
        world.link("bc", up=False)
        world.link("ac")
        world.nodes["a"].claim("v", owner="a")
        for _ in range(40):
            world.settle(0.5)
            self.assertLess(len(world.held("v")), 2)
        self.assertEqual(world.held("v"), {"a"})
        # Nor are answers to what it asked before taken for ones to what it asks now.
        core = c.core()
        assert core is not None
        self.assertNotEqual(core._run, run)

    def test_no_site(self) -> None:
        world = self.world
        world.nodes["a"].roster(None, 0, ())
        world.nodes["a"].claim("u", owner="a")
        world.settle(30)
        self.assertEqual(
            (world.held(), world.nodes["a"].waiting_for()), (set(), "this node has no roster of its site yet")
        )

    def test_a_node_of_an_earlier_version(self) -> None:
        """It takes no streams: the others are a majority, and ask it seldom."""
        world = self.world
        for name in "ab":
            world.endpoint(name, "c").away = True
        (world.folder / "a" / FILE).write_text('{"site":"hall","voter":true,"rosters":[[1,["a","b","c"]]]}')
        for name in "ab":
            world.nodes[name].claim("u", owner="a")
        world.settle(18)
        self.assertEqual(world.held(), {"a"})
        before = world.endpoint("a", "c").connects
        world.settle(60)
        self.assertLessEqual(world.endpoint("a", "c").connects - before, 13)

    def test_thousands(self) -> None:
        world = self.world
        for number in range(3000):
            self.claim(f"00000000-0000-0000-0000-{number:012}")
        world.settle(18)
        self.assertEqual(world.held("00000000-0000-0000-0000-000000002999"), {"a"})
        before = world.wire()
        world.settle(15)
        # Three times, to two nodes, there and back: about 40 bytes each.
        self.assertLess(world.wire() - before, 3000 * 3 * 2 * 2 * 42)
        self.assertEqual(sum(1 for each in world.heard["a"].told if each[0] == "gained"), 3000)


class HostileTests(SynchronousTestCase):
    """What a member does whose agent is somebody else's."""

    def setUp(self) -> None:
        self.world = World(Path(FilePath(self.mktemp()).path))
        self.world.link("ab")
        for name in "ab":
            (self.world.folder / name / FILE).write_text('{"site":"hall","voter":true,"rosters":[[1,["a","b","c"]]]}')
            self.world.nodes[name].claim("u", owner="a")
        self.world.settle(18)
        self.assertEqual(self.world.held(), {"a"})
        self.standing = Standing(True, (Config(1, NAMES),))
        self.world.nodes["a"].link("c", True)
        self.stream: Any = self.open()

    def open(self, name: str = "c") -> Any:
        stream: Any = self.world.nodes["a"].factory().buildProtocol(FakeAddress(FakePeer(name=name)))
        if stream is not None:
            stream.transport = transport = StringTransport()
            stream.makeConnection(transport)
        return stream

    def say(self, data: bytes, stream: Any = None) -> None:
        (stream or self.stream).dataReceived(len(data).to_bytes(4, "big") + data)

    def ask(
        self, kind: Kind, uids: tuple[str, ...] = ("u",), *, run: str = "f0", ballot: int = 2**51, length: float = 15.0
    ) -> dict[str, Any]:
        """The last answer."""
        self.stream.transport.clear()
        self.say(Writer().encode(Letter(self.standing, Request(kind, run, ballot, length, uids))))
        self.world.settle(0)
        return self.answers()[-1] if self.answers() else {}

    def answers(self) -> list[dict[str, Any]]:
        data, found = self.stream.transport.value(), []
        while data:
            size = int.from_bytes(data[:4], "big")
            letter = json.loads(data[4 : 4 + size])
            found += [letter["answer"]] if "answer" in letter else []
            data = data[4 + size :]
        return found

    def test_it_cannot_take_what_another_has(self) -> None:
        """Nor make the holder lose it, with whatever ballot."""
        for kind in (Kind.PREPARE, Kind.PROPOSE):
            answer = self.ask(kind)
            self.assertEqual((answer["granted"], answer["refused"][0][1:3]), ([], ["held", "a"]))
        self.ask(Kind.RELEASE)
        self.world.settle(40)
        self.assertEqual(self.world.held(), {"a"})
        self.assertNotIn("ending", [each[0] for each in self.world.heard["a"].told])

    def test_it_cannot_speak_for_another(self) -> None:
        """Names in what it says mean nothing; and who has no link has no stream."""
        run = self.world.nodes["a"]._run
        letter = {
            "standing": {"voter": True, "rosters": [[1, list(NAMES)]]},
            "node": "a",
            "peer": "a",
            "request": {"kind": "release", "run": run, "ballot": 2**51, "length": 15, "uids": ["u"], "node": "a"},
        }
        self.say(json.dumps(letter).encode())
        self.world.settle(1)
        core = self.world.nodes["b"].core()
        assert core is not None
        self.assertEqual(self.world.held(), {"a"})
        mine = self.world.nodes["a"].core()
        assert mine is not None
        self.assertEqual(mine.acceptor.holder("u", self.world.nodes["a"].now())[0], "a")  # type: ignore[index]
        self.assertIsNone(self.open("d"))

    def test_it_cannot_ask_back_what_is_not_its_own(self) -> None:
        self.ask(Kind.ASK)
        self.world.settle(5)
        self.assertNotIn("wanted back", [each[0] for each in self.world.heard["a"].told])

    def test_it_cannot_vote_twice(self) -> None:
        """Nor for what it was not asked: its answers to rounds that were, or never were, count for nothing."""
        self.world.link("ab", up=False)
        run = self.world.nodes["a"]._run
        until = self.world.nodes["a"].held_until("u")
        for ballot in range(200):
            answer = Answer(Kind.PROPOSE, run, ballot % 40, ("u", "v"))
            self.say(Writer().encode(Letter(self.standing, answer)))
            self.world.settle(0)
        self.assertLessEqual(self.world.nodes["a"].held_until("u") or 0, (until or 0) + 15)
        self.assertIsNone(self.world.nodes["a"].held_until("v"))

    def test_ballots_cannot_be_driven_to_their_end(self) -> None:
        self.world.link("ab", up=False)
        core = self.world.nodes["a"].core()
        assert core is not None
        self.world.nodes["a"].claim("w", owner="a")
        self.world.settle(1)
        run = self.world.nodes["a"]._run
        for _ in range(100):
            refused = (Refused("w", Why.PROMISED, ballot=2**51),)
            self.say(Writer().encode(Letter(self.standing, Answer(Kind.PREPARE, run, core._ballot, (), refused))))
        self.assertLess(core._ballot, 10**6)

    def test_too_long_a_lease(self) -> None:
        answer = self.ask(Kind.PROPOSE, ("x",), length=16.0)
        self.assertEqual([each[1] for each in answer["refused"]], ["length"])

    def test_too_many_pods(self) -> None:
        for start in range(0, 6000, 500):
            answer = self.ask(Kind.PROPOSE, tuple(f"x{number}" for number in range(start, start + 500)))
        self.assertEqual({each[1] for each in answer["refused"]}, {"full"})
        # Others are served all the same.
        self.world.nodes["a"].claim("mine", owner="a")
        self.world.settle(3)
        self.assertEqual(self.world.held("mine"), {"a"})

    def test_too_much(self) -> None:
        letter = Writer().encode(Letter(self.standing, Hello(False)))
        for _ in range(int(LETTERS_BURST) + 2):
            self.say(letter)
        self.assertTrue(self.stream.transport.disconnected)

    def test_too_much_in_many_streams(self) -> None:
        """Each new one is no new beginning, neither for what is taken in nor for what is written to the log."""
        letter = Writer().encode(Letter(self.standing, Hello(False)))
        taken, core = [], self.world.nodes["a"].core()
        assert core is not None
        self.patch(core, "received", lambda *given: taken.append(given))
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for _ in range(5):
            stream = self.open()
            for _ in range(int(LETTERS_BURST) + 2):
                self.say(letter, stream)
        for _ in range(5):
            self.say(b"{", self.open())
        self.assertLessEqual(len(taken), LETTERS_BURST)
        self.assertEqual(len([event for event in told if "nonsense" in str(event.get("log_format"))]), 1)
        before = len(taken)
        self.world.clock.advance(10)
        self.say(letter, self.open())
        self.assertEqual(len(taken), before + 1)

    def test_rosters_that_never_were(self) -> None:
        """Neither newer nor older ones, nor others in the place of the one that holds: nobody reckons with them."""
        node = self.world.nodes["a"]
        core = node.core()
        assert core is not None
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for name in "ab":
            self.world.nodes[name].roster("hall", 7, NAMES)
        for configs in (
            (Config(2**51, ("c", "ghost-1", "ghost-2", "ghost-3")),),
            (Config(3, ("c",)), Config(7, NAMES)),
            (Config(7, ("b", "c")),),
            (Config(1, NAMES), Config(6, ("a", "c", "ghost"))),
        ):
            letter = Letter(Standing(True, configs), Hello(False))
            for _ in range(10):
                self.say(Writer().encode(letter))
                self.world.settle(3)
            self.assertEqual(core.electorate.standing(), Standing(True, (Config(1, NAMES),)))
        self.assertEqual(
            (self.world.held(), {each[0] for each in self.world.heard["a"].told}), ({"a"}, {"gained", "renewed"})
        )
        doubts = [event for event in told if "has not shown it here" in str(event.get("log_format"))]
        self.assertEqual([event["peer"] for event in doubts], ["c"])
        # Nor after it was removed.
        for name in "ab":
            self.world.nodes[name].roster("hall", 8, ("a", "b"))
        self.world.link("ac", up=False)
        self.world.settle(60)
        self.assertEqual(
            (self.world.held(), {each[0] for each in self.world.heard["a"].told}), ({"a"}, {"gained", "renewed"})
        )

    def test_how_long_it_votes_for_counts_all_the_same(self) -> None:
        """Who is doubted may have voted for a longer lease than it told of before."""
        core = self.world.nodes["a"].core()
        assert core is not None
        for configs, lease in (((Config(1, NAMES),), 10.0), ((Config(9, ("c",)),), 40.0), ((Config(9, ("c",)),), 8.0)):
            self.say(Writer().encode(Letter(Standing(True, configs, lease), Hello(False))))
        self.assertEqual(core.electorate.lease_of("c", 0.0), 40.0)

    def test_rosters_that_were(self) -> None:
        """What was signed counts, as soon as it was seen."""
        node = self.world.nodes["a"]
        core = node.core()
        assert core is not None
        node.roster("hall", 9, NAMES)
        before = Config(5, ("b", "c"))
        letter = Writer().encode(Letter(Standing(True, (Config(1, NAMES), before, Config(9, NAMES))), Hello(False)))
        self.say(letter)
        self.assertNotIn(before, core.electorate.standing().configs)
        self.world.signed.add((5, ("b", "c")))
        self.say(letter)
        self.assertIn(before, core.electorate.standing().configs)

    def test_rosters_without_end(self) -> None:
        """Each that is new to this node is written to its disk, however often the site has changed."""
        node = self.world.nodes["a"]
        core = node.core()
        assert core is not None
        node.roster("hall", 1000, NAMES)
        self.patch(node, "_vouched", lambda revision, members: True)
        saved: list[Standing] = []
        self.patch(core.electorate, "_save", saved.append)
        for number in range(300):
            standing = Standing(True, (Config(100 + number, ("c",)),))
            self.say(Writer().encode(Letter(standing, Hello(False))))
        self.assertTrue(saved)
        self.assertLess(len(saved), 3 * CHANGES_BURST)
        # Some time later it is heard again.
        before = len(saved)
        self.world.clock.advance(40)
        self.say(Writer().encode(Letter(Standing(True, (Config(999, ("c",)),)), Hello(False))))
        self.assertGreater(len(saved), before)

    def test_nonsense(self) -> None:
        good = {"standing": {"voter": True, "rosters": [[1, ["a"]]]}, "hello": {"answer": True}}
        for data in (
            b"",
            b"[]",
            b"{",
            b"[" * 100_000,
            b'{"hello":{"answer":true}}',
            json.dumps({**good, "standing": {"voter": 1, "rosters": []}}).encode(),
            json.dumps({**good, "standing": {"voter": True, "rosters": [[1, ["b", "a"]]]}}).encode(),
            json.dumps({**good, "standing": {"voter": True, "rosters": [[1, ["../x"]]]}}).encode(),
            json.dumps({**good, "standing": {"voter": True, "rosters": [[1, ["a"]]] * 9}}).encode(),
            json.dumps({**good, "hello": {"answer": "yes"}}).encode(),
        ):
            stream = self.open()
            self.world.clock.advance(10)
            self.say(data, stream)
            self.assertTrue(stream.transport.disconnected, data[:80])
        stream = self.open()
        stream.dataReceived((MAX_LETTER + 1).to_bytes(4, "big"))
        self.assertTrue(stream.transport.disconnected)

    def test_who_does_not_read(self) -> None:
        """What waits for it is bounded."""
        self.stream.pauseProducing()
        uids = tuple(f"{number:064}" for number in range(500))
        letter = Writer().encode(Letter(self.standing, Request(Kind.PREPARE, "f0", 1, 15.0, uids)))
        for _ in range(300):
            self.say(letter)
            self.world.settle(0)
        self.assertLess(self.stream._waiting_bytes, 2 << 20)
        self.stream.resumeProducing()
        self.assertEqual(self.stream._waiting_bytes, 0)

    def test_one_stream_only(self) -> None:
        again = self.open()
        self.assertTrue(self.stream.transport.disconnected)
        self.assertFalse(again.transport.disconnected)


UIDS = st.from_regex(r"[0-9a-f-]{1,30}", fullmatch=True).filter(lambda uid: uid[0] != "-")
NODES = st.sampled_from(["a", "b", "node-3", "x" * 63])
CONFIGS = st.builds(
    lambda revision, names: Config(revision, tuple(sorted(names))),
    st.integers(0, 2**52 - 1),
    st.sets(NODES, min_size=1),
)
STANDINGS = st.builds(
    lambda voter, configs, lease: Standing(voter, tuple(sorted(configs, key=lambda config: config.revision)), lease),
    st.booleans(),
    st.lists(CONFIGS, max_size=8),
    st.floats(SHORTEST, LONGEST),
)
SECONDS = st.integers(0, 100).map(float)
BALLOTS = st.integers(0, 2**52 - 1)
RUNS = st.sampled_from(["0", "0123456789abcdef"])
BODIES = st.one_of(
    st.builds(Hello, st.booleans()),
    st.builds(Request, st.sampled_from(Kind), RUNS, BALLOTS, SECONDS, st.lists(UIDS, max_size=5).map(tuple)),
    st.builds(
        Answer,
        st.sampled_from(Kind),
        RUNS,
        BALLOTS,
        st.lists(UIDS, max_size=5).map(tuple),
        st.lists(
            st.builds(Refused, UIDS, st.sampled_from(Why), st.one_of(st.just(""), NODES), SECONDS, BALLOTS), max_size=5
        ).map(tuple),
    ),
)


class WireTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.builds(Letter, STANDINGS, BODIES), max_size=4))
    def test_there_and_back(self, letters: list[Letter]) -> None:
        writer, reader = Writer(), Reader()
        self.assertEqual([reader.decode(writer.encode(letter)) for letter in letters], letters)

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["standing", "voter", "rosters", "request", "kind", "uids"]), inner)
            ),
        )
    )
    def test_anything(self, value: Any) -> None:
        try:
            Reader().decode(json.dumps(value).encode())
        except InvalidLetter:
            pass

    def test_the_longest(self) -> None:
        names = tuple(f"{number:063}" for number in range(256))
        standing = Standing(True, tuple(Config(number, names) for number in range(8)))
        refused = tuple(Refused("u" * 64, Why.PROMISED, "n" * 63, 3600.0, 2**52 - 1) for _ in range(500))
        encoded = Writer().encode(Letter(standing, Answer(Kind.PREPARE, "f" * 16, 2**52 - 1, (), refused)))
        self.assertLess(len(encoded), MAX_LETTER)

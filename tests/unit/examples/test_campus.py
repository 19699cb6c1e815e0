"""The campus's parts: what a camera sees, what a detector finds, and what is said of a run."""

from __future__ import annotations

import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples.campus.apps import recorder as recorder_module
from examples.campus.apps.clerk import report
from examples.campus.apps.detector import Detector, FrameError, Handler, Server
from examples.campus.apps.recorder import Recorder
from examples.campus.apps.scene import HEADER, HEIGHT, WIDTH, Scene, Thing, match
from examples.campus.chapters.handover import check_turns
from examples.campus.record import Figures, Phase, Tenure, missing_entries, percentile, table, tenures
from examples.demo.telling import NotAsTold
from examples.metadata import Metadata


class DetectorTests(SynchronousTestCase):
    def test_everything_is_found_and_nothing_else(self) -> None:
        detector = Detector()
        for camera in (1, 2, 3):
            scene = Scene(camera)
            for time in (0.0, 7.3, 41.9):
                found = detector.find(scene.frame(time))
                self.assertEqual(match(found, scene.truth(time)), (4, 0, 0))

    def test_an_empty_yard_is_empty(self) -> None:
        scene = Scene(1)
        scene._things = []
        self.assertEqual(Detector().find(scene.frame(3.0)), [])

    def test_what_is_no_frame_is_refused(self) -> None:
        for body in (b"", HEADER, b"P6" + bytes(WIDTH * HEIGHT), HEADER + bytes(WIDTH * HEIGHT + 1)):
            self.assertRaises(FrameError, Detector().find, body)

    def test_matching_counts_each_once_and_by_kind(self) -> None:
        truth = [Thing("person", 10, 10), Thing("vehicle", 50, 50)]
        found = [Thing("person", 12, 10), Thing("person", 11, 10), Thing("person", 50, 50)]
        self.assertEqual(match(found, truth), (1, 2, 1))

    def test_things_move(self) -> None:
        before, after = Scene(1).truth(10.0), Scene(1).truth(10.5)
        self.assertTrue(all(1 < math.dist((a.x, a.y), (b.x, b.y)) < 15 for a, b in zip(before, after, strict=True)))


class WorkerTests(SynchronousTestCase):
    """The detector over HTTP."""

    def setUp(self) -> None:
        self.server = Server(("", 0), Handler)
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)

    def post(self, body: bytes, path: str = "/") -> Any:
        url = f"http://127.0.0.1:{self.server.server_address[1]}{path}"
        return urllib.request.urlopen(urllib.request.Request(url, body), timeout=10)

    def test_a_frame(self) -> None:
        with self.post(Scene(1).frame(0.0)) as response:
            self.assertIn(b'"kind": "vehicle"', response.read())
            self.assertGreater(float(response.headers["work-seconds"]), 0.0)
            self.assertLess(float(response.headers["waited-seconds"]), 1.0)

    def test_no_frame(self) -> None:
        with self.assertRaises(urllib.error.HTTPError) as raised:
            self.post(b"nothing")
        self.assertEqual(raised.exception.code, 400)
        raised.exception.close()

    def test_health_takes_anything(self) -> None:
        with self.post(bytes(5000), "/health") as response:
            self.assertEqual(response.status, 200)


class Store(Metadata):
    """The site's data in memory."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def get(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in sorted(self.found.items()) if key.startswith(prefix)}

    def last(self, prefix: str) -> str | None:
        return max(self.get(prefix), default=None)

    def write(self, puts: Mapping[str, object], deletes: Sequence[str] = ()) -> None:
        self.found.update({key: json.dumps(value) for key, value in puts.items()})
        for key in deletes:
            self.found.pop(key, None)


STATUS = {"counts": {"offered": 9, "answered": 6, "refused late": 2, "refused full": 1}, "rates": {"camera-1": 2.0}}


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = Store()
        self.store.write({"nodes/edge-1": report(STATUS, 99.5)})

    def journal(self) -> dict[str, str]:
        return self.store.get("journal/")

    def record(self, recorder: Recorder, *times: float) -> None:
        for time in times:
            recorder.turn(time)

    def test_an_entry_says_who_wrote_it_and_what_the_nodes_told(self) -> None:
        recorder = Recorder(self.store, "u1", "edge-3")
        self.record(recorder, 100.0)
        entry = json.loads(self.journal()["journal/u1/00000001"])
        self.assertEqual((entry["time"], entry["node"], entry["ages"]), (100.0, "edge-3", {"edge-1": 0.5}))
        self.assertEqual((entry["answered"], entry["cameras"]), ({"edge-1": 6}, {"edge-1": ["camera-1"]}))
        self.assertEqual(recorder.latest, {"uid": "u1", "number": 1, **entry})
        self.assertEqual(report(STATUS, 1.0)["refused"], 3)

    def test_goes_on_after_a_restart_of_the_same_pod(self) -> None:
        self.record(Recorder(self.store, "u1", "edge-3"), 100.0, 101.0)
        self.record(Recorder(self.store, "u1", "edge-3"), 105.0)
        self.assertEqual(tenures(self.journal()), [Tenure("u1", "edge-3", 100.0, 105.0, 3)])
        self.assertEqual(missing_entries(self.journal()), [])

    def test_one_writer_after_the_other(self) -> None:
        home, taker = Recorder(self.store, "u1", "edge-3"), Recorder(self.store, "u2", "edge-1")
        self.record(home, 100.0, 101.0)
        self.record(taker, 120.0)
        self.record(home, 130.0)
        found = [(each.node, each.first, each.last) for each in tenures(self.journal())]
        self.assertEqual(found, [("edge-3", 100.0, 101.0), ("edge-1", 120.0, 120.0), ("edge-3", 130.0, 130.0)])

    def test_two_writers_at_one_time_are_seen(self) -> None:
        home, taker = Recorder(self.store, "u1", "edge-3"), Recorder(self.store, "u2", "edge-1")
        for time in (100.0, 101.0, 102.0):
            home.turn(time)
            taker.turn(time + 0.5)
        self.assertEqual(len(tenures(self.journal())), 6)

    def test_a_lost_entry_is_seen(self) -> None:
        self.record(Recorder(self.store, "u1", "edge-3"), 100.0, 101.0, 102.0)
        del self.store.found["journal/u1/00000002"]
        self.assertEqual(missing_entries(self.journal()), ["journal/u1/00000002"])

    def test_only_so_many_are_kept(self) -> None:
        self.patch(recorder_module, "KEEP", 3)
        self.record(Recorder(self.store, "u1", "edge-3"), *(float(each) for each in range(5)))
        self.assertEqual(sorted(self.journal()), [f"journal/u1/{each:08}" for each in (3, 4, 5)])


class TurnsTests(SynchronousTestCase):
    def test_one_after_the_other(self) -> None:
        check_turns([(1.0, "edge-3", "die"), (2.0, "edge-1", "start")], ["edge-3"], "edge-1")
        check_turns([(2.0, "edge-1", "start"), (2.5, "edge-1", "die"), (3.0, "edge-1", "start")], [], "edge-1")

    def test_two_at_a_time(self) -> None:
        early = [(1.0, "edge-1", "start"), (1.1, "edge-3", "die")]
        error = self.assertRaises(NotAsTold, check_turns, early, ["edge-3"], "edge-1")
        self.assertIn("one recorder at any time", str(error))

    def test_elsewhere_or_nowhere(self) -> None:
        for seen in ([(1.0, "edge-2", "start")], [(1.0, "edge-1", "start"), (2.0, "edge-1", "die")]):
            error = self.assertRaises(NotAsTold, check_turns, seen, [], "edge-1")
            self.assertIn("the recorder at edge-1 only", str(error))


class FiguresTests(SynchronousTestCase):
    def frame(self, time: float, place: str | None, seconds: float = 0.1) -> dict[str, Any]:
        outcome = "answered" if place else "refused"
        return {
            "camera": "camera-1", "time": time, "wanted": 5.0, "outcome": outcome, "place": place, "seconds": seconds,
            "match": (3, 1, 1),
        }  # fmt: skip

    def test_of_a_phase(self) -> None:
        frames = [self.frame(9.0, "cloud"), *(self.frame(10.0 + each, "here", each / 10) for each in range(8))]
        frames += [self.frame(12.0, "cloud", 2.0), self.frame(13.0, None), {"time": 14.0, "outcome": "not taken"}]
        found = Figures.of(frames, 10.0, 20.0)
        self.assertEqual((found.taken, found.answered, found.refused, found.failed), (11, 9, 1, 1))
        self.assertEqual((found.share("here"), found.share("cloud")), (8 / 9, 1 / 9))
        self.assertEqual(found.latency, (0.4, 2.0, 2.0))
        self.assertEqual((found.recall, found.precision, found.rate), (0.75, 0.75, 0.9))

    def test_of_nothing(self) -> None:
        found = Figures.of([], 0.0, 1.0)
        self.assertEqual((found.answered_share, found.share("here"), found.latency), (0.0, 0.0, (0.0, 0.0, 0.0)))
        self.assertEqual(percentile([], 50), 0.0)

    def test_the_table_has_a_row_for_each_phase(self) -> None:
        phases = [Phase("calm", "balanced", 0.0, 10.0), Phase("cut", "all cloud", 10.0, 20.0)]
        rows = table(phases, [self.frame(each, "here") for each in range(10)]).splitlines()[2:]
        self.assertEqual(len(rows), 2)
        self.assertIn("| calm | balanced | 5 → 1.0 → 1.0 | 100 % |", rows[0])
        self.assertIn("– | – |", rows[1])

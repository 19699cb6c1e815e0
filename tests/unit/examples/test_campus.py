"""The campus's parts: what a camera sees, what a detector finds, and what is said of a run."""

from __future__ import annotations

import math
import threading
import urllib.error
import urllib.request
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples.campus.apps.detector import Detector, FrameError, Handler, Server
from examples.campus.apps.scene import HEADER, HEIGHT, WIDTH, Scene, Thing, match
from examples.campus.record import Figures, Phase, percentile, table


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

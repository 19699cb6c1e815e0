"""Watches: what each selector sees, how far back they reach, and clients that are slow or gone."""

from __future__ import annotations

import json
from typing import Any

from edgectl.apiserver import cache as cache_module
from edgectl.apiserver.cache import WatchCache
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.negotiate import PlainForm
from edgectl.apiserver.options import DeleteOptions
from edgectl.apiserver.resources import CONFIGMAP, Resource
from edgectl.apiserver.selectors import predicate
from edgectl.apiserver.streaming import MAX_QUEUED, WatchResponse
from edgectl.apiserver.watches import ApiWatch
from metasync.interfaces import StoreUnavailable
from tests.unit.edgectl.api_world import ApiTestCase, Obj


class Sink:
    """Keeps what a watch tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.objects: list[Obj] = []
        self.bookmarks: list[tuple[int, bool]] = []
        self.over = False

    def event(self, type_: str, obj: Obj) -> None:
        self.events.append((type_, obj["metadata"]["name"]))
        self.objects.append(obj)

    def bookmark(self, revision: int, *, initial: bool) -> None:
        self.bookmarks.append((revision, initial))

    def closed(self) -> None:
        self.over = True


class WatchTests(ApiTestCase):
    def watch(
        self, revision: str = "", labels: str = "", fields: str = "", namespace: str = "default", **options: Any
    ) -> Sink:
        sink = Sink()
        selected = predicate(CONFIGMAP, labels, fields)
        watch = ApiWatch(self.cache, CONFIGMAP, namespace, selected, revision, sink, **options)
        self.addCleanup(watch.stop)
        self.watching = watch
        return sink

    def put(self, name: str, **labels: str) -> Obj:
        return self.make(CONFIGMAP, {"metadata": {"name": name, "labels": labels}})

    def relabel(self, name: str, **labels: str) -> None:
        def edit(obj: Obj) -> Obj:
            obj["metadata"]["labels"] = labels
            return obj

        self.done(self.api.change(CONFIGMAP, "default", name, edit))
        self.settle()

    def test_what_is_there_comes_sorted_then_what_changes(self) -> None:
        self.put("b")
        self.put("a")
        sink = self.watch()
        self.put("c")
        self.assertEqual(sink.events, [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")])

    def test_a_watch_goes_on_after_a_version(self) -> None:
        version = self.put("a")["metadata"]["resourceVersion"]
        self.put("b")
        self.done(self.api.delete(CONFIGMAP, "default", "a"))
        self.settle()
        self.assertEqual(self.watch(version).events, [("ADDED", "b"), ("DELETED", "a")])

    def test_a_version_not_reached_yet_is_waited_for(self) -> None:
        made = self.done(self.api.create(CONFIGMAP, "default", {"metadata": {"name": "a"}}))
        sink = self.watch(made["metadata"]["resourceVersion"])
        self.settle()
        self.put("b")
        self.assertEqual(sink.events, [("ADDED", "b")])

    def test_what_enters_and_leaves_the_selection(self) -> None:
        self.put("a", colour="blue")
        sink = self.watch(labels="colour=red")
        self.relabel("a", colour="red")
        self.relabel("a", colour="red", more="x")
        self.relabel("a", colour="blue")
        self.relabel("a", colour="green")
        self.assertEqual([one for one, _ in sink.events], ["ADDED", "MODIFIED", "DELETED"])
        self.assertEqual(sink.objects[-1]["metadata"]["labels"], {"colour": "red", "more": "x"})

    def test_other_namespaces_are_not_seen(self) -> None:
        self.put("a")
        self.assertEqual(self.watch(namespace="other").events, [])

    def test_a_deletion_has_its_own_version(self) -> None:
        made = self.put("a")
        sink = self.watch()
        self.done(self.api.delete(CONFIGMAP, "default", "a", DeleteOptions()))
        self.settle()
        self.assertGreater(
            int(sink.objects[-1]["metadata"]["resourceVersion"]), int(made["metadata"]["resourceVersion"])
        )

    def test_a_forgotten_version_is_gone(self) -> None:
        self.patch(cache_module, "WINDOW", 2)
        version = self.put("a")["metadata"]["resourceVersion"]
        for name in ("b", "c", "d"):
            self.put(name)
        with self.assertRaises(ApiError) as gone:
            self.watch(version)
        self.assertEqual((gone.exception.code, gone.exception.reason), (410, "Expired"))

    def test_a_version_of_before_the_start_is_gone(self) -> None:
        version = self.put("a")["metadata"]["resourceVersion"]
        self.put("b")
        self.cache.stop()
        self.cache = WatchCache(self.clock, self.objects)
        self.done(self.cache.start())
        self.addCleanup(self.cache.stop)
        with self.assertRaises(ApiError):
            self.watch(version)

    def test_first_events_end_with_a_bookmark_when_asked(self) -> None:
        self.put("a")
        sink = self.watch(send_initial=True)
        self.assertEqual(sink.events, [("ADDED", "a")])
        self.assertEqual(sink.bookmarks, [(self.cache.revision, True)])

    def test_a_bookmark_tells_of_what_was_not_selected_too(self) -> None:
        sink = self.watch(labels="colour=red")
        self.put("a", colour="blue")
        self.watching.bookmark()
        self.assertEqual(sink.bookmarks, [(self.cache.revision, False)])

    def test_when_the_store_fails_watches_end_and_the_cache_comes_back(self) -> None:
        self.put("a")
        sink = self.watch()
        self.cache.failed(StoreUnavailable("gone"))
        self.assertTrue(sink.over)
        self.settle(1.0)
        again = self.watch()
        self.put("b")
        self.assertEqual(again.events, [("ADDED", "a"), ("ADDED", "b")])

    def test_stopped_watches_are_told_nothing(self) -> None:
        sink = self.watch()
        self.watching.stop()
        self.put("a")
        self.assertEqual(sink.events, [])


class FakeRequest:
    """As much of a request as a response needs."""

    def __init__(self) -> None:
        self.written = b""
        self.finished = False
        self.producer: Any = None

    def setHeader(self, name: bytes, value: bytes) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def finish(self) -> None:
        self.finished = True


class WatchResponseTests(ApiTestCase):
    resource: Resource = CONFIGMAP

    def setUp(self) -> None:
        super().setUp()
        self.request = FakeRequest()
        request: Any = self.request
        self.response = WatchResponse(self.clock, request, CONFIGMAP, PlainForm())
        self.response.begin(100)
        self.ended = 0
        self.response.ends(self.end)

    def end(self) -> None:
        self.ended += 1

    def lines(self) -> list[Obj]:
        return [json.loads(line) for line in self.request.written.splitlines()]

    def event(self, text: str = "") -> None:
        self.response.event("ADDED", {"metadata": {"name": "a"}, "text": text})

    def test_events_are_lines(self) -> None:
        self.event()
        self.event()
        self.assertEqual([one["type"] for one in self.lines()], ["ADDED", "ADDED"])

    def test_it_ends_after_its_time(self) -> None:
        self.clock.advance(100)
        self.assertEqual((self.request.finished, self.ended, self.request.producer), (True, 1, None))

    def test_what_a_slow_client_misses_comes_later(self) -> None:
        self.response.pauseProducing()
        self.event()
        self.assertEqual(self.lines(), [])
        self.response.resumeProducing()
        self.assertEqual(len(self.lines()), 1)

    def test_a_client_too_slow_is_sent_away(self) -> None:
        self.response.pauseProducing()
        for _ in range(3):
            self.event("x" * (MAX_QUEUED // 2))
        self.assertEqual((self.request.finished, self.ended), (True, 1))
        self.event()
        self.assertEqual(self.lines(), [])

    def test_a_client_that_left_is_written_nothing(self) -> None:
        self.response.lost()
        self.event()
        self.clock.advance(1000)
        self.assertEqual((self.request.written, self.request.finished, self.ended), (b"", False, 1))

    def test_bookmarks_come_every_minute(self) -> None:
        revisions = iter((7, 8))
        self.response.bookmarks(lambda: self.response.bookmark(next(revisions), initial=False))
        self.clock.pump([60, 30])
        self.assertEqual(
            [(one["type"], one["object"]["metadata"]["resourceVersion"]) for one in self.lines()], [("BOOKMARK", "7")]
        )

    def test_an_error_is_the_last_event(self) -> None:
        self.response.error({"kind": "Status", "code": 410})
        self.assertEqual(self.lines()[-1]["type"], "ERROR")
        self.assertTrue(self.request.finished)

"""One watch of one client: turns changes of a kind into what its selector lets it see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgectl.apiserver.cache import Change, Subscriber, WatchCache
from edgectl.apiserver.errors import bad_request
from edgectl.apiserver.resources import Resource
from edgectl.apiserver.selectors import Predicate

Obj = dict[str, Any]


class WatchSink(Protocol):
    """Who gets the events of a watch. Objects are shared: do not change them."""

    def event(self, type_: str, obj: Obj) -> None:
        """``ADDED``, ``MODIFIED`` or ``DELETED``."""

    def bookmark(self, revision: int, *, initial: bool) -> None:
        """Everything up to ``revision`` was delivered; ``initial`` ends the first events."""

    def closed(self) -> None:
        """The watch is over; the client watches again from where it is."""


class ApiWatch:
    """A watch that is under way as soon as it is made.

    :raises ApiError: (410) if events since ``revision`` are forgotten.
    """

    def __init__(
        self,
        cache: WatchCache,
        resource: Resource,
        namespace: str,
        selected: Predicate,
        revision: str,
        sink: WatchSink,
        *,
        send_initial: bool = False,
    ) -> None:
        self._cache = cache
        self._namespace = namespace
        self._selected = selected
        self._sink = sink
        self._after = _number(revision)
        everything = self._after == 0 or send_initial
        past = [] if everything else cache.since(resource, self._after)
        if everything:
            self._after = 0
            self._send_present(resource)
        for change in past:
            self._changed(change)
        self._cancel: Callable[[], None] = cache.subscribe(resource, Subscriber(self._changed, sink.closed))
        if send_initial:
            self.bookmark(initial=True)

    def stop(self) -> None:
        """No event follows."""
        self._cancel()

    def bookmark(self, *, initial: bool = False) -> None:
        """Tell the client how far it is."""
        self._sink.bookmark(max(self._cache.revision, self._after), initial=initial)

    def _send_present(self, resource: Resource) -> None:
        present = [one for one in self._cache.current(resource, self._namespace) if self._selected(one)]
        for obj in sorted(present, key=lambda one: (one["metadata"].get("namespace", ""), one["metadata"]["name"])):
            self._sink.event("ADDED", obj)

    def _sees(self, obj: Obj | None) -> bool:
        if obj is None or (self._namespace and obj["metadata"].get("namespace") != self._namespace):
            return False
        return self._selected(obj)

    def _changed(self, change: Change) -> None:
        if change.revision <= self._after:
            return
        before, now = self._sees(change.previous), self._sees(change.current)
        if now and change.current is not None:
            self._sink.event("MODIFIED" if before else "ADDED", change.current)
        elif before:
            left = change.current
            self._sink.event("DELETED", change.deleted if left is None else self._left(change, left))

    def _left(self, change: Change, current: Obj) -> Obj:
        """An object that left the selection: as it was when it still belonged, at the version it left."""
        previous = change.previous or current
        version = current["metadata"]["resourceVersion"]
        return {**previous, "metadata": {**previous["metadata"], "resourceVersion": version}}


def _number(revision: str) -> int:
    try:
        return int(revision or 0)
    except ValueError:
        raise bad_request(f"resourceVersion: Invalid value: {revision[:64]!r}: must be a number") from None

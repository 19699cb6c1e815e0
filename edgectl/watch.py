"""How to follow a collection of Kubernetes objects without ever polling: list once, then watch. No I/O here.

:class:`Reflector` is told what came from the server and says what to ask next; see
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgectl.errors import ApiError, StatusError
from edgectl.lasting import lasting

PAGE_SIZE = 500
"""Objects a list request asks for: kubectl's and client-go's own page size."""

WATCH_SECONDS = 300.0
"""The shortest a watch is asked to last; up to twice that, so that many watches do not end together (client-go)."""

STEADY_SECONDS = 1.0
"""A watch that ends sooner is taken for a failure."""

MIN_BACKOFF, MAX_BACKOFF = 0.8, 30.0
"""Seconds between tries after errors, doubled each time and jittered (client-go's reflector)."""

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON spells it."""

Changed = Callable[[str, Object | None, Object | None], None]
"""``changed(key, old, new)``: ``old`` ``None`` is an addition, ``new`` ``None`` a removal."""


class LineTooLong(Exception):
    """The peer sent a line over the limit."""


class LineSplitter:
    """Cuts a stream of bytes into lines, holding at most ``limit`` bytes of an unfinished one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The lines completed by ``data``, without their ends; empty ones are left out.

        :raises LineTooLong: if a line is over the limit.
        """
        lines = data.split(b"\n")
        for line in lines[:-1]:
            if len(self._buffer) + len(line) > self._limit:
                raise LineTooLong(f"a line is longer than {self._limit} bytes")
            whole = bytes(self._buffer) + line if self._buffer else line
            self._buffer.clear()
            if whole.strip():
                yield whole
        if len(self._buffer) + len(lines[-1]) > self._limit:
            raise LineTooLong(f"a line is longer than {self._limit} bytes")
        self._buffer += lines[-1]


class Backoff:
    """Growing, jittered delays.

    :param random: uniform over [0, 1).
    """

    def __init__(self, random: Callable[[], float], minimum: float = MIN_BACKOFF, maximum: float = MAX_BACKOFF) -> None:
        self._random = random
        self._minimum = minimum
        self._maximum = maximum
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self, at_least: float | None = None) -> float:
        """The seconds to wait after one more failure, and never less than ``at_least``."""
        ceiling = min(self._maximum, self._minimum * 2.0 ** min(self._failures, 16))
        self._failures += 1
        delay = ceiling * (0.5 + self._random() / 2)
        return max(delay, at_least) if at_least is not None else delay


@dataclass(frozen=True, slots=True)
class ListStep:
    """Wait ``delay`` seconds, then ask for a page."""

    delay: float = 0.0
    continue_: str = ""


@dataclass(frozen=True, slots=True)
class WatchStep:
    """Wait ``delay`` seconds, then watch from ``resource_version`` on, for at most ``seconds``."""

    resource_version: str
    seconds: float
    delay: float = 0.0


Step = ListStep | WatchStep


def object_key(item: Mapping[str, Any]) -> str:
    """``namespace/name``, or ``name`` for what is in no namespace."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


class Reflector:
    """The collection as last heard of, and what to ask the server next.

    A watch that ends is taken up again where it stood; the collection is listed again only if the server no longer
    has that resource version (410). So the number of lists does not grow with reconnections.

    :param transform: what to keep of an object (by default all of it).
    :ivar synced: whether the collection has been listed whole at least once.
    :ivar lists: how many pages have been asked for.
    """

    def __init__(
        self,
        changed: Changed,
        random: Callable[[], float],
        transform: Callable[[Object], Object] = lambda item: item,
    ) -> None:
        self.items: dict[str, Object] = {}
        self.synced = False
        self.lists = 0
        self._changed = changed
        self._random = random
        self._transform = transform
        self._backoff = Backoff(random)
        self._version = ""
        self._listing: dict[str, Object] = {}

    def start(self) -> Step:
        return self._list()

    def listed(self, page: Object) -> Step:
        """A page came."""
        for item in page.get("items") or ():
            self._listing[object_key(item)] = lasting(self._transform(item))
        metadata = page.get("metadata") or {}
        if more := metadata.get("continue"):
            self.lists += 1
            return ListStep(continue_=str(more))
        self._version = str(metadata.get("resourceVersion", ""))
        self._replace()
        return self._watch()

    def list_failed(self, error: ApiError) -> Step:
        """A page did not come. An expired continue token (410) is of no use for the rest: begin anew."""
        return self._list(self._delay(error))

    def event(self, event: Object) -> None:
        """A watch event came (any but ``ERROR``, which ends the watch)."""
        kind, item = event.get("type"), event["object"]
        self._version = str(item["metadata"].get("resourceVersion", self._version))
        if kind == "BOOKMARK":
            return
        key = object_key(item)
        old = self.items.get(key)
        if kind == "DELETED":
            if self.items.pop(key, None) is not None:
                self._changed(key, old, None)
            return
        self.items[key] = new = lasting(self._transform(item))
        self._changed(key, old, new)

    def replace(self, key: str, item: Object) -> None:
        """An object was read singly. What the watch tells later counts more."""
        old = self.items.get(key)
        self.items[key] = new = lasting(self._transform(item))
        self._changed(key, old, new)

    def watch_ended(self, lasted: float, error: ApiError | None = None) -> Step:
        """The watch is over, after ``lasted`` seconds: by the server's will, or by an error.

        Only a watch that lasted proves the server well: a list that works before watches that do not must not
        turn into a loop of lists. A server that does not know the resource any more (404) was upgraded or is another.
        """
        if lasted >= STEADY_SECONDS:
            self._backoff.reset()
        if isinstance(error, StatusError) and (error.gone or error.not_found):
            return self._list(self._delay(error))
        if error is None and lasted >= STEADY_SECONDS:
            return self._watch()
        return self._watch(self._delay(error))

    def _list(self, delay: float = 0.0) -> Step:
        self._listing = {}
        self.lists += 1
        return ListStep(delay)

    def _watch(self, delay: float = 0.0) -> Step:
        return WatchStep(self._version, WATCH_SECONDS * (1 + self._random()), delay)

    def _delay(self, error: ApiError | None) -> float:
        return self._backoff.next(error.retry_after if isinstance(error, StatusError) else None)

    def _replace(self) -> None:
        """Tell what differs between what we had and what has been listed."""
        before, self.items, self._listing = self.items, self._listing, {}
        self.synced = True
        for key, old in before.items():
            if key not in self.items:
                self._changed(key, old, None)
        for key, new in list(self.items.items()):
            old_item = before.get(key)
            if old_item is None or old_item != new:
                self._changed(key, old_item, new)

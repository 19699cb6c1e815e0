"""Kubernetes Events of this node's pods, kept in the local store: bounded in number and in age."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appengine.podspec import Json, PodRef
from appengine.reports import Reports
from appengine.status import rfc3339

NORMAL, WARNING = "Normal", "Warning"

MAX_EVENTS = 200
MAX_AGE = 3600.0
"""Seconds: as long as an API server keeps Events (its ``--event-ttl``)."""

_QUIET = 10.0
"""One that happens again and again is written so often, in seconds."""

_MAX_MESSAGE = 1024


@dataclass(slots=True)
class _Entry:
    namespace: str
    event: Json
    last: float
    written: float


class Events:
    """Counts what happens. What happened before is the same Event, with a higher count.

    :param now: by which Events grow old; nobody sets it.
    :param wall: the time of day that they show.
    """

    def __init__(self, reports: Reports, now: Callable[[], float], wall: Callable[[], float], node: str) -> None:
        self._reports = reports
        self._now = now
        self._wall = wall
        self._node = node
        self._entries: dict[str, _Entry] = {}

    def load(self, events: dict[tuple[str, str], Any]) -> None:
        """Take over what an earlier run of the agent left: (namespace, name) → v1 Event."""
        from appengine.dockerjson import timestamp

        for (namespace, name), event in events.items():
            shown = timestamp(str(event.get("lastTimestamp") or "")) if isinstance(event, dict) else 0.0
            if shown:
                last = self._now() - max(0.0, self._wall() - shown)
                self._entries[name] = _Entry(namespace, event, last, last)
            else:
                self._reports.event(namespace, name, None)
        self._prune()

    def pod(self, ref: PodRef, kind: str, reason: str, message: str, container: str = "") -> None:
        """Something happened to a pod, or to one of its containers."""
        now, shown = self._now(), rfc3339(self._wall())
        message = message[:_MAX_MESSAGE]
        digest = hashlib.sha256("\0".join((ref.uid, kind, reason, container, message)).encode()).hexdigest()[:16]
        name = f"{ref.name[:200]}.{digest}"
        entry = self._entries.pop(name, None)
        if entry is None:
            involved: Json = {"kind": "Pod", "apiVersion": "v1", "namespace": ref.namespace, "name": ref.name}
            involved["uid"] = ref.uid
            if container:
                involved["fieldPath"] = f"spec.containers{{{container}}}"
            event: Json = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": ref.namespace},
                "involvedObject": involved,
                "reason": reason,
                "message": message,
                "type": kind,
                "source": {"component": "kubebus", "host": self._node},
                "firstTimestamp": shown,
                "count": 0,
            }
            entry = _Entry(ref.namespace, event, now, now - _QUIET)
        entry.event = {**entry.event, "count": int(entry.event.get("count") or 0) + 1, "lastTimestamp": shown}
        entry.last = now
        # At the end: the oldest are at the beginning.
        self._entries[name] = entry
        if now - entry.written >= _QUIET:
            entry.written = now
            self._reports.event(entry.namespace, name, entry.event)
        self._prune()

    def _prune(self) -> None:
        now = self._now()
        for name, entry in list(self._entries.items()):
            if len(self._entries) > MAX_EVENTS or now - entry.last >= MAX_AGE:
                del self._entries[name]
                self._reports.event(entry.namespace, name, None)

    def of(self, ref: PodRef) -> list[Json]:
        """The Events of a pod, oldest first."""
        return [e.event for e in self._entries.values() if e.event["involvedObject"].get("uid") == ref.uid]

"""What happens at the nodes, as Kubernetes Events."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.errors import StatusError
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import EVENTS, KubernetesClient
from edgectl.mirror import Mirror
from edgectl.nodes import rfc3339
from edgectl.pace import EVENT_BURST, EVENT_RATE, Pace
from edgectl.podsync import PodIndex, node_name
from edgectl.takeover import stands_in
from edgectl.translate import merge_patch
from edgectl.watch import Object

EventKey = tuple[str, str, str]
"""``(node, namespace, name)``."""

MAX_AGE = 3600.0
"""Seconds: kube-apiserver keeps an Event for an hour (``--event-ttl``); an older one is history."""

_MAX_OWN = 1000
"""Words of our own that are remembered."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MAX_REASON, _MAX_MESSAGE = 128, 1024
"""What the API server accepts (``core/v1 Event`` validation)."""


class EventSync:
    """A handler of work by event. An Event is made once and brought up to date when its node counts it again.

    A node may speak only of itself, of pods bound to it and of those that it has taken over; what else it says is not
    passed on.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        directory: Mapping[str, EdgeNode],
        index: PodIndex,
        mirror: Callable[[], Mirror],
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._directory = directory
        self._index = index
        self._mirror = mirror
        self._sent: dict[EventKey, Object] = {}
        self._own: OrderedDict[EventKey, Object] = OrderedDict()
        self._pace = Pace(EVENT_RATE, EVENT_BURST)

    def record(self, pod: Mapping[str, Any], reason: str, message: str, kind: str = "Warning") -> EventKey:
        """A word of our own about a pod; what to hand to :meth:`send`. The same one again is the same Event."""
        metadata = pod["metadata"]
        mark = sha256(f"{metadata['uid']}\0{reason}\0{message}".encode()).hexdigest()[:16]
        key = (node_name(pod), metadata["namespace"], f"{metadata['name']}.{mark}")
        now = rfc3339(self._reactor.seconds())
        about = {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        event = {"involvedObject": about, "reason": reason, "message": message, "type": kind}
        self._own[key] = {**event, "lastTimestamp": now}
        while len(self._own) > _MAX_OWN:
            self._own.popitem(last=False)
        return key

    async def send(self, key: EventKey) -> float:
        """0.0, or the seconds after which to try again, since the node has told too much of late."""
        node, namespace, name = key
        mirrored = self._mirror().nodes.get(node)
        report = self._own.get(key) or (mirrored.events.get((namespace, name)) if mirrored is not None else None)
        if report is None or node not in self._directory:
            self._sent.pop(key, None)
            return 0.0
        event = self._checked(node, namespace, name, report)
        if event is None or self._sent.get(key) == event:
            return 0.0
        if wait := self._pace.take(node, self._reactor.seconds()):
            return wait
        await self._put(namespace, name, event)
        self._sent[key] = event
        return 0.0

    async def _put(self, namespace: str, name: str, event: Object) -> None:
        try:
            await self._client.create(EVENTS, namespace, event)
        except StatusError as error:
            if error.invalid or error.not_found:
                return  # it can never be made: of no use to anybody to try again
            if not error.already_exists:
                raise
            current = await self._client.get(EVENTS, namespace, name)
            if patch := merge_patch(
                {k: v for k, v in current.items() if k in event}, {**event, "metadata": current["metadata"]}
            ):
                await self._client.patch(EVENTS, namespace, name, patch)

    def _checked(self, node: str, namespace: str, name: str, report: Mapping[str, Any]) -> Object | None:
        """The Event to make of a report, or ``None`` if it must not be."""
        involved = report.get("involvedObject")
        last = report.get("lastTimestamp")
        if not isinstance(involved, Mapping) or not _NAME.fullmatch(name) or not self._is_recent(last):
            return None
        about = self._about(node, namespace, involved)
        if about is None or not name.startswith(f"{about['name']}."):
            return None
        count = report.get("count")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about,
            "reason": str(report.get("reason") or "Unknown")[:_MAX_REASON],
            "message": str(report.get("message") or "")[:_MAX_MESSAGE],
            "type": "Warning" if report.get("type") == "Warning" else "Normal",
            "count": count if isinstance(count, int) and count > 0 else 1,
            "firstTimestamp": report.get("firstTimestamp") if _time(report.get("firstTimestamp")) else last,
            "lastTimestamp": last,
            "source": {"component": "kubebus", "host": node},
        }

    def _about(self, node: str, namespace: str, involved: Mapping[str, Any]) -> Object | None:
        if involved.get("kind") == "Node":
            # Kubernetes keeps Events on Nodes, which have no namespace, in "default".
            mine = involved.get("name") == node and namespace == "default"
            return {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node} if mine else None
        pod = self._index.pods.get(f"{namespace}/{involved.get('name')}")
        uid = str(involved.get("uid"))
        if pod is None or not stands_in(pod, node, uid, self._mirror(), self._directory):
            return None
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": pod["metadata"]["name"]}
        path = involved.get("fieldPath")
        if isinstance(path, str) and len(path) < _MAX_REASON:
            about["fieldPath"] = path
        return {**about, "uid": pod["metadata"]["uid"]}

    def _is_recent(self, last: object) -> bool:
        at = _time(last)
        return at is not None and at > self._reactor.seconds() - MAX_AGE


def _time(value: object) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None

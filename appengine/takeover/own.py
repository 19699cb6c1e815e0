"""The node's own pods that have opted in: they run while it has their lease."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from appengine.events import WARNING
from appengine.podspec import Json, Pod
from appengine.takeover.eligible import obstacle, opted_in
from appengine.worker import Worker
from metasync.keys import WAITING_FOR_SITE

if TYPE_CHECKING:
    from appengine.takeover.service import Takeover


class OwnPods:
    """Gates the node's own pods."""

    log = Logger()

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._pods: dict[str, Worker] = {}
        self._losing: set[str] = set()
        self._told: set[str] = set()

    def __contains__(self, uid: object) -> bool:
        return uid in self._pods

    def uids(self) -> Iterable[str]:
        return tuple(self._pods)

    def name_of(self, uid: str) -> Json | None:
        worker = self._pods.get(uid)
        return None if worker is None else {"namespace": worker.ref.namespace, "name": worker.ref.name}

    def consider(self, worker: Worker, pod: Pod, document: Json) -> None:
        """To be called before a worker of one of the node's own pods is told of it: it may have to be held back."""
        uid = worker.ref.uid
        if not self._gated(worker, pod, document):
            if self._pods.pop(uid, None) is not None:
                self._takeover.leases.withdraw(uid)
                worker.free()
                self._takeover.spawn(self._takeover.deadman.end(uid))
            return
        if uid not in self._pods:
            self._pods[uid] = worker
            self._takeover.leases.claim(uid, owner=self._takeover.node)
        if self._takeover.until(uid) is None:
            worker.hold(WAITING_FOR_SITE, self._takeover.why_held(), 0.0)

    def _gated(self, worker: Worker, pod: Pod, document: Json) -> bool:
        if not opted_in(document) or not self._takeover.in_site:
            return False
        why = obstacle(document)
        if why is not None and worker.ref.uid not in self._told:
            self._told.add(worker.ref.uid)
            self.log.warn("pod {pod} is not taken over when this node dies: {why}", pod=str(pod.ref), why=why)
            worker.event(WARNING, "NotTakenOver", f"It runs on its own node only: {why}")
        return why is None

    # -- what becomes of the lease

    async def gained(self, uid: str) -> None:
        self._losing.discard(uid)
        # What others have said of it is over.
        self._takeover.records.drop(uid)
        if await self._takeover.arm(uid) and uid in self._pods:
            self._pods[uid].free()

    def ending(self, uid: str, grace: float) -> None:
        worker = self._pods[uid]
        own = float(worker.pod.grace) if worker.pod is not None else grace
        self._losing.add(uid)
        worker.hold(WAITING_FOR_SITE, self._takeover.why_held(), min(grace, own))

    async def stopped(self, uid: str) -> None:
        """Nothing of it runs, as the container engine says. The switch sees for itself; then others may have it."""
        if uid not in self._losing and self._takeover.until(uid) is not None:
            return
        await self._takeover.deadman.end(uid)
        self._takeover.forget_found(uid)
        if uid in self._losing and uid in self._pods and self._pods[uid].held:
            self._losing.discard(uid)
            self._takeover.leases.release(uid)

    async def gone(self, uid: str) -> None:
        """Deleted, and nothing is left."""
        del self._pods[uid]
        self._losing.discard(uid)
        self._told.discard(uid)
        self._takeover.forget_found(uid)
        await self._takeover.deadman.end(uid)
        if uid not in self._pods:
            self._takeover.leases.withdraw(uid)
            self._takeover.leases.release(uid)

"""Pods of other nodes of the site: asked for when their owner is away, run under a UID of their own, given back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from twisted.logger import Logger

from appengine.podspec import InvalidPod, Json, parse_pod, read_json
from appengine.takeover.eligible import copy_of, fits, obstacle, opted_in, owner_of, uid_of
from appengine.takeover.records import Record

if TYPE_CHECKING:
    from appengine.takeover.service import Takeover

_TRY_AGAIN = 60.0
"""Seconds until a pod that the node could not take is asked for again."""


@dataclass(slots=True)
class Candidate:
    """A pod of another node that could run here."""

    uid: str
    namespace: str
    name: str
    owner: str
    document: Json


@dataclass(slots=True)
class Taken:
    """A pod that runs here in place of its owner. ``leaving``: it is being stopped."""

    pod: Candidate
    uid: str
    leaving: bool = False


class Others:
    """What this node runs, or would run, for others."""

    log = Logger()

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._candidates: dict[str, Candidate] = {}
        self._taken: dict[str, Taken] = {}
        self._originals: dict[str, str] = {}
        self._before: dict[str, tuple[str, str]] = {}
        self._refused: dict[str, float] = {}
        self._ready = False

    def original(self, uid: str) -> str | None:
        return self._originals.get(uid)

    def uids(self) -> Iterable[str]:
        return tuple(self._originals)

    def origin(self, uid: str) -> Json | None:
        """For the PodReport."""
        original = self._originals.get(uid)
        if original is not None:
            return {"uid": original, "node": self._taken[original].pod.owner}
        # Of one that was taken over before this agent was started, and is being stopped.
        before = self._before.get(uid)
        return None if before is None else {"uid": before[0], "node": before[1]}

    def name_of(self, uid: str) -> Json | None:
        known = self._taken[uid].pod if uid in self._taken else self._candidates.get(uid)
        return None if known is None else {"namespace": known.namespace, "name": known.name}

    def document(self, namespace: str, name: str) -> Json | None:
        """The pod to be run here under a name, if it is another node's."""
        for taken in self._taken.values():
            if (taken.pod.namespace, taken.pod.name) == (namespace, name) and not taken.leaving:
                return copy_of(taken.pod.document, taken.uid, self._takeover.node)
        return None

    def names(self) -> set[tuple[str, str]]:
        """Of the pods that are to be run here."""
        return {(t.pod.namespace, t.pod.name) for t in self._taken.values() if not t.leaving}

    # -- who could run here

    def remember(self, previous: Mapping[str, Json]) -> None:
        """What ran here before the agent was started anew."""
        for uid, report in previous.items():
            origin = report.get("takenOver")
            if isinstance(origin, dict):
                self._before[uid] = (str(origin.get("uid")), str(origin.get("node")))

    def resume(self) -> None:
        """Go on with what still has its lease; the engine stops the rest."""
        self._ready = True
        self._candidates = self._find()
        for uid, (original, _) in self._before.items():
            candidate = self._candidates.get(original)
            if candidate is not None and self._takeover.until(uid) is not None:
                self._take(Taken(candidate, uid))
            else:
                self._takeover.records.drop(original, self._takeover.node)

    def _find(self) -> dict[str, Candidate]:
        labels = self._labels()
        found = {}
        for (namespace, name), value in self._takeover.site_pods().items():
            try:
                document = read_json(value, "pod")
            except InvalidPod as error:
                self.log.warn("pod {ns}/{name} of the site: {error}", ns=namespace, name=name, error=str(error))
                continue
            candidate = Candidate(uid_of(document), namespace, name, owner_of(document), document)
            if self._suits(candidate, labels):
                found[candidate.uid] = candidate
        return found

    def _suits(self, pod: Candidate, labels: Mapping[str, Any]) -> bool:
        me = self._takeover.node
        return (
            bool(pod.uid)
            and pod.owner not in ("", me)
            and opted_in(pod.document)
            and obstacle(pod.document) is None
            and fits(pod.document, me, labels)
            and not self._takeover.host.is_own(pod.namespace, pod.name)
        )

    def _labels(self) -> Mapping[str, Any]:
        try:
            labels = json.loads(self._takeover.labels() or b"{}")["metadata"]["labels"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return {}
        return labels if isinstance(labels, dict) else {}

    def consider(self) -> None:
        """What there is for this node to ask for may have changed."""
        if not self._ready or not self._takeover.loaded:
            return
        before, self._candidates = self._candidates, self._find()
        for uid in before.keys() - self._candidates.keys():
            self._takeover.leases.withdraw(uid)
        for uid in [uid for uid in self._taken if uid not in self._candidates]:
            self._leave(self._taken[uid], "it is wanted at its site no more")
        for uid, candidate in self._candidates.items():
            taken = self._taken.get(uid)
            if taken is not None and taken.pod.document != candidate.document:
                taken.pod = candidate
                self._takeover.host.want(candidate.namespace, candidate.name)
            if not self._deleted(candidate) and self._refused.get(uid, 0.0) <= self._takeover.reactor.seconds():
                self._takeover.leases.claim(uid, owner=candidate.owner)

    @staticmethod
    def _deleted(pod: Candidate) -> bool:
        return bool(pod.document["metadata"].get("deletionTimestamp"))

    # -- what becomes of a lease

    async def gained(self, uid: str) -> None:
        taken = self._taken.get(uid)
        if taken is not None:
            # It was taken over by this node's earlier agent, or its end has been called off.
            if not taken.leaving:
                await self._takeover.arm(taken.uid)
            return
        candidate = self._candidates.get(uid)
        why = "it is not wanted here" if candidate is None else self._unable(candidate)
        if candidate is None or why is not None:
            self.log.info("pod {uid} is not taken over: {why}", uid=uid, why=why)
            self._refuse(uid)
            return
        taken = Taken(candidate, str(uuid4()))
        self._take(taken)
        self.log.warn(
            "pod {ns}/{name} of node {owner}, which is away, is taken over: it runs here as {new}",
            ns=candidate.namespace,
            name=candidate.name,
            owner=candidate.owner,
            new=taken.uid,
        )
        if not await self._takeover.arm(taken.uid) or taken.leaving:
            self._leave(taken, "its lease has ended")
            return
        self._takeover.records.put(uid, Record(taken.uid, self._takeover.node))
        self._takeover.host.want(candidate.namespace, candidate.name)

    def _unable(self, pod: Candidate) -> str | None:
        try:
            parsed = parse_pod(copy_of(pod.document, pod.uid, self._takeover.node), pod.namespace, pod.name)
        except InvalidPod as error:
            return str(error)
        if self._deleted(pod):
            return "it is being deleted"
        refusal = self._takeover.host.refusal(parsed)
        return None if refusal is None else refusal[1]

    def _refuse(self, uid: str) -> None:
        """Leave it to the others for a while."""
        leases = self._takeover.leases
        leases.withdraw(uid)
        leases.release(uid)
        self._refused[uid] = self._takeover.reactor.seconds() + _TRY_AGAIN
        self._takeover.later(_TRY_AGAIN, self.consider)

    def _take(self, taken: Taken) -> None:
        self._taken[taken.pod.uid] = taken
        self._originals[taken.uid] = taken.pod.uid

    def ending(self, uid: str, grace: float) -> None:
        taken = self._taken.get(uid)
        if taken is None:
            self._takeover.leases.release(uid)
            return
        worker = self._takeover.host.worker(taken.uid)
        if worker is not None:
            worker.terminate(grace)
        self._leave(taken, "the site's majority is not reached")

    def give_back(self, uid: str) -> None:
        taken = self._taken.get(uid)
        if taken is None:
            self._takeover.leases.release(uid)
        else:
            self._leave(taken, f"node {taken.pod.owner} is back")

    def _leave(self, taken: Taken, why: str) -> None:
        """Stop it. What follows is in :meth:`gone`."""
        if not taken.leaving:
            self.log.info(
                "pod {ns}/{name} of node {owner} is stopped here: {why}",
                ns=taken.pod.namespace,
                name=taken.pod.name,
                owner=taken.pod.owner,
                why=why,
            )
        taken.leaving = True
        if self._takeover.host.worker(taken.uid) is None:
            self._takeover.spawn(self.gone(taken.uid))
        else:
            self._takeover.host.want(taken.pod.namespace, taken.pod.name)

    async def gone(self, uid: str) -> None:
        """Nothing is left of a pod that was taken over, as the container engine says. The switch sees for itself."""
        taken = self._taken[self._originals[uid]]
        self._takeover.forget_found(uid)
        await self._takeover.deadman.end(uid)
        original = self._originals.pop(uid, None)
        if original is None:
            return
        del self._taken[original]
        self._takeover.records.drop(original, self._takeover.node)
        if original not in self._candidates:
            self._takeover.leases.withdraw(original)
        self._takeover.leases.release(original)
        self.log.info(
            "pod {ns}/{name} of node {owner} has left this node: others may run it",
            ns=taken.pod.namespace,
            name=taken.pod.name,
            owner=taken.pod.owner,
        )

    def reported(self, uid: str, status: Json) -> None:
        """Tell the site where the pod is to be found."""
        original = self._originals.get(uid)
        if original is not None:
            self._takeover.records.put(original, Record.of_status(uid, self._takeover.node, status))

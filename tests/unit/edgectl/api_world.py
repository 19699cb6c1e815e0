"""The API and its controllers on a store in memory, with a clock that only the test moves."""

from __future__ import annotations

import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from edgectl.apiserver.cache import Change, Subscriber, WatchCache
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.options import DeleteOptions, ListOptions
from edgectl.apiserver.resources import NAMESPACE, NODE, POD, Resource
from edgectl.apiserver.storage import ObjectStore
from edgectl.apiserver.verbs import Api
from edgectl.workloads.controller import Controller
from metasync.memory import MemoryStore

T = TypeVar("T")
Obj = dict[str, Any]

START = 1_700_000_000.0


class Kubelets:
    """Plays all nodes: bound pods run and are ready, deleted ones end. ``broken`` images never get ready."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self._numbers = itertools.count(1)
        api.cache.subscribe(POD, Subscriber(self._changed, lambda: None))

    def _changed(self, change: Change) -> None:
        pod = change.current
        if pod is None or not pod["spec"].get("nodeName") or pod["spec"]["nodeName"] in self.silent:
            return
        if "deletionTimestamp" in pod["metadata"]:
            Deferred.fromCoroutine(self._end(pod)).addErrback(lambda _: None)
        elif pod["status"]["phase"] == "Pending":
            Deferred.fromCoroutine(self._run(pod)).addErrback(lambda _: None)

    async def _end(self, pod: Obj) -> None:
        options = DeleteOptions(grace=0, uid=pod["metadata"]["uid"])
        await self.api.delete(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], options)

    async def _run(self, pod: Obj) -> None:
        ready = pod["spec"]["containers"][0]["image"] not in self.broken
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": timestamp(self.api.seconds())}
        address = f"10.192.0.{next(self._numbers)}"
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}

        def running(found: Obj) -> Obj:
            return {**found, "status": {**found["status"], **status}}

        await self.api.rewrite(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], running)


class ApiTestCase(SynchronousTestCase):
    """``controllers`` are started; nodes are made with :meth:`add_node`."""

    controllers: tuple[type[Controller], ...] = ()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.store = MemoryStore(self.clock)
        self.objects = ObjectStore(self.store, "default")
        self.cache = WatchCache(self.clock, self.objects)
        self.api = Api(self.clock, self.objects, self.cache)
        self.done(self.cache.start())
        self.addCleanup(self.cache.stop)
        self.make(NAMESPACE, {"metadata": {"name": "default"}}, "")
        self.running = [kind(self.clock, self.api) for kind in self.controllers]
        for one in self.running:
            one.start()
            self.addCleanup(one.stop)
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        """Let everything happen that is due, and what follows from it."""
        self.clock.advance(seconds)
        for _ in range(400):
            self.clock.advance(0)

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        """The result, or the error, of what needs no more than the store."""
        outcome: list[T | Failure] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        for _ in range(50):
            if outcome:
                break
            self.clock.advance(0)
        result = outcome[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def make(self, resource: Resource, obj: Obj, namespace: str = "default") -> Obj:
        made = self.done(self.api.create(resource, namespace, obj))
        self.settle()
        return made

    def all(self, resource: Resource, namespace: str = "default") -> list[Obj]:
        return self.done(self.api.list(resource, namespace, ListOptions())).items

    def one(self, resource: Resource, name: str, namespace: str = "default") -> Obj:
        return self.done(self.api.get(resource, namespace, name))

    def change(self, resource: Resource, name: str, namespace: str = "default", **spec: Any) -> Obj:
        """Change members of the spec as a client would."""

        def edit(obj: Obj) -> Obj:
            obj["spec"].update(spec)
            return obj

        changed = self.done(self.api.change(resource, namespace, name, edit))
        self.settle()
        return changed

    def remove(self, resource: Resource, name: str, namespace: str = "default", **options: Any) -> None:
        self.done(self.api.delete(resource, namespace, name, DeleteOptions(**options)))
        self.settle()

    def add_node(self, name: str, *, ready: Any = True, taints: Any = None, **labels: Any) -> None:
        spec = {"taints": taints} if taints else {}
        self.make(NODE, {"metadata": {"name": name, "labels": labels}, "spec": spec}, "")
        status = {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "capacity": {"cpu": "4", "memory": "4Gi", "pods": "10"},
        }
        self.done(self.api.rewrite(NODE, "", name, lambda found: {**found, "status": status}))
        self.settle()

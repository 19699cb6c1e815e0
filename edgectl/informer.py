"""Keeps a local copy of one collection of Kubernetes objects up to date, and tells who asked of every change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from edgectl.errors import ApiError, StatusError
from edgectl.kubernetes import KubernetesClient, Resource
from edgectl.watch import PAGE_SIZE, Changed, ListStep, Object, Reflector, Step, WatchStep

RESTART_SECONDS = 5.0


class Informer:
    """Follows ``resource`` (in one namespace, or in all) from :meth:`start` to :meth:`stop`.

    It lasts through everything that can happen to the server; what it holds meanwhile is the last that was known.

    :param random: uniform over [0, 1): spreads reconnections of many clients.
    :param versions: choose the first of these API versions that the server has, instead of the resource's own.
    :param transform: what to keep of each object.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        resource: Resource,
        random: Callable[[], float],
        *,
        versions: Sequence[str] = (),
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        transform: Callable[[Object], Object] = lambda item: item,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._resource = resource
        self._versions = versions
        self._undecided = bool(versions)
        self._namespace = namespace
        self._selectors = {"label_selector": label_selector, "field_selector": field_selector}
        self._core = Reflector(self._tell, random, transform)
        self._observers: list[Changed] = []
        self._synced: list[Callable[[], None]] = []
        self._running: Deferred[None] | None = None
        self._stopped = False

    @property
    def items(self) -> Mapping[str, Object]:
        """By ``namespace/name`` (``name`` for what is in no namespace). Not to be changed."""
        return self._core.items

    @property
    def synced(self) -> bool:
        """Whether the whole collection has been read once."""
        return self._core.synced

    @property
    def lists(self) -> int:
        """How many list requests were made so far."""
        return self._core.lists

    def subscribe(self, changed: Changed, synced: Callable[[], None] | None = None) -> None:
        """Call ``changed(key, old, new)`` at every change, and ``synced`` once the collection has been read whole."""
        self._observers.append(changed)
        if synced is not None:
            self._synced.append(synced)

    def replace(self, key: str, item: Object) -> None:
        """Take in an object that was read singly."""
        self._core.replace(key, item)

    def start(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._died)

    def stop(self) -> None:
        """End it at once; no call of an observer follows."""
        self._stopped = True
        self._observers.clear()
        self._synced.clear()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        step = self._core.start()
        # Cancelling a request need not raise CancelledError: Twisted tells of the connection it closed instead.
        while not self._stopped:
            if step.delay:
                await deferLater(self._reactor, step.delay)
            step = await (self._list(step) if isinstance(step, ListStep) else self._watch(step))

    async def _list(self, step: ListStep) -> Step:
        try:
            if self._undecided:
                self._resource = await self._client.choose(self._resource, self._versions)
                self._undecided = False
            page = await self._client.list(
                self._resource, self._namespace, limit=PAGE_SIZE, continue_=step.continue_, **self._selectors
            )
        except ApiError as error:
            if not self._stopped:
                self._log.warn("{name}: listing failed: {error}", name=self, error=error)
            self._reconsider(error)
            return self._core.list_failed(error)
        was = self._core.synced
        step_ = self._core.listed(page)
        if self._core.synced and not was:
            for synced in self._synced:
                synced()
        return step_

    async def _watch(self, step: WatchStep) -> Step:
        began = self._reactor.seconds()
        failed: ApiError | None = None
        try:
            await self._client.watch(
                self._resource,
                self._namespace,
                self._core.event,
                resource_version=step.resource_version,
                seconds=step.seconds,
                **self._selectors,
            )
        except ApiError as error:
            failed = error
            self._reconsider(error)
        if failed is not None and not self._stopped:
            self._log.info("{name}: watch ended: {error}", name=self, error=failed)
        next_ = self._core.watch_ended(self._reactor.seconds() - began, failed)
        if isinstance(next_, ListStep) and not self._stopped:
            self._log.info("{name}: listing all of it anew", name=self)
        return next_

    def _reconsider(self, error: ApiError) -> None:
        """A server that was upgraded may serve another version."""
        if isinstance(error, StatusError) and error.not_found:
            self._undecided = bool(self._versions)

    def _tell(self, key: str, old: Object | None, new: Object | None) -> None:
        for observer in self._observers:
            observer(key, old, new)

    def _died(self, failure: Failure) -> None:
        """A bug in an observer or here: say so, and go on from a fresh list rather than stand still for ever."""
        if self._stopped:
            return
        self._log.failure("{name}: died, will begin anew", failure, name=self)
        self._running = deferLater(self._reactor, RESTART_SECONDS, self.start)
        self._running.addErrback(lambda _: None)

    def __str__(self) -> str:
        where = f" in {self._namespace}" if self._namespace else ""
        return f"{self._resource.plural}{where}"

"""One of several: leader election by a Lease, as client-go does it.

The rules are those of https://pkg.go.dev/k8s.io/client-go/tools/leaderelection: nobody's clock is compared with
anybody else's. A candidate takes over once it has seen the record unchanged for the record's own duration, and a leader
that could not renew for :data:`RENEW_SECONDS` steps down before that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from edgectl.errors import ApiError, StatusError
from edgectl.kubernetes import LEASES, Resource
from edgectl.nodes import micro_time
from edgectl.watch import Object

DURATION_SECONDS = 15
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
"""client-go's defaults for core components."""


class LeaseClient(Protocol):
    """What the election asks of the API; a :class:`~edgectl.kubernetes.KubernetesClient` does it, with its errors."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object: ...

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object: ...

    async def update(self, resource: Resource, body: Object) -> Object: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A record, and when we first saw it so (by our own clock)."""

    holder: str
    renewed: str
    duration: float
    at: float


class Election:
    """What a candidate knows, and whether it may write the record. Pure."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: Seen | None = None

    def observe(self, lease: Mapping[str, Any], now: float) -> None:
        spec = lease.get("spec") or {}
        holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
        seen = self._seen
        if seen is None or (seen.holder, seen.renewed) != (holder, renewed):
            self._seen = Seen(holder, renewed, float(spec.get("leaseDurationSeconds") or DURATION_SECONDS), now)

    @property
    def leader(self) -> str:
        """Who holds the record, as last seen; empty if nobody."""
        return self._seen.holder if self._seen is not None else ""

    def may_take(self, now: float) -> bool:
        """Whether the record is ours, nobody's, or has run out."""
        seen = self._seen
        return seen is None or seen.holder in ("", self.identity) or now >= seen.at + seen.duration

    def claim(self, lease: Mapping[str, Any], now: float) -> Object:
        """The record as ours."""
        old = lease.get("spec") or {}
        mine = old.get("holderIdentity") == self.identity
        spec: Object = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": old.get("acquireTime") if mine else micro_time(now),
            "renewTime": micro_time(now),
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if mine or not lease else 1),
        }
        return {**lease, "spec": spec}


class LeadingService(Service):
    """Runs a service while this process is the leader, and stops it before another may be.

    :param identity: this process, different from every other candidate.
    :param namespace: where the Lease ``name`` stands.
    :param make: makes the service anew each time.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: LeaseClient,
        identity: str,
        namespace: str,
        name: str,
        make: Callable[[], IService],
        random: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._namespace = namespace
        self._lease_name = name
        self._make = make
        self._random = random
        self._election = Election(identity)
        self._led: IService | None = None
        self._timer: IDelayedCall | None = None
        self._running: Deferred[None] | None = None

    @property
    def leading(self) -> bool:
        return self._led is not None

    @property
    def leader(self) -> str:
        """The identity of the leader as last seen; empty if there is none."""
        return self._election.leader

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """Stop the work first, then give the lead away, so that the next need not wait."""
        if self._running is not None:
            self._running.cancel()
        if self._led is not None:
            await self._step_down()
            await self._release()
        await self._client.close()

    async def _run(self) -> None:
        while self.running:
            try:
                asked = self._reactor.seconds()
                if await self._try().addTimeout(RENEW_SECONDS / 2, self._reactor):
                    self._lead(asked + RENEW_SECONDS)
                elif self._led is not None:
                    await self._step_down()
            except CancelledError:
                raise
            except Exception as error:  # a timeout or any failure of the API: the lead runs out by itself
                self._log.warn("leader election {name}: {error}", name=self._lease_name, error=error)
            await deferLater(self._reactor, RETRY_SECONDS * (1 + self._random() / 5))

    def _try(self) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._acquire())

    async def _acquire(self) -> bool:
        """Take or renew the record. ``False`` if it is another's."""
        try:
            lease = await self._client.get(LEASES, self._namespace, self._lease_name)
        except StatusError as error:
            if not error.not_found:
                raise
            lease = {}
        now = self._reactor.seconds()
        if lease:
            self._election.observe(lease, now)
        if not self._election.may_take(now):
            return False
        try:
            self._election.observe(await self._write(lease, now), now)
        except StatusError as error:
            if error.conflict:
                return False
            raise
        return True

    async def _write(self, lease: Object, now: float) -> Object:
        claim = self._election.claim(lease, now)
        if lease:
            return await self._client.update(LEASES, claim)
        metadata = {"name": self._lease_name, "namespace": self._namespace}
        head = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata}
        return await self._client.create(LEASES, self._namespace, {**head, **claim})

    async def _release(self) -> None:
        try:
            lease = await self._client.get(LEASES, self._namespace, self._lease_name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._election.identity:
                await self._client.update(LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ApiError as error:
            self._log.info("the lead could not be given away and will run out: {error}", error=error)

    def _lead(self, until: float) -> None:
        """Lead, or go on leading, until then: whatever an attempt to renew is waiting for."""
        self._stop_timer()
        left = max(0.0, until - self._reactor.seconds())
        self._timer = self._reactor.callLater(left, self._run_out)
        if self._led is None:
            self._log.info("{identity} leads {name}", identity=self._election.identity, name=self._lease_name)
            self._led = self._make()
            self._led.startService()  # type: ignore[no-untyped-call]

    def _run_out(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self._step_down()).addErrback(self._ended)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _step_down(self) -> None:
        self._stop_timer()
        led, self._led = self._led, None
        if led is not None:
            self._log.info("{identity} leads {name} no more", identity=self._election.identity, name=self._lease_name)
            await maybeDeferred(led.stopService)

    def _ended(self, failure: Any) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("leader election died: this process will not lead", failure)

"""Runs the probes of one pod's containers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from appengine.grpchealth import GrpcUnhealthy, grpc_health
from appengine.httpget import HttpFailed, HttpTarget, http_get, port_number
from appengine.lifecycle import History
from appengine.node import Node
from appengine.podspec import Container, Kind, Pod
from appengine.probes import ProbeKind, ProbeSpec, ProbeState, probes_of
from appengine.runtime import ContainerView, EngineError, RuntimeUnavailable


class ProbeFailed(Exception):
    """The probe failed; the message says how."""


class _Runner:
    """One probe of one run of a container."""

    def __init__(self, prober: Prober, container: Container, view: ContainerView, spec: ProbeSpec) -> None:
        self.prober = prober
        self.container = container
        self.view = view
        self.state = ProbeState(spec, passing=prober.known(view.id, spec.kind))
        self.stopped = False
        due = view.started_at + spec.initial_delay - prober.node.wall()
        self._call: Any = prober.node.reactor.callLater(max(0.0, min(due, spec.initial_delay)), self._run)

    def stop(self) -> None:
        self.stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _again(self) -> None:
        if not self.stopped:
            self._call = self.prober.node.reactor.callLater(self.state.spec.period, self._run)

    def _run(self) -> None:
        if self.prober.held(self.view.id, self.state.spec.kind):
            self._again()
            return
        Deferred.fromCoroutine(self._once()).addErrback(
            lambda failure: self.prober.failed(self.container, failure)
        ).addBoth(lambda _: self._again())

    async def _once(self) -> None:
        why = ""
        try:
            await self.prober.check(self.container, self.view, self.state.spec)
        except RuntimeUnavailable:
            # The engine's trouble is not the container's.
            return
        except ProbeFailed as error:
            why = str(error) or "it failed"
            self.prober.unhealthy(self.container, self.state.spec, why)
        if not self.stopped and self.state.result(not why):
            self.prober.settled(self.container, self.view, self.state, why)


class Prober:
    """The probes of one pod; results go to its history.

    :param address: the pod's address, for HTTP, TCP and gRPC.
    :param changed: called when a result means something.
    :param event: told of every failure: type, reason, message, container.
    """

    _log = Logger()

    def __init__(
        self,
        node: Node,
        history: History,
        address: Callable[[], str],
        changed: Callable[[], None],
        event: Callable[[str, str, str, str], None],
    ) -> None:
        self._event = event
        self.node = node
        self._history = history
        self._address = address
        self._changed = changed
        self._runners: dict[tuple[str, ProbeKind], _Runner] = {}
        self._startup: set[str] = set()

    def sync(self, pod: Pod, views: Iterable[ContainerView]) -> None:
        """Probe what runs, and nothing else."""
        containers = {c.name: c for c in pod.every_container if c.kind is not Kind.INIT}
        wanted = set()
        for view in views:
            container = containers.get(view.name)
            if container is None or not view.running or view.kind is Kind.PAUSE:
                continue
            for spec in probes_of(container):
                key = (view.id, spec.kind)
                wanted.add(key)
                if key not in self._runners:
                    self._begin(container, view, spec)
        for key in set(self._runners) - wanted:
            self._runners.pop(key).stop()

    def _begin(self, container: Container, view: ContainerView, spec: ProbeSpec) -> None:
        if spec.kind is ProbeKind.STARTUP:
            self._startup.add(view.id)
            self._history.started.setdefault(view.id, False)
        elif spec.kind is ProbeKind.READINESS:
            self._history.ready.setdefault(view.id, False)
        self._runners[view.id, spec.kind] = _Runner(self, container, view, spec)

    def stop(self) -> None:
        for runner in self._runners.values():
            runner.stop()
        self._runners.clear()

    def known(self, container_id: str, kind: ProbeKind) -> bool:
        """What an earlier run of the agent knew already."""
        if kind is ProbeKind.STARTUP:
            return self._history.started.get(container_id, False)
        return kind is ProbeKind.READINESS and self._history.ready.get(container_id, False)

    def held(self, container_id: str, kind: ProbeKind) -> bool:
        """The startup probe runs until it has passed, and the others only then."""
        started = self._history.started.get(container_id, True)
        return started if kind is ProbeKind.STARTUP else not started

    def failed(self, container: Container, failure: Any) -> None:
        self._log.failure("probing container {name} failed", failure, name=container.name)

    def unhealthy(self, container: Container, spec: ProbeSpec, why: str) -> None:
        """One failure, which may come to nothing."""
        self._event("Warning", "Unhealthy", f"{spec.kind.value.capitalize()} probe failed: {why}", container.name)

    def settled(self, container: Container, view: ContainerView, state: ProbeState, why: str) -> None:
        """Enough results in a row."""
        kind, passing = state.spec.kind, state.passing
        if kind is ProbeKind.READINESS:
            self._history.ready[view.id] = passing
        elif passing:
            self._history.started[view.id] = True
        else:
            self._history.unhealthy[view.id] = f"its {kind.value} probe failed: {why}"
            if state.spec.grace is not None:
                self._history.graces[view.id] = state.spec.grace
        if not passing:
            self._log.info(
                "{kind} probe of container {name} of pod {pod} failed: {why}",
                kind=kind.value,
                name=container.name,
                pod=str(view.pod),
                why=why,
            )
        self._changed()

    async def check(self, container: Container, view: ContainerView, spec: ProbeSpec) -> None:
        """:raises ProbeFailed: if the probe fails."""
        raw, address, seconds = spec.raw, self._address(), spec.timeout
        ports = container.get("ports") or []
        try:
            if command := (raw.get("exec") or {}).get("command"):
                result = await self.node.runtime.execute(view.id, command, seconds)
                if result.exit_code:
                    raise ProbeFailed(result.output.decode("utf-8", "replace").strip()[:1024] or "exit status not 0")
            elif get := raw.get("httpGet"):
                answer = await http_get(self.node.reactor, HttpTarget.of(get, ports, address), seconds)
                if not 200 <= answer.status < 400:
                    raise ProbeFailed(f"HTTP probe failed with statuscode: {answer.status}")
            elif socket := raw.get("tcpSocket"):
                host = str(socket.get("host") or address)
                await tcp_check(self.node.reactor, host, port_number(socket.get("port"), ports), seconds)
            elif grpc := raw.get("grpc"):
                await grpc_health(
                    self.node.reactor, address, int(grpc.get("port") or 0), str(grpc.get("service") or ""), seconds
                )
        except RuntimeUnavailable:
            raise
        except (EngineError, HttpFailed, TimeoutError, GrpcUnhealthy) as error:
            raise ProbeFailed(str(error)) from error


async def tcp_check(reactor: Any, host: str, port: int, seconds: float) -> None:
    """:raises ProbeFailed: unless something accepts connections there."""
    try:
        protocol: Any = await HostnameEndpoint(reactor, host, port, timeout=seconds).connect(
            Factory.forProtocol(Protocol)
        )
    except Exception as error:
        raise ProbeFailed(str(error) or type(error).__name__) from error
    protocol.transport.abortConnection()

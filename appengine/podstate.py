"""What is known of one pod on this node, and what all that look after it do with that."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred

from appengine.firewall import HostPort
from appengine.hooks import run_hook
from appengine.killing import Killer
from appengine.lifecycle import Seen
from appengine.node import Node
from appengine.podspec import Json, Kind, Pod, PodRef
from appengine.prober import Prober
from appengine.remembering import remembered
from appengine.runtime import ContainerState, ContainerView, NoSuchContainer
from appengine.status import pod_status, refused_status


class PodState:
    """One pod (one UID): its specification, its containers, its history, and its status as it is reported.

    :param previous: the pod's last PodReport, if there is one.
    :ivar grace: seconds from ``terminating_since`` within which the pod is to be stopped; ``None`` while it is wanted.
    """

    def __init__(self, node: Node, ref: PodRef, previous: Json | None) -> None:
        self.ref = ref
        self.node = node
        self.pod: Pod | None = None
        self.refusal: tuple[str, str] | None = None
        self.views: dict[str, ContainerView] = {}
        self.status: Json = (previous or {}).get("status") or {}
        self.history = remembered(self.status)
        self.grace: float | None = None
        self.terminating_since = 0.0
        self.prober = Prober(node, self.history, self.address, self.wake, self.event)
        self.killer = Killer(node.reactor, node.runtime, self._runs, self._pre_stop)
        self._dirty = True
        self._woken: Deferred[None] | None = None

    def event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """Something happened that people ask for with ``kubectl describe``."""
        self.node.events.pod(self.ref, kind, reason, message, container)

    def seen(self, view: ContainerView) -> None:
        """A container of the pod was looked at."""
        if self.views.get(view.id) == view:
            return
        self.views[view.id] = view
        if view.state is ContainerState.EXITED:
            self.history.ended.setdefault(view.id, self.node.now())
        else:
            self.history.ended.pop(view.id, None)
        self.killer.changed(view.id)
        if self.pod is not None and not self.terminating:
            self.prober.sync(self.pod, self.views.values())
        self.wake()

    def lost(self, container_id: str) -> None:
        """A container of the pod is gone."""
        if self.views.pop(container_id, None) is not None:
            self.killer.changed(container_id)
            self.wake()

    def wake(self) -> None:
        """Look again."""
        self._dirty = True
        if self._woken is not None and not self._woken.called:
            self._woken.callback(None)

    @property
    def terminating(self) -> bool:
        """Whether the pod is to be stopped."""
        return self.grace is not None

    def sandbox(self) -> ContainerView | None:
        """The running pause container."""
        return Seen(self.views.values()).sandbox

    def host_ports(self) -> frozenset[HostPort]:
        """The node's ports that lead to the pod while it runs."""
        sandbox = self.sandbox()
        if sandbox is None or self.pod is None or self.pod.host_network:
            return frozenset()
        return frozenset(
            HostPort(protocol, host_port, address, port, host_ip)
            for protocol, host_ip, host_port, port in self.pod.host_ports
            for address in sandbox.addresses
            if not host_ip or ip_address(host_ip).version == ip_address(address).version
        )

    def address(self) -> str:
        """The pod's own, as it is reached from the node."""
        if self.pod is not None and self.pod.host_network:
            return next(iter(self.node.addresses.addresses), "127.0.0.1")
        sandbox = Seen(self.views.values()).sandbox
        return sandbox.addresses[0] if sandbox is not None and sandbox.addresses else "127.0.0.1"

    def _runs(self, container_id: str) -> bool:
        view = self.views.get(container_id)
        return view is not None and view.running

    async def _pre_stop(self, view: ContainerView, marked: Json) -> None:
        handler, ports = marked.get("handler") or {}, marked.get("ports") or []
        await run_hook(self.node, view, handler, ports, self.address())

    async def look(self, container_id: str) -> None:
        """Ask the engine how a container is now."""
        try:
            self.seen(await self.node.runtime.inspect(container_id))
        except NoSuchContainer:
            self.lost(container_id)

    async def remove(self, view: ContainerView) -> None:
        """Remove a container, and forget what was known of it."""
        await self.node.runtime.remove(view.id)
        self.views.pop(view.id, None)
        self.node.uncertain.discard(view.id)
        history = self.history
        known: dict[str, Any]
        for known in (history.messages, history.started, history.ready, history.unhealthy, history.ended):
            known.pop(view.id, None)
        if view.kind is not Kind.PAUSE:
            await self.node.files.run(self.node.volumes.forget_message, self.ref.uid, view.name, view.attempt)

    def report(self, gone: bool = False) -> None:
        """Write the pod's status, if it has changed."""
        self.node.changed_ports()
        now, wall = self.node.now(), self.node.wall()
        if self.refusal is not None:
            self.status = refused_status(*self.refusal, wall, self.status)
        elif self.pod is not None and not (gone and not self.views and self.status):
            views = tuple(self.views.values())
            self.status = pod_status(
                self.pod, views, self.history, self.node.addresses, now, wall, self.status, self.terminating
            )
        elif self.terminating and not self.status:
            return
        self.node.reports.pod(self.ref, self.status, gone, self.node.takeovers.origin(self.ref.uid))
        self.node.takeovers.reported(self.ref, self.status)

"""Reports on the node itself: when something changed, and every five minutes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine.eviction import Pressures
from appengine.node import Node
from appengine.nodestatus import Conditions, Machine, Pressure, comparable, node_status, read_pressure
from appengine.podspec import Json
from appengine.runtime import EngineError, EngineInfo, ImageView

KUBELET_VERSION = "v1.29.0-kubebus"
"""What the node says of itself; the API it speaks is that of this release."""

# Condition, what is said while it is false, and while it is true: the kubelet's words.
_WORDS = (
    (
        "MemoryPressure",
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    (
        "DiskPressure",
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    (
        "PIDPressure",
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
)

_HEARTBEAT = 300.0
"""The kubelet's ``nodeStatusReportFrequency``: so often even without a change."""


class NodeReporter:
    """Measures the node, and writes its status.

    :param disk: where the disk is measured.
    :param measured: called after each measurement while the engine answers.
    """

    _log = Logger()

    def __init__(
        self,
        node: Node,
        machine: Machine,
        disk: Path,
        pressures: Pressures,
        measured: Callable[[Pressure], None],
    ) -> None:
        self._pressures = pressures
        self._measured = measured
        self._node = node
        self._machine = machine
        self._disk = disk
        self._engine: EngineInfo | None = None
        self._engine_problem = "the container engine has not answered yet"
        self._images: list[ImageView] = []
        self._images_stale = True
        self._written = 0.0
        self._loop: Deferred[None] | None = None
        self._woken: Deferred[None] | None = None
        self.status: Json = {}

    def start(self) -> None:
        self._loop = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with suppress(CancelledError):
                await self._loop

    def engine(self, info: EngineInfo | None, problem: str) -> None:
        """The runtime answers (``info``), or why it does not."""
        self._engine, self._engine_problem = info, problem
        self._images_stale = info is not None
        self.changed()

    def images_changed(self) -> None:
        """Images have come or gone."""
        self._images_stale = True

    def changed(self) -> None:
        if self._woken is not None and not self._woken.called:
            self._woken.callback(None)

    async def _run(self) -> None:
        while True:
            try:
                await self._report()
            except CancelledError:
                raise
            except Exception:
                self._log.failure("the node's status could not be made")
            timer = self._node.reactor.callLater(self._node.pace.measure, self.changed)
            self._woken = Deferred()
            try:
                await self._woken
            finally:
                if timer.active():
                    timer.cancel()

    async def _report(self) -> None:
        pressure = await self._node.files.run(read_pressure, self._disk)
        self._node.storage = pressure.disk_size
        self._pressures.measure(pressure, self._node.now())
        if self._images_stale and self._engine is not None:
            with suppress(EngineError):
                self._images = list(await self._node.runtime.images())
                self._images_stale = False
        now = self._node.now()
        status = node_status(
            self._machine,
            pressure,
            self._engine,
            self._images,
            self._node.place,
            self._node.name,
            Conditions(self._conditions()),
            KUBELET_VERSION,
            self._node.wall(),
            self.status,
        )
        if comparable(status) != comparable(self.status) or now - self._written >= _HEARTBEAT:
            self.status = status
            self._written = now
            self._node.reports.node(status)
        if self._engine is not None:
            self._measured(pressure)

    def _conditions(self) -> dict[str, tuple[bool, str, str]]:
        if self._engine is None:
            ready = (False, "ContainerRuntimeNotReady", self._engine_problem)
        elif self._node.place is None:
            ready = (False, "NetworkNotReady", "the node has never reached a router of its network")
        else:
            ready = (True, "KubeletReady", "pods can run")
        told = {kind: (True, *bad) if self._pressures.now[kind] else (False, *good) for kind, good, bad in _WORDS}
        return {**told, "Ready": ready}

"""What the workers of a node share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from appengine.environment import Facts, Objects
from appengine.events import Events
from appengine.images import Images
from appengine.interfaces import NodeNetwork
from appengine.podnet import ClusterDns
from appengine.podspec import Json, Pod, PodRef
from appengine.reports import Reports
from appengine.runtime import EngineError, Runtime, RuntimeUnavailable
from appengine.status import NodeAddresses
from appengine.threads import Threads
from appengine.volumes import Volumes


class NotYet(Exception):
    """A pod cannot be started now, for a reason of the node; it is tried again."""


class PodNetwork(Protocol):
    """The container network of the node's pods."""

    async def ready(self) -> str:
        """Its name, once it is there.

        :raises NotYet: while there is none.
        """

    def holds(self, address: str) -> bool:
        """Whether an address is of the present subnets (true while they are not known)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the node looks at what nothing tells it of, in seconds."""

    measure: float = 10.0
    """Pressure on the node; the kubelet's eviction manager looks as often."""
    manifests: float = 20.0
    """The folder of static pods: the kubelet's ``fileCheckFrequency``."""


class Takeovers(Protocol):
    """What pods that another node of the site may take over have to ask, and to tell."""

    async def permit(self, ref: PodRef, container_id: str) -> None:
        """A container of the pod is about to be started.

        :raises EngineError: if it may not run here now.
        """

    def origin(self, uid: str) -> Json | None:
        """``takenOver`` of the PodReport, for a pod that this node runs in place of another."""

    def reported(self, ref: PodRef, status: Json) -> None:
        """The pod is so now."""

    def held(self, ref: PodRef) -> None:
        """Of a pod that is held back nothing runs (any more)."""


class NoTakeovers:
    """Every pod runs where it is bound to, and nowhere else."""

    async def permit(self, ref: PodRef, container_id: str) -> None:
        return

    def origin(self, uid: str) -> Json | None:
        return None

    def reported(self, ref: PodRef, status: Json) -> None:
        return

    def held(self, ref: PodRef) -> None:
        return


_NO_TAKEOVERS = NoTakeovers()


@dataclass(slots=True)
class Node:
    """The parts of an engine, for its pods.

    :ivar uncertain: IDs of containers that the engine was asked to start, and did not answer: they may start yet.
    :ivar wall: the time that people and the container engine go by, which may be set at any moment.
    """

    reactor: Any
    network: str
    name: str
    runtime: Runtime
    images: Images
    volumes: Volumes
    files: Threads
    reports: Reports
    objects: Objects
    pod_network: PodNetwork
    dns: ClusterDns
    events: Events
    wall: Callable[[], float]
    pace: Pace = Pace()
    place: NodeNetwork | None = None
    cpus: float = 1.0
    memory: int = 0
    storage: int = 0
    host_files: Callable[[str], str] = lambda path: ""
    changed_ports: Callable[[], None] = lambda: None
    changed: Callable[[PodRef], None] = lambda ref: None
    admit: Callable[[Pod], tuple[str, str] | None] = lambda pod: None
    takeovers: Takeovers = _NO_TAKEOVERS
    uncertain: set[str] = field(default_factory=set)

    def now(self) -> float:
        """The reactor's time: for waiting, back-offs and deadlines. Nothing sets it back."""
        return float(self.reactor.seconds())

    async def start_container(self, ref: PodRef, container_id: str) -> None:
        """Start a container of a pod. All that is ever started passes here.

        :raises EngineError: as the runtime does, and if the pod may not run here now.
        """
        await self.takeovers.permit(ref, container_id)
        self.uncertain.add(container_id)
        try:
            await self.runtime.start_container(container_id)
        except RuntimeUnavailable:
            raise
        except EngineError:
            self.uncertain.discard(container_id)
            raise
        self.uncertain.discard(container_id)

    @property
    def addresses(self) -> NodeAddresses:
        return NodeAddresses(tuple(str(a) for a in self.place.addresses) if self.place else ())

    def facts(self, pod_ips: Sequence[str]) -> Facts:
        return Facts(self.name, self.addresses.addresses, tuple(pod_ips), self.cpus, self.memory, self.storage)

"""What the workers of a node share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from appengine.environment import Facts, Objects
from appengine.events import Events
from appengine.images import Images
from appengine.interfaces import NodeNetwork
from appengine.podnet import ClusterDns
from appengine.podspec import Pod, PodRef
from appengine.reports import Reports
from appengine.runtime import Runtime
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


@dataclass(slots=True)
class Node:
    """The parts of an engine, for its pods.

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

    def now(self) -> float:
        """The reactor's time: for waiting, back-offs and deadlines. Nothing sets it back."""
        return float(self.reactor.seconds())

    @property
    def addresses(self) -> NodeAddresses:
        return NodeAddresses(tuple(str(a) for a in self.place.addresses) if self.place else ())

    def facts(self, pod_ips: Sequence[str]) -> Facts:
        return Facts(self.name, self.addresses.addresses, tuple(pod_ips), self.cpus, self.memory, self.storage)

"""The nodes of a network as their router sees them: who is enrolled, who is connected, since when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kubebus.interfaces import IPAddress, IPNetwork, NodeRecord, Subscription


class MemberSource(Protocol):
    """What a router must know of the enrolled nodes; :class:`kubebus.members.Members` is one."""

    async def node(self, name: str) -> NodeRecord | None:
        """The node of that name, revoked or not."""

    def subscribe(self, changed: Callable[[str, NodeRecord | None], None]) -> Subscription:
        """Call ``changed(name, node)`` for every node now, then at every change (``None``: removed)."""


class Epochs(Protocol):
    """Numbers the sessions of nodes: each higher than all before it of the same node."""

    async def claim(self, node: str) -> int: ...


class ClockEpochs:
    """Epochs for a router that is alone: the wall clock in milliseconds, or one more than the last.

    :param wallclock: UNIX seconds.
    """

    def __init__(self, wallclock: Callable[[], float]) -> None:
        self._wallclock = wallclock
        self._last = 0

    async def claim(self, node: str) -> int:
        self._last = max(self._last + 1, int(self._wallclock() * 1000))
        return self._last


@dataclass(frozen=True, slots=True)
class NodeState:
    """An enrolled node. ``connected`` tells of a live link now, ``since`` (UNIX seconds) when that last changed."""

    name: str
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    connected: bool
    since: float
    revoked: bool = False
    site: str | None = None


NodeWatcher = Callable[[str, NodeState | None], None]

"""Whether a pod fits on the node, with the kubelet's reasons (pkg/kubelet/lifecycle/predicate.go)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appengine.podspec import Container, Kind, Pod
from appengine.qos import BEST_EFFORT, qos_class
from appengine.quantity import bytes_of, millicpu_of

_KNOWN = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the node has for pods. CPU in thousandths, sizes in bytes (0: not known yet)."""

    cpu: int
    memory: int
    storage: int
    pods: int


def _amount(name: str, container: Container) -> int:
    given = container.requests.get(name)
    if given is None:
        return 0
    return millicpu_of(given) if name == "cpu" else bytes_of(given)


def pod_request(pod: Pod, name: str) -> int:
    """What a pod asks for: its containers and sidecars together, or its largest init container if that is more."""
    sidecars = [c for c in pod.init_containers if c.kind is Kind.SIDECAR]
    together = sum(_amount(name, container) for container in (*pod.containers, *sidecars))
    largest, before = 0, 0
    for container in pod.init_containers:
        if container.kind is Kind.SIDECAR:
            before += _amount(name, container)
        else:
            largest = max(largest, before + _amount(name, container))
    return max(together, largest)


def refusal(
    pod: Pod, others: Iterable[Pod], capacity: Capacity, pressure: Mapping[str, bool]
) -> tuple[str, str] | None:
    """Why a pod cannot be taken (reason, message), or ``None``.

    :param others: the pods that have a place here.
    :param pressure: the node's conditions: ``MemoryPressure``, ``DiskPressure``, ``PIDPressure``.
    """
    others = list(others)
    if len(others) + 1 > capacity.pods:
        return _out("pods", 1, len(others), capacity.pods)
    for name, available in (
        ("cpu", capacity.cpu),
        ("memory", capacity.memory),
        ("ephemeral-storage", capacity.storage),
    ):
        wanted = pod_request(pod, name)
        used = sum(pod_request(other, name) for other in others)
        if wanted and available and used + wanted > available:
            return _out(name, wanted, used, available)
    for container in pod.every_container:
        for name in container.requests:
            if name not in _KNOWN:
                return _out(name, 1, 0, 0)
    taken = {(protocol, port) for other in others for protocol, _, port, _ in other.host_ports}
    for protocol, _, port, _ in pod.host_ports:
        if (protocol, port) in taken:
            return "NodePorts", f"Pod was rejected: port {port}/{protocol} of the node is taken by another pod"
    return _under_pressure(pod, pressure)


def _under_pressure(pod: Pod, pressure: Mapping[str, bool]) -> tuple[str, str] | None:
    if pod.static:
        return None
    for name in ("DiskPressure", "PIDPressure"):
        if pressure.get(name):
            return "Evicted", f"Pod was rejected: The node had condition: [{name}]. "
    if pressure.get("MemoryPressure") and qos_class(pod) == BEST_EFFORT:
        return "Evicted", "Pod was rejected: The node had condition: [MemoryPressure]. "
    return None


def _out(name: str, requested: int, used: int, capacity: int) -> tuple[str, str]:
    return (
        f"OutOf{name}",
        f"Pod was rejected: Node didn't have enough resource: {name}, requested: {requested}, used: {used}, "
        f"capacity: {capacity}",
    )

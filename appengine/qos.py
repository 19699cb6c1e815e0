"""Quality of service class and what follows from it (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/)."""

from __future__ import annotations

from appengine.podspec import Container, Pod
from appengine.quantity import bytes_of, millicpu_of
from appengine.runtime import Resources

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"

# Kubelet's pkg/kubelet/qos/policy.go and cm/helpers_linux.go.
_OOM_GUARANTEED = -997
_OOM_BEST_EFFORT = 1000
_SHARES_PER_CPU = 1024
_MIN_SHARES = 2
_MAX_SHARES = 262144
_CPU_PERIOD = 100_000
_MIN_QUOTA = 1000


def qos_class(pod: Pod) -> str:
    any_set = False
    all_guaranteed = True
    for container in pod.every_container:
        for name in ("cpu", "memory"):
            limit, request = container.limits.get(name), container.requests.get(name)
            any_set = any_set or limit is not None or request is not None
            if limit is None or millicpu_of(limit) != millicpu_of(request):
                all_guaranteed = False
    if not any_set:
        return BEST_EFFORT
    return GUARANTEED if all_guaranteed else BURSTABLE


def container_resources(pod: Pod, container: Container, node_memory: int) -> Resources:
    """The cgroup settings of a container, as the kubelet computes them.

    :param node_memory: the node's memory in bytes.
    """
    cpu_request, cpu_limit = container.requests.get("cpu"), container.limits.get("cpu")
    memory_limit = container.limits.get("memory")
    shares = millicpu_of(cpu_request) * _SHARES_PER_CPU // 1000 if cpu_request is not None else 0
    quota = max(_MIN_QUOTA, millicpu_of(cpu_limit) * _CPU_PERIOD // 1000) if cpu_limit is not None else 0
    return Resources(
        memory=bytes_of(memory_limit) if memory_limit is not None else 0,
        cpu_shares=min(max(shares, _MIN_SHARES), _MAX_SHARES),
        cpu_quota=quota,
        cpu_period=_CPU_PERIOD if quota else 0,
        oom_score_adj=_oom_score(pod, container, node_memory),
    )


def _oom_score(pod: Pod, container: Container, node_memory: int) -> int:
    quality = qos_class(pod)
    if quality == GUARANTEED:
        return _OOM_GUARANTEED
    if quality == BEST_EFFORT or not node_memory:
        return _OOM_BEST_EFFORT
    request = bytes_of(container.requests.get("memory") or 0)
    adjusted = 1000 - 1000 * request // node_memory
    return min(max(adjusted, 1000 + _OOM_GUARANTEED), _OOM_BEST_EFFORT - 1)

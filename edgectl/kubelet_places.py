"""Whose kubelet answers for a pod: its node's, or, of one that is taken over, the taker's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgectl.errors import ApiError
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import PODS, Resource
from edgectl.watch import Object
from metasync.keys import TAKEN_OVER_BY


class Reader(Protocol):
    """Reads objects of the API; :class:`~edgectl.kubernetes.KubernetesClient` does."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object: ...


class PodPlaces:
    """Reads the annotation that the controller has set; any process that serves the kubelet API can.

    :param nodes: those of the network, by name.
    """

    def __init__(self, reader: Reader, nodes: Mapping[str, EdgeNode]) -> None:
        self._reader = reader
        self._nodes = nodes

    async def runs_on(self, node: str, namespace: str, name: str) -> str:
        """The node to ask for a pod that is bound to ``node``. In doubt it is that one."""
        edge = self._nodes.get(node)
        if edge is None or edge.site is None:
            return node
        try:
            pod = await self._reader.get(PODS, namespace, name)
        except ApiError:
            return node
        by = (pod["metadata"].get("annotations") or {}).get(TAKEN_OVER_BY)
        taker = self._nodes.get(by) if isinstance(by, str) else None
        bound_here = pod["spec"].get("nodeName") == node
        return taker.name if taker is not None and bound_here and taker.site == edge.site else node

"""The Service ``kubernetes``, by which pods find the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver.resources import ENDPOINT_SLICE, ENDPOINTS, NAMESPACE, SERVICE, Resource
from edgectl.apiserver.verbs import Api
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.endpoints import SERVICE_NAME

Obj = dict[str, Any]

NAME = "kubernetes"
_KEY = ("default", NAME)


class ApiServiceController(Controller):
    """Keeps it, with the addresses at which pods reach the API: none where it listens for this machine alone.

    :param addresses: all of one family.
    """

    follows = (NAMESPACE, SERVICE, ENDPOINTS, ENDPOINT_SLICE)

    def __init__(
        self, reactor: IReactorTime, api: Api, cluster_ip: str, addresses: Sequence[str] = (), port: int = 6443
    ) -> None:
        super().__init__(reactor, api)
        self._cluster_ip, self._addresses, self._port = cluster_ip, addresses, port

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        wanted = ("", _KEY[0]) if resource == NAMESPACE else _KEY
        return (_KEY,) if key_of(obj) == wanted else ()

    async def reconcile(self, key: Key) -> None:
        if self.api.cache.get(NAMESPACE, "", key[0]) is None:
            return
        if self.api.cache.get(SERVICE, *key) is None:
            await self.create(SERVICE, key[0], self._service())
        await self._keep(ENDPOINTS, key, self._endpoints())
        await self._keep(ENDPOINT_SLICE, key, self._slice())

    async def _keep(self, resource: Resource, key: Key, wanted: Obj) -> None:
        found = self.api.cache.get(resource, *key)
        if found is None:
            metadata = {"name": NAME, "labels": {SERVICE_NAME: NAME} if resource == ENDPOINT_SLICE else {}}
            await self.create(resource, key[0], {"metadata": metadata, **wanted})
        elif any(found.get(part, []) != value for part, value in wanted.items()):
            await self.rewrite(resource, key, lambda obj: {**obj, **wanted})

    def _service(self) -> Obj:
        port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": self._port}
        return {
            "metadata": {"name": NAME, "labels": {"component": "apiserver", "provider": NAME}},
            "spec": {"clusterIP": self._cluster_ip, "ports": [port]},
        }

    def _ports(self) -> list[Obj]:
        return [{"name": "https", "port": self._port, "protocol": "TCP"}]

    def _endpoints(self) -> Obj:
        addresses = [{"ip": one} for one in self._addresses]
        return {"subsets": [{"addresses": addresses, "ports": self._ports()}] if addresses else []}

    def _slice(self) -> Obj:
        version = ip_address(self._addresses[0]).version if self._addresses else 4
        endpoints = [{"addresses": [one], "conditions": {"ready": True}} for one in self._addresses]
        return {"addressType": f"IPv{version}", "endpoints": endpoints, "ports": self._ports()}

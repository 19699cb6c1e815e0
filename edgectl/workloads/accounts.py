"""Gives each namespace its ``default`` service account, and the CA by which pods know the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver.admission import ROOT_CA
from edgectl.apiserver.resources import CONFIGMAP, NAMESPACE, SERVICE_ACCOUNT, Resource
from edgectl.apiserver.verbs import Api
from edgectl.workloads.controller import Controller, Key, key_of

Obj = dict[str, Any]


class AccountController(Controller):
    """Its keys are namespaces."""

    follows = (NAMESPACE, SERVICE_ACCOUNT, CONFIGMAP)

    def __init__(self, reactor: IReactorTime, api: Api, ca: bytes = b"") -> None:
        super().__init__(reactor, api)
        self._ca = ca.decode("ascii")

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == NAMESPACE:
            return (key_of(obj),)
        expected = "default" if resource == SERVICE_ACCOUNT else ROOT_CA
        return (("", obj["metadata"]["namespace"]),) if obj["metadata"]["name"] == expected else ()

    async def reconcile(self, key: Key) -> None:
        namespace = self.api.cache.get(NAMESPACE, *key)
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return
        if self.api.cache.get(SERVICE_ACCOUNT, key[1], "default") is None:
            await self.create(SERVICE_ACCOUNT, key[1], {"metadata": {"name": "default"}})
        if self._ca:
            await self._ensure_ca(key[1])

    async def _ensure_ca(self, namespace: str) -> None:
        data = {"ca.crt": self._ca}
        found = self.api.cache.get(CONFIGMAP, namespace, ROOT_CA)
        if found is None:
            await self.create(CONFIGMAP, namespace, {"metadata": {"name": ROOT_CA}, "data": data})
        elif found.get("data") != data:
            await self.rewrite(CONFIGMAP, (namespace, ROOT_CA), lambda obj: {**obj, "data": data})

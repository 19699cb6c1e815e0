"""Empties namespaces that are being deleted, then lets them go."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.options import DeleteOptions, ListOptions
from edgectl.apiserver.resources import NAMESPACE, RESOURCES
from edgectl.workloads.controller import Controller, Key

Obj = dict[str, Any]

WAIT_SECONDS = 1.0
"""Between looks at a namespace whose pods are still ending."""


class NamespaceController(Controller):
    """Deletes everything in a terminating namespace."""

    follows = (NAMESPACE,)

    async def reconcile(self, key: Key) -> None:
        namespace = self.api.cache.get(NAMESPACE, *key)
        if namespace is None or "deletionTimestamp" not in namespace["metadata"]:
            return
        name = key[1]
        if await self._empty(name):
            await self._release(name)
        else:
            self.enqueue(key, WAIT_SECONDS)

    async def _empty(self, name: str) -> bool:
        """Delete what is left; whether nothing was."""
        left = 0
        for resource in RESOURCES:
            if resource.namespaced:
                found = await self.api.delete_collection(resource, name, ListOptions(), DeleteOptions())
                left += len(found.items)
        return left == 0

    async def _release(self, name: str) -> None:
        def released(namespace: Obj) -> Obj:
            namespace["spec"] = {}
            return namespace

        try:
            await self.api.rewrite(NAMESPACE, "", name, released)
        except ApiError as error:
            if error.reason != "NotFound":
                raise

"""The Leases of the API for what runs in its own process: without HTTP."""

from __future__ import annotations

from typing import Any

from edgectl import errors as client
from edgectl.apiserver import errors
from edgectl.apiserver.resources import LEASE
from edgectl.apiserver.verbs import Api

Obj = dict[str, Any]


class OwnLeases:
    """It is a LeaseClient: what the API refuses is raised as a client's errors."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def get(self, resource: object, namespace: str, name: str) -> Obj:
        try:
            return await self._api.get(LEASE, namespace, name)
        except errors.ApiError as error:
            raise _as_status(error) from error

    async def create(self, resource: object, namespace: str, body: Obj) -> Obj:
        try:
            return await self._api.create(LEASE, namespace, body)
        except errors.ApiError as error:
            raise _as_status(error) from error

    async def update(self, resource: object, body: Obj) -> Obj:
        meta = body["metadata"]
        try:
            return await self._api.update(LEASE, meta["namespace"], meta["name"], body)
        except errors.ApiError as error:
            raise _as_status(error) from error

    async def close(self) -> None:
        """There is nothing to close: the API is the caller's."""


def _as_status(error: errors.ApiError) -> client.StatusError:
    return client.StatusError(error.code, error.reason, str(error))

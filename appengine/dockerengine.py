"""Docker (or Podman's Docker-compatible socket) as the runtime.

Everything is done on the reactor, but loading an archive of images: that is the ``docker`` package's, in a thread.
While the engine does not answer, calls fail at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from appengine import labels
from appengine.dockerimages import DockerImages
from appengine.dockerjson import (
    container_view,
    create_body,
    engine_info,
    network_body,
    same_network,
    usage,
)
from appengine.dockerprocesses import DockerProcesses
from appengine.runtime import (
    ContainerConfig,
    ContainerView,
    EngineError,
    EngineInfo,
    NetworkConfig,
    NoSuchContainer,
    NoSuchImage,
    RuntimeUnavailable,
    Usage,
)

# Docker's words, and Podman's.
_NOT_RUNNING = ("is not running", "can only kill running containers")


class DockerEngine(DockerImages, DockerProcesses):
    """The :class:`appengine.runtime.Runtime` over a Docker Engine API."""

    async def info(self) -> EngineInfo:
        return engine_info(await self._call("GET", "/info"))

    async def list(self) -> Sequence[ContainerView]:
        filters = json.dumps({"label": self._ours()})
        found = []
        for listed in await self._call("GET", "/containers/json", {"all": 1, "filters": filters}) or ():
            with suppress(NoSuchContainer):
                found.append(container_view(await self._inspect(listed["Id"])))
        return found

    async def inspect(self, container_id: str) -> ContainerView:
        view = container_view(await self._inspect(container_id))
        if (view.labels.get(labels.NETWORK), view.labels.get(labels.NODE)) != (self._network, self._node):
            raise NoSuchContainer(f"container {container_id[:12]} is not ours")
        return view

    async def _inspect(self, container: str) -> Any:
        return await self._call("GET", f"/containers/{quote(container)}/json")

    async def create(self, config: ContainerConfig) -> str:
        body = create_body(config)
        try:
            return str((await self._call("POST", "/containers/create", {"name": config.name}, body))["Id"])
        except (RuntimeUnavailable, NoSuchContainer, NoSuchImage):
            raise
        except EngineError as error:
            # Docker answers 409, Podman 500.
            if "already in use" not in str(error):
                raise
        # A container of that name is there: made by us just before we were killed, and never noted.
        present = container_view(await self._inspect(config.name))
        if present.running:
            raise EngineError(f"container {config.name} is there already, and runs")
        await self._remove(config.name)
        return str((await self._call("POST", "/containers/create", {"name": config.name}, body))["Id"])

    async def start_container(self, container_id: str) -> None:
        await self._call("POST", f"/containers/{quote(container_id)}/start")

    async def signal(self, container_id: str, signal: str) -> None:
        try:
            await self._call("POST", f"/containers/{quote(container_id)}/kill", {"signal": signal})
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if not any(words in str(error) for words in _NOT_RUNNING):
                raise

    async def remove(self, container_id: str) -> None:
        try:
            await self._remove(container_id)
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if "is already in progress" not in str(error):
                raise

    async def _remove(self, container: str) -> None:
        await self._call("DELETE", f"/containers/{quote(container)}", {"v": 1, "force": 1})

    async def ensure_network(self, config: NetworkConfig) -> bool:
        try:
            found = await self._call("GET", f"/networks/{quote(config.name)}")
        except NoSuchContainer:
            found = None
        if found is not None:
            if same_network(found, config):
                return False
            path = f"/networks/{quote(found['Id'])}"
            for container in list((found.get("Containers") or {}).keys()):
                await self._call("POST", f"{path}/disconnect", content={"Container": container, "Force": True})
            await self._call("DELETE", path)
        marks = {labels.NETWORK: self._network, labels.NODE: self._node}
        version = await self._call("GET", "/version")
        body = network_body(config, marks, str(version.get("Version") or ""))
        await self._call("POST", "/networks/create", content=body)
        return True

    async def stats(self, container_id: str) -> Usage:
        path = f"/containers/{quote(container_id)}/stats"
        return usage(await self._call("GET", path, {"stream": "false", "one-shot": "true"}))

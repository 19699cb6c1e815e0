"""Images of a Docker Engine: looked at, pulled, loaded, removed."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from appengine.dockerconnection import DockerConnection
from appengine.dockerjson import (
    image_view,
    listed_image,
)
from appengine.dockerstream import JsonLines
from appengine.runtime import (
    EngineError,
    ImageView,
    NoSuchContainer,
    NoSuchImage,
    PullFailed,
    RuntimeUnavailable,
)

_LOAD_TIMEOUT = 60


class DockerImages(DockerConnection):
    """The part of :class:`appengine.runtime.Runtime` that is about images."""

    async def image(self, reference: str) -> ImageView:
        return image_view(await self._call("GET", f"/images/{quote(reference, safe='/:@')}/json"))

    async def images(self) -> Sequence[ImageView]:
        return [listed_image(listed) for listed in await self._call("GET", "/images/json") or ()]

    async def images_in_use(self) -> Sequence[str]:
        listed = await self._call("GET", "/containers/json", {"all": 1})
        return [str(container.get("ImageID") or "") for container in listed or ()]

    async def import_image(self, layer: bytes, repository: str, tag: str, entrypoint: str) -> None:
        change = f'ENTRYPOINT ["{entrypoint}"]'
        # Podman reads no tag beside the name.
        query = {"fromSrc": "-", "repo": f"{repository}:{tag}", "changes": change}
        self._check()
        await self._calls.call("POST", "/images/create", query, data=layer)

    async def load_image(self, path: str) -> None:
        self._check()
        # The one thing that the docker package is loaded for: an archive is long, and is read in a thread.
        await deferToThreadPool(self._reactor, self._pool, _load, self._url, path)

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> None:
        failure: list[str] = []
        done: Deferred[Exception | None] = Deferred()

        def received(line: Any) -> None:
            if isinstance(line, dict) and line.get("error"):
                failure.append(str(line["error"]))

        headers = {}
        if auth:
            headers["X-Registry-Auth"] = urlsafe_b64encode(json.dumps(dict(auth)).encode()).decode()
        name, tag = split_reference(reference)
        query = urlencode({"fromImage": name, "tag": tag})
        try:
            await self.endpoint.open(
                "POST",
                f"/images/create?{query}",
                JsonLines(received, done.callback),
                headers=headers,
                # The answer begins when the registry has been reached.
                patience=120.0,
            )
            error = await done
        except RuntimeUnavailable:
            raise
        except EngineError as refused:
            raise PullFailed(str(refused)) from refused
        if failure or error is not None:
            raise PullFailed(failure[0] if failure else str(error))

    async def remove_image(self, image_id: str) -> None:
        with suppress(NoSuchImage, NoSuchContainer):
            await self._call("DELETE", f"/images/{quote(image_id, safe='/:@')}")


def _load(url: str, path: str) -> None:
    import docker

    try:
        with (
            closing(docker.APIClient(base_url=url, version="auto", timeout=_LOAD_TIMEOUT)) as api,
            open(path, "rb") as archive,
        ):
            for line in api.load_image(archive):  # type: ignore[no-untyped-call]
                if "error" in line:
                    raise EngineError(str(line["error"]))
    except docker.errors.APIError as error:
        raise EngineError(str(error.explanation or error)) from error
    except (docker.errors.DockerException, OSError) as error:
        # The errors of requests are OSErrors too.
        raise RuntimeUnavailable(f"the container engine does not answer: {error}") from error


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag (or digest) of an image reference; without either the tag is ``latest``."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return name, digest
    head, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag or "latest"

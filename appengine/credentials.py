"""Registry credentials from a pod's ``imagePullSecrets`` (types ``dockerconfigjson`` and ``dockercfg``)."""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from typing import Any

from appengine.environment import Objects, secret_bytes
from appengine.podspec import Json, Pod

_DOCKER_HUB = "index.docker.io"


def registry_of(image: str) -> str:
    """The host (and port) that an image reference names; Docker Hub where it names none."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return _DOCKER_HUB


def pull_auths(pod: Pod, objects: Objects) -> dict[str, list[dict[str, str]]]:
    """Registry → credentials (Docker's AuthConfig), of all secrets that the pod names; unreadable ones are left out."""
    found: dict[str, list[dict[str, str]]] = {}
    for ref in pod.spec.get("imagePullSecrets") or ():
        secret = objects.secret(pod.ref.namespace, str(ref.get("name") or ""))
        if secret is None:
            continue
        for server, entry in _entries(secret):
            auth = _auth(server, entry)
            if auth is not None:
                found.setdefault(_host(server), []).append(auth)
    return found


def auths_for(image: str, auths: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Mapping[str, str]]:
    """The credentials to try for an image."""
    registry = registry_of(image)
    names = {registry} | ({"docker.io", "registry-1.docker.io"} if registry == _DOCKER_HUB else set())
    return [auth for name in sorted(names) for auth in auths.get(name, ())]


def _entries(secret: Json) -> list[tuple[str, Json]]:
    data = secret_bytes(secret)
    for key, inner in ((".dockerconfigjson", "auths"), (".dockercfg", None)):
        try:
            document: Any = json.loads(data[key])
        except (KeyError, ValueError, RecursionError):
            continue
        servers = document.get(inner) if inner and isinstance(document, dict) else document
        if isinstance(servers, dict):
            return [(str(server), entry) for server, entry in servers.items() if isinstance(entry, dict)]
    return []


def _host(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _auth(server: str, entry: Json) -> dict[str, str] | None:
    user, password = entry.get("username"), entry.get("password")
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            user, _, password = b64decode(entry["auth"]).decode().partition(":")
        except (Base64Error, ValueError):
            return None
    if not isinstance(user, str) or not isinstance(password, str):
        return None
    return {"username": user, "password": password, "serveraddress": server}

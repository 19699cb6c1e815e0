"""Writes the file by which ``kubectl`` finds the API and proves who it is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from edgectl.apiserver.pki import KeyPair, write_private


def kubeconfig(server: str, ca: bytes, *, client: KeyPair | None = None, token: str = "", name: str = "kubebus") -> str:
    """The text of a kubeconfig. JSON, which is YAML too.

    :param server: URL of the API, for example ``https://203.0.113.7:6443``.
    :param ca: PEM of the authority of the server's certificate.
    """
    user: dict[str, Any] = {}
    if client is not None:
        user["client-certificate-data"] = base64.b64encode(client.certificate).decode()
        user["client-key-data"] = base64.b64encode(client.key).decode()
    if token:
        user["token"] = token
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": f"{name}-admin", "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-admin"}}],
        "current-context": name,
        "preferences": {},
    }
    return json.dumps(config, indent=2) + "\n"


def write_kubeconfig(
    path: Path, server: str, ca: bytes, *, client: KeyPair | None = None, token: str = "", name: str = "kubebus"
) -> None:
    """Write :func:`kubeconfig` to a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, kubeconfig(server, ca, client=client, token=token, name=name).encode())

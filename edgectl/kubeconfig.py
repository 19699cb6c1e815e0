"""Where the API server is and how to prove who we are: a kubeconfig file, or the environment inside a cluster."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgectl.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's service account (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/)."""

_UNSUPPORTED = ("exec", "auth-provider", "username", "password")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One API server and one user. Certificates and keys are PEM; ``ca`` ``None`` means the system's own roots."""

    server: str
    ca: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    tls_server_name: str | None = None
    namespace: str = "default"

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ConfigError(f"server {self.server!r} is not a URL (https://HOST:PORT)")
        if parts.scheme == "http" and (self.token or self.token_file):
            raise ConfigError(f"server {self.server!r}: a token is never sent without TLS; use https")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ConfigError("client certificate and client key go together: one of them is missing")

    def __repr__(self) -> str:
        return f"ClusterConfig({self.server!r})"


def load_kubeconfig(path: Path, context: str | None = None) -> ClusterConfig:
    """Read a kubeconfig file (YAML or JSON); paths in it are relative to it.

    :param context: the context to use (default: the file's ``current-context``).
    :raises ConfigError: if it cannot be read, or asks for what is not supported.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"kubeconfig {path}: {error}") from None
    try:
        return parse_kubeconfig(_parse(text), path.parent, context)
    except ConfigError as error:
        raise ConfigError(f"kubeconfig {path}: {error}") from None


def parse_kubeconfig(config: Any, directory: Path, context: str | None = None) -> ClusterConfig:
    """The same of the parsed file."""
    if not isinstance(config, Mapping):
        raise ConfigError("the file is not a mapping")
    chosen = context or config.get("current-context")
    if not chosen:
        raise ConfigError("current-context is not set, and no context was named")
    where = _named(config, "contexts", "context", chosen)
    cluster = _named(config, "clusters", "cluster", where.get("cluster"))
    user = _named(config, "users", "user", where["user"]) if where.get("user") else {}
    if cluster.get("insecure-skip-tls-verify"):
        raise ConfigError("insecure-skip-tls-verify is not supported: give certificate-authority-data instead")
    for name in _UNSUPPORTED:
        if user.get(name):
            raise ConfigError(f"user.{name} is not supported: use a client certificate, a token or a tokenFile")
    token_file = user.get("tokenFile")
    return ClusterConfig(
        server=str(cluster.get("server", "")).rstrip("/"),
        ca=_data(cluster, "certificate-authority", directory),
        client_certificate=_data(user, "client-certificate", directory),
        client_key=_data(user, "client-key", directory),
        token=user.get("token") or None,
        token_file=directory / token_file if token_file else None,
        tls_server_name=cluster.get("tls-server-name") or None,
        namespace=where.get("namespace") or "default",
    )


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> ClusterConfig:
    """The configuration of a pod of the cluster.

    :raises ConfigError: when not running in one.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not inside a cluster (KUBERNETES_SERVICE_HOST is not set): give --kubeconfig")
    try:
        ca = (directory / "ca.crt").read_bytes()
        namespace = (directory / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"the pod has no service account mounted: {error}") from None
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return ClusterConfig(server, ca=ca, token_file=directory / "token", namespace=namespace)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    # The embedded control plane, which writes JSON, does not pay for it.
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is neither JSON nor YAML: {error}") from None


def _named(config: Mapping[str, Any], plural: str, singular: str, name: Any) -> Mapping[str, Any]:
    for entry in config.get(plural) or ():
        if isinstance(entry, Mapping) and entry.get("name") == name:
            value = entry.get(singular) or {}
            if isinstance(value, Mapping):
                return value
    raise ConfigError(f"{plural} has no entry named {name!r}")


def _data(holder: Mapping[str, Any], name: str, directory: Path) -> bytes | None:
    """``NAME-data`` (base64) or else the content of the file ``NAME``."""
    if encoded := holder.get(f"{name}-data"):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ConfigError(f"{name}-data is not base64") from None
    if path := holder.get(name):
        try:
            return (directory / str(path)).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: {error}") from None
    return None

"""The environment of a container, and the ``$(VAR)`` expansion of its command line."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from appengine.podspec import Container, Json, Pod
from appengine.quantity import parse_quantity, whole
from appengine.serviceenv import ServiceObjects, service_variables

_MAP_KEY = re.compile(r"(metadata\.(?:labels|annotations))\['(.+)'\]")
# What Kubernetes 1.30 and later take as a variable's name from envFrom: printable ASCII without "=".
_VARIABLE = re.compile(r"[ -<>-~]+")


class ConfigError(Exception):
    """A container cannot be configured now; the message is the kubelet's, for ``CreateContainerConfigError``."""


class Objects(ServiceObjects, Protocol):
    """The ConfigMaps, Secrets and Services that the cloud has sent with the pods."""

    def config_map(self, namespace: str, name: str) -> Json | None: ...

    def secret(self, namespace: str, name: str) -> Json | None: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What ``fieldRef`` and ``resourceFieldRef`` can tell beside the specification. CPU in cores, memory in bytes."""

    node: str
    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    cpus: float = 1.0
    memory: int = 0
    storage: int = 0


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` where the name is known; ``$$`` stands for ``$`` (as third_party/forked/golang/expansion)."""
    out: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0 and dollar + 1 < len(text):
        out.append(text[at:dollar])
        following = text[dollar + 1]
        end = text.find(")", dollar + 2) if following == "(" else -1
        if following == "$":
            out.append("$")
            at = dollar + 2
        elif end >= 0:
            name = text[dollar + 2 : end]
            out.append(variables.get(name, text[dollar : end + 1]))
            at = end + 1
        elif following == "(":
            out.append("$(")
            at = dollar + 2
        else:
            out.append(text[dollar : dollar + 2])
            at = dollar + 2
    out.append(text[at:])
    return "".join(out)


def field_value(pod: Pod, path: str, facts: Facts) -> str:
    """The value of a ``fieldRef``.

    :raises ConfigError: for a path that there is not.
    """
    match = _MAP_KEY.fullmatch(path)
    if match is not None:
        source = pod.labels if match.group(1) == "metadata.labels" else pod.annotations
        return str(source.get(match.group(2), ""))
    simple = {
        "metadata.name": pod.ref.name,
        "metadata.namespace": pod.ref.namespace,
        "metadata.uid": pod.ref.uid,
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": str(pod.spec.get("serviceAccountName") or "default"),
        "status.hostIP": facts.host_ips[0] if facts.host_ips else "",
        "status.hostIPs": ",".join(facts.host_ips),
        "status.podIP": facts.pod_ips[0] if facts.pod_ips else "",
        "status.podIPs": ",".join(facts.pod_ips),
    }
    if path in simple:
        return simple[path]
    if path in ("metadata.labels", "metadata.annotations"):
        source = pod.labels if path == "metadata.labels" else pod.annotations
        return "\n".join(f'{key}="{_quote(str(value))}"' for key, value in sorted(source.items()))
    raise ConfigError(f"fieldPath {path[:100]!r} is not supported")


def _quote(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(pod: Pod, container: Container, ref: Json, facts: Facts) -> str:
    """The value of a ``resourceFieldRef``; without a limit, what the node has.

    :raises ConfigError: for a container or a resource that there is not.
    """
    name = ref.get("containerName") or container.name
    target = next((c for c in pod.every_container if c.name == name), None)
    if target is None:
        raise ConfigError(f"resourceFieldRef: there is no container {str(name)[:80]!r}")
    which, _, resource = str(ref.get("resource") or "").partition(".")
    ceiling = {
        "cpu": Decimal(str(facts.cpus)),
        "memory": Decimal(facts.memory),
        "ephemeral-storage": Decimal(facts.storage),
    }
    if which not in ("limits", "requests") or resource not in ceiling:
        raise ConfigError(f"resourceFieldRef: resource {str(ref.get('resource'))[:80]!r} is not supported")
    given = (target.limits if which == "limits" else target.requests).get(resource)
    if given is not None:
        amount = parse_quantity(given)
    else:
        amount = ceiling[resource] if which == "limits" else Decimal(0)
    divisor = parse_quantity(ref.get("divisor") or 1) or Decimal(1)
    return str(whole(amount / divisor))


def secret_bytes(secret: Json) -> dict[str, bytes]:
    """The contents of a Secret. What is no base64 is left out."""
    found: dict[str, bytes] = {}
    for key, value in _strings(secret.get("data")).items():
        try:
            found[key] = b64decode(value, validate=True)
        except (Base64Error, ValueError):
            continue
    for key, value in _strings(secret.get("stringData")).items():
        found[key] = value.encode()
    return found


def config_map_bytes(config_map: Json) -> dict[str, bytes]:
    found = {key: value.encode() for key, value in _strings(config_map.get("data")).items()}
    for key, value in _strings(config_map.get("binaryData")).items():
        try:
            found[key] = b64decode(value, validate=True)
        except (Base64Error, ValueError):
            continue
    return found


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def contents(objects: Objects, kind: str, namespace: str, name: str, optional: bool) -> dict[str, bytes] | None:
    """What a ConfigMap or a Secret holds; ``None`` for an optional one that there is not.

    :param kind: ``configmap`` or ``secret``.
    :raises ConfigError: if it is needed and not there.
    """
    if kind == "secret":
        secret = objects.secret(namespace, name)
        found = None if secret is None else secret_bytes(secret)
    else:
        config_map = objects.config_map(namespace, name)
        found = None if config_map is None else config_map_bytes(config_map)
    if found is None and not optional:
        raise ConfigError(f'{kind} "{name}" not found')
    return found


def _key_value(objects: Objects, kind: str, namespace: str, ref: Json) -> str | None:
    optional = bool(ref.get("optional"))
    name, key = str(ref.get("name") or ""), str(ref.get("key") or "")
    found = contents(objects, kind, namespace, name, optional)
    if found is None:
        return None
    if key not in found:
        if optional:
            return None
        raise ConfigError(f"couldn't find key {key} in {_called(kind)} {namespace}/{name}")
    return found[key].decode("utf-8", "surrogateescape")


def _called(kind: str) -> str:
    return "Secret" if kind == "secret" else "ConfigMap"


def environment(pod: Pod, container: Container, objects: Objects, facts: Facts) -> dict[str, str]:
    """The variables of a container, later ones winning, as the kubelet makes them.

    :raises ConfigError: if something that it needs is not there.
    """
    variables = service_variables(pod, objects)
    for source in container.objects("envFrom"):
        prefix = source.get("prefix") or ""
        for kind, field in (("configmap", "configMapRef"), ("secret", "secretRef")):
            ref = source.get(field)
            if ref is None:
                continue
            optional = bool(ref.get("optional"))
            found = contents(objects, kind, pod.ref.namespace, str(ref.get("name") or ""), optional) or {}
            for key in sorted(found):
                if _VARIABLE.fullmatch(prefix + key):
                    variables[prefix + key] = found[key].decode("utf-8", "surrogateescape")
    for variable in container.objects("env"):
        value = _value(pod, container, variable, objects, facts, variables)
        if value is not None:
            variables[variable["name"]] = value
    return variables


def _value(
    pod: Pod,
    container: Container,
    variable: Json,
    objects: Objects,
    facts: Facts,
    variables: Mapping[str, str],
) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value") or "", variables)
    if ref := source.get("fieldRef"):
        return field_value(pod, str(ref.get("fieldPath") or ""), facts)
    if ref := source.get("resourceFieldRef"):
        return resource_value(pod, container, ref, facts)
    if ref := source.get("configMapKeyRef"):
        return _key_value(objects, "configmap", pod.ref.namespace, ref)
    if ref := source.get("secretKeyRef"):
        return _key_value(objects, "secret", pod.ref.namespace, ref)
    return ""

"""A v1 Pod as the engine sees it: checked once, at the door, and typed from there on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Any

from appengine.podfields import POD
from appengine.schema import first_problems

Json = dict[str, Any]

MAX_POD_BYTES = 1_500_000
"""No larger than what etcd takes in one request (its ``--max-request-bytes``)."""

_MAX_CONTAINERS = 64
_MAX_VOLUMES = 128
_DEFAULT_GRACE = 30
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}")

# Pods from a file on the node are told by this annotation, as with the kubelet.
CONFIG_SOURCE = "kubernetes.io/config.source"


class InvalidPod(ValueError):
    """A pod that cannot run here.

    :ivar reason: the word for the pod's status.
    :ivar problems: sentences that each name a field.
    """

    def __init__(self, reason: str, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.reason = reason
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class PodRef:
    """Which pod. The UID tells pods apart that follow each other under one name."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class RestartPolicy(Enum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Kind(Enum):
    """What a container is in its pod. The pause container holds the pod's namespaces."""

    PAUSE = "pause"
    INIT = "init"
    SIDECAR = "sidecar"
    APP = "app"


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a specification; ``raw`` is the v1 Container, whose types have been checked."""

    name: str
    image: str
    kind: Kind
    raw: Json

    def get(self, name: str) -> Any:
        return self.raw.get(name)

    def strings(self, name: str) -> tuple[str, ...]:
        return tuple(self.raw.get(name) or ())

    def objects(self, name: str) -> tuple[Json, ...]:
        return tuple(self.raw.get(name) or ())

    @property
    def security(self) -> Json:
        return self.raw.get("securityContext") or {}

    @property
    def limits(self) -> Mapping[str, Any]:
        return (self.raw.get("resources") or {}).get("limits") or {}

    @property
    def requests(self) -> Mapping[str, Any]:
        """What is asked for; a limit without a request asks for the limit (as in Kubernetes)."""
        resources = self.raw.get("resources") or {}
        return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}

    @property
    def pull_policy(self) -> str:
        if policy := self.raw.get("imagePullPolicy"):
            return str(policy)
        _, _, tag = self.image.rpartition("/")[2].partition(":")
        return "Always" if "@" not in self.image and tag in ("", "latest") else "IfNotPresent"

    @property
    def spec_hash(self) -> str:
        """Changes when the container must be replaced to follow its specification."""
        return _digest(self.raw)


@dataclass(frozen=True, slots=True)
class Pod:
    """A checked pod. ``deletion_grace`` is not ``None`` once the pod is to be stopped (seconds)."""

    ref: PodRef
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Json
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...]
    deletion_grace: int | None = None
    digest: str = field(default="", compare=False)

    @property
    def restart_policy(self) -> RestartPolicy:
        return RestartPolicy(self.spec.get("restartPolicy") or "Always")

    @property
    def grace(self) -> int:
        value = self.spec.get("terminationGracePeriodSeconds")
        return _DEFAULT_GRACE if value is None else max(0, int(value))

    @property
    def host_network(self) -> bool:
        return bool(self.spec.get("hostNetwork"))

    @property
    def security(self) -> Json:
        return self.spec.get("securityContext") or {}

    @property
    def volumes(self) -> tuple[Json, ...]:
        return tuple(self.spec.get("volumes") or ())

    @property
    def hostname(self) -> str:
        """At most 63 characters, as the kubelet cuts it."""
        return str(self.spec.get("hostname") or self.ref.name)[:63].rstrip("-.")

    @property
    def active_deadline(self) -> int | None:
        value = self.spec.get("activeDeadlineSeconds")
        return None if value is None else int(value)

    @property
    def priority(self) -> int:
        return int(self.spec.get("priority") or 0)

    @property
    def every_container(self) -> tuple[Container, ...]:
        return self.init_containers + self.containers

    @property
    def host_ports(self) -> tuple[tuple[str, str, int, int], ...]:
        """(protocol, host IP, host port, container port) of every port that is to be had on the node."""
        return tuple(
            (
                str(port.get("protocol") or "TCP").lower(),
                "" if port.get("hostIP") in (None, "", "0.0.0.0", "::") else str(port["hostIP"]),
                int(port["hostPort"]),
                int(port.get("containerPort") or port["hostPort"]),
            )
            for container in self.every_container
            for port in container.objects("ports")
            if port.get("hostPort")
        )

    @property
    def static(self) -> bool:
        return self.annotations.get(CONFIG_SOURCE) == "file"


def _digest(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        text = "nested too deeply"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_json(value: bytes, what: str) -> Json:
    """The JSON object in a store's value.

    :raises InvalidPod: if it is none.
    """
    if len(value) > MAX_POD_BYTES:
        raise InvalidPod("InvalidPod", [f"the {what} has {len(value)} bytes; the limit is {MAX_POD_BYTES}"])
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidPod("InvalidPod", [f"the {what} is not JSON: {str(error)[:200]}"]) from error
    if not isinstance(document, dict):
        raise InvalidPod("InvalidPod", [f"the {what} must be an object, not {type(document).__name__}"])
    return document


def identify(document: Json, namespace: str, name: str) -> PodRef:
    """Who a pod is, even one that is wrong otherwise. Namespace and name are those of its key.

    A pod without a usable UID gets one of its contents, so that its refusal can be reported.
    """
    metadata = document.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not isinstance(uid, str) or not _UID.fullmatch(uid):
        uid = made_up_uid(document, namespace, name)
    return PodRef(namespace, name, uid)


def made_up_uid(document: Json, namespace: str, name: str) -> str:
    """A UID for a pod whose own cannot be used."""
    return f"invalid-{_digest([namespace, name, document])}"


def deletion_grace_of(document: Json) -> int | None:
    """The seconds a pod that is being deleted has left for stopping; ``None`` for one that is not."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("deletionTimestamp"):
        return None
    grace = metadata.get("deletionGracePeriodSeconds")
    return max(0, grace) if isinstance(grace, int) else _DEFAULT_GRACE


def parse_pod(document: Json, namespace: str, name: str) -> Pod:
    """The pod in a document that stands under ``namespace`` and ``name``.

    :raises InvalidPod: naming the fields that are wrong or not supported.
    """
    try:
        found = first_problems(POD, document, "")
    except RecursionError:
        raise InvalidPod("InvalidPod", ["the pod is nested too deeply"]) from None
    if found:
        unsupported = any("not supported" in problem or "does not know" in problem for problem in found)
        raise InvalidPod("UnsupportedPodSpec" if unsupported else "InvalidPod", found)
    metadata: Json = document.get("metadata") or {}
    spec: Json = document.get("spec") or {}
    found = list(_consistency(metadata, spec, namespace, name))
    if found:
        raise InvalidPod("InvalidPod", found[:8])
    return Pod(
        identify(document, namespace, name),
        metadata.get("labels") or {},
        metadata.get("annotations") or {},
        spec,
        tuple(_container(raw, Kind.APP) for raw in spec["containers"]),
        tuple(
            _container(raw, Kind.SIDECAR if raw.get("restartPolicy") == "Always" else Kind.INIT)
            for raw in spec.get("initContainers") or ()
        ),
        deletion_grace_of(document),
        _digest([spec, metadata.get("labels"), metadata.get("annotations")]),
    )


def _container(raw: Json, kind: Kind) -> Container:
    return Container(raw["name"], raw["image"], kind, raw)


def _consistency(metadata: Json, spec: Json, namespace: str, name: str) -> Sequence[str]:
    """What the API server would have refused; a static pod or a damaged store has not met one."""
    wrong: list[str] = []
    for key, value, pattern in (
        ("name", metadata.get("name") or name, _NAME),
        ("namespace", metadata.get("namespace") or namespace, _LABEL),
        ("uid", metadata.get("uid") or "", _UID),
    ):
        if not pattern.fullmatch(value):
            wrong.append(f"metadata.{key}: {value[:80]!r} is not valid")
    if (metadata.get("name") or name) != name or (metadata.get("namespace") or namespace) != namespace:
        wrong.append("metadata.name: the pod does not stand under its own name in the store")
    containers = spec.get("containers") or []
    every = [*containers, *(spec.get("initContainers") or [])]
    if not containers:
        wrong.append("spec.containers: at least one container is needed")
    if len(every) > _MAX_CONTAINERS or len(spec.get("volumes") or ()) > _MAX_VOLUMES:
        wrong.append(f"spec: at most {_MAX_CONTAINERS} containers and {_MAX_VOLUMES} volumes")
    wrong.extend(_names(every, "containers"))
    volumes = spec.get("volumes") or []
    wrong.extend(_names(volumes, "volumes"))
    volume_names = {volume.get("name") for volume in volumes}
    for volume in volumes:
        kinds = [key for key, value in volume.items() if key != "name" and value is not None]
        if len(kinds) > 1:
            wrong.append(f"spec.volumes[{volume.get('name')}]: has more than one source: {', '.join(kinds)}")
    for raw in every:
        where = f"spec.containers[{str(raw.get('name'))[:80]}]"
        if not raw.get("image"):
            wrong.append(f"{where}.image: is needed")
        for mount in raw.get("volumeMounts") or ():
            if mount.get("name") not in volume_names:
                wrong.append(f"{where}.volumeMounts: there is no volume {str(mount.get('name'))[:80]!r}")
            if not mount.get("mountPath") or ":" in mount["mountPath"]:
                wrong.append(f"{where}.volumeMounts[{str(mount.get('name'))[:80]}].mountPath: is not valid")
            for key in ("subPath", "subPathExpr"):
                path = mount.get(key) or ""
                if path.startswith("/") or ".." in path.split("/"):
                    wrong.append(f"{where}.volumeMounts[{str(mount.get('name'))[:80]}].{key}: leaves the volume")
        wrong.extend(_ports(raw.get("ports") or (), where))
        wrong.extend(
            f"{where}.env: {str(variable.get('name'))[:80]!r} is not a name"
            for variable in raw.get("env") or ()
            if not variable.get("name") or "=" in variable["name"]
        )
    return wrong


def _ports(ports: Sequence[Json], where: str) -> list[str]:
    wrong = []
    for port in ports:
        for key in ("containerPort", "hostPort"):
            number = port.get(key)
            if number is not None and not 0 < number < 65536:
                wrong.append(f"{where}.ports.{key}: {str(number)[:20]} is no port")
        if address := port.get("hostIP"):
            try:
                ip_address(address)
            except ValueError:
                wrong.append(f"{where}.ports.hostIP: {address[:80]!r} is no address")
    return wrong


def _names(things: Sequence[Json], what: str) -> list[str]:
    wrong = []
    seen: set[str] = set()
    for thing in things:
        name = thing.get("name") or ""
        if not _LABEL.fullmatch(name):
            wrong.append(f"spec.{what}: {name[:80]!r} is not a name")
        elif name in seen:
            wrong.append(f"spec.{what}: {name!r} is there twice")
        seen.add(name)
    return wrong

"""The kinds that the embedded API serves: one table row each. Discovery, paths and storage follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STANDARD_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_META_FIELDS = {"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace"}


@dataclass(frozen=True, slots=True)
class Subresource:
    """``kind`` and ``group``/``version`` are of the body, which is often not the parent's."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False)
class Resource:
    """A kind and where it stands. ``fields`` maps each field selector to the path of the value."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    has_status: bool = False
    has_generation: bool = False
    graceful: bool = False
    verbs: tuple[str, ...] = STANDARD_VERBS

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def selectable(self) -> Mapping[str, str]:
        """Field selectors with the path of each."""
        return {**_META_FIELDS, **self.fields}

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


def _status(kind: str) -> Subresource:
    return Subresource("status", kind, ("get", "patch", "update"))


_SCALE = Subresource("scale", "Scale", ("get", "patch", "update"), "autoscaling", "v1")

NAMESPACE = Resource(
    "",
    "v1",
    "Namespace",
    "namespaces",
    namespaced=False,
    short_names=("ns",),
    subresources=(_status("Namespace"), Subresource("finalize", "Namespace", ("update",))),
    fields={"status.phase": "status.phase"},
    has_status=True,
)
NODE = Resource(
    "",
    "v1",
    "Node",
    "nodes",
    namespaced=False,
    short_names=("no",),
    subresources=(_status("Node"),),
    fields={"spec.unschedulable": "spec.unschedulable"},
    has_status=True,
)
POD = Resource(
    "",
    "v1",
    "Pod",
    "pods",
    short_names=("po",),
    categories=("all",),
    subresources=(
        _status("Pod"),
        Subresource("binding", "Binding", ("create",)),
        Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
        Subresource("log", "Pod", ("get",)),
        Subresource("exec", "PodExecOptions", ("create", "get")),
        Subresource("attach", "PodAttachOptions", ("create", "get")),
        Subresource("portforward", "PodPortForwardOptions", ("create", "get")),
    ),
    fields={
        "spec.nodeName": "spec.nodeName",
        "spec.restartPolicy": "spec.restartPolicy",
        "spec.schedulerName": "spec.schedulerName",
        "spec.serviceAccountName": "spec.serviceAccountName",
        "spec.hostNetwork": "spec.hostNetwork",
        "status.phase": "status.phase",
        "status.podIP": "status.podIP",
        "status.nominatedNodeName": "status.nominatedNodeName",
    },
    has_status=True,
    graceful=True,
)
CONFIGMAP = Resource("", "v1", "ConfigMap", "configmaps", short_names=("cm",))
SECRET = Resource("", "v1", "Secret", "secrets", fields={"type": "type"})
SERVICE = Resource(
    "",
    "v1",
    "Service",
    "services",
    short_names=("svc",),
    categories=("all",),
    subresources=(_status("Service"),),
    has_status=True,
)
ENDPOINTS = Resource("", "v1", "Endpoints", "endpoints", short_names=("ep",))
SERVICE_ACCOUNT = Resource(
    "",
    "v1",
    "ServiceAccount",
    "serviceaccounts",
    short_names=("sa",),
    subresources=(Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),),
)
EVENT = Resource(
    "",
    "v1",
    "Event",
    "events",
    short_names=("ev",),
    fields={
        "involvedObject.kind": "involvedObject.kind",
        "involvedObject.namespace": "involvedObject.namespace",
        "involvedObject.name": "involvedObject.name",
        "involvedObject.uid": "involvedObject.uid",
        "involvedObject.apiVersion": "involvedObject.apiVersion",
        "involvedObject.resourceVersion": "involvedObject.resourceVersion",
        "involvedObject.fieldPath": "involvedObject.fieldPath",
        "reason": "reason",
        "reportingComponent": "reportingComponent",
        "source": "source.component",
        "type": "type",
    },
)
LEASE = Resource("coordination.k8s.io", "v1", "Lease", "leases")
ENDPOINT_SLICE = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
DEPLOYMENT = Resource(
    "apps",
    "v1",
    "Deployment",
    "deployments",
    short_names=("deploy",),
    categories=("all",),
    subresources=(_status("Deployment"), _SCALE),
    has_status=True,
    has_generation=True,
)
REPLICA_SET = Resource(
    "apps",
    "v1",
    "ReplicaSet",
    "replicasets",
    short_names=("rs",),
    categories=("all",),
    subresources=(_status("ReplicaSet"), _SCALE),
    fields={"status.replicas": "status.replicas"},
    has_status=True,
    has_generation=True,
)
DAEMON_SET = Resource(
    "apps",
    "v1",
    "DaemonSet",
    "daemonsets",
    short_names=("ds",),
    categories=("all",),
    subresources=(_status("DaemonSet"),),
    has_status=True,
    has_generation=True,
)
DISRUPTION_BUDGET = Resource(
    "policy",
    "v1",
    "PodDisruptionBudget",
    "poddisruptionbudgets",
    short_names=("pdb",),
    subresources=(_status("PodDisruptionBudget"),),
    has_status=True,
    has_generation=True,
)


def _review(group: str, kind: str) -> Resource:
    return Resource(group, "v1", kind, f"{kind.lower()}s", namespaced=False, verbs=("create",))


REVIEWS = (
    _review("authentication.k8s.io", "TokenReview"),
    _review("authentication.k8s.io", "SelfSubjectReview"),
    _review("authorization.k8s.io", "SelfSubjectAccessReview"),
    _review("authorization.k8s.io", "SubjectAccessReview"),
)
"""Kinds that are answered, not stored."""

_READ = ("get", "list")
METRICS = (
    Resource("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", namespaced=False, verbs=_READ),
    Resource("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", verbs=_READ),
)
"""Kinds that are measured, not stored."""

RESOURCES = (
    CONFIGMAP,
    ENDPOINTS,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    DAEMON_SET,
    DEPLOYMENT,
    REPLICA_SET,
    LEASE,
    ENDPOINT_SLICE,
    DISRUPTION_BUDGET,
)

_SERVED = (*RESOURCES, *REVIEWS, *METRICS)
_BY_PLURAL = {(one.group, one.version, one.plural): one for one in _SERVED}


def find(group: str, version: str, plural: str) -> Resource | None:
    return _BY_PLURAL.get((group, version, plural))


def group_versions() -> list[tuple[str, str]]:
    """The served (group, version) pairs, the core group first."""
    return sorted({(one.group, one.version) for one in _SERVED})


def in_group(group: str, version: str) -> list[Resource]:
    return [one for one in _SERVED if (one.group, one.version) == (group, version)]

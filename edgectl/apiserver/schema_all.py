"""The one schema of the embedded API, made of all tables at first use."""

from __future__ import annotations

from functools import cache

from edgectl.apiserver.schema import Field, Schema, Type, TypeRef, parse
from edgectl.apiserver.schema_apps import APPS
from edgectl.apiserver.schema_core import CORE
from edgectl.apiserver.schema_meta import META
from edgectl.apiserver.schema_pod import POD
from edgectl.apiserver.schema_policy import POLICY

TOP_LEVEL = frozenset(
    {
        "ConfigMap",
        "DaemonSet",
        "Deployment",
        "Endpoints",
        "EndpointSlice",
        "Event",
        "Lease",
        "Namespace",
        "Node",
        "Pod",
        "PodDisruptionBudget",
        "ReplicaSet",
        "Scale",
        "Secret",
        "Service",
        "ServiceAccount",
    }
)

_VERSION = "Version of the schema of this object, for example v1."
_KIND = "What the object is, in CamelCase."


def _with_type_meta(type_: Type) -> Type:
    fields = {
        "apiVersion": Field("apiVersion", TypeRef("string"), description=_VERSION),
        "kind": Field("kind", TypeRef("string"), description=_KIND),
        "metadata": Field("metadata", TypeRef("ObjectMeta"), description="Standard metadata."),
    }
    return Type(type_.name, type_.description, fields | type_.fields)


@cache
def schema() -> Schema:
    parsed = parse(META, CORE, POD, APPS, POLICY)
    return Schema({one.name: _with_type_meta(one) if one.name in TOP_LEVEL else one for one in parsed})

"""OpenAPI v3 documents, made from the schema: enough for ``kubectl apply``, ``explain`` and field validation."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from edgectl.apiserver.discovery import VERSION
from edgectl.apiserver.resources import Resource, group_versions, in_group
from edgectl.apiserver.schema import Field, Type, TypeRef
from edgectl.apiserver.schema_all import TOP_LEVEL, schema

Obj = dict[str, Any]

_META_TYPES = {"ObjectMeta", "OwnerReference", "ManagedFieldsEntry", "LabelSelector", "LabelSelectorRequirement"}
_META_PREFIX = "io.k8s.apimachinery.pkg.apis.meta.v1."

_SCALARS: dict[str, Obj] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer", "format": "int64"},
    "number": {"type": "number"},
    "quantity": {"type": "string"},
    "intorstring": {"type": "string", "format": "int-or-string"},
    "time": {"type": "string", "format": "date-time"},
    "microtime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "any": {"type": "object"},
}


def definition_name(type_name: str, resource: Resource | None = None) -> str:
    """The name of a type in the documents."""
    if type_name in _META_TYPES:
        return _META_PREFIX + type_name
    return f"io.kubebus.api.{type_name}"


def _ref(type_name: str, base: str) -> Obj:
    return {"$ref": f"{base}{definition_name(type_name)}"}


def _value(ref: TypeRef, base: str) -> Obj:
    if ref.shape == "list":
        return {"type": "array", "items": _value(ref.element, base)}
    if ref.shape == "map":
        return {"type": "object", "additionalProperties": _value(ref.element, base)}
    return dict(_SCALARS[ref.name]) if ref.name in _SCALARS else _ref(ref.name, base)


def _property(field: Field, base: str) -> Obj:
    value = _value(field.type, base)
    if "$ref" in value:
        value = {"allOf": [value], "default": {}} if base.startswith("#/components") else value
    if field.description:
        value["description"] = field.description
    if field.keys:
        value["x-kubernetes-list-type"] = "map"
        value["x-kubernetes-list-map-keys"] = list(field.keys)
        value["x-kubernetes-patch-merge-key"] = field.keys[0]
    elif field.is_set:
        value["x-kubernetes-list-type"] = "set"
    if field.keys or field.is_set or field.retain_keys:
        merges = "merge" if field.keys or field.is_set else ""
        retains = "retainKeys" if field.retain_keys else ""
        value["x-kubernetes-patch-strategy"] = ",".join(part for part in (merges, retains) if part)
    return value


def definition(type_: Type, base: str, kinds: list[Obj]) -> Obj:
    """One type as a JSON schema; ``base`` is where references point."""
    made: Obj = {"type": "object", "description": type_.description}
    required = [name for name, field in type_.fields.items() if field.required]
    if required:
        made["required"] = required
    made["properties"] = {name: _property(field, base) for name, field in type_.fields.items()}
    if kinds:
        made["x-kubernetes-group-version-kind"] = kinds
    return made


def _gvk(resource: Resource) -> Obj:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _reached(names: list[str]) -> list[Type]:
    """The types that these need, themselves included."""
    found: dict[str, Type] = {}
    todo = list(names)
    while todo:
        type_ = schema().get(todo.pop())
        if type_ is not None and type_.name not in found:
            found[type_.name] = type_
            todo += [field.type.name for field in type_.fields.values()]
    return sorted(found.values(), key=lambda one: one.name)


def definitions(resources: list[Resource], base: str) -> Obj:
    """The types of some kinds, by name."""
    kinds = {resource.kind: [_gvk(resource)] for resource in resources}
    types = _reached([one.kind for one in resources if one.kind in TOP_LEVEL])
    return {definition_name(one.name): definition(one, base, kinds.get(one.name, [])) for one in types}


def _parameter(name: str) -> Obj:
    return {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}


def _operation(resource: Resource, action: str) -> Obj:
    parameters = [_parameter(name) for name in ("dryRun", "fieldManager", "fieldValidation")]
    body = {"*/*": {"schema": _ref(resource.kind, "#/components/schemas/")}}
    if action == "patch":
        patches = ("apply-patch+yaml", "json-patch+json", "merge-patch+json", "strategic-merge-patch+json")
        body = {f"application/{one}": {"schema": {"type": "object"}} for one in patches}
    operation: Obj = {
        "operationId": f"{action}{resource.kind}",
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(resource),
        "responses": {"200": {"description": "OK"}},
    }
    if action != "get":
        operation["parameters"] = parameters
        operation["requestBody"] = {"content": body, "required": True}
    return operation


def _paths(resource: Resource) -> Obj:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    where = f"{root}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{root}/{resource.plural}"
    return {
        where: {"get": _operation(resource, "get"), "post": _operation(resource, "post")},
        f"{where}/{{name}}": {action: _operation(resource, action) for action in ("get", "put", "patch")},
    }


@cache
def document_v3(group: str, version: str) -> bytes:
    """The OpenAPI v3 document of one group and version."""
    resources = [one for one in in_group(group, version) if one.kind in TOP_LEVEL]
    paths: Obj = {}
    for resource in resources:
        paths.update(_paths(resource))
    document = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": definitions(resources, "#/components/schemas/")},
    }
    return json.dumps(document, separators=(",", ":")).encode()


@cache
def index_v3() -> bytes:
    """Where the documents are. The hash makes clients fetch each only once."""
    paths = {}
    for group, version in group_versions():
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        digest = hashlib.sha256(document_v3(group, version)).hexdigest()[:32].upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return json.dumps({"paths": paths}).encode()

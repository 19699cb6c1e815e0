"""Reads a request's path and query: which kind, which object, what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.apiserver.errors import bad_request, no_such_path
from edgectl.apiserver.options import DeleteOptions, ListOptions, WriteOptions
from edgectl.apiserver.resources import NAMESPACE, Resource, find

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """``name`` is empty for the collection, ``namespace`` for all namespaces."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(parts: Sequence[str]) -> Target:
    """The target of ``/api/v1/…`` or ``/apis/<group>/<version>/…``, split at slashes.

    :raises ApiError: (404) if there is nothing there.
    """
    if parts[0] == "api":
        group, version, rest = "", parts[1], list(parts[2:])
    else:
        group, version, rest = parts[1], parts[2], list(parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and NAMESPACE.subresource(rest[2]) is None:
        namespace, rest = rest[1], rest[2:]
    resource = find(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if (subresource and resource.subresource(subresource) is None) or (name and resource.namespaced and not namespace):
        raise no_such_path()
    return Target(resource, namespace, name, subresource)


def flag(query: Query, name: str) -> bool:
    """A boolean of the query.

    :raises ApiError: (400) for anything that is none.
    """
    value = query.get(name, "").lower()
    if value not in ("", "0", "1", "true", "false", "t", "f"):
        raise bad_request(f"{name}: {value[:64]!r} is not a boolean")
    return value in ("1", "true", "t")


def whole(query: Query, name: str) -> int | None:
    """A number of the query, or ``None`` where it is absent.

    :raises ApiError: (400) for anything that is none.
    """
    value = query.get(name, "")
    if not value:
        return None
    if not value.isdigit() or len(value) > 18:
        raise bad_request(f"{name}: {value[:64]!r} is not a whole number")
    return int(value)


def list_options(query: Query, name: str = "") -> ListOptions:
    """The options of a list or watch; ``name`` narrows it to one object."""
    fields = query.get("fieldSelector", "")
    if name:
        fields = ",".join(part for part in (f"metadata.name={name}", fields) if part)
    match = query.get("resourceVersionMatch", "")
    version = query.get("resourceVersion", "")
    if version:
        whole(query, "resourceVersion")
    return ListOptions(
        label_selector=query.get("labelSelector", ""),
        field_selector=fields,
        limit=whole(query, "limit") or 0,
        continue_token=query.get("continue", ""),
        resource_version=version,
        exact=match == "Exact",
    )


def write_options(query: Query, agent: str = "") -> WriteOptions:
    """The options of a write by the program ``agent`` (of the User-Agent header)."""
    validation = query.get("fieldValidation") or "Warn"
    manager = query.get("fieldManager") or agent.partition("/")[0] or "unknown"
    return WriteOptions(_dry_run(query.get("dryRun", "")), validation, manager=manager[:128])


def _dry_run(value: Any) -> bool:
    values = value if isinstance(value, list) else [value] if value else []
    if any(one != "All" for one in values):
        raise bad_request('dryRun: Unsupported value: supported values: "All"')
    return bool(values)


def delete_options(query: Query, body: Any) -> DeleteOptions:
    """The options of a deletion: of the body, else of the query.

    :raises ApiError: (400) if they are malformed.
    """
    given = body if isinstance(body, dict) else {}
    grace = given.get("gracePeriodSeconds", whole(query, "gracePeriodSeconds"))
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise bad_request("gracePeriodSeconds: is not a whole number")
    preconditions = given.get("preconditions")
    preconditions = {} if preconditions is None else preconditions
    propagation = given.get("propagationPolicy") or query.get("propagationPolicy") or ""
    if not propagation and given.get("orphanDependents"):
        propagation = "Orphan"
    if propagation not in ("", "Background", "Foreground", "Orphan"):
        raise bad_request(f"propagationPolicy: {str(propagation)[:64]!r} is not Background, Foreground or Orphan")
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions: is not an object")
    return DeleteOptions(
        grace=grace,
        propagation=propagation or "Background",
        uid=str(preconditions.get("uid") or ""),
        resource_version=str(preconditions.get("resourceVersion") or ""),
        dry_run=_dry_run(given.get("dryRun")) or _dry_run(query.get("dryRun", "")),
    )

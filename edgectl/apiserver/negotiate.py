"""In which form an answer is given: the object, a table of it, or its metadata only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.resources import Resource
from edgectl.apiserver.tables import partial_metadata, table

Obj = dict[str, Any]


class Form(Protocol):
    """A form of answers. ``Watched`` objects come one by one."""

    def one(self, resource: Resource, obj: Obj) -> Obj: ...

    def many(self, resource: Resource, items: Sequence[Obj], meta: Obj) -> Obj: ...

    def watched(self, resource: Resource, obj: Obj) -> Obj: ...

    def bookmark(self, resource: Resource, meta: Obj) -> Obj: ...


class PlainForm:
    def one(self, resource: Resource, obj: Obj) -> Obj:
        return obj

    def many(self, resource: Resource, items: Sequence[Obj], meta: Obj) -> Obj:
        return {
            "kind": resource.list_kind,
            "apiVersion": resource.api_version,
            "metadata": meta,
            "items": list(items),
        }

    def watched(self, resource: Resource, obj: Obj) -> Obj:
        return obj

    def bookmark(self, resource: Resource, meta: Obj) -> Obj:
        empty: Obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if resource.has_status:
            empty |= {"spec": {}, "status": {}}
        return empty


class MetadataForm:
    def one(self, resource: Resource, obj: Obj) -> Obj:
        return partial_metadata(obj)

    def many(self, resource: Resource, items: Sequence[Obj], meta: Obj) -> Obj:
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "items": [partial_metadata(one) for one in items],
        }

    def watched(self, resource: Resource, obj: Obj) -> Obj:
        return partial_metadata(obj)

    def bookmark(self, resource: Resource, meta: Obj) -> Obj:
        return partial_metadata({"metadata": meta})


class TableForm:
    """``now`` is for the AGE columns. Only the first table of a watch has its columns described."""

    def __init__(self, now: Callable[[], float], version: str, include: str) -> None:
        self._now = now
        self._version = f"meta.k8s.io/{version}"
        self._include = include or "Metadata"
        self._described = False

    def one(self, resource: Resource, obj: Obj) -> Obj:
        return self.many(resource, [obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")})

    def many(self, resource: Resource, items: Sequence[Obj], meta: Obj) -> Obj:
        return self._table(resource, items, meta, columns=True)

    def watched(self, resource: Resource, obj: Obj) -> Obj:
        meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        made = self._table(resource, [obj], meta, columns=not self._described)
        self._described = True
        return made

    def bookmark(self, resource: Resource, meta: Obj) -> Obj:
        return self._table(resource, [], meta, columns=not self._described)

    def _table(self, resource: Resource, items: Sequence[Obj], meta: Obj, *, columns: bool) -> Obj:
        made = table(resource, items, self._now(), include=self._include, columns=columns)
        made["apiVersion"] = self._version
        made["metadata"] = meta
        return made


def media_types(header: str) -> list[tuple[str, dict[str, str]]]:
    """The media types of an Accept header with their parameters, in the order given."""
    found = []
    for part in header.split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        pairs = (one.partition("=") for one in parameters)
        found.append((name.lower(), {key.strip(): value.strip() for key, _, value in pairs}))
    return found


def form_of(accept: str, include: str, now: Callable[[], float]) -> Form:
    """The first form of an Accept header that we can give.

    :raises ApiError: (406) if there is none.
    """
    for name, parameters in media_types(accept or "application/json"):
        if name not in ("application/json", "application/*", "*/*"):
            continue
        wanted = parameters.get("as", "")
        if not wanted:
            return PlainForm()
        if parameters.get("g") == "meta.k8s.io" and parameters.get("v") in ("v1", "v1beta1"):
            if wanted == "Table":
                return TableForm(now, parameters["v"], include)
            if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                return MetadataForm()
    message = "only the following media types are accepted: application/json"
    raise ApiError(406, "NotAcceptable", message)

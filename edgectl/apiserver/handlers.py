"""Carries out one request on objects: chooses the verb, reads the body, gives the answer its form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgectl.apiserver import errors, subresources
from edgectl.apiserver.accounts import ISSUER, AccountTokens
from edgectl.apiserver.identity import StaticTokens, User
from edgectl.apiserver.metrics import Metrics
from edgectl.apiserver.negotiate import Form
from edgectl.apiserver.options import WriteOptions
from edgectl.apiserver.patch import PatchFailed, json_patch, merge
from edgectl.apiserver.resources import METRICS, REVIEWS, Resource
from edgectl.apiserver.reviews import review
from edgectl.apiserver.routes import Target, delete_options, flag, list_options, write_options
from edgectl.apiserver.schema_all import schema
from edgectl.apiserver.strategic import strategic_merge
from edgectl.apiserver.verbs import Api

Obj = dict[str, Any]
Answer = tuple[int, Obj, list[str]]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_JSON_TYPES = ("", "application/json")
_PATCH_TYPES = ", ".join((JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH))


MAX_DEPTH = 100
"""Nesting past which a body is refused; no kind comes near it."""


def parse_body(body: bytes) -> Any:
    """The JSON of a body.

    :raises ApiError: (400) if it is none.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.bad_request(f"the body of the request is not JSON: {error}") from None
    if _deeper(data, MAX_DEPTH):
        raise errors.bad_request(f"the body of the request is nested deeper than {MAX_DEPTH} levels")
    return data


def _deeper(data: Any, levels: int) -> bool:
    """Whether a value is nested deeper, found out without recursion."""
    layer = [data]
    for _ in range(levels):
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not layer:
            return False
    return True


class Handlers:
    """Requests on the objects of one API."""

    def __init__(self, api: Api, static: StaticTokens) -> None:
        self.api = api
        self.accounts: AccountTokens | None = None
        self.metrics: Metrics | None = None
        self._static = static

    def user(self, token: str) -> User | None:
        """Whose token it is. It is a TokenAuthenticator."""
        return self._reviewed(token, [])

    def _reviewed(self, token: str, audiences: list[str]) -> User | None:
        user = None if audiences and ISSUER not in audiences else self._static.user(token)
        if user is None and self.accounts is not None:
            user = self.accounts.reviewed(token, audiences or [ISSUER])
        return user

    async def handle(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        content_type: str,
        body: bytes,
        form: Form,
        user: User,
        agent: str = "",
    ) -> Answer:
        """The code, the answer and what to warn of. Raises ApiError and the store's errors.

        :param agent: the client's program, who manages what it changes unless it says otherwise.
        """
        if target.resource in REVIEWS:
            if method != "POST" or target.name:
                raise errors.method_not_allowed()
            return 201, review(target.resource, _json_body(content_type, body), user, self._reviewed), []
        if target.resource in METRICS:
            return 200, await self._measured(method, target, query, form), []
        if target.subresource and target.subresource not in ("status", "finalize"):
            return await self._special(method, target, query, content_type, body)
        if method in ("GET", "HEAD"):
            return 200, await self._read(target, query, form), []
        if method == "DELETE":
            return await self._delete(target, query, content_type, body, form)
        if bool(target.name) is (method == "POST"):
            raise errors.method_not_allowed()
        options = write_options(query, agent)
        if method == "POST":
            obj = await self._create(target, content_type, body, options)
        elif method == "PUT":
            obj = await self._update(target, content_type, body, options)
        elif content_type == APPLY_PATCH:
            obj, made = await self._apply(target, query, body, options)
            return 201 if made else 200, form.one(target.resource, obj), options.warnings
        else:
            obj = await self._patch(target, query, content_type, body, options)
        code = 201 if method == "POST" else 200
        return code, form.one(target.resource, obj), options.warnings

    async def _read(self, target: Target, query: Mapping[str, str], form: Form) -> Obj:
        if target.name:
            obj = await self.api.get(target.resource, target.namespace, target.name)
            return form.one(target.resource, obj)
        found = await self.api.list(target.resource, target.namespace, list_options(query))
        meta: Obj = {"resourceVersion": str(found.revision)}
        if found.continue_token:
            meta |= {"continue": found.continue_token, "remainingItemCount": found.remaining}
        return form.many(target.resource, found.items, meta)

    async def _measured(self, method: str, target: Target, query: Mapping[str, str], form: Form) -> Obj:
        if method != "GET" or self.metrics is None:
            raise errors.method_not_allowed()
        selector = query.get("labelSelector", "")
        found = await self.metrics.read(target.resource, target.namespace, target.name, selector)
        return form.one(target.resource, found[0]) if target.name else form.many(target.resource, found, {})

    async def _create(self, target: Target, content_type: str, body: bytes, options: WriteOptions) -> Obj:
        if target.resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        data = _json_body(content_type, body)
        return await self.api.create(target.resource, target.namespace, data, options)

    async def _update(self, target: Target, content_type: str, body: bytes, options: WriteOptions) -> Obj:
        data = _json_body(content_type, body)
        return await self.api.update(target.resource, target.namespace, target.name, data, options, target.subresource)

    async def _apply(
        self, target: Target, query: Mapping[str, str], body: bytes, options: WriteOptions
    ) -> tuple[Obj, bool]:
        if not query.get("fieldManager"):
            cause = errors.required("fieldManager", "is required for apply patch")
            raise errors.invalid("meta.k8s.io", "PatchOptions", "", [cause])
        # YAML that is not JSON as well is refused: kubectl and client-go send JSON.
        return await self.api.apply(
            target.resource,
            target.namespace,
            target.name,
            parse_body(body),
            options,
            force=flag(query, "force"),
            subresource=target.subresource,
        )

    async def _patch(
        self, target: Target, query: Mapping[str, str], content_type: str, body: bytes, options: WriteOptions
    ) -> Obj:
        data = parse_body(body)
        return await self.api.change(
            target.resource,
            target.namespace,
            target.name,
            lambda old: patched(target.resource.kind, old, content_type, data, target.resource),
            options,
            target.subresource,
        )

    async def _delete(
        self, target: Target, query: Mapping[str, str], content_type: str, body: bytes, form: Form
    ) -> Answer:
        options = delete_options(query, _json_body(content_type, body) if body else None)
        resource = target.resource
        if not target.name:
            found = await self.api.delete_collection(resource, target.namespace, list_options(query), options)
            return 200, form.many(resource, found.items, {"resourceVersion": str(found.revision)}), []
        obj, gone = await self.api.delete(resource, target.namespace, target.name, options)
        if gone and not resource.graceful:
            return 200, _deleted(resource, obj), []
        return 200, form.one(resource, obj), []

    async def _special(
        self, method: str, target: Target, query: Mapping[str, str], content_type: str, body: bytes
    ) -> Answer:
        options = write_options(query)
        if target.subresource == "binding" and method == "POST":
            data = _json_body(content_type, body)
            return 201, await subresources.bind(self.api, target.namespace, target.name, data, options), []
        if target.subresource == "eviction" and method == "POST":
            data = _json_body(content_type, body)
            return 201, await subresources.evict(self.api, target.namespace, target.name, data, options), []
        if target.subresource == "token" and method == "POST" and self.accounts is not None:
            data = _json_body(content_type, body)
            return 201, await self.accounts.issue(target.namespace, target.name, data), []
        if target.subresource == "scale":
            return await self._scale(method, target, content_type, body, options)
        raise errors.method_not_allowed()

    async def _scale(
        self, method: str, target: Target, content_type: str, body: bytes, options: WriteOptions
    ) -> Answer:
        if method in ("GET", "HEAD"):
            obj = await self.api.get(target.resource, target.namespace, target.name)
            return 200, subresources.scale_of(obj), []
        if method == "PUT":
            wanted = _json_body(content_type, body)

            def edit(old: Obj) -> Any:
                return wanted

        elif method == "PATCH":
            data = parse_body(body)

            def edit(old: Obj) -> Any:
                return patched("Scale", old, content_type, data, target.resource)

        else:
            raise errors.method_not_allowed()
        obj = await self.api.change(
            target.resource, target.namespace, target.name, lambda old: subresources.scaled(old, edit), options
        )
        return 200, subresources.scale_of(obj), options.warnings


def _json_body(content_type: str, body: bytes) -> Any:
    if content_type not in _JSON_TYPES:
        raise errors.unsupported_media_type("application/json")
    return parse_body(body)


def patched(type_name: str, old: Obj, content_type: str, data: Any, resource: Resource) -> Any:
    """What a patch makes of an object.

    :raises ApiError: if the patch is malformed (400), does not apply (422) or has an unknown media type (415).
    """
    try:
        if content_type == JSON_PATCH:
            return json_patch(old, data)
        if content_type == MERGE_PATCH:
            if not isinstance(data, dict):
                raise errors.bad_request("a merge patch of an object is an object")
            return merge(old, data)
        if content_type == STRATEGIC_PATCH:
            return strategic_merge(schema(), old, data, type_name)
    except PatchFailed as error:
        if content_type == JSON_PATCH:
            message = f"the server rejected our request due to an error in our request: {error}"
            raise errors.ApiError(422, "Invalid", message) from None
        raise errors.bad_request(str(error)) from None
    raise errors.unsupported_media_type(_PATCH_TYPES)


def _deleted(resource: Resource, obj: Obj) -> Obj:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            key: value
            for key, value in {
                "name": obj["metadata"]["name"],
                "group": resource.group,
                "kind": resource.plural,
                "uid": obj["metadata"]["uid"],
            }.items()
            if value
        },
    }

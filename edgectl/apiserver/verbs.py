"""What can be done with objects: the verbs of the API, without HTTP. The controllers use them directly.

All methods raise :class:`~edgectl.apiserver.errors.ApiError` for what the API refuses and the store's errors for
what the store cannot do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver import errors, meta
from edgectl.apiserver.admission import admit
from edgectl.apiserver.apply import Manager, applied, first_entry, tracked
from edgectl.apiserver.cache import WatchCache
from edgectl.apiserver.clusterips import DEFAULT_CIDR, ClusterIps, keep
from edgectl.apiserver.decode import Decoder, WrongShape, missing
from edgectl.apiserver.fieldsets import NoKey
from edgectl.apiserver.options import DeleteOptions, ListOptions, ListResult, WriteOptions, position, token
from edgectl.apiserver.resources import NAMESPACE, POD, SERVICE, SERVICE_ACCOUNT, Resource
from edgectl.apiserver.schema_all import schema
from edgectl.apiserver.selectors import predicate
from edgectl.apiserver.storage import ObjectStore
from edgectl.apiserver.strategy import strategy_of
from metasync.interfaces import Compacted, FutureRevision
from metasync.model import Compare, Op

Obj = dict[str, Any]

TRIES = 16
"""How often a change that names no version is tried again when another came between."""


class Api:
    """The objects of one network."""

    def __init__(
        self, reactor: IReactorTime, objects: ObjectStore, cache: WatchCache, service_cidr: IPv4Network = DEFAULT_CIDR
    ) -> None:
        self._reactor = reactor
        self._ips = ClusterIps(objects, service_cidr)
        self.objects = objects
        self.cache = cache

    @property
    def own_address(self) -> str:
        """The virtual address of the API itself."""
        return self._ips.first

    def seconds(self) -> float:
        """The time now, in UNIX seconds."""
        return self._reactor.seconds()

    # -- reading

    async def get(self, resource: Resource, namespace: str, name: str) -> Obj:
        found = await self.objects.get(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return found

    async def list(self, resource: Resource, namespace: str, options: ListOptions) -> ListResult:
        """The objects of a kind; ``namespace`` empty: of all namespaces. Pages are of one revision."""
        selected = predicate(resource, options.label_selector, options.field_selector)
        revision, start = position(options)
        items: list[Obj] = []
        while True:
            try:
                want = max(options.limit - len(items), 0)
                page = await self.objects.page(resource, namespace, revision=revision, limit=want, start=start)
            except (Compacted, FutureRevision):
                raise errors.expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a "
                    "new list without the continue parameter."
                ) from None
            revision = page.revision
            items += [one for one in page.items if selected(one)]
            if page.next_key is None:
                return ListResult(items, revision)
            if len(items) >= options.limit:
                return ListResult(items, revision, token(revision, page.next_key), page.remaining)
            start = page.next_key

    # -- creating

    def read(self, resource: Resource, data: Any, options: WriteOptions) -> Obj:
        """A client's object as its type says.

        :raises ApiError: (400) if it is another kind, has the wrong shape, or unknown fields under ``Strict``.
        """
        if not isinstance(data, dict):
            raise errors.bad_request("the body of the request is not an object")
        api_version, kind = data.get("apiVersion"), data.get("kind")
        if kind not in (None, "", resource.kind):
            raise errors.bad_request(
                f"the kind in the data ({kind}) does not match the expected kind ({resource.kind})"
            )
        if api_version not in (None, "", resource.api_version):
            raise errors.bad_request(
                f"the API version in the data ({api_version}) does not match the expected API version "
                f"({resource.api_version})"
            )
        obj = self._decoded(data, resource.kind, resource.version, options)
        obj.get("metadata", {}).pop("managedFields", None)
        return {"apiVersion": resource.api_version, "kind": resource.kind, **_without_type(obj)}

    def _decoded(self, data: Obj, kind: str, version: str, options: WriteOptions) -> Obj:
        decoder = Decoder(schema())
        try:
            obj = decoder.decode(data, kind)
        except WrongShape as error:
            message = f'{kind} in version "{version}" cannot be handled as a {kind}: {error}'
            raise errors.bad_request(message) from None
        unknown = [f'unknown field "{path}"' for path in decoder.unknown]
        if unknown and options.validation == "Strict":
            raise errors.bad_request(f"strict decoding error: {', '.join(unknown)}")
        if options.validation == "Warn":
            options.warnings.extend(unknown)
        return obj

    async def create(
        self,
        resource: Resource,
        namespace: str,
        data: Any,
        options: WriteOptions | None = None,
        applied_by: Manager | None = None,
    ) -> Obj:
        """Make a new object; ``applied_by`` tells who did by a server-side apply."""
        options = options or WriteOptions()
        obj = self.read(resource, data, options)
        config = copy.deepcopy(obj)
        meta.prepare_create(resource, obj, namespace, self._reactor.seconds())
        if resource.has_status:
            obj.pop("status", None)
        strategy_of(resource).default(obj, created=True)
        if resource == POD:
            admit(obj, await self._account_of(obj))
        self._validate(resource, obj)
        if applied_by is not None:
            managed = first_entry(resource, config, applied_by, meta.timestamp(self._reactor.seconds()))
            obj["metadata"]["managedFields"] = managed
        for _ in range(TRIES):
            conditions = []
            if resource.namespaced:
                conditions.append(self.objects.still(NAMESPACE, await self._live_namespace(resource, obj)))
            if options.dry_run:
                created = None if await self._exists(resource, obj) else obj
            elif resource == SERVICE and self._ips.wants(obj):
                created = await self._create_service(obj, conditions)
            else:
                created = await self.objects.create(resource, obj, conditions)
            if created is not None:
                return created
            if await self._exists(resource, obj):
                raise errors.already_exists(resource.group, resource.plural, obj["metadata"]["name"])
        raise errors.unavailable(f"the namespace {namespace} keeps changing; try again")

    async def _account_of(self, pod: Obj) -> Obj | None:
        """A pod's service account; ``None`` for a namespace's first, which may be about to be made.

        :raises ApiError: (403) if it names one that is not there.
        """
        namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        account = self.cache.get(SERVICE_ACCOUNT, namespace, name)
        account = account or await self.objects.get(SERVICE_ACCOUNT, namespace, name)
        if account is None and name != "default":
            why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise errors.forbidden("", "pods", pod["metadata"]["name"], why)
        return account

    async def _create_service(self, obj: Obj, conditions: Sequence[Compare]) -> Obj | None:
        """Create a service with an address that nobody else gets."""
        asked = obj["spec"].get("clusterIP")
        candidates = await self._ips.candidates(obj)
        if not candidates:
            raise errors.internal(f"failed to allocate a service IP: {self._ips.full}")
        for address in candidates:
            compares, ops = self._ips.take(address, obj)
            spec = {**obj["spec"], "clusterIP": address, "clusterIPs": [address]}
            created = await self.objects.create(SERVICE, {**obj, "spec": spec}, [*conditions, *compares], ops)
            if created is not None or await self._exists(SERVICE, obj):
                return created
        if asked:
            cause = errors.wrong("spec.clusterIPs", asked, "failed to allocate IP: provided IP is already allocated")
            raise errors.invalid("", "Service", obj["metadata"]["name"], [cause])
        return None

    def _freed(self, resource: Resource, obj: Obj) -> Sequence[Op]:
        """What else goes with an object."""
        return self._ips.free(obj) if resource == SERVICE else ()

    async def _exists(self, resource: Resource, obj: Obj) -> bool:
        meta_ = obj["metadata"]
        return await self.objects.get(resource, meta_.get("namespace", ""), meta_["name"]) is not None

    async def _live_namespace(self, resource: Resource, obj: Obj) -> Obj:
        name = obj["metadata"]["namespace"]
        namespace = await self.get(NAMESPACE, "", name)
        if "deletionTimestamp" in namespace["metadata"]:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            raise errors.forbidden(resource.group, resource.plural, obj["metadata"]["name"], why)
        return namespace

    def _validate(self, resource: Resource, obj: Obj, old: Obj | None = None) -> None:
        strategy = strategy_of(resource)
        name = obj["metadata"].get("name", "")
        if not name:
            causes = [errors.required("metadata.name", "name or generateName is required")]
        else:
            causes = meta.metadata_causes(obj["metadata"], strategy.name_rule)
            causes += missing(schema(), obj, resource.kind)
        if not causes:
            causes = strategy.causes(obj)
        if resource == SERVICE and not causes:
            causes = self._ips.causes(obj) if old is None else keep(obj, old)
        if old is not None and not causes:
            causes = strategy.update_causes(obj, old)
        if causes:
            raise errors.invalid(resource.group, resource.kind, name, causes)

    # -- changing

    async def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        data: Any,
        options: WriteOptions | None = None,
        subresource: str = "",
    ) -> Obj:
        """Replace an object; with ``subresource`` ``status`` only its status."""
        options = options or WriteOptions()
        obj = self.read(resource, data, options)
        if obj.get("metadata", {}).get("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({obj['metadata']['name']}) does not match the name on the URL ({name})"
            )
        meta.place_in_namespace(resource, obj.setdefault("metadata", {}), namespace)
        return await self.change(resource, namespace, name, lambda _: obj, options, subresource)

    async def change(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        edit: Callable[[Obj], Any],
        options: WriteOptions | None = None,
        subresource: str = "",
    ) -> Obj:
        """Read, edit, write; again if another came between, unless the edited object names a version.

        ``edit`` gets a copy of the present object and returns the new one.
        """
        options = options or WriteOptions()
        for _ in range(TRIES):
            old = await self.get(resource, namespace, name)
            edited = copy.deepcopy(edit(copy.deepcopy(old)))
            wanted = edited.get("metadata", {}).get("resourceVersion", "") if isinstance(edited, dict) else ""
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                raise errors.conflict(resource.group, resource.plural, name)
            new = self._prepared(resource, self.read(resource, edited, options), old, subresource)
            if new != old:
                self._track(resource, new, old, Manager(options.manager, "Update", subresource))
            if new == old or options.dry_run:
                return new
            written = await self._write(resource, new, old)
            if written is not None:
                return written
            # Another came between. A client who named the version it knows is told so when this is read again.
        raise errors.conflict(resource.group, resource.plural, name)

    async def rewrite(
        self, resource: Resource, namespace: str, name: str, edit: Callable[[Obj], Obj], *, dry_run: bool = False
    ) -> Obj:
        """Read, edit, write without the rules for clients, but for those of metadata. For the control plane itself."""
        for _ in range(TRIES):
            old = await self.get(resource, namespace, name)
            new = edit(copy.deepcopy(old))
            meta.prepare_update(resource, new, old)
            if new != old:
                self._track(resource, new, old, Manager("kubebus", "Update"))
            if new == old or dry_run:
                return new
            written = await self._write(resource, new, old)
            if written is not None:
                return written
        raise errors.conflict(resource.group, resource.plural, name)

    def _track(self, resource: Resource, new: Obj, old: Obj, manager: Manager) -> None:
        """Keep account of who manages what, in place, once somebody applies on the server."""
        if "managedFields" in old["metadata"]:
            now = meta.timestamp(self._reactor.seconds())
            new["metadata"]["managedFields"] = tracked(resource, new, old, manager, now)

    async def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        data: Any,
        options: WriteOptions,
        *,
        force: bool,
        subresource: str = "",
    ) -> tuple[Obj, bool]:
        """Server-side apply: the object, and whether it was made.

        :raises ApiError: (409) if it sets fields that others manage otherwise, unless ``force``.
        """
        config = self.read(resource, data, options)
        config.setdefault("metadata", {}).setdefault("name", name)
        if config["metadata"]["name"] != name:
            raise errors.bad_request(f"the name of the object does not match the name on the URL ({name})")
        meta.place_in_namespace(resource, config["metadata"], namespace)
        manager = Manager(options.manager, "Apply", subresource)
        for _ in range(TRIES):
            old = await self.objects.get(resource, namespace, name)
            if old is None:
                if subresource:
                    raise errors.not_found(resource.group, resource.plural, name)
                try:
                    return await self.create(resource, namespace, copy.deepcopy(config), options, manager), True
                except errors.ApiError as error:
                    if error.reason == "AlreadyExists":
                        continue
                    raise
            wanted = config["metadata"].get("resourceVersion", "")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                raise errors.conflict(resource.group, resource.plural, name)
            now = meta.timestamp(self._reactor.seconds())
            try:
                merged, managed = applied(resource, old, config, manager, now, force=force)
            except NoKey as error:
                raise errors.bad_request(str(error)) from None
            new = self._prepared(resource, self.read(resource, merged, options), old, subresource)
            new["metadata"]["managedFields"] = managed
            if new == old or options.dry_run:
                return new, False
            written = await self._write(resource, new, old)
            if written is not None:
                return written, False
        raise errors.conflict(resource.group, resource.plural, name)

    def _prepared(self, resource: Resource, new: Obj, old: Obj, subresource: str) -> Obj:
        """The object as it would be stored, made of what the client may change through this subresource."""
        meta.check_uid(resource, new.setdefault("metadata", {}), old["metadata"])
        strategy = strategy_of(resource)
        if subresource == "status":
            new = strategy.apply_status(new, old)
        elif resource.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        if resource == NAMESPACE and subresource != "finalize":
            new["spec"] = old["spec"]
        meta.prepare_update(resource, new, old)
        if not subresource:
            strategy.default(new, created=False)
            self._validate(resource, new, old)
        return new

    async def _write(self, resource: Resource, new: Obj, old: Obj) -> Obj | None:
        if meta.may_be_removed(new["metadata"]) and not _holds_namespace(resource, new):
            revision = await self.objects.delete(resource, old, self._freed(resource, old))
            return None if revision is None else _at(new, revision)
        return await self.objects.update(resource, new, old["metadata"]["resourceVersion"])

    # -- deleting

    async def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions | None = None
    ) -> tuple[Obj, bool]:
        """Delete an object, or begin to. Returns it as it was or is, and whether it is gone."""
        options = options or DeleteOptions()
        for _ in range(TRIES):
            old = await self.get(resource, namespace, name)
            self._check_preconditions(resource, old, options)
            new = copy.deepcopy(old)
            for finalizer in _propagation_finalizers(options.propagation):
                if finalizer not in new["metadata"].get("finalizers", ()):
                    new["metadata"].setdefault("finalizers", []).append(finalizer)
            meta.mark_deleted(resource, new["metadata"], self._reactor.seconds(), _grace(resource, old, options))
            if resource == NAMESPACE:
                new["status"] = {**new.get("status", {}), "phase": "Terminating"}
            gone = meta.may_be_removed(new["metadata"]) and not _holds_namespace(resource, new)
            if options.dry_run or new == old:
                return new, gone
            if gone:
                revision = await self.objects.delete(resource, old, self._freed(resource, old))
                if revision is not None:
                    return _at(old, revision), True
            elif (written := await self.objects.update(resource, new, old["metadata"]["resourceVersion"])) is not None:
                return written, False
        raise errors.conflict(resource.group, resource.plural, name)

    def _check_preconditions(self, resource: Resource, old: Obj, options: DeleteOptions) -> None:
        for what, wanted, found in (
            ("UID", options.uid, old["metadata"]["uid"]),
            ("ResourceVersion", options.resource_version, old["metadata"]["resourceVersion"]),
        ):
            if wanted and wanted != found:
                why = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                raise errors.conflict(resource.group, resource.plural, old["metadata"]["name"], why)

    async def delete_collection(
        self, resource: Resource, namespace: str, list_options: ListOptions, options: DeleteOptions
    ) -> ListResult:
        """Delete all objects that a list would show; those that another deletes meanwhile are no error."""
        found = await self.list(resource, namespace, list_options)
        for one in found.items:
            try:
                await self.delete(resource, one["metadata"].get("namespace", ""), one["metadata"]["name"], options)
            except errors.ApiError as error:
                if error.code != 404:
                    raise
        return found


def _at(obj: Obj, revision: int) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}


def _without_type(obj: Obj) -> Obj:
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}


def _holds_namespace(resource: Resource, obj: Obj) -> bool:
    return resource == NAMESPACE and bool(obj.get("spec", {}).get("finalizers"))


def _propagation_finalizers(propagation: str) -> tuple[str, ...]:
    return {"Foreground": ("foregroundDeletion",), "Orphan": ("orphan",)}.get(propagation, ())


def _grace(resource: Resource, obj: Obj, options: DeleteOptions) -> int:
    """Seconds a deletion waits: 0 but for pods that a node may be running."""
    if not resource.graceful:
        return 0
    unbound = not obj.get("spec", {}).get("nodeName")
    ended = obj.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if unbound or ended:
        return 0
    own = int(obj["spec"].get("terminationGracePeriodSeconds", 30))
    return max(0, own if options.grace is None else options.grace)

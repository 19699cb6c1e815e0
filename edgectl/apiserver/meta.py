"""The life of an object's metadata: names, uid, timestamps, generation, deletion."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from edgectl.apiserver.errors import Cause, bad_request, conflict, required, wrong
from edgectl.apiserver.resources import Resource

Obj = dict[str, Any]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names: no vowels, so that no words come out (apiserver's ``names`` package)."""

MAX_ANNOTATIONS = 256 * 1024
"""The most bytes of all annotations of one object."""

_SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)


def timestamp(now: float) -> str:
    """UNIX seconds as the API writes a time: RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(now: float) -> str:
    """UNIX seconds as a MicroTime."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(stamp: str | None) -> float | None:
    """The UNIX seconds of a Time or MicroTime; ``None`` for an absent or unreadable one."""
    if not stamp:
        return None
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None


def name_causes(name: str, path: str, rule: str = "subdomain") -> list[Cause]:
    """What is wrong with a name: ``rule`` is ``subdomain``, ``label`` or ``label1035`` (RFC 1123, 1123, 1035)."""
    patterns = {"subdomain": (_SUBDOMAIN, 253), "label": (_LABEL, 63), "label1035": (_LABEL_1035, 63)}
    pattern, longest = patterns[rule]
    if len(name) > longest:
        return [wrong(path, name[:300], f"must be no more than {longest} characters")]
    if pattern.fullmatch(name):
        return []
    text = {
        "subdomain": "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character",
        "label": "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
        "start and end with an alphanumeric character",
        "label1035": "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
        "alphabetic character, and end with an alphanumeric character",
    }[rule]
    return [wrong(path, name, text)]


def _key_ok(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    prefix_ok = not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix) is not None)
    return prefix_ok and 0 < len(name) <= 63 and _QUALIFIED.fullmatch(name) is not None


def label_causes(labels: dict[str, str], path: str) -> list[Cause]:
    """What is wrong with labels."""
    causes = []
    for key, value in labels.items():
        if not _key_ok(key):
            causes.append(wrong(path, key, "name part must consist of alphanumeric characters, '-', '_' or '.'"))
        if len(value) > 63 or not _VALUE.fullmatch(value):
            causes.append(
                wrong(
                    path,
                    value,
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                    "and must start and end with an alphanumeric character (at most 63 characters)",
                )
            )
    return causes


def metadata_causes(meta: Obj, name_rule: str) -> list[Cause]:
    """What is wrong with an object's metadata."""
    causes = name_causes(meta["name"], "metadata.name", name_rule)
    causes += label_causes(meta.get("labels", {}), "metadata.labels")
    annotations = meta.get("annotations", {})
    causes += [
        wrong("metadata.annotations", key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
        for key in annotations
        if not _key_ok(key.lower())
    ]
    if sum(len(key) + len(value) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        causes.append(
            Cause("FieldValueTooLong", f"Too long: must have at most {MAX_ANNOTATIONS} bytes", "metadata.annotations")
        )
    for index, owner in enumerate(meta.get("ownerReferences", ())):
        causes += [
            required(f"metadata.ownerReferences[{index}].{key}") for key in ("name", "uid") if not owner.get(key)
        ]
    return causes


def prepare_create(resource: Resource, obj: Obj, namespace: str, now: float) -> None:
    """Give a new object what only the server gives, in place.

    :raises ApiError: if it names another namespace, or no name.
    """
    meta = obj.setdefault("metadata", {})
    place_in_namespace(resource, meta, namespace)
    if not meta.get("name") and meta.get("generateName"):
        suffix = "".join(secrets.choice(_ALPHABET) for _ in range(5))
        meta["name"] = meta["generateName"][:58] + suffix
    if meta.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    for key in (*_SERVER_OWNED, "resourceVersion", "selfLink"):
        meta.pop(key, None)
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = timestamp(now)
    if resource.has_generation:
        meta["generation"] = 1


def place_in_namespace(resource: Resource, meta: Obj, namespace: str) -> None:
    """Set the namespace of the request.

    :raises ApiError: (400) if the object names another one.
    """
    if not resource.namespaced:
        meta.pop("namespace", None)
        return
    if meta.get("namespace", namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    meta["namespace"] = namespace


def check_uid(resource: Resource, meta: Obj, before: Obj) -> None:
    """:raises ApiError: (409) if a change is meant for another object of the same name."""
    uid = meta.get("uid")
    if uid and uid != before["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
        raise conflict(resource.group, resource.plural, before["name"], why)


def prepare_update(resource: Resource, new: Obj, old: Obj) -> None:
    """Keep what no client may change, in place; count the generation when the desired state changed."""
    meta, before = new.setdefault("metadata", {}), old["metadata"]
    meta.pop("selfLink", None)
    for key in (*_SERVER_OWNED, "name", "namespace", "generateName", "resourceVersion", "managedFields"):
        if key in before:
            meta[key] = before[key]
        else:
            meta.pop(key, None)
    if before.get("deletionTimestamp"):
        kept = [one for one in meta.get("finalizers", ()) if one in before.get("finalizers", ())]
        _set_or_drop(meta, "finalizers", kept)
    if resource.has_generation and new.get("spec") != old.get("spec"):
        meta["generation"] = before.get("generation", 0) + 1
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        _set_or_drop(meta, key, meta.get(key))


def _set_or_drop(meta: Obj, key: str, value: Any) -> None:
    if value:
        meta[key] = value
    else:
        meta.pop(key, None)


def mark_deleted(resource: Resource, meta: Obj, now: float, grace: int) -> None:
    """Begin a deletion, or shorten the grace of one that is under way."""
    if "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
        meta["deletionTimestamp"] = timestamp(now + grace)
        meta["deletionGracePeriodSeconds"] = grace
        if resource.has_generation:
            meta["generation"] = meta.get("generation", 0) + 1


def may_be_removed(meta: Obj) -> bool:
    """Whether a deletion is under way that waits for nothing any more."""
    waits = bool(meta.get("finalizers")) or meta.get("deletionGracePeriodSeconds", 0) > 0
    return "deletionTimestamp" in meta and not waits

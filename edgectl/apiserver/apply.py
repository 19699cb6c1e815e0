"""Server-side apply: who manages which fields, and what follows from it. Pure.

Ownership is tracked from the first server-side apply of an object on; what was there before belongs to a manager
called ``before-first-apply``, as in Kubernetes for objects older than the feature.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.fieldsets import Fields, FieldSet, decode, encode, shown
from edgectl.apiserver.resources import Resource
from edgectl.apiserver.schema_all import schema

Obj = dict[str, Any]

BEFORE = "before-first-apply"
MAX_MANAGERS = 10
"""The most entries of plain updates that are kept (as in kube-apiserver); the oldest are folded together."""

_SERVER_OWNED = frozenset(
    ("f:metadata", f"f:{name}")
    for name in (
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generateName",
    )
)


@dataclass(frozen=True, slots=True)
class Manager:
    """Who changes an object. ``operation`` is ``Apply`` or ``Update``."""

    name: str
    operation: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    manager: Manager
    fields: FieldSet
    time: str


def _fields() -> Fields:
    return Fields(schema())


def fields_of(obj: Obj, kind: str) -> FieldSet:
    """The fields of an object that can be managed."""
    kept = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    found = _fields().of({**obj, "metadata": kept}, kind)
    return frozenset(path for path in found if path[:2] not in _SERVER_OWNED)


def _entries(obj: Obj) -> list[_Entry]:
    return [
        _Entry(
            Manager(one.get("manager", ""), one.get("operation", "Update"), one.get("subresource", "")),
            decode(one.get("fieldsV1", {})),
            one.get("time", ""),
        )
        for one in obj["metadata"].get("managedFields", ())
    ]


def _encoded(resource: Resource, entries: Sequence[_Entry]) -> list[Obj]:
    made = []
    for entry in entries:
        if not entry.fields:
            continue
        one: Obj = {
            "manager": entry.manager.name,
            "operation": entry.manager.operation,
            "apiVersion": resource.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(entry.fields),
        }
        if entry.manager.subresource:
            one["subresource"] = entry.manager.subresource
        made.append(one)
    return made


def first_entry(resource: Resource, obj: Obj, manager: Manager, now: str) -> list[Obj]:
    """The ``managedFields`` of an object that an apply creates."""
    return _encoded(resource, [_Entry(manager, fields_of(obj, resource.kind), now)])


def applied(
    resource: Resource, live: Obj, config: Obj, manager: Manager, now: str, *, force: bool
) -> tuple[Obj, list[Obj]]:
    """What applying a configuration makes of an object, and its new ``managedFields``.

    :raises ApiError: (409) if a field it sets otherwise belongs to another manager, unless ``force``.
    """
    kind, tool = resource.kind, _fields()
    wanted = fields_of(config, kind)
    entries = _entries(live)
    if not entries:
        created = live["metadata"].get("creationTimestamp", now)
        entries = [_Entry(Manager(BEFORE, "Update"), fields_of(live, kind), created)]
    others = [one for one in entries if one.manager != manager]
    mine = next((one for one in entries if one.manager == manager), None)
    taken = _contested(tool, kind, live, config, wanted, others)
    if taken and not force:
        raise _conflict(taken)
    lost = frozenset(path for _, path in taken)
    others = [_Entry(one.manager, one.fields - lost, one.time) for one in others]
    merged = tool.merge(live, copy.deepcopy(config), kind)
    given_up = (mine.fields if mine is not None else frozenset()) - wanted
    kept = frozenset(path for one in others for path in one.fields) | wanted
    free = [path for path in given_up if not any(other[: len(path)] == path for other in kept)]
    merged = tool.without(merged, free, kind)
    unchanged = mine is not None and mine.fields == wanted and not lost
    entry = _Entry(manager, wanted, mine.time if unchanged and mine is not None else now)
    return merged, _encoded(resource, [*others, entry])


def _contested(
    tool: Fields, kind: str, live: Obj, config: Obj, wanted: FieldSet, others: Sequence[_Entry]
) -> list[tuple[_Entry, tuple[str, ...]]]:
    """Fields that others manage and the configuration would change."""
    return [
        (entry, path)
        for entry in others
        for path in sorted(entry.fields & wanted)
        if not path[-1].startswith(("k:", "v:")) and tool.value(live, path, kind) != tool.value(config, path, kind)
    ]


def _conflict(taken: Sequence[tuple[_Entry, tuple[str, ...]]]) -> ApiError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{entry.manager.name}" using {entry.manager.operation}',
            "field": shown(path),
        }
        for entry, path in taken
    ]
    plural = "s" if len(causes) > 1 else ""
    listed = "; ".join(f"{one['message']}: {one['field']}" for one in causes)
    message = f"Apply failed with {len(causes)} conflict{plural}: {listed}"
    return ApiError(409, "Conflict", message, {"causes": causes})


def tracked(resource: Resource, new: Obj, old: Obj, manager: Manager, now: str) -> list[Obj]:
    """The ``managedFields`` after a plain change: what it changed is the changer's, what is gone is nobody's."""
    kind, tool = resource.kind, _fields()
    before, after = fields_of(old, kind), fields_of(new, kind)
    changed = frozenset(
        path
        for path in after
        if path not in before
        or (not path[-1].startswith(("k:", "v:")) and tool.value(new, path, kind) != tool.value(old, path, kind))
    )
    entries = [_Entry(one.manager, (one.fields & after) - changed, one.time) for one in _entries(old)]
    if changed:
        mine = next((one for one in entries if one.manager == manager), None)
        own = changed | (mine.fields if mine is not None else frozenset())
        entries = [one for one in entries if one.manager != manager]
        entries.append(_Entry(manager, own, now))
    return _encoded(resource, _capped(entries))


def _capped(entries: list[_Entry]) -> list[_Entry]:
    updates = [one for one in entries if one.manager.operation == "Update"]
    surplus = updates[: max(len(updates) - MAX_MANAGERS, 0)]
    if not surplus:
        return entries
    folded = frozenset(path for one in surplus for path in one.fields)
    oldest = _Entry(Manager("ancient-changes", "Update"), folded, surplus[-1].time)
    return [oldest, *(one for one in entries if one not in surplus)]

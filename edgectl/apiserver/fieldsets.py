"""Sets of fields of an object, as server-side apply speaks of them. Pure.

A field is a path of steps: ``f:name`` a member, ``k:{…}`` the item of a list with these keys, ``v:…`` a value of a set.
Encoding: ``FieldsV1`` of ``sigs.k8s.io/structured-merge-diff``, where ``.`` stands for an item itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgectl.apiserver.schema import Field, Schema, Type, TypeRef

Path = tuple[str, ...]
FieldSet = frozenset[Path]

KEY_DEFAULTS: dict[str, Any] = {"protocol": "TCP"}
"""What an item's key is when it is left out; the one such default among these kinds."""


class NoKey(ValueError):
    """An item of a list lacks one of the members by which it is known."""


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def item_step(field: Field, item: Any) -> str:
    """The step to an item of a list.

    :raises NoKey: if it lacks a key.
    """
    if field.is_set:
        return f"v:{_dump(item)}"
    keys = {}
    for key in field.keys:
        value = item.get(key, KEY_DEFAULTS.get(key)) if isinstance(item, dict) else None
        if value is None:
            raise NoKey(f"{field.name}: an item lacks its key {key!r}")
        keys[key] = value
    return f"k:{_dump(keys)}"


class Fields:
    """Reads, merges and removes fields by one schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def of(self, obj: dict[str, Any], type_name: str) -> FieldSet:
        """All fields that an object sets, but for what tells which object it is."""
        found: set[Path] = set()
        self._collect(obj, self._schema.get(type_name), (), found)
        identity = {("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace")}
        return frozenset(found - identity)

    def _collect(self, value: Any, type_: Type | None, path: Path, found: set[Path]) -> None:
        for name, member in value.items():
            field = type_.fields.get(name) if type_ is not None else None
            self._member(member, field, (*path, f"f:{name}"), found)

    def _member(self, member: Any, field: Field | None, path: Path, found: set[Path]) -> None:
        if field is not None and isinstance(member, list) and (field.keys or field.is_set):
            inner = self._schema.get(field.type.name)
            for item in member:
                step = (*path, item_step(field, item))
                found.add(step)
                if field.keys:
                    self._collect(item, inner, step, found)
        elif isinstance(member, dict) and member and field is not None and not self._atomic(field):
            self._collect(member, self._inner(field, member), path, found)
        else:
            found.add(path)

    def _atomic(self, field: Field) -> bool:
        return field.type.name == "any"

    def _inner(self, field: Field, member: dict[str, Any]) -> Type | None:
        if field.type.shape == "map":
            return Type(field.name, fields={key: Field(key, TypeRef(field.type.name)) for key in member})
        return self._schema.get(field.type.name)

    def merge(self, live: dict[str, Any], applied: dict[str, Any], type_name: str) -> dict[str, Any]:
        """``live`` with everything that ``applied`` sets; neither is altered."""
        return self._merge(live, applied, self._schema.get(type_name))

    def _merge(self, live: dict[str, Any], applied: dict[str, Any], type_: Type | None) -> dict[str, Any]:
        result = dict(live)
        for name, value in applied.items():
            field = type_.fields.get(name) if type_ is not None else None
            before = live.get(name)
            if field is None or before is None:
                result[name] = value
            elif isinstance(value, list) and isinstance(before, list) and (field.keys or field.is_set):
                result[name] = self._merge_items(before, value, field)
            elif isinstance(value, dict) and isinstance(before, dict) and not self._atomic(field):
                result[name] = self._merge(before, value, self._inner(field, {**before, **value}))
            else:
                result[name] = value
        return result

    def _merge_items(self, live: list[Any], applied: list[Any], field: Field) -> list[Any]:
        inner = self._schema.get(field.type.name)
        wanted = {item_step(field, item): item for item in applied}
        result = []
        for item in live:
            new = wanted.pop(item_step(field, item), None)
            both = isinstance(new, dict) and isinstance(item, dict)
            result.append(self._merge(item, new, inner) if both else item)
        return [*result, *wanted.values()]

    def value(self, obj: Any, path: Path, type_name: str) -> Any:
        """The value of a field, or ``None`` if it is not set."""
        type_ = self._schema.get(type_name)
        field: Field | None = None
        for step in path:
            if step.startswith("f:"):
                name = step[2:]
                if not isinstance(obj, dict) or name not in obj:
                    return None
                obj, field = obj[name], type_.fields.get(name) if type_ is not None else None
                type_ = self._inner(field, obj) if field is not None and isinstance(obj, dict) else type_
                if field is not None and field.type.shape == "list":
                    type_ = self._schema.get(field.type.name)
            else:
                obj = self._item(obj, field, step)
        return obj

    def _item(self, items: Any, field: Field | None, step: str) -> Any:
        if not isinstance(items, list) or field is None:
            return None
        return next((one for one in items if item_step(field, one) == step), None)

    def without(self, obj: dict[str, Any], paths: Iterable[Path], type_name: str) -> dict[str, Any]:
        """The object without these fields, and without what is left empty by that."""
        result = obj
        # Whole items before their fields: without its keys an item could not be told any more.
        for path in sorted(paths, key=len):
            result = self._drop(result, path, self._schema.get(type_name))
        return result

    def _drop(self, obj: dict[str, Any], path: Path, type_: Type | None) -> dict[str, Any]:
        name = path[0][2:]
        if name not in obj:
            return obj
        rest = {key: value for key, value in obj.items() if key != name}
        if len(path) == 1:
            return rest
        field = type_.fields.get(name) if type_ is not None else None
        member = obj[name]
        if isinstance(member, list) and field is not None:
            left: Any = self._drop_item(member, path[1:], field)
        elif isinstance(member, dict) and field is not None:
            left = self._drop(member, path[1:], self._inner(field, member))
        else:
            return obj
        if not left and member:
            return rest
        return {key: left if key == name else value for key, value in obj.items()}

    def _drop_item(self, items: list[Any], path: Path, field: Field) -> list[Any]:
        inner = self._schema.get(field.type.name)
        result = []
        for item in items:
            if item_step(field, item) != path[0]:
                result.append(item)
            elif len(path) > 1:
                result.append(self._drop(item, path[1:], inner))
        return result


def encode(fields: Iterable[Path]) -> dict[str, Any]:
    """The ``fieldsV1`` of a set."""
    made: dict[str, Any] = {}
    for path in sorted(fields):
        node = made
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node["."] = {}
    return made


def decode(fields: Any) -> FieldSet:
    """The set that a ``fieldsV1`` stands for."""
    found: set[Path] = set()
    todo: list[tuple[Path, Any]] = [((), fields)]
    while todo:
        path, node = todo.pop()
        members = node.items() if isinstance(node, dict) else ()
        if path and (not members or any(step == "." for step, _ in members)):
            found.add(path)
        todo += [((*path, step), member) for step, member in members if step != "."]
    return frozenset(found)


def shown(path: Sequence[str]) -> str:
    """A field as conflicts name it: ``.spec.containers[name="web"].image``."""
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        elif step.startswith("k:"):
            pairs = json.loads(step[2:]).items()
            text += "[" + ",".join(f"{key}={_dump(value)}" for key, value in pairs) + "]"
        else:
            text += f"[={step[2:]}]"
    return text

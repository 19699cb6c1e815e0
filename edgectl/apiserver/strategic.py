"""Strategic merge patch: a merge patch that knows which lists are maps.

Directives: ``k8s.io/community/contributors/devel/sig-api-machinery/strategic-merge-patch.md``.
"""

from __future__ import annotations

import copy
from typing import Any

from edgectl.apiserver.patch import PatchFailed
from edgectl.apiserver.schema import Field, Schema, Type

_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(schema: Schema, target: dict[str, Any], patch: Any, type_name: str) -> dict[str, Any]:
    """``target`` changed by the patch; neither argument is altered.

    :raises PatchFailed: if the patch is malformed.
    """
    if not isinstance(patch, dict):
        raise PatchFailed("a strategic merge patch is an object")
    merged = _merge_object(schema, copy.deepcopy(target), patch, schema.get(type_name))
    return merged or {}


def _merge_object(schema: Schema, target: dict[str, Any], patch: dict[str, Any], type_: Type | None) -> Any:
    directive = patch.get("$patch", "merge")
    if directive == "delete":
        return None
    if directive == "replace":
        return _plain(patch)
    if directive != "merge":
        raise PatchFailed(f"$patch: {directive!r} is neither merge, replace nor delete")
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        target = {key: value for key, value in target.items() if key in retained}
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_member(schema, target, key, value, type_)
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVES):
            name = key.removeprefix(_DELETE_PRIMITIVES)
            target[name] = [one for one in target.get(name, []) if one not in _listed(value, key)]
    for key, value in patch.items():
        if key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            field = type_.fields.get(name) if type_ else None
            if isinstance(target.get(name), list):
                target[name] = _ordered(target[name], _listed(value, key), field)
    return target


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise PatchFailed(f"{key} is not a list")
    return value


def _merge_member(schema: Schema, target: dict[str, Any], key: str, value: Any, type_: Type | None) -> None:
    field = type_.fields.get(key) if type_ else None
    if value is None:
        target.pop(key, None)
    elif isinstance(value, dict):
        base = target.get(key)
        inner = schema.get(field.type.name) if field and field.type.shape == "" else None
        base = base if isinstance(base, dict) else {}
        if field and field.type.shape == "map":
            merged = _merge_map(schema, base, value, field)
        else:
            merged = _merge_object(schema, base, value, inner)
        if merged is None:
            target.pop(key, None)
        else:
            target[key] = merged
    elif isinstance(value, list) and field and (field.keys or field.is_set):
        base = target.get(key)
        target[key] = _merge_list(schema, base if isinstance(base, list) else [], value, field)
    else:
        target[key] = _plain(value)


def _merge_map(schema: Schema, base: dict[str, Any], patch: dict[str, Any], field: Field) -> Any:
    inner = schema.get(field.type.name)
    if inner is None:
        return _merge_object(schema, base, patch, None)
    holder = Type(field.name, fields={key: Field(key, field.type.element) for key in patch})
    return _merge_object(schema, base, patch, holder)


def _plain(value: Any) -> Any:
    """The value without directives and nulls."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return [_plain(one) for one in value if not (isinstance(one, dict) and one.get("$patch") == "delete")]
    return value


def _merge_list(schema: Schema, base: list[Any], patch: list[Any], field: Field) -> list[Any]:
    if field.is_set:
        return base + [one for index, one in enumerate(patch) if one not in base and one not in patch[:index]]
    key = field.keys[0]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        kept = [item for item in patch if not (isinstance(item, dict) and set(item) == {"$patch"})]
        return [_plain(item) for item in kept]
    result = list(base)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise PatchFailed(f"an item of {field.name} does not contain the merge key {key!r}")
        _merge_item(schema, result, item, field)
    return result


def _merge_item(schema: Schema, result: list[Any], item: dict[str, Any], field: Field) -> None:
    key = field.keys[0]
    places = [index for index, one in enumerate(result) if isinstance(one, dict) and one.get(key) == item[key]]
    if item.get("$patch") == "delete":
        for index in reversed(places):
            del result[index]
    elif places:
        result[places[0]] = _merge_object(schema, result[places[0]], item, schema.get(field.type.name))
    else:
        result.append(_plain(item))


def _ordered(items: list[Any], order: list[Any], field: Field | None) -> list[Any]:
    """The items in the order the client gave; those it does not name stay behind the neighbour they had."""
    key = field.keys[0] if field and field.keys else None

    def identity(item: Any) -> Any:
        return item.get(key) if key is not None and isinstance(item, dict) else item

    wanted = [identity(one) for one in order]
    named = sorted((one for one in items if identity(one) in wanted), key=lambda one: wanted.index(identity(one)))
    result: list[Any] = list(named)
    before: Any = None
    for item in items:
        if identity(item) not in wanted:
            result.insert(0 if before is None else result.index(before) + 1, item)
        before = item
    return result

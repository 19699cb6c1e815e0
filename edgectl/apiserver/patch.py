"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

MAX_OPERATIONS = 10_000
"""The most operations of one JSON patch (kube-apiserver's own limit)."""
MAX_COPIED = 3 << 20
"""The most bytes of JSON that the copies of one JSON patch make (its limit too): forty of them could make terabytes."""


class PatchFailed(ValueError):
    """The patch is malformed, or does not fit the object. The message names the operation."""


def merge(target: Any, patch: Any) -> Any:
    """``target`` changed by a merge patch; neither argument is altered."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """``target`` changed by all operations, in order, or not at all.

    :raises PatchFailed: if one does not apply (a failed ``test`` included).
    """
    if not isinstance(operations, list):
        raise PatchFailed("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise PatchFailed(f"the JSON patch has {len(operations)} operations; the most is {MAX_OPERATIONS}")
    document = copy.deepcopy(target)
    budget = MAX_COPIED
    for index, operation in enumerate(operations):
        try:
            if operation["op"] == "copy":
                budget -= len(json.dumps(_read(document, _pointer(operation["from"]))))
                if budget < 0:
                    raise PatchFailed(f"the patch copies more than {MAX_COPIED} bytes")
            document = _one(document, operation)
        except (PatchFailed, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise PatchFailed(f"operation {index} of the JSON patch does not apply: {error}") from error
    return document


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchFailed(f"{text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _child(node: Any, part: str) -> Any:
    if isinstance(node, list):
        return node[_index(part, len(node) - 1)]
    if not isinstance(node, dict) or part not in node:
        raise PatchFailed(f"there is no {part!r}")
    return node[part]


def _index(part: str, most: int) -> int:
    if not part.isdigit() or int(part) > most:
        raise PatchFailed(f"there is no item {part!r}")
    return int(part)


def _read(document: Any, path: list[str]) -> Any:
    for part in path:
        document = _child(document, part)
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _read(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else _index(path[-1], len(parent)), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise PatchFailed(f"{'/'.join(path[:-1])!r} has no members")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise PatchFailed("the whole document cannot be removed")
    parent = _read(document, path[:-1])
    _child(parent, path[-1])
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
    return document


def _replace(document: Any, path: list[str], value: Any) -> Any:
    return _add(_remove(document, path), path, value) if path else value


def _test(document: Any, path: list[str], value: Any) -> Any:
    if _read(document, path) != value:
        raise PatchFailed(f"the test of {'/' + '/'.join(path)!r} failed")
    return document


def _one(document: Any, operation: dict[str, Any]) -> Any:
    path = _pointer(operation["path"])
    name = operation["op"]
    with_value: dict[str, Callable[[Any, list[str], Any], Any]] = {"add": _add, "replace": _replace, "test": _test}
    if name in with_value:
        return with_value[name](document, path, copy.deepcopy(operation["value"]))
    if name == "remove":
        return _remove(document, path)
    if name not in ("move", "copy"):
        raise PatchFailed(f"{name!r} is no operation")
    source = _pointer(operation["from"])
    value = _read(document, source)
    if name == "copy":
        value = copy.deepcopy(value)
    else:
        if path[: len(source)] == source and path != source:
            raise PatchFailed("a value cannot be moved into itself")
        document = _remove(document, source)
    return _add(document, path, value)

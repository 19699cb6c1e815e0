"""Reads an object as its type says: drops what is unknown, refuses what has the wrong shape."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass, field
from typing import Any

from edgectl.apiserver import quantity
from edgectl.apiserver.errors import Cause, required
from edgectl.apiserver.schema import Field, Schema, Type, TypeRef

MAX_DEPTH = 100
"""Nesting past which a free-form value is refused; no kind comes near it."""


class WrongShape(ValueError):
    """A value is not of its field's type. The message names the field."""


@dataclass
class Decoder:
    """Reads values of one schema. ``unknown`` collects the paths of fields that no type has."""

    schema: Schema
    unknown: list[str] = field(default_factory=list)

    def decode(self, value: dict[str, Any], type_name: str) -> dict[str, Any]:
        """A copy of ``value`` with only what the type knows, nulls and empty lists and maps left out, quantities
        in canonical form.

        :raises WrongShape: if a value has the wrong type.
        """
        type_ = self.schema.get(type_name)
        if type_ is None:
            raise WrongShape(f"no such type: {type_name}")
        return self._object(value, type_, "")

    def _object(self, value: Any, type_: Type, path: str) -> dict[str, Any]:
        result = {}
        for name, member in _mapping(value, path).items():
            where = f"{path}.{name}" if path else name
            known = type_.fields.get(name)
            if known is None:
                self.unknown.append(where)
            elif member is not None:
                decoded = self._value(member, known.type, where)
                if decoded or not known.type.shape:
                    result[name] = decoded
        return result

    def _value(self, value: Any, ref: TypeRef, path: str) -> Any:
        if ref.shape == "list":
            if not isinstance(value, list):
                raise WrongShape(f"{path}: expected a list, got {_kind_of(value)}")
            return [self._value(one, ref.element, f"{path}[{index}]") for index, one in enumerate(value)]
        if ref.shape == "map":
            members = _mapping(value, path).items()
            return {
                _text(key, path): self._value(one, ref.element, f"{path}.{key}")
                for key, one in members
                if one is not None
            }
        type_ = self.schema.get(ref.name)
        return self._object(value, type_, path) if type_ is not None else _scalar(value, ref.name, path)


def missing(schema: Schema, value: dict[str, Any], type_name: str, path: str = "") -> list[Cause]:
    """The required fields that a decoded value lacks. Status is left out: it is what was seen, not what is asked."""
    type_ = schema.get(type_name)
    if type_ is None:
        return []
    causes = [
        required(f"{path}{one.name}")
        for one in type_.fields.values()
        if one.required and value.get(one.name) in (None, [])
    ]
    for name, member in value.items():
        if name == "status" and not path:
            continue
        causes += _missing_below(schema, type_.fields[name], member, f"{path}{name}")
    return causes


def _missing_below(schema: Schema, one: Field, member: Any, where: str) -> list[Cause]:
    if one.type.shape == "list":
        items = [(f"{where}[{index}].", item) for index, item in enumerate(member)]
    elif one.type.shape == "map":
        items = [(f"{where}.{key}.", item) for key, item in member.items()]
    else:
        items = [(f"{where}.", member)]
    return [
        cause for path, item in items if isinstance(item, dict) for cause in missing(schema, item, one.type.name, path)
    ]


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongShape(f"{path or 'the object'}: expected an object, got {_kind_of(value)}")
    return value


def _kind_of(value: Any) -> str:
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise WrongShape(f"{path}: is no text: {error.reason}") from None
    return value


def _depth(value: Any, path: str, level: int = 0) -> None:
    if level > MAX_DEPTH:
        raise WrongShape(f"{path}: is nested deeper than {MAX_DEPTH} levels")
    for one in (value,) if isinstance(value, str) else value if isinstance(value, dict) else ():
        _text(one, path)
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongShape(f"{path}: {value} is no number in JSON")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _depth(one, path, level + 1)


def _scalar(value: Any, name: str, path: str) -> Any:
    if name == "any":
        _depth(value, path)
        return value
    if name == "quantity":
        return _quantity(value, path)
    if name == "bytes":
        return _bytes(value, path)
    if isinstance(value, str):
        _text(value, path)
    # Python reads NaN and Infinity, which are no JSON.
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    whole = number and int(value) == value
    fits = {
        "bool": isinstance(value, bool),
        "int": whole,
        "number": number,
        "intorstring": whole or isinstance(value, str),
    }.get(name, isinstance(value, str))
    if not fits:
        raise WrongShape(f"{path}: expected {name}, got {_kind_of(value)}")
    return int(value) if name == "int" else value


def _quantity(value: Any, path: str) -> str:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise WrongShape(f"{path}: expected a quantity, got {_kind_of(value)}")
    try:
        return quantity.canonical(value)
    except quantity.InvalidQuantity as error:
        raise WrongShape(f"{path}: {error}") from None


def _bytes(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise WrongShape(f"{path}: expected base64, got {_kind_of(value)}")
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise WrongShape(f"{path}: is not base64") from None
    return value

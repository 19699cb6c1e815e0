"""A small language for what an object may hold, and the walk that checks an object against it.

A field is supported, ignored (with the reason) or refused (with the reason). A field that the schema does not know
is refused as well: nothing in a pod's specification is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from appengine.quantity import parse_quantity

_MAX_PROBLEMS = 8


class Support(Enum):
    SUPPORTED = "supported"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Type:
    """A type of value. ``check`` gives what is wrong with a scalar, or ``None``."""

    name: str
    check: Callable[[Any], str | None] | None = None
    fields: Mapping[str, Field] | None = None
    items: Type | None = None
    values: Type | None = None


@dataclass(frozen=True, slots=True)
class Field:
    type: Type
    support: Support = Support.SUPPORTED
    note: str = ""
    only: frozenset[Any] = field(default_factory=frozenset)
    """Where not empty: the values that are supported."""


def _instance(kind: type, called: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return None
        return f"must be {called}, not {type(value).__name__}"

    return check


def _int_or_string(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return f"must be an integer or a string, not {type(value).__name__}"
    return None


def _quantity(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return f"must be a quantity, not {type(value).__name__}"
    try:
        parse_quantity(value)
    except ValueError as error:
        return str(error)
    return None


STRING = Type("string", _instance(str, "a string"))
INTEGER = Type("integer", _instance(int, "an integer"))
BOOLEAN = Type("boolean", _instance(bool, "true or false"))
QUANTITY = Type("quantity", _quantity)
INT_OR_STRING = Type("integer or string", _int_or_string)
ANY = Type("any")


def objects(fields: Mapping[str, Field]) -> Type:
    return Type("object", fields=fields)


def lists(items: Type) -> Type:
    return Type("list", items=items)


def maps(values: Type) -> Type:
    return Type("map", values=values)


def yes(type: Type, note: str = "", *, only: tuple[Any, ...] = ()) -> Field:
    return Field(type, Support.SUPPORTED, note, frozenset(only))


def ignored(type: Type, note: str) -> Field:
    return Field(type, Support.IGNORED, note)


def refused(type: Type, note: str) -> Field:
    return Field(type, Support.REFUSED, note)


def _nothing(value: Any) -> bool:
    """Whether a value says no more than if the field were absent."""
    return value is None or value is False or value in ("", [], {}) or (value == 0 and not isinstance(value, bool))


def problems(type: Type, value: Any, path: str) -> Iterator[str]:
    """What is wrong with a value, as sentences that name the field."""
    if type.fields is not None:
        if not isinstance(value, dict):
            yield f"{path}: must be an object, not {_kind(value)}"
            return
        for name, inner in value.items():
            where = f"{path}.{name}" if path else str(name)[:80]
            known = type.fields.get(name)
            if known is None:
                if inner is not None:
                    yield f"{where[:200]}: this node does not know the field"
            else:
                yield from _field_problems(known, inner, where)
    elif type.items is not None:
        if not isinstance(value, list):
            yield f"{path}: must be a list, not {_kind(value)}"
            return
        for index, inner in enumerate(value):
            yield from problems(type.items, inner, f"{path}[{index}]")
    elif type.values is not None:
        if not isinstance(value, dict):
            yield f"{path}: must be an object, not {_kind(value)}"
            return
        for name, inner in value.items():
            yield from problems(type.values, inner, f"{path}[{str(name)[:80]}]")
    elif type.check is not None and (wrong := type.check(value)) is not None:
        yield f"{path}: {wrong}"


def _field_problems(known: Field, value: Any, path: str) -> Iterator[str]:
    if value is None or known.support is Support.IGNORED:
        return
    if known.support is Support.REFUSED:
        if not _nothing(value):
            yield f"{path}: not supported: {known.note}"
        return
    wrong = False
    for problem in problems(known.type, value, path):
        wrong = True
        yield problem
    if not wrong and known.only and value not in known.only:
        allowed = ", ".join(sorted(map(str, known.only)))
        yield f"{path}: {str(value)[:80]!r} is not supported (supported: {allowed})"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def first_problems(type: Type, value: Any, path: str) -> list[str]:
    """At most a handful of problems: enough to mend the object, and never a message without bound."""
    found: list[str] = []
    for problem in problems(type, value, path):
        found.append(problem)
        if len(found) == _MAX_PROBLEMS:
            break
    return found

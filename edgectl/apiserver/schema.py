"""The types of the API, parsed from short tables: what fields there are, and how lists merge.

A table is text; a type begins at the margin, its fields are indented::

    Container ; A container of a pod.
      name! string ; Name of the container, unique in the pod.
      env []EnvVar key=name
      ports []ContainerPort key=containerPort,protocol

``!`` marks a required field. A type is a scalar (``string bool int number quantity intorstring time microtime
bytes any``), the name of another type, ``[]T``, or ``{}T`` (a map from strings). ``key=`` makes a list a map by
those members (the first is the strategic merge key), ``set`` makes it a set, ``retain`` is the strategic patch
strategy ``retainKeys``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SCALARS = frozenset({"string", "bool", "int", "number", "quantity", "intorstring", "time", "microtime", "bytes", "any"})


@dataclass(frozen=True, slots=True)
class TypeRef:
    """``name`` is a scalar or a named type; ``shape`` is ``""``, ``"list"`` or ``"map"`` of it."""

    name: str
    shape: str = ""

    @property
    def element(self) -> TypeRef:
        return TypeRef(self.name)


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: TypeRef
    required: bool = False
    keys: tuple[str, ...] = ()
    is_set: bool = False
    retain_keys: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Type:
    name: str
    description: str = ""
    fields: dict[str, Field] = field(default_factory=dict)


class Schema:
    """A closed set of types."""

    def __init__(self, types: Mapping[str, Type]) -> None:
        self._types = dict(types)
        for type_ in types.values():
            for one in type_.fields.values():
                if one.type.name not in SCALARS and one.type.name not in self._types:
                    raise ValueError(f"{type_.name}.{one.name}: there is no type {one.type.name!r}")

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[Type]:
        return iter(self._types.values())

    def get(self, name: str) -> Type | None:
        """The named type, or ``None`` for a scalar (and for a type unknown)."""
        return self._types.get(name)


def _parse_type(word: str) -> TypeRef:
    if word.startswith("[]"):
        return TypeRef(word[2:], "list")
    if word.startswith("{}"):
        return TypeRef(word[2:], "map")
    return TypeRef(word)


def _parse_field(line: str) -> Field:
    spec, _, description = line.partition(";")
    name, type_word, *options = spec.split()
    keys: tuple[str, ...] = ()
    for option in options:
        if option.startswith("key="):
            keys = tuple(option[4:].split(","))
        elif option not in ("set", "retain"):
            raise ValueError(f"schema table: option {option!r} in {line!r} is unknown")
    return Field(
        name.rstrip("!"),
        _parse_type(type_word),
        name.endswith("!"),
        keys,
        "set" in options,
        "retain" in options,
        description.strip(),
    )


def parse(*tables: str) -> Schema:
    """The types of all tables.

    :raises ValueError: if a table names a type that none has.
    """
    types: dict[str, Type] = {}
    current: Type | None = None
    for line in (line for table in tables for line in table.splitlines()):
        if not line.strip():
            continue
        if line[0] != " ":
            name, _, description = line.partition(";")
            current = types[name.strip()] = Type(name.strip(), description.strip())
        elif current is not None:
            one = _parse_field(line)
            current.fields[one.name] = one
    return Schema(types)

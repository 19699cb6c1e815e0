"""Label and field selectors, as text in queries and as objects in specs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.apiserver.errors import bad_request
from edgectl.apiserver.resources import Resource

Predicate = Callable[[Mapping[str, Any]], bool]

_NAME = r"(?:[A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_IN = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_NAME})\s*(==|!=|=)\s*([A-Za-z0-9_.-]*)")
_COMPARE = re.compile(rf"({_NAME})\s*([<>])\s*(-?[0-9]+)")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label. ``operator`` is that of a LabelSelectorRequirement, or ``Gt``/``Lt``."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        present = self.key in labels
        if self.operator == "Exists":
            return present
        if self.operator == "DoesNotExist":
            return not present
        if self.operator == "NotIn":
            return not present or labels[self.key] not in self.values
        if self.operator == "In":
            return present and labels[self.key] in self.values
        return present and self._compare(labels[self.key])

    def _compare(self, value: str) -> bool:
        try:
            left, right = int(value), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return left > right if self.operator == "Gt" else left < right


def _split(text: str) -> list[str]:
    """At commas that stand outside parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _requirement(text: str) -> Requirement:
    if match := _IN.fullmatch(text):
        values = tuple(value.strip() for value in match[3].split(","))
        return Requirement(match[1], "In" if match[2] == "in" else "NotIn", values)
    if match := _EQUAL.fullmatch(text):
        return Requirement(match[1], "NotIn" if match[2] == "!=" else "In", (match[3],))
    if match := _COMPARE.fullmatch(text):
        return Requirement(match[1], "Gt" if match[2] == ">" else "Lt", (match[3],))
    if match := _EXISTS.fullmatch(text):
        return Requirement(match[2], "DoesNotExist" if match[1] else "Exists")
    raise bad_request(f"unable to parse requirement: {text!r} is no label selector")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """The requirements of a label selector such as ``app=web,tier notin (a,b),!old``.

    :raises ApiError: (400) if it is none.
    """
    return tuple(_requirement(part) for part in _split(text))


def matches_labels(requirements: Sequence[Requirement], labels: Mapping[str, str] | None) -> bool:
    return all(one.matches(labels or {}) for one in requirements)


def of_label_selector(selector: Mapping[str, Any] | None) -> tuple[Requirement, ...] | None:
    """The requirements of a LabelSelector object; ``None``, which matches nothing, for an absent one."""
    if selector is None:
        return None
    equal = [Requirement(key, "In", (value,)) for key, value in selector.get("matchLabels", {}).items()]
    more = [
        Requirement(one["key"], one["operator"], tuple(one.get("values", ())))
        for one in selector.get("matchExpressions", ())
    ]
    return (*equal, *more)


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str] | None) -> bool:
    """Whether a LabelSelector object selects an object with these labels."""
    requirements = of_label_selector(selector)
    return requirements is not None and matches_labels(requirements, labels)


def field_value(obj: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path as selectors see it: text, empty for what is absent."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    path: str
    equal: bool
    value: str

    def matches(self, obj: Mapping[str, Any]) -> bool:
        found = field_value(obj, self.path)
        if not found and self.value == "false":
            found = "false"
        return (found == self.value) is self.equal


def parse_fields(text: str, resource: Resource) -> tuple[FieldRequirement, ...]:
    """The requirements of a field selector such as ``spec.nodeName=a,status.phase!=Running``.

    :raises ApiError: (400) if it is none, or names a field that this kind cannot be selected by.
    """
    found = []
    for part in (one for one in text.split(",") if one):
        match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part)
        if match is None:
            raise bad_request(f"invalid selector: {part!r}; can't understand it")
        path = resource.selectable.get(match[1].strip())
        if path is None:
            raise bad_request(f"field label not supported: {match[1].strip()}")
        found.append(FieldRequirement(path, match[2] != "!=", match[3]))
    return tuple(found)


def predicate(resource: Resource, label_selector: str, field_selector: str) -> Predicate:
    """Whether an object is selected by both; an empty selector selects all."""
    labels = parse_labels(label_selector)
    fields = parse_fields(field_selector, resource)

    def selected(obj: Mapping[str, Any]) -> bool:
        return matches_labels(labels, obj["metadata"].get("labels")) and all(one.matches(obj) for one in fields)

    return selected

"""Objects that are kept for long take less memory when they share what they have in common. Pure."""

from __future__ import annotations

from sys import intern
from typing import Any

MAX_SHARED = 32
"""The longest value that is looked for among others; field names are shared whatever their length."""


def lasting(value: Any) -> Any:
    """A copy of what came from JSON, with one string for all that are equal, where that is likely.

    ``json`` makes a new string of each field's name for each document: of a Pod, they take most of its memory.
    """
    kind = type(value)
    if kind is dict:
        return {intern(name): lasting(each) for name, each in value.items()}
    if kind is list:
        return [lasting(each) for each in value]
    if kind is str and len(value) <= MAX_SHARED:
        return intern(value)
    return value

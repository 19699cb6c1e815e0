"""Kubernetes resource quantities (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Any

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(m|u|n|k|[KMGTPE]i|[MGTPE]|[eE][+-]?[0-9]{1,2})?")
_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_MAX_LENGTH = 40


def parse_quantity(text: Any) -> Decimal:
    """The number that a quantity spells, in its base unit (bytes, CPUs).

    :raises ValueError: naming the text, if it is no quantity.
    """
    spelled = str(text)
    match = _QUANTITY.fullmatch(spelled) if len(spelled) <= _MAX_LENGTH else None
    if match is None or isinstance(text, bool):
        raise ValueError(f"{spelled[:_MAX_LENGTH]!r} is not a quantity (like 500m, 64Mi or 2)")
    number, suffix = match.group(1), match.group(2) or ""
    if suffix and suffix[0] in "eE" and len(suffix) > 1 and suffix[1] != "i":
        return Decimal(number + suffix)
    return Decimal(number) * _SUFFIX[suffix]


def whole(value: Decimal) -> int:
    """The value as an integer, rounded up as Kubernetes does."""
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def bytes_of(text: Any) -> int:
    """A quantity of memory or storage in bytes."""
    return whole(parse_quantity(text))


def millicpu_of(text: Any) -> int:
    """A quantity of CPU in thousandths of a CPU."""
    return whole(parse_quantity(text) * 1000)

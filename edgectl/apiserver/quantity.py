"""Kubernetes quantities: exact numbers with a decimal, binary or exponent suffix (``100m``, ``1.5Gi``, ``2e3``).

Syntax and canonical form: ``k8s.io/apimachinery/pkg/api/resource``.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_FORM = re.compile(r"([+-]?[0-9]{1,24}(?:\.[0-9]{0,24})?|[+-]?\.[0-9]{1,24})([A-Za-z]{0,2}|[eE][+-]?[0-9]{1,2})")
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


class InvalidQuantity(ValueError):
    """The text is no quantity."""


def _split(text: str) -> tuple[Decimal, str]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidQuantity(f"{text[:64]!r} is not a quantity: write a number such as 500m, 2 or 1.5Gi")
    return Decimal(match[1]), match[2]


@lru_cache(4096)
def parse(value: str | int | float) -> Decimal:
    """The number that a quantity stands for.

    :raises InvalidQuantity: for text that is none.
    """
    number, suffix = _split(str(value))
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    if len(suffix) > 1 and suffix[0] in "eE":
        return number.scaleb(int(suffix[1:]))
    raise InvalidQuantity(f"{str(value)[:64]!r} is not a quantity: the suffix {suffix!r} is unknown")


def _canonical_binary(number: Decimal) -> str:
    for suffix, factor in reversed(_BINARY.items()):
        if abs(number) >= factor and number % factor == 0:
            return f"{int(number / factor)}{suffix}"
    return str(int(number)) if number == int(number) else _canonical_decimal(number)


def _canonical_decimal(number: Decimal) -> str:
    nano = (number.scaleb(9)).to_integral_value(ROUND_CEILING)
    for suffix, exponent in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        step = Decimal(1).scaleb(exponent + 9)
        if nano % step == 0 and nano != 0:
            return f"{int(nano / step)}{suffix}"
    return "0"


def canonical(value: str | int | float) -> str:
    """The form the API shows: no fraction, the largest suffix that needs none."""
    number = parse(value)
    suffix = _split(str(value))[1]
    return _canonical_binary(number) if suffix in _BINARY else _canonical_decimal(number)

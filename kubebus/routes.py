"""Longest-prefix routes. Pure.

A lookup costs one dictionary access for an address seen lately, else one for each prefix length in the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Generic, TypeVar

from kubebus.interfaces import IPNetwork

T = TypeVar("T")

_CACHE_SIZE: Final = 4096


class RouteTable(Generic[T]):
    """Subnets of both IP versions, and what each leads to."""

    def __init__(self) -> None:
        # By address length in bytes: shift -> prefix bits -> value, the longest prefix (smallest shift) first.
        self._tables: dict[int, dict[int, dict[int, T]]] = {4: {}, 16: {}}
        # Addresses seen lately, and what they lead to.
        self._known: dict[bytes, T | None] = {}

    def add(self, subnet: IPNetwork, value: T) -> None:
        """Let ``subnet`` lead to ``value``, whatever it led to before."""
        size, shift, bits = _place(subnet)
        self._tables[size].setdefault(shift, {})[bits] = value
        self._tables[size] = dict(sorted(self._tables[size].items()))
        self._known.clear()

    def remove(self, subnet: IPNetwork) -> None:
        """Forget ``subnet``, if it is there."""
        size, shift, bits = _place(subnet)
        entries = self._tables[size].get(shift, {})
        entries.pop(bits, None)
        if not entries:
            self._tables[size].pop(shift, None)
        self._known.clear()

    def get(self, subnet: IPNetwork) -> T | None:
        """What exactly this subnet leads to."""
        size, shift, bits = _place(subnet)
        return self._tables[size].get(shift, {}).get(bits)

    def lookup(self, address: bytes) -> T | None:
        """Where a packed address (4 or 16 bytes) leads to, or ``None``."""
        try:
            return self._known[address]
        except KeyError:
            return self._search(address)

    def _search(self, address: bytes) -> T | None:
        number = int.from_bytes(address, "big")
        found = None
        for shift, entries in self._tables[len(address)].items():
            found = entries.get(number >> shift)
            if found is not None:
                break
        if len(self._known) >= _CACHE_SIZE:
            self._known.clear()
        self._known[address] = found
        return found

    def __iter__(self) -> Iterator[tuple[IPNetwork, T]]:
        for size, shifts in self._tables.items():
            for shift, entries in shifts.items():
                for bits, value in entries.items():
                    yield _subnet(size, shift, bits), value

    def __len__(self) -> int:
        return sum(len(entries) for shifts in self._tables.values() for entries in shifts.values())


def _place(subnet: IPNetwork) -> tuple[int, int, int]:
    shift = subnet.max_prefixlen - subnet.prefixlen
    return subnet.max_prefixlen // 8, shift, int(subnet.network_address) >> shift


def _subnet(size: int, shift: int, bits: int) -> IPv4Network | IPv6Network:
    return ip_network(((bits << shift).to_bytes(size, "big"), size * 8 - shift))

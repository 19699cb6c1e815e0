"""Hands out the virtual addresses of services. An address taken is a record, written in the service's transaction."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from edgectl.apiserver.errors import Cause, wrong
from edgectl.apiserver.storage import ObjectStore
from metasync.model import Compare, Delete, KeyRange, Op, Put

Obj = dict[str, Any]

DEFAULT_CIDR = IPv4Network("10.96.0.0/16")
"""Part of kubeadm's default; outside the subnets of nodes and pods."""


class ClusterIps:
    """The addresses of one network. The first of the subnet is kept for the API itself."""

    def __init__(self, objects: ObjectStore, cidr: IPv4Network = DEFAULT_CIDR) -> None:
        self._objects = objects
        self._cidr = cidr

    @property
    def first(self) -> str:
        """The API's own."""
        return str(self._cidr[1])

    def _key(self, address: str) -> bytes:
        return self._objects.record_key("clusterips", address)

    @property
    def full(self) -> str:
        """What to say when no address is left."""
        return f"no free address is left in {self._cidr}; delete services, or use a larger service subnet"

    def wants(self, service: Obj) -> bool:
        """Whether a service is to get an address, or names one."""
        spec = service["spec"]
        return bool(spec["type"] != "ExternalName" and spec.get("clusterIP") != "None")

    def causes(self, service: Obj) -> list[Cause]:
        """What is wrong with the address that a service asks for."""
        asked = service["spec"].get("clusterIP", "")
        if asked in ("", "None"):
            return []
        try:
            fits = IPv4Address(asked) in self._cidr
        except ValueError:
            return [wrong("spec.clusterIP", asked, "must be empty, 'None', or a valid IP address")]
        message = f"failed to allocate IP {asked}: the provided IP is not in the valid range {self._cidr}"
        return [] if fits else [wrong("spec.clusterIP", asked, message)]

    async def candidates(self, service: Obj) -> list[str]:
        """Addresses to try, in order: the one asked for, else free ones."""
        asked = service["spec"].get("clusterIP")
        if asked:
            return [asked]
        prefix = self._key("")
        found = await self._objects.store.range(KeyRange.prefix(prefix), keys_only=True)
        taken = {kv.key.removeprefix(prefix).decode() for kv in found.kvs}
        return [address for _, address in zip(range(8), self._free(taken), strict=False)]

    def _free(self, taken: set[str]) -> Iterator[str]:
        """Free addresses from a random place on, so that an address is not used again at once."""
        size = self._cidr.num_addresses - 3
        start = random.randrange(size)
        for offset in range(size):
            address = str(self._cidr[2 + (start + offset) % size])
            if address not in taken:
                yield address

    def take(self, address: str, service: Obj) -> tuple[Sequence[Compare], Sequence[Op]]:
        """The condition and the write that make an address this service's."""
        meta = service["metadata"]
        key = self._key(address)
        return [Compare.absent(key)], [Put(key, f"{meta['namespace']}/{meta['name']}".encode())]

    def free(self, service: Obj) -> Sequence[Op]:
        """The write that gives the address of a deleted service back."""
        address = service.get("spec", {}).get("clusterIP", "None")
        return [] if address in ("", "None") else [Delete.single(self._key(address))]


def keep(new: Obj, old: Obj) -> list[Cause]:
    """Carry the address over into a changed service, in place; what is wrong if it names another."""
    spec, before = new["spec"], old["spec"]
    if spec["type"] == "ExternalName":
        return []
    address = before.get("clusterIP")
    if address and not spec.get("clusterIP"):
        spec["clusterIP"], spec["clusterIPs"] = address, before.get("clusterIPs", [address])
    if address and spec.get("clusterIP") != address:
        return [wrong("spec.clusterIPs[0]", spec.get("clusterIP"), "may not change once set")]
    return []

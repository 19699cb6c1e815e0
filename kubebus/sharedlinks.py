"""Which router has which node, for all routers of a network, in their registry. Pure but for the registry.

Kind ``links``: a record for each node that was ever connected, with its router (or none) and the epoch of its last
session. Every claim takes the next epoch by compare-and-swap, so a router that sees a higher epoch than its own link's
knows that the node has moved. Kind ``routers``: where each router is reached, and its own addresses in the network,
which are claimed as those of nodes are (kind ``addresses``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from kubebus.addresses import AddressPlan
from kubebus.interfaces import Change, IPAddress, Record, Registry, RegistryError, Subscription

LINKS: Final = "links"
ROUTERS: Final = "routers"
ADDRESSES: Final = "addresses"

_ROUNDS: Final = 32


@dataclass(frozen=True, slots=True)
class Claim:
    """The last session of a node. ``router`` is ``None`` when it has ended."""

    router: str | None
    epoch: int

    def encode(self) -> bytes:
        return json.dumps({"router": self.router, "epoch": self.epoch}).encode()

    @classmethod
    def decode(cls, name: str, value: bytes) -> Claim:
        """:raises RegistryError: if the record is damaged."""
        try:
            fields = json.loads(value)
            router = fields["router"]
            return cls(None if router is None else str(router), int(fields["epoch"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"the registry's record {LINKS}/{name} is damaged: remove it") from error


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """A router: ``host:port`` addresses for links to it, and its own in the network: one of each IP version."""

    reached_at: tuple[str, ...]
    own: tuple[IPAddress, ...]

    def encode(self) -> bytes:
        return json.dumps({"reachedAt": self.reached_at, "own": [str(address) for address in self.own]}).encode()

    @classmethod
    def decode(cls, name: str, value: bytes) -> RouterRecord:
        """:raises RegistryError: if the record is damaged."""
        try:
            fields = json.loads(value)
            return cls(tuple(map(str, fields["reachedAt"])), tuple(map(ip_address, fields["own"])))
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"the registry's record {ROUTERS}/{name} is damaged: remove it") from error


ClaimWatcher = Callable[[str, Claim | None], None]
RouterWatcher = Callable[[str, RouterRecord | None], None]


class SharedLinks:
    """One router's part in it.

    :param router: its name, which no other router of the network has.
    """

    def __init__(self, registry: Registry, router: str) -> None:
        self.router = router
        self._registry = registry

    async def claim(self, node: str) -> int:
        """The node has come to this router: the epoch of its new session.

        :raises RegistryError: if nothing is known of the claim.
        """
        for _ in range(_ROUNDS):
            record = await self._registry.get(LINKS, node)
            last = 0 if record is None else Claim.decode(node, record.value).epoch
            claim = Claim(self.router, last + 1)
            if await self._commit(LINKS, node, claim.encode(), record):
                return claim.epoch
        raise RegistryError(f"the link of node {node!r} could not be claimed: its record keeps changing")

    async def release(self, node: str, epoch: int) -> None:
        """That session is over. Nothing happens if the node has a newer one, here or elsewhere."""
        record = await self._registry.get(LINKS, node)
        if record is not None and Claim.decode(node, record.value) == Claim(self.router, epoch):
            # Losing this race means that there is a newer session.
            await self._commit(LINKS, node, Claim(None, epoch).encode(), record)

    async def begin(self, reached_at: Sequence[str], plan: AddressPlan) -> tuple[IPAddress, ...]:
        """This router starts: release what it held when it was killed, and say where it is.

        :return: its own addresses, which stay the same: the plan's for the first router, others from the pools' ends.
        """
        for record in await self._registry.list(LINKS):
            claim = Claim.decode(record.name, record.value)
            if claim.router == self.router:
                await self._commit(LINKS, record.name, Claim(None, claim.epoch).encode(), record)
        for _ in range(_ROUNDS):
            record_of_us = await self._registry.get(ROUTERS, self.router)
            changes: list[Change] = []
            if record_of_us is None:
                own, changes = await self._free_addresses(plan)
            else:
                own = RouterRecord.decode(self.router, record_of_us.value).own
            value = RouterRecord(tuple(reached_at), own).encode()
            revision = 0 if record_of_us is None else record_of_us.revision
            if await self._registry.commit([Change(ROUTERS, self.router, value, revision), *changes]):
                return own
        raise RegistryError(f"the addresses of router {self.router!r} could not be recorded")

    async def _free_addresses(self, plan: AddressPlan) -> tuple[tuple[IPAddress, ...], list[Change]]:
        """Addresses that nobody has, and the changes that claim them."""
        taken = {record.name for record in await self._registry.list(ADDRESSES)}
        own = tuple(next(a for a in _candidates(plan, i) if str(a) not in taken) for i in (0, 1))
        return own, [Change(ADDRESSES, str(address), f"router/{self.router}".encode(), 0) for address in own]

    def subscribe(self, links: ClaimWatcher, routers: RouterWatcher) -> Sequence[Subscription]:
        """Tell every claim, and every other router with its addresses, now and at every change."""

        def link_changed(name: str, record: Record | None) -> None:
            links(name, None if record is None else Claim.decode(name, record.value))

        def router_changed(name: str, record: Record | None) -> None:
            if name != self.router:
                routers(name, None if record is None else RouterRecord.decode(name, record.value))

        return (self._registry.subscribe(LINKS, link_changed), self._registry.subscribe(ROUTERS, router_changed))

    async def _commit(self, kind: str, name: str, value: bytes, before: Record | None) -> bool:
        return await self._registry.commit([Change(kind, name, value, 0 if before is None else before.revision)])


def _candidates(plan: AddressPlan, version: int) -> Iterator[IPAddress]:
    """The plan's router address, then the last ones of the node pool, of one IP version (0: IPv4, 1: IPv6)."""
    pool = plan.node_pools[version]
    yield plan.router_addresses[version]
    for back in range(2, 1026):
        yield pool[-back]

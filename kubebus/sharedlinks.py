"""Which router has which node, for all routers of a network, in their registry. Pure but for the registry.

Kind ``links``: a record for each node that was ever connected, with its router (or none) and the epoch of its last
session. Every claim takes the next epoch by compare-and-swap, so a router that sees a higher epoch than its own link's
knows that the node has moved. Kind ``routers``: where each router is reached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kubebus.interfaces import Change, Record, Registry, RegistryError, Subscription

LINKS: Final = "links"
ROUTERS: Final = "routers"

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


ClaimWatcher = Callable[[str, Claim | None], None]
RouterWatcher = Callable[[str, tuple[str, ...] | None], None]


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

    async def begin(self, addresses: Sequence[str]) -> None:
        """This router starts: say where it is, and release what it held when it was killed."""
        for record in await self._registry.list(LINKS):
            claim = Claim.decode(record.name, record.value)
            if claim.router == self.router:
                await self._commit(LINKS, record.name, Claim(None, claim.epoch).encode(), record)
        for _ in range(_ROUNDS):
            own = await self._registry.get(ROUTERS, self.router)
            if await self._commit(ROUTERS, self.router, json.dumps(list(addresses)).encode(), own):
                return
        raise RegistryError(f"the addresses of router {self.router!r} could not be recorded")

    def subscribe(self, links: ClaimWatcher, routers: RouterWatcher) -> Sequence[Subscription]:
        """Tell every claim, and every other router with its addresses, now and at every change."""

        def link_changed(name: str, record: Record | None) -> None:
            links(name, None if record is None else Claim.decode(name, record.value))

        def router_changed(name: str, record: Record | None) -> None:
            if name != self.router:
                routers(name, None if record is None else _addresses(name, record.value))

        return (self._registry.subscribe(LINKS, link_changed), self._registry.subscribe(ROUTERS, router_changed))

    async def _commit(self, kind: str, name: str, value: bytes, before: Record | None) -> bool:
        return await self._registry.commit([Change(kind, name, value, 0 if before is None else before.revision)])


def _addresses(name: str, value: bytes) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(value)))
    except (ValueError, TypeError) as error:
        raise RegistryError(f"the registry's record {ROUTERS}/{name} is damaged: remove it") from error

"""The members of a network: a typed view over the registry, shared by all routers of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from kubebus.addresses import AddressPlan, Assignment, Full, PoolExhausted
from kubebus.identity import PeerIdentity, Role, check_name
from kubebus.interfaces import Change, NodeRecord, Record, Registry, RegistryError, Subscription
from kubebus.records import ADDRESSES, NODES, TOKENS, DamagedRecord, NodeEntry, TokenRecord
from kubebus.tokens import MAX_TOKEN_LIFETIME, TOKEN_LIFETIME, Refusal, Refused, check_token, new_token, use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Every lost race means that somebody else made progress, so a few rounds are plenty.
_ROUNDS = 32

FORGET_TOKENS = 30 * 86400.0
"""So many seconds after its end a token is still listed."""


class NotFound(LookupError):
    """There is no such node or token. The message names it."""


class NotRevoked(Exception):
    """Only a revoked node can be removed."""


def never_live(name: str) -> bool:
    """For networks without links: no node is live."""
    return False


class Members:
    """Nodes, their addresses and the join tokens of one network.

    Every change is one atomic commit of the registry, made again from fresh records when another router was first.
    Failures of the registry itself are :class:`kubebus.interfaces.RegistryError`.

    :param clock: the current time in UNIX seconds.
    """

    log = Logger()

    def __init__(self, network: str, registry: Registry, plan: AddressPlan, clock: Callable[[], float]) -> None:
        self.network = network
        self.plan = plan
        self._registry = registry
        self._clock = clock
        self._enrolling = DeferredLock()
        self._taken: set[str] | None = None
        self._full: Full = {}

    # Nodes

    async def node(self, name: str) -> NodeRecord | None:
        """The node of that name, revoked or not."""
        record = await self._registry.get(NODES, name)
        return None if record is None else NodeEntry.decode(name, record.value).node

    async def nodes(self) -> Sequence[NodeRecord]:
        """All nodes, by name."""
        records = await self._registry.list(NODES)
        entries = (NodeEntry.decode(record.name, record.value) for record in records)
        return sorted((entry.node for entry in entries), key=lambda node: node.name)

    def subscribe(self, changed: Callable[[str, NodeRecord | None], None]) -> Subscription:
        """Call ``changed(name, node)`` for every node now, then at every change (``None``: removed).

        A record that is damaged is logged, and left out.
        """

        def decoded(name: str, record: Record | None) -> None:
            try:
                node = None if record is None else NodeEntry.decode(name, record.value).node
            except DamagedRecord as error:
                self.log.error("{why}", why=str(error))
                return
            changed(name, node)

        return self._registry.subscribe(NODES, decoded)

    async def check(self, identity: PeerIdentity, key: str) -> NodeRecord | None:
        """The record behind a verified certificate; ``None`` for a router, which has none.

        :param key: the hash of the certificate's public key.
        :raises Refused: if the node is unknown or revoked, or the key is not its present one.
        """
        if identity.network != self.network:
            raise Refused(
                Refusal.OTHER_NETWORK, f"this is a router of network {self.network!r}, not of {identity.network!r}"
            )
        if identity.role is Role.ROUTER:
            return None
        record = await self._registry.get(NODES, identity.name)
        if record is None:
            raise Refused(Refusal.UNKNOWN_NODE, f"node {identity.name!r} is not known here: enrol it again")
        entry = NodeEntry.decode(identity.name, record.value)
        check_key(entry, key)
        return entry.node

    async def enrol(
        self, token_id: str, secret: str, name: str, key: str, is_live: Callable[[str], bool] = never_live
    ) -> NodeRecord:
        """Make the holder of ``secret`` the node ``name`` with the public key ``key`` (a hash, in hex).

        One commit uses the token, writes the node and claims its addresses. A known name keeps its addresses.

        :raises Refused: if that may not be; then nothing was changed.
        :raises InvalidIdentity: if ``name`` is not a node name.
        """
        check_name(name)
        async with self._lock():
            for _ in range(_ROUNDS):
                node = await self._try_enrol(token_id, secret, name, key, is_live)
                if node is not None:
                    return node
                self._taken = None
        raise RegistryError(f"node {name!r} could not be enrolled: too many others were first; try again")

    async def _try_enrol(
        self, token_id: str, secret: str, name: str, key: str, is_live: Callable[[str], bool]
    ) -> NodeRecord | None:
        now = self._clock()
        token_record = await self._registry.get(TOKENS, token_id)
        token = None if token_record is None else TokenRecord.decode(token_id, token_record.value)
        check_token(token, token_id, secret, name, key, now)
        assert token is not None and token_record is not None
        record = await self._registry.get(NODES, name)
        entry = None if record is None else NodeEntry.decode(name, record.value)
        if entry is not None:
            _check_claim(entry, key, is_live)
            if token.used_key == key == entry.node.public_key:
                return entry.node
        assignment = await self._assignment(entry)
        # Without a site of its own the token leaves the node where it was.
        site = token.site or (None if entry is None else entry.node.site)
        node = NodeRecord(name, assignment.addresses, assignment.pod_subnets, key, now, site=site)
        changed = NodeEntry(node) if entry is None else replace(entry, node=node)
        changes = [
            Change(TOKENS, token_id, use(token, name, key, now).encode(), token_record.revision),
            Change(NODES, name, changed.encode(), 0 if record is None else record.revision),
        ]
        claims = assignment.claims if entry is None else ()
        changes += [Change(ADDRESSES, claim, name.encode(), 0) for claim in claims]
        if not await self._registry.commit(changes):
            return None
        if self._taken is not None:
            self._taken.update(claims)
        return node

    async def _assignment(self, entry: NodeEntry | None) -> Assignment:
        if entry is not None:
            return Assignment(entry.node.addresses, entry.node.pod_subnets)
        if self._taken is None:
            self._taken = {record.name for record in await self._registry.list(ADDRESSES)}
            self._full = {}
        try:
            return self.plan.assign(self._taken, self._full)
        except PoolExhausted as error:
            # Another router may have freed some.
            self._taken = None
            raise Refused(Refusal.EXHAUSTED, str(error)) from error

    async def issuers(self) -> dict[str, str]:
        """By the name of each node that is not revoked, the hash of the authority that issued its certificate."""
        entries = [NodeEntry.decode(record.name, record.value) for record in await self._registry.list(NODES)]
        return {entry.node.name: entry.issuer for entry in entries if entry.node.revoked_at is None}

    async def issued(self, name: str, key: str, issuer: str) -> None:
        """Remember that the authority with the hash ``issuer`` issues a certificate to the node now.

        :raises Refused: if ``key`` is not the node's any more.
        """
        for _ in range(_ROUNDS):
            record, entry = await self._entry(name)
            check_key(entry, key)
            if entry.issuer == issuer:
                return
            changed = replace(entry, issuer=issuer)
            if await self._registry.commit([Change(NODES, name, changed.encode(), record.revision)]):
                return
        raise RegistryError(f"the certificate of node {name!r} could not be recorded: its record keeps changing")

    async def set_endpoints(self, name: str, endpoints: Sequence[str]) -> None:
        """The node says where the others of its site reach it (``address:port``).

        :raises NotFound: if there is no such node.
        """
        for _ in range(_ROUNDS):
            record, entry = await self._entry(name)
            if entry.node.endpoints == tuple(endpoints):
                return
            changed = replace(entry, node=replace(entry.node, endpoints=tuple(endpoints)))
            if await self._registry.commit([Change(NODES, name, changed.encode(), record.revision)]):
                return
        raise RegistryError(f"the endpoints of node {name!r} could not be recorded: its record keeps changing")

    async def revoke(self, name: str) -> NodeRecord:
        """Shut the node out: its key is never accepted again. Its addresses stay its own.

        :raises NotFound: if there is no such node.
        """
        for _ in range(_ROUNDS):
            record, entry = await self._entry(name)
            if entry.node.revoked_at is not None:
                return entry.node
            revoked = entry.revoke(self._clock())
            if await self._registry.commit([Change(NODES, name, revoked.encode(), record.revision)]):
                return revoked.node
        raise RegistryError(f"node {name!r} could not be revoked: its record keeps changing; try again")

    async def remove(self, name: str) -> None:
        """Forget a revoked node. Its addresses and subnets become free for others.

        :raises NotFound: if there is no such node.
        :raises NotRevoked: if it has not been revoked.
        """
        for _ in range(_ROUNDS):
            record, entry = await self._entry(name)
            if entry.node.revoked_at is None:
                raise NotRevoked(f"node {name!r} is not revoked: 'kubebus node revoke {name}' first")
            if await self._registry.commit([Change(NODES, name, None, record.revision), *await self._freed(entry)]):
                self._taken = None
                return
        raise RegistryError(f"node {name!r} could not be removed: its record keeps changing; try again")

    async def _freed(self, entry: NodeEntry) -> list[Change]:
        claims = Assignment(entry.node.addresses, entry.node.pod_subnets).claims
        records = [await self._registry.get(ADDRESSES, claim) for claim in claims]
        return [Change(ADDRESSES, r.name, None, r.revision) for r in records if r is not None]

    async def _entry(self, name: str) -> tuple[Record, NodeEntry]:
        record = await self._registry.get(NODES, name)
        if record is None:
            raise NotFound(f"there is no node {name!r} ('kubebus node list' shows all)")
        return record, NodeEntry.decode(name, record.value)

    # Tokens

    async def create_token(
        self, lifetime: float = TOKEN_LIFETIME, node: str | None = None, site: str | None = None
    ) -> tuple[TokenRecord, str]:
        """Make a join token, good for one node within ``lifetime`` seconds. Its secret is returned only here.

        :param site: where the node will be.
        :raises ValueError: if the life time, the node's or the site's name is not acceptable.
        """
        if not 0 < lifetime <= MAX_TOKEN_LIFETIME:
            raise ValueError(f"the life time of a token must be from 1 second to 365 days, not {lifetime:g} seconds")
        if node is not None:
            check_name(node)
        if site is not None:
            check_name(site, "site name")
        token, secret = new_token(self._clock(), lifetime, node, site)
        if not await self._registry.commit([Change(TOKENS, token.id, token.encode(), 0)]):
            raise RegistryError("the token could not be recorded; try again")
        return token, secret

    async def tokens(self) -> Sequence[TokenRecord]:
        """All tokens, the oldest first, used and expired ones too."""
        records = await self._registry.list(TOKENS)
        tokens = (TokenRecord.decode(record.name, record.value) for record in records)
        return sorted(tokens, key=lambda token: token.created_at)

    async def revoke_token(self, token_id: str) -> None:
        """Forget a token: it cannot be used any more.

        :raises NotFound: if there is no such token.
        """
        for _ in range(_ROUNDS):
            record = await self._registry.get(TOKENS, token_id)
            if record is None:
                raise NotFound(f"there is no token {token_id!r} ('kubebus token list' shows all)")
            if await self._registry.commit([Change(TOKENS, token_id, None, record.revision)]):
                return
        raise RegistryError(f"token {token_id!r} could not be revoked: its record keeps changing; try again")

    async def forget_old_tokens(self, age: float = FORGET_TOKENS) -> int:
        """Remove tokens that ended more than ``age`` seconds ago; how many there were."""
        ended = self._clock() - age
        old = [token.id for token in await self.tokens() if token.expires_at < ended]
        for token_id in old:
            try:
                await self.revoke_token(token_id)
            except NotFound:
                continue
        return len(old)

    @asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        # One enrolment at a time in this process: they would only fail each other's compare-and-swap.
        await self._enrolling.acquire()
        try:
            yield
        finally:
            self._enrolling.release()


def check_key(entry: NodeEntry, key: str) -> None:
    """:raises Refused: unless ``key`` is the node's present key and the node is not revoked."""
    name = entry.node.name
    if key in entry.revoked_keys or entry.node.revoked_at is not None:
        raise Refused(Refusal.REVOKED, f"node {name!r} was revoked: it can only be enrolled anew, with a new key")
    if key != entry.node.public_key:
        raise Refused(Refusal.OTHER_KEY, f"node {name!r} was enrolled again with another key")


def _check_claim(entry: NodeEntry, key: str, is_live: Callable[[str], bool]) -> None:
    name = entry.node.name
    if key in entry.revoked_keys:
        raise Refused(
            Refusal.REVOKED,
            f"this key of node {name!r} was revoked: remove the node's state so that it makes a new one",
        )
    if key != entry.node.public_key and is_live(name):
        raise Refused(
            Refusal.NAME_TAKEN,
            f"the name {name!r} belongs to a node that is connected now: choose another name, or revoke that node",
        )

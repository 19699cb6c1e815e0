"""What a store that stands before another one passes on as it is."""

from __future__ import annotations

from collections.abc import Sequence

from metasync.interfaces import Store
from metasync.model import Compare, KeyRange, Lease, Op, RangeResult, TxnResult


class PassingStore:
    """All of a :class:`metasync.interfaces.Store` but ``watch``; a subclass has that, and what it does otherwise.

    :ivar beneath: the store that does it.
    """

    def __init__(self, store: Store) -> None:
        self.beneath = store

    @property
    def max_txn_ops(self) -> int:
        return self.beneath.max_txn_ops

    @property
    def max_request_bytes(self) -> int:
        return self.beneath.max_request_bytes

    @property
    def max_compares(self) -> int:
        return int(getattr(self.beneath, "max_compares", self.beneath.max_txn_ops))

    @property
    def identity(self) -> str:
        return getattr(self.beneath, "identity", "")

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        return await self.beneath.range(
            keys, revision=revision, limit=limit, min_mod_revision=min_mod_revision, keys_only=keys_only
        )

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        return await self.beneath.txn(compares, success, failure)

    async def compact(self, revision: int) -> None:
        await self.beneath.compact(revision)

    async def lease_grant(self, ttl: int, lease: int = 0) -> Lease:
        return await self.beneath.lease_grant(ttl, lease)

    async def lease_keep_alive(self, lease: int) -> Lease:
        return await self.beneath.lease_keep_alive(lease)

    async def lease_revoke(self, lease: int) -> int:
        return await self.beneath.lease_revoke(lease)

    async def lease_time_to_live(self, lease: int) -> Lease:
        return await self.beneath.lease_time_to_live(lease)

    async def leases(self) -> tuple[int, ...]:
        return await self.beneath.leases()

    async def close(self) -> None:
        await self.beneath.close()

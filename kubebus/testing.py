# mypy: disallow-untyped-calls=False
"""For tests: a registry in memory, and the contract that every registry must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import TestCase

from kubebus.interfaces import Change, Record, Registry, RegistryError, Subscription


class MemoryRegistry:
    """A registry that forgets everything with its process. Several users of it see each other, as routers do.

    :ivar unavailable: while true, every call fails with :class:`RegistryError`.
    :ivar before_commit: called once, before the next commit: a chance for another router to be first.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self.before_commit: Callable[[], None] | None = None
        self._records: dict[tuple[str, str], Record] = {}
        self._revision = 0
        self._subscribers: list[_MemorySubscription] = []

    async def get(self, kind: str, name: str) -> Record | None:
        self._check()
        return self._records.get((kind, name))

    async def list(self, kind: str) -> Sequence[Record]:
        self._check()
        return [record for _, record in sorted(self._records.items()) if record.kind == kind]

    async def commit(self, changes: Sequence[Change]) -> bool:
        self._check()
        hook, self.before_commit = self.before_commit, None
        if hook is not None:
            hook()
        if len({(change.kind, change.name) for change in changes}) != len(changes):
            raise ValueError("a commit may change each record once")
        if not all(self._stands(change) for change in changes):
            return False
        self._revision += 1
        for change in changes:
            self._apply(change)
        return True

    def subscribe(self, kind: str, changed: Callable[[str, Record | None], None]) -> Subscription:
        subscription = _MemorySubscription(self._subscribers, kind, changed)
        for record in list(self._records.values()):
            subscription.tell(record.kind, record.name, record)
        return subscription

    def _check(self) -> None:
        if self.unavailable:
            raise RegistryError("the registry is unavailable")

    def _stands(self, change: Change) -> bool:
        record = self._records.get((change.kind, change.name))
        return change.revision == (0 if record is None else record.revision)

    def _apply(self, change: Change) -> None:
        key = (change.kind, change.name)
        record = None
        if change.value is None:
            self._records.pop(key, None)
        else:
            record = self._records[key] = Record(change.kind, change.name, change.value, self._revision)
        for subscriber in list(self._subscribers):
            subscriber.tell(change.kind, change.name, record)


class _MemorySubscription:
    def __init__(
        self,
        subscribers: list[_MemorySubscription],
        kind: str,
        changed: Callable[[str, Record | None], None],
    ) -> None:
        self._subscribers = subscribers
        self._kind = kind
        self._changed = changed
        subscribers.append(self)

    def tell(self, kind: str, name: str, record: Record | None) -> None:
        if kind == self._kind and self in self._subscribers:
            self._changed(name, record)

    def cancel(self) -> None:
        if self in self._subscribers:
            self._subscribers.remove(self)


class Changes:
    """Collects what a subscription tells, and lets a test await it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes | None]] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def __call__(self, name: str, record: Record | None) -> None:
        self.seen.append((name, None if record is None else record.value))
        for entry in [entry for entry in self._waiting if entry[0]()]:
            self._waiting.remove(entry)
            entry[1].callback(None)

    async def until(self, condition: Callable[[], bool], reactor: IReactorTime, seconds: float = 10) -> None:
        """Return once ``condition`` holds; it is looked at after every change."""
        if condition():
            return
        waiting: Deferred[None] = Deferred()
        self._waiting.append((condition, waiting))
        await waiting.addTimeout(seconds, reactor)


if TYPE_CHECKING:
    _Contract = TestCase
else:  # The contract itself must not be collected as a test.
    _Contract = object


class RegistryContract(_Contract):
    """What a registry promises. Mix it into a :class:`TestCase` that defines :meth:`make_registry`."""

    def make_registry(self) -> Registry:
        """An empty registry, or a new view of the same one within one test (as a second router has)."""
        raise NotImplementedError

    async def test_get_of_a_missing_record(self) -> None:
        self.assertIsNone(await self.make_registry().get("nodes", "a"))

    async def test_commit_then_get(self) -> None:
        registry = self.make_registry()
        self.assertTrue(await registry.commit([Change("nodes", "a", b"1", 0)]))
        record = await registry.get("nodes", "a")
        assert record is not None
        self.assertEqual((record.kind, record.name, record.value), ("nodes", "a", b"1"))
        self.assertGreater(record.revision, 0)

    async def test_values_are_any_bytes(self) -> None:
        registry = self.make_registry()
        value = bytes(range(256)) * 64
        await registry.commit([Change("ca", "bundle", value, 0), Change("ca", "empty", b"", 0)])
        records = {record.name: record.value for record in await registry.list("ca")}
        self.assertEqual(records, {"bundle": value, "empty": b""})

    async def test_create_only_once(self) -> None:
        registry = self.make_registry()
        self.assertTrue(await registry.commit([Change("tokens", "t", b"1", 0)]))
        self.assertFalse(await registry.commit([Change("tokens", "t", b"2", 0)]))
        record = await registry.get("tokens", "t")
        self.assertEqual(record and record.value, b"1")

    async def test_change_needs_the_revision(self) -> None:
        registry = self.make_registry()
        await registry.commit([Change("nodes", "a", b"1", 0)])
        first = await registry.get("nodes", "a")
        assert first is not None
        self.assertTrue(await registry.commit([Change("nodes", "a", b"2", first.revision)]))
        second = await registry.get("nodes", "a")
        assert second is not None
        self.assertGreater(second.revision, first.revision)
        self.assertFalse(await registry.commit([Change("nodes", "a", b"3", first.revision)]))
        self.assertFalse(await registry.commit([Change("nodes", "a", None, first.revision)]))
        self.assertEqual(await registry.get("nodes", "a"), second)

    async def test_remove(self) -> None:
        registry = self.make_registry()
        await registry.commit([Change("nodes", "a", b"1", 0)])
        record = await registry.get("nodes", "a")
        assert record is not None
        self.assertTrue(await registry.commit([Change("nodes", "a", None, record.revision)]))
        self.assertIsNone(await registry.get("nodes", "a"))
        self.assertFalse(await registry.commit([Change("nodes", "a", b"2", record.revision)]))
        self.assertTrue(await registry.commit([Change("nodes", "a", b"2", 0)]))

    async def test_all_or_nothing(self) -> None:
        registry = self.make_registry()
        await registry.commit([Change("addresses", "10.0.0.1", b"a", 0)])
        changes = [Change("nodes", "b", b"1", 0), Change("addresses", "10.0.0.1", b"b", 0)]
        self.assertFalse(await registry.commit(changes))
        self.assertIsNone(await registry.get("nodes", "b"))
        changes = [Change("nodes", "b", b"1", 0), Change("addresses", "10.0.0.2", b"b", 0)]
        self.assertTrue(await registry.commit(changes))
        self.assertEqual([r.name for r in await registry.list("addresses")], ["10.0.0.1", "10.0.0.2"])

    async def test_a_commit_has_room_for_an_enrolment(self) -> None:
        registry = self.make_registry()
        changes = [Change("addresses", f"10.0.0.{n}-32", b"x" * 1000, 0) for n in range(32)]
        self.assertTrue(await registry.commit(changes))
        self.assertEqual(len(await registry.list("addresses")), 32)

    async def test_kinds_are_apart(self) -> None:
        registry = self.make_registry()
        await registry.commit([Change("nodes", "a", b"1", 0), Change("tokens", "a", b"2", 0)])
        self.assertEqual([r.value for r in await registry.list("nodes")], [b"1"])
        self.assertEqual([r.value for r in await registry.list("tokens")], [b"2"])
        self.assertEqual(list(await registry.list("links")), [])

    async def test_list_is_sorted_by_name(self) -> None:
        registry = self.make_registry()
        for name in ("b", "c", "a"):
            await registry.commit([Change("nodes", name, name.encode(), 0)])
        self.assertEqual([r.name for r in await registry.list("nodes")], ["a", "b", "c"])

    async def test_two_views_share_one_registry(self) -> None:
        one, two = self.make_registry(), self.make_registry()
        await one.commit([Change("tokens", "t", b"new", 0)])
        seen = await one.get("tokens", "t")
        also = await two.get("tokens", "t")
        assert seen is not None and also is not None
        self.assertEqual(seen, also)
        wins = [
            await view.commit([Change("tokens", "t", b"used", record.revision)])
            for view, record in ((one, seen), (two, also))
        ]
        self.assertEqual(wins, [True, False])

    async def test_subscribe_tells_what_is_and_what_comes(self) -> None:
        from twisted.internet import reactor

        registry = self.make_registry()
        await registry.commit([Change("nodes", "a", b"1", 0), Change("tokens", "t", b"x", 0)])
        changes = Changes()
        subscription = registry.subscribe("nodes", changes)
        try:
            await changes.until(lambda: changes.seen == [("a", b"1")], reactor)
            record = await registry.get("nodes", "a")
            assert record is not None
            await registry.commit([Change("nodes", "a", b"2", record.revision), Change("nodes", "b", b"3", 0)])
            await changes.until(lambda: len(changes.seen) == 3, reactor)
            self.assertEqual(sorted(changes.seen[1:], key=str), [("a", b"2"), ("b", b"3")])
            gone = await registry.get("nodes", "b")
            assert gone is not None
            await registry.commit([Change("nodes", "b", None, gone.revision)])
            await changes.until(lambda: changes.seen[3:] == [("b", None)], reactor)
        finally:
            subscription.cancel()

    async def test_subscribe_hears_another_view(self) -> None:
        from twisted.internet import reactor

        one, two = self.make_registry(), self.make_registry()
        changes = Changes()
        subscription = one.subscribe("nodes", changes)
        try:
            await two.commit([Change("nodes", "a", b"1", 0)])
            await changes.until(lambda: changes.seen == [("a", b"1")], reactor)
        finally:
            subscription.cancel()

    async def test_no_call_after_cancel(self) -> None:
        from twisted.internet import reactor

        registry = self.make_registry()
        cancelled, still = Changes(), Changes()
        subscription = registry.subscribe("nodes", cancelled)
        other = registry.subscribe("nodes", still)
        try:
            subscription.cancel()
            subscription.cancel()
            await registry.commit([Change("nodes", "a", b"1", 0)])
            await still.until(lambda: len(still.seen) == 1, reactor)
            self.assertEqual(cancelled.seen, [])
        finally:
            other.cancel()


__all__ = ["Changes", "MemoryRegistry", "RegistryContract"]

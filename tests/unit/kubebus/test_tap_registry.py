"""The registry over a metadata store passes the contract of registries."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase

from kubebus.interfaces import Change, Registry, RegistryError
from kubebus.tap.registry import StoreRegistry
from kubebus.testing import Changes, RegistryContract
from metasync.interfaces import Compacted, StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.memory import MemoryStore
from metasync.model import KeyRange, RangeResult

reactor: Any = _reactor


class _Flaky(MemoryStore):
    """A store that can be made to fail, and whose watches can be ended."""

    away = False

    def __init__(self) -> None:
        super().__init__(reactor)
        self.watches: list[tuple[Watch, WatchObserver]] = []

    async def range(self, keys: KeyRange, **options: Any) -> RangeResult:
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().range(keys, **options)

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        watch = super().watch(keys, start_revision, observer)
        self.watches.append((watch, observer))
        return watch

    def end_watches(self, error: StoreError) -> None:
        ended, self.watches = self.watches, []
        for watch, observer in ended:
            watch.cancel()
            observer.failed(error)


class StoreRegistryTests(RegistryContract, TestCase):
    def setUp(self) -> None:
        self.store = _Flaky()
        self.addCleanup(self.store.close)

    def make_registry(self) -> Registry:
        return StoreRegistry(reactor, self.store, "default")

    async def test_networks_are_apart(self) -> None:
        await self.make_registry().commit([Change("nodes", "a", b"1", 0)])
        self.assertEqual(await StoreRegistry(reactor, self.store, "other").list("nodes"), [])

    async def test_an_unavailable_store_is_an_error_of_the_registry(self) -> None:
        self.store.away = True
        with self.assertRaisesRegex(RegistryError, "it is away"):
            await self.make_registry().get("nodes", "a")

    async def test_a_lost_watch_is_taken_up_again_without_repeating_itself(self) -> None:
        registry = self.make_registry()
        await registry.commit([Change("nodes", "kept", b"1", 0), Change("nodes", "gone", b"1", 0)])
        changes = Changes()
        subscription = registry.subscribe("nodes", changes)
        try:
            await changes.until(lambda: len(changes.seen) == 2, reactor)
            gone = await registry.get("nodes", "gone")
            assert gone is not None
            self.store.end_watches(Compacted(7))
            await registry.commit([Change("nodes", "new", b"2", 0), Change("nodes", "gone", None, gone.revision)])
            await changes.until(lambda: ("new", b"2") in changes.seen and ("gone", None) in changes.seen, reactor)
            self.assertEqual(changes.seen.count(("kept", b"1")), 1)
        finally:
            subscription.cancel()

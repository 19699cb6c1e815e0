"""The contract against a real etcd with default limits."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase

from metasync.interfaces import Store
from metasync.opening import open_store
from metasync.testing import StoreContract
from tests.lab.etcd import Etcd
from tests.lab.world import SharedWorld

reactor: Any = _reactor


class EtcdStoreTests(StoreContract, SharedWorld, TestCase):  # type: ignore[misc]
    etcd: Etcd

    @classmethod
    def build_world(cls) -> None:
        cls.etcd = cls.keep(Etcd())
        cls.etcd.start()

    async def open_store(self) -> Store:
        return open_store(reactor, f"etcd://{self.etcd.host}:{self.etcd.port}")

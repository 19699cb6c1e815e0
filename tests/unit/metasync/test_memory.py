"""The memory store meets the contract."""

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from metasync.interfaces import Store
from metasync.memory import MemoryStore
from metasync.testing import StoreContract


class MemoryStoreTests(StoreContract, TestCase):
    async def open_store(self) -> Store:
        return MemoryStore(reactor)

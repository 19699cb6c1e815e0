"""A CA that processes on one store share: one wins, the key is sealed, and nothing is taken on trust."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from edgectl.errors import ConfigError
from edgectl.sharedca import Pair, share
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Put

SECRET, OTHER = b"s" * 32, b"o" * 32


class SharedCATests(TestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.made = 0

    def make(self) -> Pair:
        self.made += 1
        return Pair(b"certificate %d" % self.made, b"private key %d" % self.made)

    async def ask(self, secret: bytes = SECRET, local: Pair | None = None) -> Pair:
        return await share(self.store, "default", "api", secret, local, self.make)

    async def record(self) -> tuple[bytes, dict[str, Any]]:
        (kv,) = (await self.store.range(KeyRange.prefix(b"/"))).kvs
        return kv.key, json.loads(kv.value)

    async def test_the_second_has_what_the_first_made(self) -> None:
        first = await self.ask()
        self.assertEqual(first, await self.ask())
        self.assertEqual(first, await self.ask(local=first))
        self.assertEqual(1, self.made)

    async def test_one_that_is_there_already_is_brought_in(self) -> None:
        old = Pair(b"old", b"old key")
        self.assertEqual(old, await self.ask(local=old))
        self.assertEqual(old, await self.ask())

    async def test_two_at_once_have_one(self) -> None:
        both = await gatherResults([Deferred.fromCoroutine(self.ask()) for _ in range(2)])
        self.assertEqual(both[0], both[1])

    async def test_the_store_alone_tells_no_key(self) -> None:
        await self.ask()
        key, fields = await self.record()
        self.assertTrue(key.startswith(b"/kubebus/default/api/-/"), "no object of the API, and no node's")
        self.assertNotIn("private key", json.dumps(fields))
        with self.assertRaises(ConfigError) as raised:
            await self.ask(OTHER)
        self.assertIn("ca.pem", str(raised.exception))

    async def test_another_certificate_in_its_place_is_not_taken(self) -> None:
        await self.ask()
        key, fields = await self.record()
        fields["certificate"] = "of somebody who can write the store"
        await self.store.txn([], [Put(key, json.dumps(fields).encode())])
        with self.assertRaises(ConfigError):
            await self.ask()

    async def test_after_the_secret_has_changed_who_has_the_ca_seals_it_anew(self) -> None:
        first = await self.ask()
        self.assertEqual(first, await self.ask(OTHER, first))
        self.assertEqual(first, await self.ask(OTHER))

    async def test_two_that_differ_are_not_mixed(self) -> None:
        await self.ask()
        with self.assertRaises(ConfigError) as raised:
            await self.ask(local=Pair(b"mine", b"my key"))
        self.assertIn("another than that of the others", str(raised.exception))

    async def test_a_damaged_record_is_said_so(self) -> None:
        await self.ask()
        key, _ = await self.record()
        for junk in (b"", b"{}", b'{"certificate": 1, "sealedKey": ""}', b'{"certificate": "c", "sealedKey": "?"}'):
            await self.store.txn([], [Put(key, junk)])
            with self.assertRaises(ConfigError):
                await self.ask()

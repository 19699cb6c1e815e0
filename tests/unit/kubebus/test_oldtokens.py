# mypy: disallow-untyped-calls=False
"""Tokens that ended long ago are forgotten with time, not whenever one is made."""

from __future__ import annotations

from ipaddress import IPv6Network

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from kubebus.addresses import AddressPlan
from kubebus.members import FORGET_TOKENS, Members
from kubebus.oldtokens import INTERVAL, OldTokens
from kubebus.testing import MemoryRegistry


class OldTokensTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = MemoryRegistry()
        plan = AddressPlan(IPv6Network("fd00:b::/48"))
        self.members = Members("default", self.registry, plan, self.clock.seconds)
        self.service = OldTokens(self.clock, self.members)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([INTERVAL] * int(seconds // INTERVAL + 1))

    async def test_go_when_they_have_been_listed_long_enough(self) -> None:
        self.service.startService()
        await self.members.create_token(60)
        self.pass_time(FORGET_TOKENS / 2)
        young, _ = await self.members.create_token(60)
        self.assertEqual(len(await self.members.tokens()), 2)
        self.pass_time(FORGET_TOKENS / 2)
        self.assertEqual(await self.members.tokens(), [young])
        self.service.stopService()
        self.pass_time(FORGET_TOKENS)
        self.assertEqual(await self.members.tokens(), [young])

    async def test_a_registry_that_is_away_is_asked_again(self) -> None:
        await self.members.create_token(60)
        self.service.startService()
        self.registry.unavailable = True
        self.pass_time(2 * FORGET_TOKENS)
        self.registry.unavailable = False
        self.clock.advance(INTERVAL)
        self.assertEqual(await self.members.tokens(), [])
        self.service.stopService()

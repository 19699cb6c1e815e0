"""A node's site: in its token, in its record, and in what it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_network

from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus.addresses import AddressPlan
from kubebus.control import LinkConfig, Reconfigure, decode, encode
from kubebus.identity import InvalidIdentity
from kubebus.linkerrors import BadControlMessage
from kubebus.members import Members, NotFound
from kubebus.records import NodeEntry, TokenRecord
from kubebus.testing import MemoryRegistry
from kubebus.testing_net import node_record

KEY, OTHER_KEY = "1" * 64, "2" * 64
CONFIG = LinkConfig(
    "default",
    "n",
    (ip_address("10.250.0.2"),),
    (ip_network("10.192.0.0/24"),),
    (),
    (),
    1500,
)


def without(record: bytes, *fields: str) -> bytes:
    return json.dumps({name: value for name, value in json.loads(record).items() if name not in fields}).encode()


class SiteMembershipTests(TestCase):
    def setUp(self) -> None:
        self.members = Members("default", MemoryRegistry(), AddressPlan(IPv6Network("fd00:b::/48")), lambda: 1000.0)

    async def enrol(self, name: str, key: str, site: str | None) -> str | None:
        token, secret = await self.members.create_token(site=site)
        return (await self.members.enrol(token.id, secret, name, key)).site

    async def test_the_token_says_which(self) -> None:
        self.assertEqual(await self.enrol("a", KEY, "hall"), "hall")
        self.assertIsNone(await self.enrol("b", OTHER_KEY, None))
        node = await self.members.node("a")
        assert node is not None
        self.assertEqual(node.site, "hall")
        self.assertEqual({token.site for token in await self.members.tokens()}, {"hall", None})

    async def test_enrolment_anew(self) -> None:
        """A token of another site moves the node; one of none leaves it where it was."""
        await self.enrol("a", KEY, "hall")
        self.assertEqual(await self.enrol("a", OTHER_KEY, None), "hall")
        self.assertEqual(await self.enrol("a", KEY, "yard"), "yard")

    async def test_no_name_of_a_site(self) -> None:
        with self.assertRaisesRegex(InvalidIdentity, "site name 'No Name'"):
            await self.members.create_token(site="No Name")

    async def test_endpoints(self) -> None:
        await self.enrol("a", KEY, "hall")
        await self.members.set_endpoints("a", ["192.168.1.11:7443"])
        node = await self.members.node("a")
        assert node is not None
        self.assertEqual((node.endpoints, node.site), (("192.168.1.11:7443",), "hall"))
        with self.assertRaises(NotFound):
            await self.members.set_endpoints("b", [])

    def test_records_of_before_there_were_sites(self) -> None:
        entry = NodeEntry(node_record("a", 2))
        old = without(entry.encode(), "site", "endpoints")
        self.assertNotIn(b"site", old)
        self.assertEqual(NodeEntry.decode("a", old), entry)
        token = TokenRecord("00000000", KEY, 0.0, 1.0)
        old = without(token.encode(), "site")
        self.assertNotIn(b"site", old)
        self.assertEqual(TokenRecord.decode("00000000", old), token)


class SiteConfigTests(SynchronousTestCase):
    def test_the_node_is_told(self) -> None:
        for site in ("hall", None):
            config = replace(CONFIG, site=site)
            self.assertEqual(decode(encode(Reconfigure(config))), Reconfigure(config))

    def test_a_wrong_site(self) -> None:
        message = encode(Reconfigure(CONFIG))
        for wrong in (b"7", b'"A B"', b'""', b"[]"):
            hostile = message.replace(b'"network":', b'"site":' + wrong + b',"network":')
            with self.assertRaisesRegex(BadControlMessage, r"config\.site"):
                decode(hostile)

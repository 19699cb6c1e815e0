"""How peers are named in the log."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from kubebus.exchange import peer_name


class PeerNameTests(SynchronousTestCase):
    def test_addresses_are_written_as_people_write_them(self) -> None:
        mapped, real = IPv6Address("TCP", "::ffff:192.0.2.7", 443), IPv6Address("TCP", "2001:db8::7", 443)
        for address in (IPv4Address("TCP", "192.0.2.7", 443), mapped):
            self.assertEqual((peer_name(address), peer_name(address, port=False)), ("192.0.2.7:443", "192.0.2.7"))
        self.assertEqual((peer_name(real), peer_name(real, port=False)), ("[2001:db8::7]:443", "2001:db8::7"))

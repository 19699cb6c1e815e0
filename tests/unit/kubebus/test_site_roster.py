"""The roster of a site: signed by the authority, and by nobody else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.ca import Authority, certificate_pem, issue_node, new_key
from kubebus.identity import PeerIdentity, Role
from kubebus.roster import MAX_MEMBERS, InvalidRoster, Member, Roster, SignedRoster, lan_endpoint, sign, verify
from kubebus.testing_net import node_record

NOW = time.time()
AUTHORITY = Authority.create("test", NOW)
STRANGER = Authority.create("test", NOW)


def member(name: str, number: int, *endpoints: str) -> Member:
    record = node_record(name, number)
    return Member(name, record.addresses, record.pod_subnets, f"{number:064x}", endpoints)


ROSTER = Roster(
    "default", "hall", 7, (member("a", 2, "192.168.1.11:7443", "[fd00:1::11]:7443"), member("b", 3)), ("f" * 64,)
)


class SignatureTests(SynchronousTestCase):
    def assertRefused(self, encoded: bytes, why: str, bundle: tuple[Authority, ...] = (AUTHORITY,)) -> None:
        with self.assertRaisesRegex(InvalidRoster, why):
            verify(encoded, [each.certificate for each in bundle])

    def altered(self, **fields: object) -> bytes:
        return json.dumps({**json.loads(sign(ROSTER, AUTHORITY).encoded), **fields}).encode()

    def test_there_and_back(self) -> None:
        signed = sign(ROSTER, AUTHORITY)
        read = verify(signed.encoded, [AUTHORITY.certificate])
        self.assertEqual(read, signed)
        self.assertEqual(read.roster, ROSTER)
        self.assertEqual(read.signer, AUTHORITY.hash)

    def test_another_authority(self) -> None:
        self.assertRefused(sign(ROSTER, STRANGER).encoded, "not signed by a certificate authority that is trusted")
        # Nor does it help to show the right certificate.
        forged = json.loads(sign(ROSTER, STRANGER).encoded)
        forged["chain"] = [certificate_pem(AUTHORITY.certificate).decode()]
        self.assertRefused(json.dumps(forged).encode(), "signature is wrong")

    def test_a_changed_roster(self) -> None:
        other = replace(ROSTER, revision=8).encode().decode()
        self.assertRefused(self.altered(roster=other), "signature is wrong")
        self.assertRefused(self.altered(signature="AAAA"), "signature is wrong")
        self.assertRefused(self.altered(signature="no base64!"), "signature is wrong")

    def test_a_node_signs_no_rosters(self) -> None:
        """Its certificate leads to the authority, but says that it issues nothing."""
        key = new_key()
        certificate = issue_node(AUTHORITY, PeerIdentity("default", Role.NODE, "a"), key.public_key(), NOW + 1000)
        impostor = Authority(key, certificate, (certificate, AUTHORITY.certificate))
        self.assertRefused(sign(ROSTER, impostor).encoded, "not signed by a certificate authority")

    def test_a_new_authority(self) -> None:
        """Who trusts only the old one accepts what its successor signs; the other way round it does not."""
        second = AUTHORITY.successor("test 2", NOW)
        third = second.successor("test 3", NOW)
        for authority in (second, third):
            signed = verify(sign(ROSTER, authority).encoded, [AUTHORITY.certificate])
            self.assertEqual((signed.roster, signed.signer), (ROSTER, authority.hash))
        self.assertRefused(sign(ROSTER, AUTHORITY).encoded, "not signed by", (third,))

    def test_what_is_in_no_order(self) -> None:
        for value, why in (
            (b"", "not JSON"),
            (b"[]", "not a JSON object"),
            (b"[" * 100_000, "not JSON"),
            (b" " * 300_000, "300000 bytes"),
            (self.altered(chain=[]), "'chain'"),
            (self.altered(chain=["x"]), "'chain' has what is no PEM"),
            (self.altered(chain=["x"] * 9), "'chain' is wrong: it must be a list of at most 8"),
            (self.altered(roster=7), "'roster' is wrong"),
            (self.altered(roster="é"), "'roster' is wrong"),
        ):
            self.assertRefused(value, why)

    def test_the_authority_itself_is_read_with_care(self) -> None:
        def signed(change: Any) -> bytes:
            fields = json.loads(ROSTER.encode())
            change(fields)

            class Odd(Roster):
                def encode(self) -> bytes:
                    return json.dumps(fields).encode()

            return sign(Odd("default", "hall", 1, ()), AUTHORITY).encoded

        for change, why in (
            (lambda f: f.pop("revision"), "'revision'"),
            (lambda f: f.update(revision=True), "'revision'"),
            (lambda f: f.update(site="No Name"), "No Name"),
            (lambda f: f["members"][0].update(publicKey="short"), "'publicKey'"),
            (lambda f: f["members"][0].update(addresses=["10.0.0.300"]), "addresses are wrong"),
            (lambda f: f["members"][0].update(endpoints=["127.0.0.1:80"]), "cannot be reached by others"),
            (lambda f: f["members"].append(f["members"][0]), "each name once"),
            (lambda f: f["members"].append(7), "'members'"),
            (lambda f: f.update(revoked=7), "'revoked'"),
        ):
            self.assertRefused(signed(change), why)

    def test_a_site_is_not_larger_than_can_be_told(self) -> None:
        members = tuple(member(f"n{number}", number, *[f"192.168.1.{i}:7443" for i in range(1, 9)])
                        for number in range(2, MAX_MEMBERS + 2))  # fmt: skip
        self.assertIsInstance(sign(replace(ROSTER, members=members), AUTHORITY), SignedRoster)
        with self.assertRaisesRegex(InvalidRoster, "has 257 nodes"):
            sign(replace(ROSTER, members=(*members, member("more", 999))), AUTHORITY)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=40), st.integers(0, 2000), st.integers(0, 40))
    def test_no_other_exception_escapes(self, noise: bytes, at: int, cut: int) -> None:
        encoded = sign(ROSTER, AUTHORITY).encoded
        hostile = encoded[:at] + noise + encoded[at + cut :]
        try:
            signed = verify(hostile, [AUTHORITY.certificate])
        except InvalidRoster:
            return
        # Blanks around the JSON, or the signature in another form: the content is signed all the same.
        self.assertEqual(signed.roster, ROSTER)


class EndpointTests(SynchronousTestCase):
    def test_one_form(self) -> None:
        self.assertEqual(lan_endpoint("[FD00:1:0::11]:7443"), "[fd00:1::11]:7443")
        for wrong in ("name:1", "0.0.0.0:1", "[::1]:1", "[fe80::1]:1", "224.0.0.1:1", "10.0.0.1:0", "", "x" * 10000):
            with self.assertRaises(InvalidRoster):
                lan_endpoint(wrong)

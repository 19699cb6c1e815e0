# mypy: disallow-untyped-calls=False
"""Join strings survive copying, and say what is wrong with them when they did not."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.joinstring import HostPort, InvalidJoinString, JoinString

JOIN = JoinString(
    "default",
    (HostPort("203.0.113.10", 443), HostPort("2001:db8::1", 7443), HostPort("bus.example", 443)),
    "0123456789abcdef" * 4,
    "0a1b2c3d",
    "s3cret_-",
    1_800_000_000.0,
)


def encoded(body: bytes) -> str:
    return "kubebus1." + urlsafe_b64encode(body + sha256(body).digest()[:4]).decode().rstrip("=")


class JoinStringTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        for join in (JOIN, replace(JOIN, node="edge-1")):
            self.assertEqual(JoinString.decode(join.encode()), join)

    def test_one_url_safe_word(self) -> None:
        self.assertRegex(JOIN.encode(), r"\Akubebus1\.[A-Za-z0-9_-]+\Z")

    def test_white_space_does_not_matter(self) -> None:
        text = JOIN.encode()
        self.assertEqual(JoinString.decode(f"  {text[:50]}\n   {text[50:]}\n"), JOIN)

    def test_every_single_mistake_is_noticed(self) -> None:
        text = JOIN.encode()
        for at in range(len("kubebus1."), len(text)):
            wrong = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
            try:
                # The last character may have bits that mean nothing.
                self.assertEqual(JoinString.decode(wrong), JOIN)
                self.assertEqual(at, len(text) - 1)
            except InvalidJoinString:
                pass

    def test_messages(self) -> None:
        text = JOIN.encode()
        for wrong, pattern in (
            ("", "not a join string"),
            ("hello", "not a join string"),
            ("kubebus2.abc", "version 'kubebus2'"),
            ("kubebus1.", "incomplete or mistyped"),
            *((text[:-cut], "incomplete or mistyped") for cut in range(1, 9)),
            (text[:40] + "*" + text[41:], "do not belong"),
            (text[:40] + "é" + text[41:], "do not belong"),
            ("kubebus1." + "A" * 5000, "too long"),
            (encoded(b"[]"), "makes no sense"),
            (encoded(b"{}"), "makes no sense"),
            (encoded(b"[" * 2000), "makes no sense"),
        ):
            with self.assertRaisesRegex(InvalidJoinString, pattern):
                JoinString.decode(wrong)

    def test_secret_is_not_shown(self) -> None:
        self.assertNotIn("s3cret_-", repr(JOIN))

    @given(st.text(max_size=200) | st.binary(max_size=200).map(encoded))
    def test_any_text(self, text: str) -> None:
        try:
            JoinString.decode(text)
        except InvalidJoinString:
            pass


class HostPortTests(SynchronousTestCase):
    def test_parse(self) -> None:
        for text, host, port in (
            ("203.0.113.1", "203.0.113.1", 443),
            ("203.0.113.1:80", "203.0.113.1", 80),
            ("bus.example:7443", "bus.example", 7443),
            ("2001:db8::1", "2001:db8::1", 443),
            ("[2001:db8::1]", "2001:db8::1", 443),
            ("[2001:db8::1]:7443", "2001:db8::1", 7443),
        ):
            parsed = HostPort.parse(text)
            self.assertEqual(parsed, HostPort(host, port))
            self.assertEqual(HostPort.parse(str(parsed)), parsed)

    def test_wrong(self) -> None:
        for text in ("", ":443", "a b", "host:0", "host:65536", "host:x", "http://host", "[::1", "host:", "a:1:b"):
            self.assertRaises(ValueError, HostPort.parse, text)

"""CONTROL messages: there and back, and what is wrong with the others."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.control import (
    AdvertisedRoute,
    Close,
    Hello,
    LinkConfig,
    Message,
    Ping,
    Pong,
    Reconfigure,
    decode,
    encode,
)
from kubebus.frames import CONTROL, LIMITS
from kubebus.linkerrors import BadControlMessage

CONFIG = LinkConfig(
    "default",
    "edge1",
    (ip_address("10.250.0.2"), ip_address("fd00:b::2")),
    (ip_network("10.192.2.0/24"), ip_network("fd00:b:0:2::/64")),
    (AdvertisedRoute(ip_network("10.250.0.0/16"), True), AdvertisedRoute(ip_network("10.10.0.0/24"))),
    (ip_address("10.250.0.1"),),
    1500,
    ("198.51.100.10:443",),
    1700000000.5,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class ControlTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        messages: list[Message] = [
            Hello((1, 2), "agent"),
            Hello((1,), "router", 7, CONFIG),
            Reconfigure(CONFIG),
            Ping(3),
            Pong(4),
            Close("revoked", "node 'edge1' was revoked"),
        ]
        for message in messages:
            self.assertEqual(decode(encode(message)), message)

    def test_fields_of_later_versions_are_ignored(self) -> None:
        self.assertEqual(decode(b'{"type":"ping","id":1,"new":{}}'), Ping(1))

    def test_a_wrong_field_is_named(self) -> None:
        good = json.loads(encode(Hello((1,), "r", 1, CONFIG)))
        for path, value, name in (
            (("config", "mtu"), 100, "config.mtu"),
            (("config", "addresses"), ["10.0.0.300"], "config.addresses[0]"),
            (("config", "addresses"), "10.0.0.3", "config.addresses"),
            (("config", "pod_subnets"), ["10.0.0.1/24"], "config.pod_subnets[0]"),
            (("config", "routes"), [{"subnet": "10.0.0.0/8"}], "config.routes[0].pool"),
            (("config", "routes"), [{"subnet": "0.0.0.0/0", "pool": False}], "config.routes[0].subnet"),
            (("config", "routes"), [{"subnet": 1, "pool": False}], "config.routes[0].subnet"),
            (("config", "time"), "now", "config.time"),
            (("config",), 5, "config"),
            (("versions",), [True], "versions[0]"),
            (("epoch",), -1, "epoch"),
        ):
            bad = json.loads(json.dumps(good))
            target = bad
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = value
            error = self.assertRaises(BadControlMessage, decode, json.dumps(bad).encode())
            self.assertIn(f"field {name} ", str(error))

    def test_not_json(self) -> None:
        for payload in (b"", b"\xff", b"[]", b"{", b"null", b'{"type":"ping","id":NaN}', b"[" * 60000, b"9" * 5000):
            self.assertRaises(BadControlMessage, decode, payload)

    def test_a_thousand_advertised_subnets_fit_a_frame(self) -> None:
        routes = tuple(AdvertisedRoute(ip_network((i << 12, 20))) for i in range(1000))
        hello = Hello((1,), "agent", 1, replace(CONFIG, routes=routes))
        self.assertLess(len(encode(hello)), LIMITS[CONTROL])

    @given(st.binary(max_size=300))
    def test_any_bytes(self, payload: bytes) -> None:
        try:
            decode(payload)
        except BadControlMessage:
            pass

    @given(
        st.sampled_from(["hello", "config", "ping", "close"]),
        st.dictionaries(st.sampled_from(["versions", "agent", "epoch", "config", "id", "code", "message"]), _JSON),
        st.dictionaries(st.sampled_from(list(json.loads(encode(Reconfigure(CONFIG)))["config"])), _JSON),
    )
    def test_any_fields(self, kind: str, fields: dict[str, object], config: dict[str, object]) -> None:
        whole = json.loads(encode(Hello((1,), "r", 1, CONFIG)))
        whole["config"].update(config)
        whole.update(fields)
        whole.update(id=1, code="c", message="m")
        whole["type"] = kind
        try:
            decode(json.dumps(whole).encode())
        except BadControlMessage:
            pass

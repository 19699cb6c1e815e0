"""The messages of CONTROL frames: JSON objects with a ``type``. Pure.

Fields that are not known are ignored, so that a later version can add some; a known one that is wrong is an error
which names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Final, NoReturn, TypeVar

from kubebus.identity import InvalidIdentity, check_name
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.linkerrors import BadControlMessage

VERSIONS: Final = (1,)
"""The versions of the link protocol that this code speaks."""

_MAX_ITEMS: Final = 4096
_MAX_TEXT: Final = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AdvertisedRoute:
    """A subnet that is reached through the tunnel.

    ``pool`` tells that edge addresses come from it: a host keeps such a route even where a subnet of its own lies
    inside, because the rest of the pool is still wanted. ``member``: it is one node's, and wanted also where the host
    reaches a larger subnet around it by itself; a router keeps such routes to itself.
    """

    subnet: IPNetwork
    pool: bool = False
    member: bool = False


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """A node's place in the network, as its router tells it.

    :ivar routers: ``host:port`` of every router, for redialling.
    :ivar site: the node's site, if it has one.
    :ivar time: the router's clock, in UNIX seconds: devices boot in 1970.
    """

    network: str
    node: str
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    routes: tuple[AdvertisedRoute, ...]
    router_addresses: tuple[IPAddress, ...]
    mtu: int
    routers: tuple[str, ...] = ()
    time: float = 0.0
    site: str | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message in each direction. Only a router's has a ``config``, and an ``epoch``: the session's number,
    which is higher than that of every earlier session of the node."""

    versions: tuple[int, ...] = VERSIONS
    agent: str = ""
    epoch: int = 0
    config: LinkConfig | None = None


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """The router tells a changed configuration. It replaces the former one as a whole."""

    config: LinkConfig


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True)
class Pong:
    id: int


@dataclass(frozen=True, slots=True)
class Close:
    """The last message of a link: why it ends."""

    code: str
    message: str


Message = Hello | Reconfigure | Ping | Pong | Close


def encode(message: Message) -> bytes:
    """The payload of the CONTROL frame."""
    match message:
        case Ping(id=number):
            value: dict[str, object] = {"type": "ping", "id": number}
        case Pong(id=number):
            value = {"type": "pong", "id": number}
        case Close(code=code, message=text):
            value = {"type": "close", "code": code, "message": text[:_MAX_TEXT]}
        case Reconfigure(config=config):
            value = {"type": "config", "config": encode_config(config)}
        case Hello(versions=versions, agent=agent, epoch=epoch, config=maybe):
            value = {"type": "hello", "versions": versions, "agent": agent, "epoch": epoch}
            if maybe is not None:
                value["config"] = encode_config(maybe)
    return _write(value).encode()


def encode_config(config: LinkConfig) -> dict[str, object]:
    site = {} if config.site is None else {"site": config.site}
    return {
        "network": config.network,
        "node": config.node,
        "addresses": [str(address) for address in config.addresses],
        "pod_subnets": [str(subnet) for subnet in config.pod_subnets],
        "routes": [{"subnet": _spelt(route.subnet), "pool": route.pool} for route in config.routes],
        "router_addresses": [_spelt(address) for address in config.router_addresses],
        "mtu": config.mtu,
        "routers": list(config.routers),
        "time": config.time,
        **site,
    }


@lru_cache(maxsize=1024)
def _spelt(thing: IPAddress | IPNetwork) -> str:
    """What all nodes of a router are told: spelling an address takes longer than looking it up."""
    return str(thing)


def decode(payload: bytes) -> Message:
    """The message in a CONTROL frame.

    :raises BadControlMessage: if it is none; the error names the field.
    """
    fields = _Fields(parse_object(payload), "")
    kind = fields.text("type")
    if kind == "ping":
        return Ping(fields.number("id"))
    if kind == "pong":
        return Pong(fields.number("id"))
    if kind == "close":
        return Close(fields.text("code"), fields.text("message"))
    if kind == "config":
        return Reconfigure(decode_config(fields.get("config")))
    if kind == "hello":
        config = fields.value.get("config")
        return Hello(
            fields.items("versions", _integer),
            fields.text("agent"),
            fields.number("epoch"),
            None if config is None else decode_config(config),
        )
    raise BadControlMessage(f"control message type {kind[:40]!r} is not known")


def parse_object(payload: bytes) -> dict[str, Any]:
    try:
        value = _read(payload.decode("utf-8"))
    # Deep nesting ends in RecursionError; bad UTF-8 and bad JSON are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise BadControlMessage(f"a control message is not valid JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise BadControlMessage("a control message is not a JSON object")
    return value


def decode_config(value: object) -> LinkConfig:
    """The configuration in a hello, or in the file where an edge node keeps it.

    :raises BadControlMessage: naming the field that is wrong.
    """
    fields = _Fields(value, "config.")
    mtu = fields.number("mtu")
    if not 1280 <= mtu <= 65535:
        _wrong("config.mtu", "a number from 1280 to 65535")
    time = fields.get("time")
    if not isinstance(time, (int, float)) or isinstance(time, bool) or not 0 <= time < 1e11:
        _wrong("config.time", "UNIX seconds")
    return LinkConfig(
        network=fields.text("network"),
        node=fields.text("node"),
        addresses=fields.items("addresses", _address),
        pod_subnets=fields.items("pod_subnets", _subnet),
        routes=fields.items("routes", _route),
        router_addresses=fields.items("router_addresses", _address),
        mtu=mtu,
        routers=fields.items("routers", _text),
        time=float(time),
        site=_site(value.get("site")) if isinstance(value, dict) else None,
    )


class _Fields:
    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            _wrong(where.rstrip(".") or "the message", "an object")
        self.value: dict[str, Any] = value
        self._where = where

    def get(self, name: str) -> object:
        if name not in self.value:
            raise BadControlMessage(f"control field {self._where}{name} is missing")
        return self.value[name]

    def text(self, name: str) -> str:
        return _text(self.get(name), self._where + name)

    def number(self, name: str) -> int:
        return _integer(self.get(name), self._where + name)

    def items(self, name: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
        value = self.get(name)
        where = self._where + name
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > _MAX_ITEMS:
            _wrong(where, f"a list of at most {_MAX_ITEMS}")
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _wrong(where, f"a string of at most {_MAX_TEXT} characters")
    return value


def _site(value: object) -> str | None:
    if value is None:
        return None
    try:
        return check_name(_text(value, "config.site"), "site name")
    except InvalidIdentity:
        _wrong("config.site", "an RFC 1123 label")


def _integer(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        _wrong(where, "a whole number")
    return value


def _address(value: object, where: str) -> IPAddress:
    try:
        return ip_address(_text(value, where))
    except ValueError:
        _wrong(where, "an IP address")


def _subnet(value: object, where: str) -> IPNetwork:
    try:
        return ip_network(_text(value, where))
    except ValueError:
        _wrong(where, "a subnet such as 10.0.0.0/16, without host bits")


def _route(value: object, where: str) -> AdvertisedRoute:
    fields = _Fields(value, where + ".")
    pool = fields.get("pool")
    if not isinstance(pool, bool):
        _wrong(where + ".pool", "true or false")
    subnet = _subnet(fields.get("subnet"), where + ".subnet")
    if subnet.prefixlen == 0:
        _wrong(where + ".subnet", "no default route")
    return AdvertisedRoute(subnet, pool)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _wrong(where: str, wanted: str) -> NoReturn:
    raise BadControlMessage(f"control field {where} is wrong: it must be {wanted}")


# Made once: json.loads() and json.dumps() make them anew for each message.
_read = json.JSONDecoder(parse_constant=_no_constant).decode
_write = json.JSONEncoder(separators=(",", ":")).encode

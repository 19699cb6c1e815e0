"""The messages of enrolment and renewal: JSON, each after its length in four bytes, and both capped.

Parsing is pure and raises nothing but :class:`BadMessage`, whatever the other side made up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from kubebus.ca import certificate_pem
from kubebus.identity import InvalidIdentity, check_name
from kubebus.joinstring import HostPort
from kubebus.tokens import Refusal, Refused

VERSION = 1
MAX_MESSAGE = 64 * 1024
_MAX_TEXT = 16 * 1024
MAX_ITEMS = 16
"""The most routers, and the most authorities, that one message names."""
_TOKEN = re.compile(r"[0-9a-f]{8}")


class BadMessage(ValueError):
    """A message that is not what the protocol demands. The text names the field."""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A new node asks for a certificate: ``request`` is its PEM signing request."""

    network: str
    node: str
    token: str
    secret: str
    request: str

    def __repr__(self) -> str:
        return f"<JoinRequest of {self.node!r} with token {self.token!r}>"

    def encode(self) -> bytes:
        return _encode(network=self.network, node=self.node, token=self.token, secret=self.secret, request=self.request)

    @classmethod
    def decode(cls, message: bytes) -> JoinRequest:
        """:raises BadMessage: if it is none."""
        fields = _fields(message)
        token = _text(fields, "token")
        if not _TOKEN.fullmatch(token):
            raise BadMessage("'token' must be the 8 hexadecimal digits of a token")
        return cls(
            _name(fields, "network", "network name"),
            _name(fields, "node", "node name"),
            token,
            _text(fields, "secret"),
            _text(fields, "request"),
        )


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """A node asks for a new certificate for its key."""

    request: str

    def encode(self) -> bytes:
        return _encode(request=self.request)

    @classmethod
    def decode(cls, message: bytes) -> RenewRequest:
        """:raises BadMessage: if it is none."""
        return cls(_text(_fields(message), "request"))


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to both.

    :ivar bundle: the authorities to trust from now on.
    :ivar routers: where the routers of the network listen; empty if the router does not know better.
    :ivar time: the router's clock, in UNIX seconds.
    """

    certificate: x509.Certificate
    bundle: tuple[x509.Certificate, ...]
    routers: tuple[HostPort, ...]
    time: float

    def encode(self) -> bytes:
        return _encode(
            certificate=certificate_pem(self.certificate).decode(),
            bundle=[certificate_pem(certificate).decode() for certificate in self.bundle],
            routers=list(map(str, self.routers)),
            time=self.time,
        )


def encode_refusal(refusal: Refusal, text: str) -> bytes:
    return _encode(refused=refusal.value, message=text)


def decode_answer(message: bytes) -> Grant:
    """The grant in an answer.

    :raises Refused: if the answer is a refusal.
    :raises BadMessage: if it is neither.
    """
    fields = _fields(message)
    if "refused" in fields:
        raise _refusal(fields)
    bundle = tuple(_certificate(text, "bundle") for text in _texts(fields, "bundle"))
    if not bundle:
        raise BadMessage("'bundle' is empty")
    try:
        routers = tuple(HostPort.parse(text) for text in _texts(fields, "routers"))
    except ValueError as error:
        raise BadMessage(f"'routers': {error}") from error
    time = fields.get("time")
    if not isinstance(time, int | float) or isinstance(time, bool) or not 0 <= time < 1e11:
        raise BadMessage("'time' must be a number of seconds")
    return Grant(_certificate(_text(fields, "certificate"), "certificate"), bundle, routers, float(time))


def _refusal(fields: Mapping[str, Any]) -> Refused:
    text = "".join(c if c.isprintable() else " " for c in _text(fields, "message")[:500])
    try:
        refusal = Refusal(_text(fields, "refused"))
    except ValueError:
        refusal = Refusal.BAD_REQUEST
    return Refused(refusal, text)


def _encode(**fields: object) -> bytes:
    return json.dumps({"version": VERSION, **fields}, separators=(",", ":")).encode()


def _fields(message: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"it is not JSON: {type(error).__name__}") from error
    if not isinstance(fields, dict):
        raise BadMessage("it is not a JSON object")
    if fields.get("version") != VERSION or isinstance(fields["version"], bool):
        raise BadMessage(f"its version is {str(fields.get('version'))[:20]!r}; this program speaks {VERSION}")
    return fields


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadMessage(f"{name!r} must be a text of at most {_MAX_TEXT} characters")
    if not _encodable(value):
        raise BadMessage(f"{name!r} is not valid text")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> list[str]:
    values = fields.get(name)
    if not isinstance(values, list) or len(values) > MAX_ITEMS:
        raise BadMessage(f"{name!r} must be a list of at most {MAX_ITEMS} texts")
    return [_text({name: value}, name) for value in values]


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _name(fields: Mapping[str, Any], name: str, what: str) -> str:
    try:
        return check_name(_text(fields, name), what)
    except InvalidIdentity as error:
        raise BadMessage(str(error)) from error


def _certificate(pem: str, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise BadMessage(f"{name!r} is not a PEM certificate: {error}") from error

"""The head of a request to the kubelet API: cut, judged and rewritten. Pure.

The kubelet's API has no published specification; what each path needs of its caller is in
https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers. A command for ``exec`` is in the query, an argument at a time."""

_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.1")
_FIRST_SEGMENT = re.compile(r"/([A-Za-z]*)(?:/|\?|$)")

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = {"metrics": "metrics", "stats": "stats", "logs": "log", "spec": "spec"}
_INTERACTIVE = ("exec", "attach", "portForward", "run")
"""Paths that give control over a container, whatever the method: a WebSocket's is GET."""

_OF_A_POD = (*_INTERACTIVE, "containerLogs")

_DROPPED = (b"authorization", b"connection", b"keep-alive", b"proxy-connection", b"te", b"expect")
"""Headers that end here: the caller's credentials are none of the node's business."""


class BadRequest(Exception):
    """The peer's fault. The message is for it."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and headers. ``target`` is path and query as they came."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def first_segment(self) -> str:
        match = _FIRST_SEGMENT.match(self.target)
        return match[1] if match else ""

    @property
    def verb(self) -> str:
        return "create" if self.first_segment in _INTERACTIVE else _VERBS.get(self.method, "create")

    @property
    def subresource(self) -> str:
        """Of ``nodes``: what the caller needs rights on."""
        return _SUBRESOURCES.get(self.first_segment, "proxy")

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name of the pod that the path is about, if it is about one."""
        segments = self.path.split("/")[1:]
        return (segments[1], segments[2]) if segments[0] in _OF_A_POD and len(segments) > 2 else None

    @property
    def upgrade(self) -> bytes | None:
        """The protocol to go on with, for a path that may be upgraded."""
        return self.header(b"upgrade") if self.first_segment in _INTERACTIVE else None

    @property
    def bearer(self) -> str | None:
        value = self.header(b"authorization") or b""
        scheme, _, token = value.partition(b" ")
        return token.strip().decode("ascii", "replace") if scheme.lower() == b"bearer" else None

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def rewritten(self) -> bytes:
        """The head as the node gets it: one request on one connection, and no credentials."""
        headers = [(name, value) for name, value in self.headers if name.lower() not in _DROPPED]
        if self.upgrade is not None:
            headers.append((b"Connection", b"Upgrade"))
        else:
            headers = [(name, value) for name, value in headers if name.lower() != b"upgrade"]
            headers.append((b"Connection", b"close"))
        line = f"{self.method} {self.target} HTTP/1.1".encode()
        return b"\r\n".join([line, *(b"%s: %s" % header for header in headers), b"", b""])


def cut_head(data: bytes | bytearray) -> tuple[RequestHead, bytes] | None:
    """The head at the start of ``data`` and what follows it; ``None`` while it is incomplete.

    :raises BadRequest: if it is none, or over :data:`MAX_HEAD`.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise BadRequest(f"the request's head is over {MAX_HEAD} bytes")
        return None
    line, *lines = bytes(data[:end]).split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("not an HTTP/1.1 request")
    head = RequestHead(match[1].decode(), match[2].decode(), tuple(_header(line) for line in lines))
    if _ambiguous(head.path):
        raise BadRequest("the path must be in its plainest form")
    return head, bytes(data[end + 4 :])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or b"\0" in value or b"\r" in value or b"\n" in value:
        raise BadRequest("a header is malformed")
    return name, value.strip()


def _ambiguous(path: str) -> bool:
    """Whether another reader might see another first segment than we do. Rights hang on it."""
    segments = path.split("/")[1:]
    return "" in segments[:-1] or "." in segments or ".." in segments or "%" in segments[0]


def error_response(code: int, reason: str, message: str) -> bytes:
    """A whole response that says what is wrong, in plain text as a kubelet's."""
    body = message.encode()
    head = f"HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body

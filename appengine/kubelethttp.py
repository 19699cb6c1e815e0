"""One HTTP/1.1 request on one connection, as the kubelet API is reached over a stream. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from appengine.podspec import Json

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers; a command's arguments are in the query."""

_TRUE = ("1", "true", "True", "TRUE", "t", "T")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class HttpError(Exception):
    """An answer that says what is wrong."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head. Header names are in lower case; of one that is repeated, all values are kept in order."""

    method: str
    path: tuple[str, ...]
    query: dict[str, list[str]]
    headers: dict[str, list[str]]

    def value(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[-1] if values else None

    def flag(self, *names: str) -> bool:
        """Whether any of the query's names is true: the kubelet and the API server name some differently."""
        return any(self.value(name) in _TRUE for name in names)

    def number(self, name: str) -> int | None:
        """:raises HttpError: if it is there and no whole number."""
        value = self.value(name)
        if value is None or value == "":
            return None
        try:
            return int(value)
        except ValueError:
            raise HttpError(400, f"{name} must be a number, not {value[:40]!r}") from None

    def header(self, name: str) -> str:
        values = self.headers.get(name)
        return values[0] if values else ""


def cut_request(buffer: bytearray) -> tuple[Request, bytes] | None:
    """The request at the start of a buffer and what follows its head; ``None`` while it is incomplete.

    :raises HttpError: if it is none.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0 or end > MAX_HEAD:
        if len(buffer) > MAX_HEAD:
            raise HttpError(400, f"the request's head is over {MAX_HEAD} bytes")
        return None
    first, *lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise HttpError(400, "not an HTTP request")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    where, _, asked = words[1].partition("?")
    try:
        query = parse_qs(asked, keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        raise HttpError(400, "the query has too many fields") from None
    path = tuple(unquote(part) for part in where.split("/") if part)
    return Request(words[0], path, query, headers), bytes(buffer[end + 4 :])


def response(code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    """A whole response."""
    head = (
        f"HTTP/1.1 {code} {_REASONS.get(code, 'Unknown')}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def json_response(value: Json | list[Json]) -> bytes:
    return response(200, json.dumps(value).encode(), "application/json")


def error_response(error: HttpError, as_json: bool) -> bytes:
    if as_json:
        return response(error.code, json.dumps({"error": error.message}).encode(), "application/json")
    return response(error.code, error.message.encode())


def stream_head(content_type: str = "text/plain; charset=utf-8") -> bytes:
    """Of a response that ends when the connection does."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode()


def switching(protocol: str, headers: dict[str, str]) -> bytes:
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", f"Upgrade: {protocol}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()

"""SPDY/3.1 as ``kubectl`` and the API server speak it: the server's side, without IO.

https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/. As in Kubernetes' own library there is no flow
control: windows are accepted and ignored. What is fed in gives events; what is to be sent comes from methods.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 1
_MAX_CONTROL = 65536
_MAX_DATA = 1 << 20
_MAX_HEADER_BLOCK = 1 << 18
_MAX_STREAMS = 1024
_PIECE = 65536

_WORDS = """
    options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
    authorization cache-control connection content-base content-encoding content-language content-length
    content-location content-md5 content-range content-type date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
    user-agent vary via warning www-authenticate method get status
"""
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """The preset dictionary of header blocks (section 2.6.10.1 of the draft)."""
    words = [*_WORDS.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words) + _REST.encode()


DICTIONARY = _dictionary()


class SpdyError(Exception):
    """The peer does not speak the protocol. The connection is of no more use."""


@dataclass(frozen=True, slots=True)
class Opened:
    stream: int
    headers: Mapping[str, str]
    finished: bool


@dataclass(frozen=True, slots=True)
class Received:
    stream: int
    data: bytes
    finished: bool


@dataclass(frozen=True, slots=True)
class Reset:
    stream: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """Send :meth:`Spdy.pong` back."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class GoneAway:
    pass


Event = Opened | Received | Reset | Pinged | GoneAway


class Spdy:
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._streams = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events in what has come.

        :raises SpdyError: for what is no SPDY, or too large.
        """
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            control = bool(first & 0x80000000)
            if length > (_MAX_CONTROL if control else _MAX_DATA):
                raise SpdyError(f"a frame of {length} bytes is too long")
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            whole = bytes(self._buffer[: 8 + length])
            del self._buffer[: 8 + length]
            flags = second >> 24
            if control:
                yield from self._control(first & 0xFFFF, (first >> 16) & 0x7FFF, flags, payload, whole)
            else:
                yield Received(first & 0x7FFFFFFF, payload, bool(flags & _FIN))

    def _control(self, kind: int, version: int, flags: int, payload: bytes, whole: bytes) -> Iterator[Event]:
        if version != _VERSION:
            raise SpdyError(f"SPDY version {version} is not spoken here")
        least = {_SYN_STREAM: 10, _RST_STREAM: 8, _HEADERS: 4, _PING: 4}.get(kind, 0)
        if len(payload) < least:
            raise SpdyError(f"a frame of type {kind} is too short")
        if kind == _SYN_STREAM:
            self._streams += 1
            if self._streams > _MAX_STREAMS:
                raise SpdyError("too many streams on one connection")
            stream = struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF
            yield Opened(stream, self._headers(payload[10:]), bool(flags & _FIN))
        elif kind == _HEADERS:
            # The shared compression state must see it, though nothing in it is of use here.
            self._headers(payload[4:])
            if flags & _FIN:
                yield Received(struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF, b"", True)
        elif kind == _RST_STREAM:
            yield Reset(struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF)
        elif kind == _PING:
            yield Pinged(whole)
        elif kind == _GOAWAY:
            yield GoneAway()

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, _MAX_HEADER_BLOCK)
            if self._inflate.unconsumed_tail:
                raise SpdyError("a header block is too large")
            (count,) = struct.unpack_from(">I", plain)
            at, found = 4, {}
            for _ in range(min(count, 256)):
                name, at = _text(plain, at)
                value, at = _text(plain, at)
                found[name.lower()] = value
        except (zlib.error, struct.error) as error:
            raise SpdyError(f"a header block is damaged: {error}") from error
        return found

    def reply(self, stream: int) -> bytes:
        """Accept a stream."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _frame(_SYN_REPLY, 0, struct.pack(">I", stream) + block)

    def data(self, stream: int, data: bytes, finished: bool = False) -> bytes:
        """Data for a stream, and its end from our side."""
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] or [b""]
        if not data and not finished:
            return b""
        last = len(pieces) - 1
        return b"".join(
            struct.pack(">II", stream, (_FIN if finished and n == last else 0) << 24 | len(piece)) + piece
            for n, piece in enumerate(pieces)
        )

    def reset(self, stream: int) -> bytes:
        """End a stream both ways (CANCEL)."""
        return _frame(_RST_STREAM, 0, struct.pack(">II", stream, 5))

    def pong(self, ping: Pinged) -> bytes:
        return ping.frame

    def goaway(self) -> bytes:
        return _frame(_GOAWAY, 0, struct.pack(">II", 0, 0))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | _VERSION, kind, flags << 24 | len(payload)) + payload


def _text(plain: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", plain, at)
    end = at + 4 + length
    if end > len(plain):
        raise SpdyError("a header block is cut short")
    return plain[at + 4 : end].decode("utf-8", "replace"), end

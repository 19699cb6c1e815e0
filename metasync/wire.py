"""What the two ends of a sync session say to each other, in bytes. Sans-IO.

A frame is ``length:u32`` and so many bytes of zlib data: ``type:u8 header-length:u16 header tail``. The header is a
JSON object, the tail is binary. Keys on the wire stand below the feed's prefix, so that a peer has no words for
a key outside its feeds. Nothing of a frame is kept before its length is checked, and no frame inflates past the cap.

One end of a feed is its source, the other its target::

    target → source   Subscribe   from this cursor, please
    source → target   Reconcile   your cursor is of no use: compare these digests
    target → source   Entries     what I have in the buckets that differ
    source → target   Changes     parts of a delta; the last one brings the cursor
    target → source   Ack         it is durable
    source → target   Held        this feed goes no further; the reason is for people
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metasync.cursor import MAX_TOKEN
from metasync.delta import Change
from metasync.digest import DIGEST, ITEM, MAX_BUCKETS

SERVICE = "metasync/1"
"""The name under which the cloud serves the sync on a stream."""

VERSION = 1
MAX_FRAME = 4 << 20
"""Of a frame's bytes, compressed and not. A value of etcd's largest size (1.5 MiB) fits."""

PART = 256 << 10
"""Changes are cut into parts of about so many bytes, so that feeds take turns on the wire."""

MAX_KEY = 8192
_MAX_TEXT = 2000
_MAX_SCOPES = 256
_SCOPE = re.compile(r"[a-z0-9]([-.a-z0-9]{0,198}[a-z0-9])?")
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BH")
_PUT, _DELETE = 1, 2


class ProtocolError(Exception):
    """The peer sent what this protocol does not know. The session ends."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of each end. The server's tells the node which scopes of data are its."""

    version: int = VERSION
    software: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subscribe:
    """``cursor`` ``None``: the target has none. ``empty``: it has no key of the feed either."""

    feed: str
    cursor: bytes | None
    empty: bool
    max_ops: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Reconcile:
    """``values``: items are keys with values, else keys. ``digests`` are those of as many buckets as there are."""

    feed: str
    values: bool
    digests: bytes

    @property
    def buckets(self) -> int:
        return len(self.digests) // DIGEST


@dataclass(frozen=True, slots=True)
class Entries:
    """``bitmap`` says which buckets differ (in the first part); ``items`` are all hashes the target has in them."""

    feed: str
    bitmap: bytes
    items: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """A part of what makes one transaction. ``forget`` are hashes of items that the target is to delete.

    Only the last part has a ``cursor``.
    """

    feed: str
    changes: tuple[Change, ...]
    forget: bytes = b""
    cursor: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    feed: str
    cursor: bytes


@dataclass(frozen=True, slots=True)
class Held:
    feed: str
    reason: str


Message = Hello | Subscribe | Reconcile | Entries | Changes | Ack | Held
FeedMessage = Subscribe | Reconcile | Entries | Changes | Ack | Held


def encode(message: Message) -> bytes:
    """The message as one frame."""
    kind, header, tail = _take_apart(message)
    head = json.dumps(header, separators=(",", ":")).encode()
    body = zlib.compress(_HEAD.pack(kind, len(head)) + head + tail, 6)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes is over the frame's cap")
    return _LENGTH.pack(len(body)) + body


def _take_apart(message: Message) -> tuple[int, dict[str, Any], bytes]:
    match message:
        case Hello(version, software, scopes):
            return 1, {"version": version, "software": software, "scopes": scopes}, b""
        case Subscribe(feed, cursor, empty, max_ops, max_bytes):
            header = {"feed": feed, "cursor": _text(cursor), "empty": empty, "ops": max_ops, "bytes": max_bytes}
            return 2, header, b""
        case Reconcile(feed, values, digests):
            return 3, {"feed": feed, "values": values}, digests
        case Entries(feed, bitmap, items, last):
            return 4, {"feed": feed, "bitmap": len(bitmap), "last": last}, bitmap + items
        case Changes(feed, changes, forget, cursor):
            header = {"feed": feed, "forget": len(forget), "cursor": _text(cursor)}
            return 5, header, forget + b"".join(map(_pack_change, changes))
        case Ack(feed, cursor):
            return 6, {"feed": feed, "cursor": _text(cursor)}, b""
        case Held(feed, reason):
            return 7, {"feed": feed, "reason": reason[:_MAX_TEXT]}, b""


def _text(token: bytes | None) -> str | None:
    return None if token is None else token.decode("latin-1")


def _pack_change(change: Change) -> bytes:
    key = _LENGTH.pack(len(change.key)) + change.key
    if change.value is None:
        return bytes([_DELETE]) + key
    return bytes([_PUT]) + key + _LENGTH.pack(len(change.value)) + change.value


class Decoder:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """All messages that are complete with these bytes. Raises what :meth:`next` does."""
        self.add(data)
        while (message := self.next()) is not None:
            yield message

    def add(self, data: bytes) -> None:
        """Take in what has come. It is kept until :meth:`next` asks for it."""
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next(self) -> Message | None:
        """The next message, if all of it has come.

        :raises ProtocolError: when the bytes make no sense. The decoder is of no use afterwards.
        """
        start = self._offset + _LENGTH.size
        if len(self._buffer) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._offset)
        if length > MAX_FRAME:
            raise ProtocolError(f"a frame of {length} bytes is over the cap of {MAX_FRAME}")
        if len(self._buffer) - start < length:
            return None
        self._offset = start + length
        return decode(bytes(memoryview(self._buffer)[start : self._offset]))


def decode(frame: bytes) -> Message:
    """:raises ProtocolError: if a frame (without its length) is none of ours."""
    body = _inflate(frame)
    if len(body) < _HEAD.size:
        raise ProtocolError("a frame without a header")
    kind, length = _HEAD.unpack_from(body)
    end = _HEAD.size + length
    try:
        header = json.loads(body[_HEAD.size : end])
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame's header is not JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("a frame's header is not an object")
    return _put_together(kind, _Header(header), body[end:])


def _inflate(frame: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(frame, MAX_FRAME)
    except zlib.error as error:
        raise ProtocolError("a frame is not zlib data") from error
    if not inflater.eof:
        raise ProtocolError(f"a frame is cut short, or inflates past {MAX_FRAME} bytes")
    return body


@dataclass(frozen=True, slots=True)
class _Header:
    """A header's fields, each of the type that is asked for."""

    fields: dict[str, Any]

    def text(self, name: str, most: int = 200) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str) or len(value) > most:
            raise ProtocolError(f"{name} is not text of at most {most} characters")
        return value

    def number(self, name: str) -> int:
        value = self.fields.get(name)
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise ProtocolError(f"{name} is not a number")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        values = self.fields.get(name, [])
        if not isinstance(values, list) or len(values) > _MAX_SCOPES:
            raise ProtocolError(f"{name} is not a list of at most {_MAX_SCOPES}")
        for value in values:
            if not isinstance(value, str) or not _SCOPE.fullmatch(value):
                raise ProtocolError(f"{name} has something that is no name: {value!r:.80}")
        return tuple(values)

    def flag(self, name: str) -> bool:
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise ProtocolError(f"{name} is neither true nor false")
        return value

    def token(self, name: str) -> bytes | None:
        if self.fields.get(name) is None:
            return None
        try:
            return self.text(name, MAX_TOKEN).encode("latin-1")
        except UnicodeEncodeError as error:
            raise ProtocolError(f"{name} is not a cursor") from error


def _put_together(kind: int, header: _Header, tail: bytes) -> Message:
    if kind == 1:
        return Hello(header.number("version"), header.text("software"), header.names("scopes"))
    feed = header.text("feed")
    if kind == 2:
        return Subscribe(
            feed, header.token("cursor"), header.flag("empty"), header.number("ops"), header.number("bytes")
        )
    if kind == 3:
        if len(tail) % DIGEST or not DIGEST <= len(tail) <= MAX_BUCKETS * DIGEST:
            raise ProtocolError(f"{len(tail)} bytes of digests")
        return Reconcile(feed, header.flag("values"), tail)
    if kind == 4:
        bitmap = header.number("bitmap")
        if (len(tail) - bitmap) % ITEM or not bitmap <= min(len(tail), MAX_BUCKETS // 8):
            raise ProtocolError(f"{len(tail)} bytes of entries with a bitmap of {bitmap}")
        return Entries(feed, tail[:bitmap], tail[bitmap:], header.flag("last"))
    if kind == 5:
        forget = header.number("forget")
        if forget % ITEM or forget > len(tail):
            raise ProtocolError(f"{forget} bytes of items to forget")
        return Changes(feed, tuple(_unpack_changes(tail, forget)), tail[:forget], header.token("cursor"))
    if kind == 6:
        cursor = header.token("cursor")
        if cursor is None:
            raise ProtocolError("an Ack without a cursor")
        return Ack(feed, cursor)
    if kind == 7:
        return Held(feed, header.text("reason", _MAX_TEXT))
    raise ProtocolError(f"message type {kind} is unknown")


def _unpack_changes(tail: bytes, offset: int) -> Iterator[Change]:
    while offset < len(tail):
        op = tail[offset]
        key, offset = _unpack_bytes(tail, offset + 1)
        if len(key) > MAX_KEY:
            raise ProtocolError(f"a key of {len(key)} bytes")
        if op == _DELETE:
            yield Change(key, None)
        elif op == _PUT:
            value, offset = _unpack_bytes(tail, offset)
            yield Change(key, value)
        else:
            raise ProtocolError(f"change type {op} is unknown")


def _unpack_bytes(tail: bytes, offset: int) -> tuple[bytes, int]:
    if offset + _LENGTH.size > len(tail):
        raise ProtocolError("a change is cut short")
    (length,) = _LENGTH.unpack_from(tail, offset)
    start = offset + _LENGTH.size
    if start + length > len(tail):
        raise ProtocolError("a change is cut short")
    return tail[start : start + length], start + length

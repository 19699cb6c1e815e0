"""TLS 1.3 records after a handshake of OpenSSL's: sealed and opened by ``cryptography``'s AEADs. Public names only.

OpenSSL makes the handshake and judges certificates. When that is over its connection has nothing left to do that is
hard, and keeps 38 KB for it; and each batch passes through two of its buffers. What remains is the record protocol
(RFC 8446, 5.2): a header, a nonce that counts, an AEAD. Here it is, for the side of the server: half the memory of a
peer at a router, and half the time per byte (64 KiB are sealed in 8 instead of 13.5 microseconds).

The keys come as the secrets of ``SSLKEYLOGFILE`` do (RFC 9850): by the keylog callback of the context. They stay in
the engine.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from OpenSSL import SSL

from kubebus.fastpath.engine import CHUNK, RECORD, ROOM, Buffer, Engine, EngineFactory, choose_engine, scratch

# Content types (RFC 8446, 5.1), and messages after the handshake (4).
_CHANGE_CIPHER_SPEC: Final = 20
_ALERT: Final = 21
_HANDSHAKE: Final = 22
_DATA: Final = 23
_CONTENT_TYPES: Final = range(20, 24)
_KEY_UPDATE: Final = b"\x18\x00\x00\x01"

# Alerts (RFC 8446, 6.2).
_CLOSE_NOTIFY: Final = 0
_UNEXPECTED_MESSAGE: Final = 10
_BAD_RECORD_MAC: Final = 20
_RECORD_OVERFLOW: Final = 22
_USER_CANCELED: Final = 90

_HEADER: Final = struct.Struct("!BHH")
_header_at = _HEADER.unpack_from
_LEGACY_VERSION: Final = 0x0303
_TAG: Final = 16
_FULL: Final = _HEADER.pack(_DATA, _LEGACY_VERSION, RECORD + 1 + _TAG)
_EXTRA: Final = _HEADER.size + 1 + _TAG
_LARGEST: Final = RECORD + 1 + _TAG
_MAX_SHAKING: Final = RECORD + 256
"""As long as a record may be by its header (5.2); OpenSSL judges the rest."""

_UPDATE_AFTER: Final = 1 << 23
"""Records under one key. RFC 8446, 5.5, allows 2^24.5 of full size with AES-GCM."""

_MAX_IDLE: Final = 32
"""Records in a row without data that are borne, as many as OpenSSL bears (``MAX_EMPTY_RECORDS``)."""

_SUITES: Final[dict[str, tuple[Callable[[bytes], Any], int, str]]] = {
    "TLS_AES_128_GCM_SHA256": (AESGCM, 16, "sha256"),
    "TLS_CHACHA20_POLY1305_SHA256": (ChaCha20Poly1305, 32, "sha256"),
    "TLS_AES_256_GCM_SHA384": (AESGCM, 32, "sha384"),
}

_OWN_SECRET: Final = b"SERVER_TRAFFIC_SECRET_0"
_PEER_SECRET: Final = b"CLIENT_TRAFFIC_SECRET_0"


class _Keys:
    """One direction: what seals the next record, and how often it did."""

    __slots__ = ("_aead", "_digest", "_iv", "_secret", "_size", "count", "run")

    def __init__(self, suite: str, secret: bytes) -> None:
        self._aead, self._size, self._digest = _SUITES[suite]
        self._secret = secret
        self.count = 0
        self._derive()

    def update(self) -> None:
        """The next generation of keys (RFC 8446, 7.2)."""
        self._secret = self._expand(b"traffic upd", len(self._secret))
        self._derive()

    def nonce(self) -> bytes:
        """That of the next record; no second call gives the same."""
        count = self.count
        self.count = count + 1
        return (self._iv ^ count).to_bytes(12)

    def _derive(self) -> None:
        self.run: Any = self._aead(self._expand(b"key", self._size))
        self._iv: int = int.from_bytes(self._expand(b"iv", 12))
        self.count = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label (RFC 8446, 7.1) without context, of at most one block."""
        return hmac.digest(self._secret, _expansion(label, size), self._digest)[:size]


@lru_cache(maxsize=8)
def _expansion(label: bytes, size: int) -> bytes:
    name = b"tls13 " + label
    return struct.pack("!HB", size, len(name)) + name + b"\0\1"


class _Sealed:
    """Records to send, of the engine that wrote last. Room for all engines, used up before another has its turn."""

    def __init__(self) -> None:
        self.view = scratch(2 * ROOM)
        self.filled = 0
        self.owner: RecordEngine | None = None


_sealed = _Sealed()
# One more record than an answer has: what was cut when it was received is completed by the next.
_plain = scratch(2 * ROOM + RECORD + 1)
_to_seal = memoryview(bytearray(RECORD + 1))
_nothing = memoryview(b"")

_shaking: WeakKeyDictionary[SSL.Connection, dict[bytes, bytes]] = WeakKeyDictionary()
"""The secrets of connections that are in their handshake."""


_prepared: WeakSet[SSL.Context] = WeakSet()


def _keep(connection: SSL.Connection, line: bytes) -> None:
    # Called for each secret of a handshake, of which there are five.
    if line.startswith((_OWN_SECRET, _PEER_SECRET)):
        secrets = _shaking.get(connection)
        if secrets is not None:
            label, _, secret = line.split(b" ")
            secrets[label] = bytes.fromhex(secret.decode())


class RecordEngine:
    """An :class:`~kubebus.fastpath.engine.Engine` for the server's side of TLS 1.3.

    :param connection: of a context that was prepared by :func:`prepare`.
    :param shake: makes the engine of the handshake. With a cipher suite unknown here it goes on to the end.
    """

    __slots__ = (
        "_asked",
        "_connection",
        "_idle",
        "_inbox",
        "_opening",
        "_sealing",
        "_shaker",
        "_spilt",
        "_told_end",
        "ended",
    )

    def __init__(self, connection: SSL.Connection, shake: EngineFactory) -> None:
        self._connection: Any = connection
        self._shaker: Engine | None = shake(connection)
        self._opening: _Keys | None = None
        self._sealing: _Keys | None = None
        self._inbox = b""
        self._spilt = b""
        self._idle = 0
        self._asked = False
        self._told_end = False
        self.ended = False
        _shaking[connection] = {}

    # The handshake

    def handshake(self) -> bool:
        shaker = self._shaker
        if self._opening is not None or shaker is None:
            return True
        # An idle question costs as much as one that has an answer.
        asked = True
        while True:
            record = self._next_record()
            if record:
                shaker.feed(record)
                first, asked = asked, False
                if first and record[0] == _CHANGE_CIPHER_SPEC:
                    # It is ignored (RFC 8446, 5), or wrong; what comes with it shows which.
                    continue
            elif asked:
                return False
            asked = True
            if shaker.handshake():
                self._take_over(shaker)
                return True
            # What the handshake says before its end is sealed with its own keys, or not at all.
            self._spill(shaker)

    def _next_record(self) -> bytes:
        """The next whole record; anything, if that is none. OpenSSL must not get what follows its handshake."""
        inbox = self._inbox
        if len(inbox) < _HEADER.size:
            return b""
        kind, _, size = _HEADER.unpack_from(inbox)
        end = _HEADER.size + size
        if kind not in _CONTENT_TYPES or size > _MAX_SHAKING:
            end = len(inbox)
        elif end > len(inbox):
            return b""
        self._inbox = inbox[end:]
        return inbox[:end]

    def _take_over(self, shaker: Engine) -> None:
        secrets = _shaking.pop(self._connection, {})
        suite = self._connection.get_cipher_name()
        if suite in _SUITES and len(secrets) == 2:
            self._opening = _Keys(suite, secrets[_PEER_SECRET])
            self._sealing = _Keys(suite, secrets[_OWN_SECRET])
            # What OpenSSL says with the client's end of the handshake stays here: tickets, which nobody may use. They
            # are sealed with the lasting keys already, but never sent: the first record that is sent counts as 0.
        else:
            shaker.feed(self._inbox)
            self._inbox = b""

    def _spill(self, shaker: Engine) -> None:
        """Take what OpenSSL has to send."""
        while out := shaker.output():
            self._spilt += out
            if len(out) < ROOM:
                return

    # Data

    def feed(self, data: Buffer) -> None:
        if self._opening is None and self._is_openssls:
            assert self._shaker is not None
            self._shaker.feed(data)
        else:
            self._inbox += bytes(data)

    @property
    def _is_openssls(self) -> bool:
        """The handshake is over, and OpenSSL goes on."""
        return self._opening is None and self._connection not in _shaking

    def _by_openssl(self, read: Callable[[Engine], memoryview]) -> memoryview:
        shaker = self._shaker
        assert shaker is not None
        plain = read(shaker)
        self.ended = shaker.ended
        return plain

    def read(self, kept: Buffer = b"") -> memoryview:
        if self._opening is None:
            return self._by_openssl(lambda shaker: shaker.read(kept)) if self._is_openssls else _nothing
        filled = len(kept)
        _plain[:filled] = kept
        inbox, self._inbox = self._inbox, b""
        return _plain[: self._open(memoryview(inbox), filled, filled + ROOM)]

    def receive(self, data: Buffer, kept: Buffer = b"") -> memoryview:
        if self._opening is None:
            return self._by_openssl(lambda shaker: shaker.receive(data, kept))
        view = memoryview(data)
        filled = len(kept)
        _plain[:filled] = kept
        end = filled + ROOM
        if self._inbox:
            # The rest of the record that began there.
            head = self._inbox + bytes(view[: _HEADER.size])
            size = _HEADER.size + (_header_at(head, 0)[2] if len(head) >= _HEADER.size else 0)
            missing = max(size - len(self._inbox), 0)
            inbox, self._inbox = self._inbox + bytes(view[:missing]), b""
            filled = self._open(memoryview(inbox), filled, end)
            if self._inbox or self.ended:
                # It is not whole yet, so there was no more; or nothing counts that follows.
                return _plain[:filled]
            view = view[missing:]
        return _plain[: self._open(view, filled, end)]

    def _open(self, data: memoryview, filled: int, limit: int) -> int:
        """Open the records in ``data``, as many as there is room for after ``filled`` bytes; the rest is kept.

        Up to where the answer is filled then.
        """
        keys = self._opening
        assert keys is not None
        at, size = 0, len(data)
        while filled < limit and not self.ended:
            start = at + 5
            if start > size:
                break
            kind, _, length = _header_at(data, at)
            if kind != _DATA:
                raise self._fail(_UNEXPECTED_MESSAGE, "unexpected message")
            if not _TAG < length <= _LARGEST:
                raise self._fail(_RECORD_OVERFLOW, "bad record length")
            end = start + length
            if end > size:
                break
            last = filled + length - 17
            try:
                keys.run.decrypt_into(keys.nonce(), data[start:end], data[at:start], _plain[filled : last + 1])
            except InvalidTag:
                raise self._fail(_BAD_RECORD_MAC, "decryption failed or bad record mac") from None
            at = end
            if _plain[last] == _DATA and last > filled:
                filled = last
                self._idle = 0
            else:
                filled = self._other(filled, last)
        if at < size and not self.ended:
            self._inbox = bytes(data[at:])
        return filled

    def _other(self, filled: int, last: int) -> int:
        """A record that is padded, empty or not data lies in ``_plain`` from ``filled`` to ``last``."""
        # Not byte by byte: one that talks in padding would have the whole processor.
        last = filled + max(0, len(bytes(_plain[filled : last + 1]).rstrip(b"\0")) - 1)
        kind = _plain[last]
        self._idle = 0 if kind == _DATA and last > filled else self._idle + 1
        if self._idle > _MAX_IDLE:
            raise self._fail(_UNEXPECTED_MESSAGE, "too many records without data")
        if kind == _DATA:
            return last
        content = bytes(_plain[filled:last])
        if kind == _ALERT and len(content) == 2:
            self._alert(content[1])
        elif kind == _HANDSHAKE and content[:-1] == _KEY_UPDATE and content[-1] <= 1:
            self._peer_updates(content[-1] == 1)
        else:
            raise self._fail(_UNEXPECTED_MESSAGE, "unexpected message")
        return filled

    def _alert(self, number: int) -> None:
        if number == _CLOSE_NOTIFY:
            self.ended = True
        elif number != _USER_CANCELED:
            raise SSL.Error([("SSL routines", "", f"ssl/tls alert number {number}")])

    def _peer_updates(self, asks: bool) -> None:
        assert self._opening is not None
        self._opening.update()
        # Answered with the next data (RFC 8446, 4.6.3), once however often it asks: one that reads nothing makes no
        # answers pile up.
        self._asked = self._asked or asks

    def _update(self) -> None:
        assert self._sealing is not None
        self._asked = False
        self._seal(_HANDSHAKE, _KEY_UPDATE + b"\0")
        self._sealing.update()

    def write(self, data: Buffer) -> None:
        if self._sealing is None:
            assert self._shaker is not None
            self._shaker.write(data)
            return
        if data and (self._asked or self._sealing.count >= _UPDATE_AFTER):
            self._update()
        if len(data) <= RECORD:
            if data:
                self._seal(_DATA, data)
            return
        view = memoryview(data)
        begin = 0 if view.readonly else self._seal_in_place(view)
        for start in range(begin, len(view), RECORD):
            self._seal(_DATA, view[start : start + RECORD])

    def _seal_in_place(self, view: memoryview) -> int:
        """Seal whole records of data, but for the end, from where they lie; up to where that was done.

        What is sealed ends with the content type, which takes the place of the byte after it meanwhile.
        """
        keys, sealed = self._sealing, _sealed
        assert keys is not None
        if sealed.owner is not self or sealed.filled + (len(view) // RECORD + 1) * (RECORD + _EXTRA) > len(sealed.view):
            self._claim(sealed)
        seal, room, at, stop = keys.run.encrypt_into, sealed.view, sealed.filled, 0
        while stop + RECORD < len(view):
            begin, stop, start = stop, stop + RECORD, at + 5
            at = start + RECORD + 17
            next_byte = view[stop]
            view[stop] = _DATA
            try:
                seal(keys.nonce(), view[begin : stop + 1], _FULL, room[start:at])
            finally:
                view[stop] = next_byte
            room[start - 5 : start] = _FULL
        sealed.filled = at
        return stop

    def _seal(self, kind: int, content: Buffer) -> None:
        keys, sealed = self._sealing, _sealed
        assert keys is not None
        size = len(content)
        if sealed.owner is not self or sealed.filled + size + _EXTRA > len(sealed.view):
            self._claim(sealed)
        _to_seal[:size] = content
        _to_seal[size] = kind
        at = sealed.filled
        start = at + 5
        end = start + size + 17
        header = _HEADER.pack(_DATA, _LEGACY_VERSION, size + 17)
        sealed.view[at:start] = header
        keys.run.encrypt_into(keys.nonce(), _to_seal[: size + 1], header, sealed.view[start:end])
        sealed.filled = end

    def _claim(self, sealed: _Sealed) -> None:
        """Have the common room; what its owner has not taken yet, or what fills it, goes to its owner."""
        if sealed.owner is not None and sealed.filled:
            sealed.owner._spilt += bytes(sealed.view[: sealed.filled])
        sealed.owner, sealed.filled = self, 0

    def output(self) -> memoryview:
        sealed = _sealed
        if self._sealing is None:
            return self._early_output()
        filled = 0
        if sealed.owner is self:
            filled, sealed.filled = sealed.filled, 0
            sealed.owner = None
        if self._spilt:
            spilt, self._spilt = self._spilt, b""
            return memoryview(spilt + bytes(sealed.view[:filled]))
        return sealed.view[:filled]

    def _early_output(self) -> memoryview:
        if self._shaker is not None:
            self._spill(self._shaker)
        # No more than was promised.
        spilt, self._spilt = self._spilt[:ROOM], self._spilt[ROOM:]
        return memoryview(spilt)

    def shutdown(self) -> bool:
        if self._sealing is None:
            assert self._shaker is not None
            return self._shaker.shutdown()
        if not self._told_end:
            self._told_end = True
            self._seal(_ALERT, bytes((1, _CLOSE_NOTIFY)))
        return self.ended

    def settle(self) -> bool:
        if self._opening is None:
            return False
        self._shaker = self._connection = None
        return True

    def _fail(self, alert: int, why: str) -> SSL.Error:
        """Tell the peer, once; the error to raise."""
        if not self._told_end:
            self._told_end = True
            self._seal(_ALERT, bytes((2, alert)))
        return SSL.Error([("SSL routines", "", why)])


def prepare(context: SSL.Context) -> None:
    """Let servers of this context use a :class:`RecordEngine`, before it has made its first connection.

    Harmless where the libraries lack what is needed.
    """
    names = ("encrypt_into", "decrypt_into")
    if all(hasattr(aead, name) for aead in (AESGCM, ChaCha20Poly1305) for name in names):
        context.set_keylog_callback(_keep)
        _prepared.add(context)


def choose_server_engine() -> EngineFactory:
    """The smallest and fastest engine for each connection of a server: by records, if its context was prepared."""
    shake = choose_engine()

    def engine(connection: SSL.Connection) -> Engine:
        if connection.get_context() in _prepared:
            return RecordEngine(connection, shake)
        return shake(connection)

    return engine


assert len(_sealed.view) >= 2 * CHUNK + 2 * _EXTRA * (CHUNK // RECORD)

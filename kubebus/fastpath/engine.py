"""TLS without sockets: ciphertext in, plaintext out, and back. Public API of pyOpenSSL only.

An engine drives one pyOpenSSL ``Connection`` that has memory BIOs. :mod:`kubebus.fastpath.direct` does the same with
half the time per call, on private names of pyOpenSSL; both pass the same tests, and :func:`choose_engine` takes the
better one that works with the libraries installed.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from OpenSSL.SSL import Connection, WantReadError, ZeroReturnError

CHUNK = 1 << 17
"""Most bytes to feed or to encrypt at once: two GSO super-packets. OpenSSL's memory BIOs never shrink, so this bounds
them too, at about 4/3 of it, for every connection that ever carried bulk."""

RECORD = 1 << 14
"""Most bytes in a TLS record (RFC 8446, 5.1)."""

ROOM = CHUNK + RECORD
"""Bytes of scratch: :data:`CHUNK`, and what TLS adds to it or what an earlier, incomplete record leaves over."""

Buffer = bytes | bytearray | memoryview


class Engine(Protocol):
    """One TLS connection. Errors are pyOpenSSL's ``SSL.Error``, after which the connection is of no further use."""

    ended: bool
    """The peer has said that nothing more follows (close_notify)."""

    def handshake(self) -> bool:
        """Go on with the handshake; ``True`` once it is complete on this side."""

    def feed(self, data: Buffer) -> None:
        """Take at most :data:`CHUNK` bytes of ciphertext."""

    def read(self, kept: Buffer = b"") -> memoryview:
        """Plaintext; less than :data:`ROOM` bytes: that is all. Valid until the next ``read()`` of any engine.

        :param kept: what the answer is to begin with (and what does not count): at most :data:`ROOM` bytes that an
            earlier one ended with.
        """

    def receive(self, data: Buffer, kept: Buffer = b"") -> memoryview:
        """:meth:`feed` and :meth:`read` in one, once the handshake is over and all that was fed has been read.

        All that was received is in the answer. ``data`` is of no further use to the engine.
        """

    def write(self, data: Buffer) -> None:
        """Encrypt at most :data:`CHUNK` bytes. Only after the handshake."""

    def output(self) -> memoryview:
        """Ciphertext to send; less than :data:`ROOM`: that is all. Valid until the next call of any engine."""

    def shutdown(self) -> bool:
        """Say that nothing more follows; ``True`` if the peer has said so too."""

    def settle(self) -> bool:
        """The handshake is over and judged: what only that needed may go.

        ``True`` if the engine has no more use for its pyOpenSSL ``Connection``: it may go, too.
        """


def gathered(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes in pieces worth encrypting at once: full records, of which the long ones are not copied."""
    small: list[Buffer] = []
    filled = 0
    for part in parts:
        size = len(part)
        if filled + size <= RECORD:
            small.append(part)
            filled += size
            continue
        view = memoryview(part)
        head = RECORD - filled
        small.append(view[:head])
        yield b"".join(small)
        whole = head + (size - head) // RECORD * RECORD
        for start in range(head, whole, CHUNK):
            yield view[start : min(start + CHUNK, whole)]
        small, filled = [view[whole:]], size - whole
    if filled:
        yield small[0] if len(small) == 1 else b"".join(small)


EngineFactory = Callable[[Connection], Engine]


def scratch(size: int) -> memoryview:
    """Bytes to work in, which take no memory before they are used."""
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


# Every engine of the process shares the scratch: what is in it is used up before the reactor serves another.
_plain = scratch(2 * ROOM)


class PublicEngine:
    """An :class:`Engine` on what pyOpenSSL documents."""

    __slots__ = ("_connection", "ended")

    def __init__(self, connection: Connection) -> None:
        # The stubs of pyOpenSSL know only bytes where it takes every buffer.
        self._connection: Any = connection
        self.ended = False

    def handshake(self) -> bool:
        try:
            self._connection.do_handshake()
        except WantReadError:
            return False
        return True

    def feed(self, data: Buffer) -> None:
        self._connection.bio_write(data)

    def read(self, kept: Buffer = b"") -> memoryview:
        filled = len(kept)
        _plain[:filled] = kept
        end = filled + ROOM
        # A record that does not fit stays in OpenSSL for the next call.
        while filled < end and not self.ended:
            try:
                filled += self._connection.recv_into(_plain[filled:end])
            except WantReadError:
                break
            except ZeroReturnError:
                self.ended = True
        return _plain[:filled]

    def receive(self, data: Buffer, kept: Buffer = b"") -> memoryview:
        self.feed(data)
        return self.read(kept)

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[self._connection.send(view) :]

    def output(self) -> memoryview:
        try:
            return memoryview(self._connection.bio_read(ROOM))
        except WantReadError:
            return memoryview(b"")

    def shutdown(self) -> bool:
        return bool(self._connection.shutdown())

    def settle(self) -> bool:
        return False


def choose_engine() -> EngineFactory:
    """The fastest engine that works with the installed pyOpenSSL."""
    try:
        from kubebus.fastpath.direct import DirectEngine, check
    except ImportError:
        return PublicEngine
    return DirectEngine if check() else PublicEngine

"""Joins this terminal to a command that runs elsewhere, over framed channels. The standard library only."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROTOCOL = "kubebus-channels/1"
"""Frames of ``channel:u8 length:u32``: 0 to 4 are input, output, error, status and the terminal's size; 255 closes
the channel that its one byte names."""

_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255


def converse(connection: socket.socket, stdin: bool, tty: bool) -> bytes:
    """Copy to and fro until the command ends; the status it ended with (JSON), or nothing if the connection broke."""
    with _raw_terminal(tty and stdin) as wakeup:
        return _copy(connection, stdin, tty, wakeup)


def _frame(channel: int, data: bytes) -> bytes:
    return struct.pack(">BI", channel, len(data)) + data


def _copy(connection: socket.socket, stdin: bool, tty: bool, wakeup: int | None) -> bytes:
    if tty:
        connection.sendall(_size())
    waiting: list[int] = [connection.fileno()] + ([sys.stdin.fileno()] if stdin else [])
    waiting += [wakeup] if wakeup is not None else []
    buffer = bytearray()
    while True:
        ready, _, _ = select.select(waiting, [], [])
        if wakeup is not None and wakeup in ready:
            os.read(wakeup, 64)
            connection.sendall(_size())
        if stdin and sys.stdin.fileno() in ready:
            data = os.read(sys.stdin.fileno(), 65536)
            if data:
                connection.sendall(_frame(_STDIN, data))
            else:
                connection.sendall(_frame(_CLOSE, bytes([_STDIN])))
                waiting.remove(sys.stdin.fileno())
        if connection.fileno() in ready:
            data = connection.recv(65536)
            if not data:
                return b""
            buffer += data
            for channel, payload in _frames(buffer):
                if channel == _STATUS:
                    return payload
                _show(sys.stderr.fileno() if channel == _STDERR else sys.stdout.fileno(), payload)


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    while len(buffer) >= 5:
        channel, length = struct.unpack_from(">BI", buffer)
        if len(buffer) < 5 + length:
            return
        payload = bytes(buffer[5 : 5 + length])
        del buffer[: 5 + length]
        yield channel, payload


def _show(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _size() -> bytes:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        size = os.terminal_size((80, 24))
    return _frame(_RESIZE, json.dumps({"Width": size.columns, "Height": size.lines}).encode())


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[int | None]:
    """Every key goes to the other side; a change of size is told by a descriptor that can be read."""
    if not wanted or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_handler = signal.signal(signal.SIGWINCH, lambda *_: None)
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    tty.setraw(sys.stdin)
    try:
        yield reader
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(old_wakeup)
        signal.signal(signal.SIGWINCH, old_handler)
        os.close(reader)
        os.close(writer)

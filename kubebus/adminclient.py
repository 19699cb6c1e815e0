"""Talks to a daemon's administration socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from kubebus.sockets import SOCKETS


class AdminError(Exception):
    """The daemon cannot be reached, or said no. The message is for people.

    :ivar status: the HTTP status, or 0 if there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("kubebus")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class AdminClient:
    """:param path: the socket; ``None`` for the standard place of whichever daemon runs here."""

    def __init__(self, path: str | None = None, standard: Sequence[str] = SOCKETS) -> None:
        self.path = path or next((place for place in standard if os.path.exists(place)), standard[0])

    def get(self, path: str) -> Any:
        """The JSON answer. :raises AdminError: if there is none, or it is an error."""
        return self.request("GET", path)

    def post(self, path: str, body: object = None) -> Any:
        return self.request("POST", path, body)

    def put(self, path: str, body: object = None) -> Any:
        return self.request("PUT", path, body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send ``body`` as JSON (``None``: nothing), and return what comes back.

        :raises AdminError: on any failure; its message is the daemon's where there is one.
        """
        response = self.open(method, path, None if body is None else json.dumps(body).encode())
        with response:
            content = response.read()
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise AdminError(f"the daemon at {self.path} gave an answer that is not JSON") from error

    def lines(self, method: str, path: str, body: object = None) -> Iterator[bytes]:
        """The lines of an answer as they come, for answers without end. Errors as in :meth:`request`."""
        with self.open(method, path, None if body is None else json.dumps(body).encode()) as response:
            yield from response

    def open(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """The open response of a request that succeeded (2xx); it closes its connection.

        :raises AdminError: if the daemon cannot be reached, or answers with an error.
        """
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise AdminError(self._unreachable(error)) from error
        if not 200 <= response.status < 300:
            with response:
                raise AdminError(_message(response), response.status)
        return response

    def upgrade(self, method: str, path: str, protocol: str, headers: dict[str, str] | None = None) -> socket.socket:
        """A connection that the daemon has switched to ``protocol`` (HTTP 101), with nothing read from it yet.

        :raises AdminError: if the daemon does not switch.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self.path)
            lines = [f"{method} {path} HTTP/1.1", "Host: kubebus", "Connection: Upgrade", f"Upgrade: {protocol}"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = _read_head(connection)
        except OSError as error:
            connection.close()
            raise AdminError(self._unreachable(error)) from error
        status = int(head.split(maxsplit=2)[1]) if head.startswith(b"HTTP/1.") else 0
        if status != 101:
            with connection:
                raise AdminError(_upgrade_error(connection, status), status)
        return connection

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"{self.path} may be used by root only: try again with sudo"
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            place = " or ".join(SOCKETS) if self.path in SOCKETS else self.path
            return f"no daemon is serving {place}: is it running on this host? (--socket names another place)"
        return f"the daemon at {self.path} did not answer: {error}"


def _message(response: http.client.HTTPResponse) -> str:
    content = response.read(1 << 20)
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the daemon answered {response.status} {response.reason}"


def _read_head(connection: socket.socket) -> bytes:
    # Byte by byte: what follows the head belongs to the other protocol.
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) > 16384:
            raise ConnectionError("it hung up")
        head += byte
    return head


def _upgrade_error(connection: socket.socket, status: int) -> str:
    connection.settimeout(1)
    try:
        content = connection.recv(65536)
        return str(json.loads(content)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the daemon answered {status}"

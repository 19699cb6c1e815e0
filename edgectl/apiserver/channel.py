# mypy: allow-untyped-calls
"""An HTTP connection that says what is wrong with a request too long, and how long."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from twisted.web.http import HTTPChannel

from edgectl.apiserver.errors import ApiError

MAX_HEAD = 64 * 1024
"""Bytes of a request's line with its headers, as of the nodes' own API. Nobody has said yet who asks."""

LINGER = 2.0
"""Seconds in which the client may send the rest, which is thrown away, and read why it was refused: a connection that
is closed with unread bytes takes its last answer with it."""


class BoundedChannel(HTTPChannel):
    """A request line that is too long is answered with 414, headers that are with 431."""

    MAX_LENGTH = MAX_HEAD
    totalHeadersSize = MAX_HEAD
    _lingering = False

    def lineReceived(self, line: bytes) -> None:
        if self._receivedHeaderSize + len(line) > MAX_HEAD:
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        first = self._receivedHeaderSize == 0
        refused = HTTPStatus.REQUEST_URI_TOO_LONG if first else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._refuse(refused, f"the request's head is over {MAX_HEAD} bytes")

    def _refuse(self, refused: HTTPStatus, why: str) -> None:
        body = json.dumps(ApiError(refused, refused.phrase.title().replace(" ", ""), why).status()).encode()
        head = [
            f"HTTP/1.1 {refused} {refused.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        transport: Any = self.transport
        transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self._lingering = True
        self.clearLineBuffer()
        self.setTimeout(LINGER)

    def dataReceived(self, data: bytes) -> None:
        if not self._lingering:
            super().dataReceived(data)

    def timeoutConnection(self) -> None:
        """Clients that ask nothing more are no news."""
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        transport: Any = self.transport
        transport.abortConnection()

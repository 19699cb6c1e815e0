"""What can go wrong on a link. The messages are written for the log and for the peer's log.

A :class:`LocalProtocolError` is a fault of ours, a :class:`RemoteProtocolError` one of the peer's. Every error has
a ``code``: a short word that goes over the wire in a ``close`` message, so that the other end can name the cause.
"""

from __future__ import annotations

from typing import ClassVar


class LinkError(Exception):
    """A link ended, or could not begin."""

    code: ClassVar[str] = "error"


class LocalProtocolError(LinkError):
    """This side asked for something that the link protocol does not allow. Nothing was sent."""

    code = "local-error"


class RemoteProtocolError(LinkError):
    """The peer broke the link protocol. The link is closed; nothing else is disturbed."""

    code = "protocol-error"


class UnknownFrameType(RemoteProtocolError):
    code = "unknown-frame-type"


class FrameTooLarge(RemoteProtocolError):
    """A frame announces more bytes than its type may have. Nothing of it was buffered."""

    code = "frame-too-large"


class BadControlMessage(RemoteProtocolError):
    """A CONTROL frame is not the JSON it must be, or is out of order. The message names the field."""

    code = "bad-control"


class UnsupportedVersion(RemoteProtocolError):
    """The two sides have no version of the link protocol in common."""

    code = "unsupported-version"


class StreamViolation(RemoteProtocolError):
    """A STREAM frame that cannot be: malformed, over its window, or for a stream that never was."""

    code = "stream-violation"


class LinkTimeout(LinkError):
    """The peer did not answer in time: no hello, or a heartbeat without an answer."""

    code = "timeout"


class LinkReplaced(LinkError):
    """A newer session of the same node took over."""

    code = "replaced"


class LinkRefused(LinkError):
    """This side will not talk with the peer: unknown or revoked, or not of this network."""

    code = "refused"


class LinkRevoked(LinkRefused):
    """The node's certificate was revoked."""

    code = "revoked"


class LinkShutdown(LinkError):
    """This side is stopping in good order."""

    code = "shutdown"


class TransportLost(LinkError):
    """The connection under the link is gone."""

    code = "connection-lost"


class ClosedByPeer(LinkError):
    """The peer closed the link and said why.

    :ivar reason_code: its ``code``, for example ``replaced`` or ``revoked``.
    """

    code = "closed-by-peer"

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(f"the peer closed the link ({reason_code}): {message}")
        self.reason_code = reason_code

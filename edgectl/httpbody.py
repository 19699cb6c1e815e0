"""Bodies of HTTP requests and responses: sent at once, gathered up to a cap, or cut into watch events as they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web._newclient import _WrapperException
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from edgectl.errors import ApiError, ApiUnreachable, StatusError
from edgectl.watch import LineSplitter, LineTooLong, Object

MAX_WATCH_LINE = 4 * 1024 * 1024
"""One watch event: an object of etcd's 1.5 MiB, its bytes escaped as JSON."""


@implementer(IBodyProducer)
class Body:
    """A request's body, which is in memory anyway: written at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


class _Collector(Protocol):
    """Gathers a body up to a cap."""

    def __init__(self, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._limit = limit
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if len(self._data) + len(data) > self._limit:
            self._fail(ApiUnreachable(f"the answer is larger than {self._limit} bytes"))
            return
        self._data += data

    def connectionLost(self, reason: Any = None) -> None:
        if self.done.called:
            return
        if _whole(reason):
            self.done.callback(bytes(self._data))
        else:
            self._fail(ApiUnreachable(f"the answer broke off: {cause(reason)}"))

    def _fail(self, error: ApiUnreachable) -> None:
        if not self.done.called:
            self._stop()
            self.done.errback(error)

    def _stop(self) -> None:
        _abort(self.transport)


class Events(Protocol):
    """Cuts a watch's body into events."""

    def __init__(self, event: Callable[[Object], None]) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self._stop())
        self._event = event
        self._lines = LineSplitter(MAX_WATCH_LINE)

    def dataReceived(self, data: bytes) -> None:
        try:
            for line in self._lines.feed(data):
                if self.done.called:
                    return
                self._line(line)
        except LineTooLong as error:
            self._fail(ApiUnreachable(str(error)))

    def _line(self, line: bytes) -> None:
        event = decode(line)
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            self._fail(ApiUnreachable("the watch sent a line that is no event"))
        elif event.get("type") == "ERROR":
            self._fail(StatusError.from_status(event["object"], request="watch"))
        else:
            self._event(event)

    def connectionLost(self, reason: Any = None) -> None:
        if self.done.called:
            return
        if _whole(reason):
            self.done.callback(None)
        else:
            self.done.errback(ApiUnreachable(f"the watch broke off: {cause(reason)}"))

    def _fail(self, error: ApiError) -> None:
        if not self.done.called:
            self._stop()
            self.done.errback(error)

    def _stop(self) -> None:
        _abort(self.transport)


async def collect(response: IResponse, limit: int) -> bytes:
    collector = _Collector(limit)
    response.deliverBody(collector)  # type: ignore[no-untyped-call]
    return await collector.done


def _abort(transport: object) -> None:
    """End a connection in the middle of a response.

    Twisted hands a body's receiver a proxy that can only close in good manners; the server would then end the
    response, and a dead one never would. So the transport behind the proxy is aborted.
    """
    behind: Any = getattr(transport, "_producer", None)
    if behind is not None:
        getattr(behind, "abortConnection", behind.loseConnection)()


def timed_out(result: Any, _: float) -> Any:
    """What a cancelled exchange raises tells nothing of why it was cancelled."""
    if isinstance(result, Failure):
        raise TimeoutError
    return result


def _whole(reason: Any) -> bool:
    """Whether a body came to its end, as far as can be told (without a length, a closed connection is the end)."""
    return reason is not None and bool(reason.check(ResponseDone, PotentialDataLoss))


def decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def cause(error: object) -> str:
    """What a person can use of an error that Twisted wrapped."""
    if isinstance(error, Failure):
        error = error.value
    if isinstance(error, _WrapperException):
        return "; ".join(cause(reason) for reason in error.reasons)
    return f"{type(error).__name__}: {error}" if error is not None else "the connection was lost"

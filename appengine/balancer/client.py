# mypy: disallow-untyped-calls=False
"""HTTP to a worker, through Twisted's agent: a body at once, and an answer of bounded length."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that a worker may give."""


class WorkerError(Exception):
    """A worker answered, but not with a result. The message says with what."""


class Client:
    """Posts to workers, over connections that are kept for the next item.

    :param timeout: seconds that a connection may take.
    """

    def __init__(self, reactor: Any, timeout: float) -> None:
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 8
        self._pool.cachedConnectionTimeout = 20
        # An item is not sent twice behind the balancer's back.
        self._pool.retryAutomatically = False
        self._agent = Agent(reactor, connectTimeout=timeout, pool=self._pool)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[IResponse, bytes]:
        """The response and its body.

        :raises WorkerError: for a status of 500 or more, and for an answer that is too long.
        """
        raw = Headers({name: [value] for name, value in headers.items()})
        response = await self._agent.request(b"POST", url.encode(), raw, _Body(body))
        collecting = _Collecting()
        response.deliverBody(collecting)
        try:
            answer = await collecting.done
        except BaseException:
            collecting.abort()
            raise
        if response.code >= 500:
            raise WorkerError(f"it answered {response.code}")
        return response, answer

    def close(self) -> Deferred[None]:
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


@implementer(IBodyProducer)
class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _Collecting(Protocol):
    def __init__(self) -> None:
        self._data = bytearray()
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_ANSWER:
            self._end(WorkerError(f"its answer has more than {MAX_ANSWER} bytes"))
            self.abort()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(bytes(self._data))
        else:
            self._end(WorkerError(f"its answer is incomplete: {reason.getErrorMessage()}"))

    def abort(self) -> None:
        transport: Any = self.transport
        if transport is not None and hasattr(transport, "abortConnection"):
            transport.abortConnection()

    def _end(self, outcome: bytes | WorkerError) -> None:
        if self.done.called:
            return
        if isinstance(outcome, bytes):
            self.done.callback(outcome)
        else:
            self.done.errback(outcome)

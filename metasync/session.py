"""A sync session: the protocol on a stream, which carries the feeds of one node both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from typing import Protocol as Contract

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from metasync.feeds import Outlet, Rate
from metasync.loglimit import UNLIMITED, LogLimit
from metasync.source import SourceFeed
from metasync.target import TargetFeed
from metasync.wire import (
    VERSION,
    Ack,
    Changes,
    Decoder,
    Entries,
    FeedMessage,
    Held,
    Hello,
    Message,
    ProtocolError,
    Reconcile,
    Subscribe,
    encode,
)

HELLO_TIMEOUT = 30
TICK = 60

MAX_UNKNOWN = 256
"""So often may feeds be asked for between two ticks that are not there. The answers wait for somebody to read them."""


@dataclass(frozen=True, slots=True)
class Feeds:
    """What one end sends and what it takes, by name."""

    sources: dict[str, SourceFeed]
    targets: dict[str, TargetFeed]

    def snapshots(self, now: float) -> list[dict[str, Any]]:
        statuses = [feed.status for feed in self.sources.values()] + [feed.status for feed in self.targets.values()]
        return [status.snapshot(now) for status in statuses]


class FeedMaker(Contract):
    def __call__(self, outlet: Outlet, scopes: Sequence[str]) -> Feeds:
        """:param scopes: what the other end's hello says."""


@implementer(IPushProducer)
class SyncSession(Protocol):
    """One end of a session. It ends at the first message that makes no sense, and at any error of a store.

    :param peer: who the other end is, for the log.
    :param make_feeds: called once the other end has said hello.
    :param rate: how often the other end may write here.
    :param ended: called once, with the reason, when the session is over.
    :param limit: how many lines the log takes for the other end's sake.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        peer: str,
        hello: Hello,
        make_feeds: FeedMaker,
        ended: Callable[[SyncSession, Exception], None],
        rate: Rate | None = None,
        limit: LogLimit = UNLIMITED,
    ) -> None:
        self.peer = peer
        self._limit = limit
        self.feeds = Feeds({}, {})
        self._my_hello = hello
        self._make_feeds = make_feeds
        self._reactor = reactor
        self._ended = ended
        self._rate = rate
        self._decoder = Decoder()
        self._hello: Hello | None = None
        self._timeout: IDelayedCall | None = None
        self._reason: Exception | None = None
        self._full: Sequence[Deferred[None]] | None = None
        self._holds = 0
        self._reading = False
        self._unknown = 0
        self._tick = LoopingCall(self._on_tick)
        self._tick.clock = reactor

    # The transport's side

    def connectionMade(self) -> None:
        assert self.transport is not None
        cast(IConsumer, self.transport).registerProducer(self, True)
        self._timeout = self._reactor.callLater(HELLO_TIMEOUT, self._no_hello)
        self._write(self._my_hello)

    def _no_hello(self) -> None:
        self._timeout = None
        self.broken(ProtocolError(f"no hello within {HELLO_TIMEOUT} s"))

    def dataReceived(self, data: bytes) -> None:
        self._decoder.add(data)
        self._read()

    def _read(self) -> None:
        """What has come, message by message: one may make us hold, and a frame of a few bytes can be megabytes."""
        if self._reading:
            return
        self._reading = True
        try:
            while not self._holds and self._reason is None and (message := self._decoder.next()) is not None:
                self._received(message)
        except ProtocolError as error:
            self.broken(error)
        finally:
            self._reading = False

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._cancel_timeout()
        if self._tick.running:
            self._tick.stop()
        self._stop_feeds()
        self.resumeProducing()
        cause = self._reason or (reason.value if reason else None)
        self._ended(self, cause if isinstance(cause, Exception) else ConnectionError("the stream ended"))

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    # IPushProducer: the transport says when its buffer is full

    def pauseProducing(self) -> None:
        if self._full is None:
            self._full = []

    def resumeProducing(self) -> None:
        waiting, self._full = self._full or [], None
        for done in waiting:
            done.callback(None)

    def stopProducing(self) -> None:
        self.resumeProducing()

    # The feeds' side (Outlet)

    def send(self, message: FeedMessage) -> None:
        if self._reason is None and self.connected:
            self._write(message)

    async def ready(self) -> None:
        if self._full is not None:
            done: Deferred[None] = Deferred()
            self._full = [*self._full, done]
            await done

    async def admit(self) -> None:
        if self._rate is not None:
            wait = self._rate.take(self._reactor.seconds())
            if wait:
                await deferLater(self._reactor, wait, lambda: None)

    def hold(self) -> None:
        self._holds += 1
        if self._holds == 1 and self.transport is not None:
            cast(IPushProducer, self.transport).pauseProducing()

    def go_on(self) -> None:
        self._holds -= 1
        if self._holds or self.transport is None or self._reason is not None or not self.connected:
            return
        cast(IPushProducer, self.transport).resumeProducing()
        self._read()

    def broken(self, error: Exception) -> None:
        if self._reason is not None:
            return
        self._reason = error
        if (more := self.more("end")) is not None:
            self.log.warn("sync with {peer} ends: {error}{more}", peer=self.peer, error=error, more=more)
        self._stop_feeds()
        if self.transport is not None:
            cast(IConsumer, self.transport).unregisterProducer()
            self.resumeProducing()
            getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def more(self, kind: str) -> str | None:
        return self._limit.more(f"{kind} of {self.peer}")

    def seconds(self) -> float:
        return float(self._reactor.seconds())

    def later(self, delay: float, call: Callable[[], None]) -> IDelayedCall:
        return self._reactor.callLater(delay, call)

    def _write(self, message: Message) -> None:
        assert self.transport is not None
        self.transport.write(encode(message))

    def _stop_feeds(self) -> None:
        for source in self.feeds.sources.values():
            source.stop()
        for target in self.feeds.targets.values():
            target.stop()

    # Messages

    def _received(self, message: Message) -> None:
        if self._hello is None:
            self._on_hello(message)
            return
        match message:
            case Hello():
                raise ProtocolError("a second hello")
            case Subscribe() if message.feed not in self.feeds.sources:
                self._unknown += 1
                if self._unknown > MAX_UNKNOWN:
                    raise ProtocolError(f"{self._unknown} feeds that are not there")
                self.send(Held(message.feed, f"there is no feed {message.feed!r} for {self.peer}"))
            case Subscribe() | Entries() | Ack():
                _feed(self.feeds.sources, message.feed).received(message)
            case Reconcile() | Changes() | Held():
                _feed(self.feeds.targets, message.feed).received(message)

    def _on_hello(self, message: Message) -> None:
        if not isinstance(message, Hello):
            raise ProtocolError(f"a {type(message).__name__} before the hello")
        if message.version != VERSION:
            raise ProtocolError(f"the other end speaks sync version {message.version}, this one {VERSION}: upgrade")
        self._hello = message
        self.feeds = self._make_feeds(self, message.scopes)
        self._cancel_timeout()
        self._tick.start(TICK, now=False)
        for target in self.feeds.targets.values():
            target.start()

    def _on_tick(self) -> None:
        self._unknown = 0
        for source in self.feeds.sources.values():
            source.tick()
        for target in self.feeds.targets.values():
            target.tick()


def _feed(feeds: dict[str, Any], name: str) -> Any:
    feed = feeds.get(name)
    if feed is None:
        raise ProtocolError(f"there is no feed {name!r}")
    return feed

# mypy: disallow-untyped-calls=False
"""Letters between two nodes of a site, over streams of the link that they have."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.interfaces import IPushProducer, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from appengine.takeover.messages import Letter
from appengine.takeover.wire import MAX_LETTER, InvalidLetter, Reader, Writer

MAX_WAITING: Final = 1 << 20
"""Bytes of letters to a node that does not read them. What is more is lost, as on a bad link: it is asked again."""

MAX_UNSENT: Final = 64
"""Letters that wait for a stream."""

LETTERS_PER_SECOND: Final = 100.0
LETTERS_BURST: Final = 400.0
"""From one node. For 4096 pods, each step of asking takes 9, and there are some ten steps in a lease at the worst."""

AGAIN_SECONDS: Final = 5.0
"""Before a node is tried again that took no stream, or talked nonsense: its agent may be of another version."""


class Talk:
    """All that is said between this node and another, as long as there is a link.

    :param endpoint: where that node takes streams.
    :param received: given each letter of its.
    :ivar lost: how many letters to it had no room.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        peer: str,
        endpoint: IStreamClientEndpoint,
        received: Callable[[Letter], object],
    ) -> None:
        self.clock, self.peer, self.received = clock, peer, received
        self.lost = 0
        self._endpoint = endpoint
        self._streams: list[LeaseStream] = []
        self._unsent: deque[Letter] = deque(maxlen=MAX_UNSENT)
        self._connecting = self._closed = False
        self._again_at = 0.0
        self._letters, self._counted_at = LETTERS_BURST, clock.seconds()

    def send(self, letter: Letter) -> None:
        """As soon as there is a stream; there may never be one."""
        if self._streams:
            self._streams[-1].send(letter)
        elif not self._closed:
            self._unsent.append(letter)
            if not self._connecting and self.clock.seconds() >= self._again_at:
                self._connect()

    def finish(self) -> None:
        """Nothing will be asked for now: what this node has opened is of no use."""
        for stream in list(self._streams):
            if stream.mine:
                stream.finish()

    def close(self) -> None:
        """There is no link any more."""
        self._closed = True
        self._unsent.clear()
        for stream in list(self._streams):
            stream.close()

    def _connect(self) -> None:
        self._connecting = True
        stream = LeaseStream(self, mine=True)
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        self._endpoint.connect(factory).addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = False
        self._unsent.clear()
        self._again_at = self.clock.seconds() + AGAIN_SECONDS
        self.log.info("Node {peer} takes no part in takeover now: {why}", peer=self.peer, why=str(failure.value))

    # -- Called by streams

    def opened(self, stream: LeaseStream) -> None:
        if stream.mine:
            self._connecting = False
        if self._closed:
            stream.close()
            return
        for older in [each for each in self._streams if each.mine == stream.mine]:
            # Each may have one: buffers of many would fill the memory.
            older.close()
        self._streams.append(stream)
        while self._unsent:
            stream.send(self._unsent.popleft())

    def closed(self, stream: LeaseStream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)

    def refused(self, stream: LeaseStream, why: str) -> None:
        """The other node does not keep to the rules."""
        now = self.clock.seconds()
        if now >= self._again_at:
            # Not once for each stream that it opens: the log has its place on flash, too.
            self._again_at = now + AGAIN_SECONDS
            self.log.warn("Node {peer} says nonsense about takeover, and is cut short: {why}", peer=self.peer, why=why)
        stream.close()

    def in_time(self) -> bool:
        """Whether the other node may say one letter more now, on whichever stream."""
        now = self.clock.seconds()
        earned = (now - self._counted_at) * LETTERS_PER_SECOND
        self._letters, self._counted_at = min(LETTERS_BURST, self._letters + earned) - 1, now
        return self._letters >= 0


@implementer(IPushProducer)
class LeaseStream(Int32StringReceiver):
    """One stream: letters, each after its length in four bytes.

    :ivar mine: whether this node opened it.
    """

    MAX_LENGTH = MAX_LETTER

    def __init__(self, talk: Talk, *, mine: bool) -> None:
        self.mine = mine
        self._talk = talk
        self._writer, self._reader = Writer(), Reader()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = self._over = False

    def connectionMade(self) -> None:
        cast(Any, self.transport).registerProducer(self, True)
        self._talk.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._waiting.clear()
        self._talk.closed(self)

    def send(self, letter: Letter) -> None:
        if self._over:
            return
        if self._waiting_bytes > MAX_WAITING:
            # Before it is written: what is lost must not be taken for told.
            self._talk.lost += 1
            return
        self._waiting.append(self._writer.encode(letter))
        self._waiting_bytes += len(self._waiting[-1])
        self._flush()

    def finish(self) -> None:
        """Close it when what was sent is out."""
        if not self._over:
            self._flush()
            transport = cast(Any, self.transport)
            transport.unregisterProducer()
            transport.loseConnection()

    def close(self) -> None:
        self._over = True
        cast(Any, self.transport).abortConnection()

    def _flush(self) -> None:
        while self._waiting and not self._paused:
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self.sendString(data)

    # -- Int32StringReceiver

    def stringReceived(self, string: bytes) -> None:
        if self._over:
            return
        if not self._talk.in_time():
            self._refuse("it sends too much")
            return
        try:
            letter = self._reader.decode(string)
        except InvalidLetter as error:
            self._refuse(str(error))
        else:
            self._talk.received(letter)

    def lengthLimitExceeded(self, length: int) -> None:
        self._refuse(f"a letter of {length} bytes; {MAX_LETTER} are allowed")

    def _refuse(self, why: str) -> None:
        if not self._over:
            self._talk.refused(self, why)

    # -- IPushProducer

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._flush()

    def stopProducing(self) -> None:
        self._over = True

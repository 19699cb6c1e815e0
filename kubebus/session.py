"""The life of a link: hello both ways, heartbeats, configuration, close. Sans-IO: time is passed in.

Every method returns what is to be done, in order, as :data:`Effect` objects. Times are seconds of one monotonic
clock.

How a dead link is found: silence after data of ours (or in the middle of a flow of the peer's) is probed after
``probe_after`` seconds and believed dead ``probe_timeout`` later, 13 s in all by default; an idle link is probed
after ``idle_after`` seconds and given ``idle_timeout``, 75 s in all. The side that was dialled leaves the first word to
the other: from behind NAT that keeps the way open, and where one side always asks and the other always answers, Linux
sends no acknowledgements but with the answers. Any byte from the peer counts as a sign of life;
and, for a while, that its kernel acknowledges what we send: a slow path, where the probe waits behind data, is alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from kubebus.control import (
    VERSIONS,
    Close,
    Hello,
    LinkConfig,
    Message,
    Ping,
    Pong,
    Reconfigure,
    decode,
    encode,
)
from kubebus.linkerrors import (
    BadControlMessage,
    ClosedByPeer,
    LinkError,
    LinkTimeout,
    LocalProtocolError,
    RemoteProtocolError,
    UnsupportedVersion,
)

_LATER = 1.1
"""Times the heartbeat's interval that the side which was dialled waits: the other's may be late by a round trip."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The defaults find a dead link in use within 15 s, an idle one within 90 s."""

    hello_timeout: float = 15.0
    idle_after: float = 30.0
    idle_timeout: float = 45.0
    probe_after: float = 5.0
    probe_timeout: float = 8.0

    @classmethod
    def every(cls, heartbeat: float = 30.0, probe: float = 5.0) -> Timing:
        """Heartbeats on an idle link, and probes when data has no answer, after so many seconds; the rest to match.

        A dead link is found after 2.5 times ``heartbeat`` by the side that dialled and 2.6 times by the other, one in
        use after 2.6 times ``probe``. Between two sides with different times each judges by its own.
        """
        return cls(idle_after=heartbeat, idle_timeout=heartbeat * 1.5, probe_after=probe, probe_timeout=probe * 1.6)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this payload in a CONTROL frame."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Greeted:
    """An edge said hello. The router decides, and calls :meth:`LinkSession.accept` or :meth:`LinkSession.close`."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Up:
    """Both hellos are here. ``hello`` is the peer's."""

    version: int
    hello: Hello


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    config: LinkConfig


@dataclass(frozen=True, slots=True)
class Ended:
    """The link is over: flush what was sent, then close the connection. It comes once, and last."""

    error: LinkError


Effect = Send | Greeted | Up | ConfigChanged | Ended


class Side(Enum):
    """The edge dials and says hello first; the router answers with the edge's configuration. Between two routers,
    the one that dials has the edge's part, but no configuration."""

    EDGE = "edge"
    ROUTER = "router"


class _State(Enum):
    GREETING = "greeting"
    DECIDING = "deciding"
    UP = "up"
    ENDED = "ended"


@dataclass(slots=True)
class LinkSession:
    """One session of a link, seen from one side.

    :ivar wants_config: whether the router's hello must hold a configuration.
    :ivar rtt: the last measured round trip in seconds, or ``None``.
    :ivar last_received: when anything last came from the peer.
    """

    side: Side
    started: float
    agent: str = ""
    versions: tuple[int, ...] = VERSIONS
    timing: Timing = field(default_factory=Timing)
    wants_config: bool = True
    rtt: float | None = None
    last_received: float = 0.0
    _state: _State = _State.GREETING
    _version: int = 0
    # When the first data was sent after which nothing has been received.
    _unanswered: float | None = None
    # Since when the peer's data has been coming without a pause of ``probe_after``.
    _flow_since: float = 0.0
    _last_data: float | None = None
    _ping: int = 0
    _pinged: float | None = None
    _ping_deadline: float = 0.0
    # What the peer's kernel had acknowledged when last asked.
    _acknowledged: int | None = None

    def __post_init__(self) -> None:
        self.last_received = self.started

    @property
    def is_up(self) -> bool:
        return self._state is _State.UP

    @property
    def has_ended(self) -> bool:
        return self._state is _State.ENDED

    def start(self) -> list[Effect]:
        """The edge says hello at once, the router when it is greeted."""
        if self.side is Side.EDGE:
            return [_send(Hello(self.versions, self.agent))]
        return []

    def accept(self, epoch: int, config: LinkConfig | None, now: float) -> list[Effect]:
        """The router lets the edge in (or, without a configuration, another router).

        Without effect if the link ended meanwhile.
        """
        if self._state is _State.ENDED:
            return []
        if self._state is not _State.DECIDING:
            raise LocalProtocolError(f"accept() in state {self._state.value!r}")
        hello = Hello(self.versions, self.agent, epoch, config)
        self._state = _State.UP
        return [_send(hello), Up(self._version, Hello(self.versions)), *self._probe(now, False)]

    def configure(self, config: LinkConfig) -> list[Effect]:
        """The router tells a changed configuration."""
        if self._state is not _State.UP:
            return []
        return [_send(Reconfigure(config))]

    def close(self, error: LinkError) -> list[Effect]:
        """End the link for a reason of this side's; the peer is told. Closing twice is harmless."""
        if self._state is _State.ENDED:
            return []
        self._state = _State.ENDED
        return [_send(Close(error.code, str(error))), Ended(error)]

    def lost(self, error: LinkError) -> list[Effect]:
        """The connection is gone."""
        if self._state is _State.ENDED:
            return []
        self._state = _State.ENDED
        return [Ended(error)]

    def received(self, now: float) -> None:
        """Bytes came, of whatever kind."""
        self.last_received = now
        self._unanswered = None
        self._ping_deadline = 0.0

    def received_data(self, now: float) -> None:
        """PACKET or STREAM frames came.

        :raises RemoteProtocolError: if the link is not up yet.
        """
        if self._state is _State.UP:
            if self._last_data is None or now - self._last_data >= self.timing.probe_after:
                self._flow_since = now
            self._last_data = now
        elif self._state is not _State.ENDED:
            raise RemoteProtocolError("data before the hello")

    def sent_data(self, now: float) -> bool:
        """PACKET or STREAM frames were sent. Whether :meth:`deadline` may have come nearer by that."""
        if self._unanswered is not None:
            return False
        self._unanswered = now
        return True

    def control_received(self, payload: bytes, now: float) -> list[Effect]:
        """A CONTROL frame came.

        :raises RemoteProtocolError: if it is malformed, out of order, or of no version we speak.
        """
        if self._state is _State.ENDED:
            return []
        message = decode(payload)
        if isinstance(message, Close):
            return self.lost(ClosedByPeer(message.code[:40], message.message[:300]))
        if self._state is _State.GREETING:
            return self._greeting(message, now)
        return self._conversation(message, now)

    def deadline(self) -> float:
        """When :meth:`tick` has something to do next, if nothing happens until then."""
        timing = self.timing
        if self._state is _State.ENDED:
            return float("inf")
        if self._state is not _State.UP:
            return self.started + timing.hello_timeout
        if self._ping_deadline:
            if self._unanswered is None:
                return self._ping_deadline
            # The link came into use while a patient heartbeat was under way.
            return min(self._ping_deadline, self._unanswered + timing.probe_after + timing.probe_timeout)
        when = self.last_received + timing.idle_after * (_LATER if self.side is Side.ROUTER else 1)
        if self._in_flow:
            when = self.last_received + timing.probe_after
        if self._unanswered is not None:
            when = min(when, self._unanswered + timing.probe_after)
        return when

    def tick(self, now: float, acknowledged: int | None = None) -> list[Effect]:
        """Time has passed.

        :param acknowledged: how many bytes the peer's kernel has acknowledged so far, if that is known.
        """
        if now < self.deadline():
            return []
        if self._state is not _State.UP:
            return self.close(LinkTimeout(f"no hello within {self.timing.hello_timeout:g} s"))
        before, self._acknowledged = self._acknowledged, acknowledged
        if self._ping_deadline:
            silence = now - self.last_received
            moves = before is not None and acknowledged is not None and acknowledged > before
            if moves and silence < self.timing.idle_timeout:
                self._unanswered, self._ping_deadline = None, now + self.timing.probe_timeout
                return []
            return self.close(LinkTimeout(f"nothing was heard for {silence:.0f} s, and a heartbeat had no answer"))
        return self._probe(now, self._unanswered is not None or self._in_flow)

    @property
    def _in_flow(self) -> bool:
        """Whether a lasting flow of the peer's data has just stopped."""
        last, probe_after = self._last_data, self.timing.probe_after
        return last is not None and last == self.last_received and last - self._flow_since >= probe_after

    def _probe(self, now: float, in_use: bool) -> list[Effect]:
        self._ping += 1
        self._pinged = now
        self._ping_deadline = now + (self.timing.probe_timeout if in_use else self.timing.idle_timeout)
        return [_send(Ping(self._ping))]

    def _greeting(self, message: Message, now: float) -> list[Effect]:
        if not isinstance(message, Hello):
            raise BadControlMessage(f"a {type(message).__name__.lower()} message before the hello")
        common = set(self.versions) & set(message.versions)
        if not common:
            raise UnsupportedVersion(
                f"the peer speaks versions {list(message.versions[:8])} of the link protocol, "
                f"this side {list(self.versions)}"
            )
        self._version = max(common)
        if self.side is Side.ROUTER:
            self._state = _State.DECIDING
            return [Greeted(message)]
        if message.config is None and self.wants_config:
            raise BadControlMessage("control field config is missing from the router's hello")
        self._state = _State.UP
        return [Up(self._version, message), *self._probe(now, False)]

    def _conversation(self, message: Message, now: float) -> list[Effect]:
        match message:
            case Ping(id=number):
                return [_send(Pong(number))]
            case Pong(id=number):
                if number == self._ping and self._pinged is not None:
                    self.rtt, self._pinged = now - self._pinged, None
                return []
            case Reconfigure(config=config) if self.side is Side.EDGE and self._state is _State.UP:
                return [ConfigChanged(config)]
            case _:
                raise BadControlMessage(f"a {type(message).__name__.lower()} message out of order")


def _send(message: Message) -> Send:
    return Send(encode(message))

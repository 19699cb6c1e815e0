# mypy: disallow-untyped-calls=False
"""The balancer on the network: HTTP in, HTTP out, names of workers looked up. What it decides is in ``core``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from .client import Client
from .core import Balancer, Command, Item, Probe, Refuse, Send, TakeBack
from .policy import Policy
from .resolving import addresses_of
from .workers import Worker

_log = Logger("balancer")

MAX_BODY = 4 * 1024 * 1024
"""Bytes of an item; more is answered 413 and not kept."""

_TICK = 0.05
_LOOKUP = 3.0
"""Seconds between look-ups of the workers' names."""


class BoundedRequest(Request):
    """A request whose body is thrown away beyond ``MAX_BODY``."""

    too_large = False
    _size = 0

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            self.too_large = True
        else:
            super().handleContentChunk(data)


class Rim:
    """A balancer at work.

    :param reactor: Twisted's, or one that has TCP, time and names as it does.
    :param own: addresses at which this very host is a worker: they are left out where a name also leads to them.
    """

    def __init__(self, reactor: Any, policy: Policy, own: Iterable[str] = ()) -> None:
        self._reactor = reactor
        self._own = frozenset(own)
        self.core = Balancer(policy)
        self._requests: dict[Item, tuple[Request, bytes]] = {}
        self._sent: dict[Item, Deferred[tuple[IResponse, bytes]]] = {}
        self._client = Client(reactor, policy.attempt)
        self._ticking = LoopingCall(self._tick)
        self._looking = LoopingCall(self._look_up)
        self._ticking.clock = self._looking.clock = reactor

    # --- Life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._ticking.start(_TICK)
        self._looking.start(_LOOKUP)

    def stop(self) -> Deferred[None]:
        for each in (self._ticking, self._looking):
            if each.running:
                each.stop()
        for sent in list(self._sent.values()):
            sent.cancel()
        return self._client.close()

    def adopt(self, policy: Policy) -> None:
        """Go on under another policy, at once."""
        self.core.adopt(policy)
        self._look_up()

    def site(self) -> Site:
        """What to listen with: ``/work`` and ``/status``."""
        root = Resource()
        root.putChild(b"work", _Work(self))
        root.putChild(b"status", _Status(self))
        return Site(root, requestFactory=BoundedRequest, timeout=60)

    def status(self) -> bytes:
        return json.dumps(self.core.status(self._reactor.seconds())).encode() + b"\n"

    def _tick(self) -> None:
        self._carry_out(self.core.tick(self._reactor.seconds()))

    def _look_up(self) -> None:
        for place in self.core.policy.places:
            parts = urlsplit(place.url)
            found = addresses_of(self._reactor, parts.hostname or "")
            found.addCallback(self._found, place.name, parts.port or 80)

    def _found(self, addresses: list[str], place: str, port: int) -> None:
        if not addresses:
            return  # A name service that does not answer takes no worker away.
        known = [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in addresses if each not in self._own]
        self._carry_out(self.core.found(place, known, self._reactor.seconds()))

    # --- Items ---------------------------------------------------------------------------------------------------

    def offered(self, request: Request, body: bytes) -> None:
        """Take an item in; the request is answered when it is settled."""
        source = (request.getHeader("source") or request.getClientAddress().host)[:64]
        item = Item(source, len(body), _number(request.getHeader("wanted-rate"), 1.0), self._reactor.seconds())
        self._requests[item] = request, body
        request.notifyFinish().addErrback(lambda _: self._withdrawn(item))
        self._carry_out(self.core.offered(item, self._reactor.seconds()))

    def _withdrawn(self, item: Item) -> None:
        if self._requests.pop(item, None) is not None:
            self._carry_out(self.core.withdrawn(item, self._reactor.seconds()))

    def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Send(item, worker):
                    self._send(item, worker)
                case TakeBack(item, _):
                    sent = self._sent.pop(item, None)
                    if sent is not None:
                        sent.cancel()
                case Refuse(item, reason):
                    self._answer(item, 503, b"", {"balancer-reason": reason})
                case Probe(worker, size):
                    self._probe(worker, size)

    def _send(self, item: Item, worker: Worker) -> None:
        request, body = self._requests[item]
        headers = {"content-type": request.getHeader("content-type") or _BYTES, "source": item.source}
        sent = Deferred.fromCoroutine(self._client.post(self._url(worker), headers, body))
        self._sent[item] = sent

        def settled(outcome: Any) -> None:
            if self._sent.get(item) is not sent:
                return  # It was taken back, and nobody waits for this answer.
            del self._sent[item]
            if isinstance(outcome, Failure):
                self._failed(outcome, item, worker)
            else:
                self._answered(item, worker, *outcome)

        sent.addBoth(settled)

    def _answered(self, item: Item, worker: Worker, response: IResponse, answer: bytes) -> None:
        work, waited = (_number(_header(response, name), 0.0) for name in ("work-seconds", "waited-seconds"))
        commands = self.core.answered(item, work, waited, self._reactor.seconds())
        told = {"balancer-place": worker.place, "balancer-worker": worker.address}
        self._answer(item, response.code, answer, told, _header(response, "content-type") or _BYTES)
        self._carry_out(commands)

    def _failed(self, failure: Failure, item: Item, worker: Worker) -> None:
        if worker.up:
            _log.info("{worker} gave no answer: {why}", worker=worker.name, why=failure.getErrorMessage())
        refused = failure.check(ConnectError) is not None
        self._carry_out(self.core.failed(item, self._reactor.seconds(), refused=refused))

    def _answer(self, item: Item, code: int, body: bytes, told: dict[str, str], kind: str = "text/plain") -> None:
        request, _ = self._requests.pop(item, (None, b""))
        if request is None:
            return
        request.setResponseCode(code)
        told["balancer-rate"] = f"{self.core.advised(item):.2f}"
        told["balancer-seconds"] = f"{self._reactor.seconds() - item.came:.4f}"
        told["content-type"] = kind
        told["content-length"] = str(len(body))
        for name, value in told.items():
            request.setHeader(name, value)
        request.write(body)
        request.finish()

    def _probe(self, worker: Worker, size: int) -> None:
        began = self._reactor.seconds()
        url = self._url(worker, "/health")
        sent = Deferred.fromCoroutine(self._client.post(url, {"content-type": _BYTES}, bytes(size)))
        sent.addTimeout(self.core.policy.attempt, self._reactor)

        def settled(outcome: Any) -> None:
            now = self._reactor.seconds()
            before = worker.up
            commands = self.core.probed(worker, size, None if isinstance(outcome, Failure) else now - began, now)
            if worker.up != before:
                _log.info("{worker} is {state}", worker=worker.name, state="up" if worker.up else "down")
            self._carry_out(commands)

        sent.addBoth(settled)

    def _url(self, worker: Worker, path: str = "") -> str:
        place = self.core.policy.places_by_name.get(worker.place)
        own = urlsplit(place.url).path if place is not None else ""
        return f"http://{worker.address}{path or own or '/'}"


_BYTES = "application/octet-stream"


def _header(response: IResponse, name: str) -> str | None:
    found = response.headers.getRawHeaders(name)
    return str(found[0]) if found else None


def _number(text: str | None, default: float) -> float:
    """A peer's number: finite, not negative, not absurd; else the default."""
    try:
        found = float(text) if text is not None else default
    except ValueError:
        return default
    return found if 0 <= found <= 1e6 else default


class _Work(Resource):
    isLeaf = True

    def __init__(self, rim: Rim) -> None:
        super().__init__()
        self._rim = rim

    def render_POST(self, request: BoundedRequest) -> bytes | int:
        if request.too_large or request.content is None:
            request.setResponseCode(413)
            return f"an item may have {MAX_BODY} bytes\n".encode()
        self._rim.offered(request, request.content.read())
        return NOT_DONE_YET


class _Status(Resource):
    isLeaf = True

    def __init__(self, rim: Rim) -> None:
        super().__init__()
        self._rim = rim

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("content-type", "application/json")
        return self._rim.status()

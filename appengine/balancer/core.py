"""The balancing itself: events in, commands out, no I/O; time is passed in, in seconds from any start."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .policy import Policy
from .rates import Rates
from .workers import Link, Worker

MAX_SOURCES = 256
"""Sources that advice is kept for; more share one."""


@dataclass(eq=False)
class Item:
    """Something to be worked on by any worker. Two are never equal."""

    source: str
    size: int
    wanted: float
    """Items a second that its source would like to send."""
    came: float
    tried: set[str] = field(default_factory=set)
    """Addresses that failed it."""
    worker: Worker | None = None
    sent: float = 0.0
    ahead: int = 0

    @property
    def load(self) -> int:
        """Bytes that it is to a link."""
        return self.size + _OVERHEAD


@dataclass(frozen=True)
class Send:
    """Give the item to the worker."""

    item: Item
    worker: Worker


@dataclass(frozen=True)
class TakeBack:
    """Abort the item's request to the worker; its answer is no longer wanted."""

    item: Item
    worker: Worker


@dataclass(frozen=True)
class Refuse:
    """Tell the source that nobody will work on the item."""

    item: Item
    reason: str


@dataclass(frozen=True)
class Probe:
    """Ask the worker whether it is there, with ``size`` bytes."""

    worker: Worker
    size: int


Command = Send | TakeBack | Refuse | Probe

_PROBE_BYTES = 4096
_OVERHEAD = 512
"""Bytes of a request beside its body: without them, a link that carries empty items would count as one of no speed."""


class Balancer:
    """One queue and its workers.

    Whoever drives it calls it on every event, carries out the commands that come back, and calls :meth:`tick` a few
    times a second. Events of items that are settled, or of workers that are gone, are of no effect.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._queue: deque[Item] = deque()
        self._flying: set[Item] = set()
        self._workers: dict[str, Worker] = {}
        self._links: dict[str, Link] = {}
        self._rates = Rates(policy.patience, policy.least_rate)
        self.counts: Counter[str] = Counter()
        self.adopt(policy)

    # --- What is there -------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        return self._policy

    def adopt(self, policy: Policy) -> None:
        """Go on under another policy. Workers of places that it does not have get nothing more."""
        self._policy = policy
        self._rates.patience, self._rates.least = policy.patience, policy.least_rate
        self._links = {place.name: self._links.get(place.name, Link()) for place in policy.places if place.uplink}
        for worker in list(self._workers.values()):
            place = policy.places_by_name.get(worker.place)
            if place is None:
                del self._workers[worker.name]
            else:
                worker.limit = place.in_flight

    def found(self, place: str, addresses: Iterable[str], now: float) -> list[Command]:
        """These are the workers of a place now; others that it had get nothing more."""
        rules = self._policy.places_by_name.get(place)
        wanted = set(addresses) if rules is not None else set()
        for worker in [each for each in self._workers.values() if each.place == place]:
            if worker.address not in wanted:
                del self._workers[worker.name]
        for address in sorted(wanted):
            assert rules is not None
            worker = Worker(place, address, rules.in_flight)
            self._workers.setdefault(worker.name, worker)
        return self._dispatch(now)

    # --- Events --------------------------------------------------------------------------------------------------

    def offered(self, item: Item, now: float) -> list[Command]:
        """An item has come."""
        self.counts["offered"] += 1
        self._rates.offered(self._source(item), item.wanted, now)
        self._queue.append(item)
        commands = self._dispatch(now)
        while len(self._queue) > self._policy.queue:
            # The oldest is the one that has least time left.
            commands.append(self._refuse(self._queue.popleft(), "full", now))
        return commands

    def answered(self, item: Item, work: float, waited: float, now: float) -> list[Command]:
        """The worker has answered, and says how long the item was worked on and had waited for that."""
        worker = self._landed(item)
        if worker is None:
            return []
        took = max(now - item.sent, 0.001)
        work, waited = min(max(work, 0.0), took), min(max(waited, 0.0), took)
        worker.answered(work, waited, now)
        link = self._links.get(worker.place)
        if link is not None:
            link.carried(item.ahead, took - min(took, work + waited), now)
        self.counts["answered"] += 1
        self.counts[f"answered {worker.place}"] += 1
        self._rates.settled(self._source(item), item.came, now, answered=True)
        return self._dispatch(now)

    def failed(self, item: Item, now: float, *, refused: bool) -> list[Command]:
        """The worker gave no answer; ``refused`` if nobody is there at all."""
        worker = self._landed(item)
        if worker is None:
            return []
        worker.failed(refused=refused, now=now)
        self.counts[f"failed {worker.place}"] += 1
        return self._again(item, worker, now)

    def withdrawn(self, item: Item, now: float) -> list[Command]:
        """The source no longer waits."""
        if item in self._queue:
            self._queue.remove(item)
            self.counts["withdrawn"] += 1
            return []
        worker = self._landed(item)
        if worker is None:
            return []
        self.counts["withdrawn"] += 1
        return [TakeBack(item, worker), *self._dispatch(now)]

    def probed(self, worker: Worker, size: int, seconds: float | None, now: float) -> list[Command]:
        """A probe was answered after so long, or was not."""
        worker.probing = False
        if seconds is None:
            worker.up = False
            return []
        worker.up = True
        worker.failures = 0
        link = self._links.get(worker.place)
        if link is not None:
            link.carried(link.ahead + size, seconds, now)
        return self._dispatch(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        commands: list[Command] = []
        for item in list(self._flying):
            if now - item.sent >= self._policy.attempt or now - item.came >= self._policy.deadline:
                commands += self._overdue(item, now)
        commands += self._dispatch(now)
        for worker in self._workers.values():
            link = self._links.get(worker.place)
            idle = link is not None and not link.ahead and now - link.measured >= self._policy.probe
            due = now - worker.probed >= self._policy.probe
            if due and not worker.probing and (not worker.up or idle):
                worker.probing, worker.probed = True, now
                commands.append(Probe(worker, _PROBE_BYTES if link is not None else 0))
        return commands

    # --- Decisions -----------------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> list[Command]:
        commands: list[Command] = []
        waiting: deque[Item] = deque()
        while self._queue:
            item = self._queue.popleft()
            left = self._policy.deadline - (now - item.came)
            if left <= 0 or self._hopeless(left, now):
                commands.append(self._refuse(item, "late", now))
                continue
            worker = self._choose(item, left, now)
            if worker is None:
                waiting.append(item)
            else:
                commands.append(self._send(item, worker, now))
        self._queue = waiting
        return commands

    def _choose(self, item: Item, left: float, now: float) -> Worker | None:
        """The first place whose answer is expected soon enough; else the quickest that can make it."""
        best: tuple[float, Worker] | None = None
        for place in self._policy.places:
            found = [
                (self._expected(worker, item.load, now), worker)
                for worker in self._workers.values()
                if worker.place == place.name and worker.free and worker.address not in item.tried
            ]
            if not found:
                continue
            nearest = min(found, key=lambda each: each[0])
            if nearest[0] <= min(self._policy.patience, left):
                return nearest[1]
            if best is None or nearest[0] < best[0]:
                best = nearest
        return best[1] if best is not None and best[0] <= min(left, self._policy.attempt) else None

    def _expected(self, worker: Worker, size: int, now: float) -> float:
        link = self._links.get(worker.place)
        return worker.expected(now) + (link.transfer(size) if link is not None else 0.0)

    def _hopeless(self, left: float, now: float) -> bool:
        """Whether not even an idle worker nearby could still do it."""
        near = [each.work or 0.0 for each in self._workers.values() if each.up and each.place not in self._links]
        return bool(near) and min(near) > left

    def _send(self, item: Item, worker: Worker, now: float) -> Send:
        item.worker, item.sent = worker, now
        worker.in_flight += 1
        link = self._links.get(worker.place)
        if link is not None:
            link.ahead += item.load
            item.ahead = link.ahead
        self._flying.add(item)
        return Send(item, worker)

    def _landed(self, item: Item) -> Worker | None:
        """The item is with no worker any more; the one that had it."""
        if item not in self._flying:
            return None
        self._flying.remove(item)
        worker, item.worker = item.worker, None
        assert worker is not None
        worker.in_flight -= 1
        link = self._links.get(worker.place)
        if link is not None:
            link.ahead = max(0, link.ahead - item.load)
        return worker

    def _overdue(self, item: Item, now: float) -> list[Command]:
        worker = self._landed(item)
        assert worker is not None
        worker.failed(refused=False, now=now)
        link = self._links.get(worker.place)
        if link is not None:
            link.stuck(item.ahead, now - item.sent, now)
        self.counts[f"overdue {worker.place}"] += 1
        return [TakeBack(item, worker), *self._again(item, worker, now)]

    def _again(self, item: Item, worker: Worker, now: float) -> list[Command]:
        item.tried.add(worker.address)
        if now - item.came >= self._policy.deadline:
            return [self._refuse(item, "late", now), *self._dispatch(now)]
        if not any(each.up and each.address not in item.tried for each in self._workers.values()):
            return [self._refuse(item, "failed", now), *self._dispatch(now)]
        self._queue.appendleft(item)
        return self._dispatch(now)

    def _refuse(self, item: Item, reason: str, now: float) -> Refuse:
        self.counts[f"refused {reason}"] += 1
        self._rates.settled(self._source(item), item.came, now, answered=False)
        return Refuse(item, reason)

    # --- For people and sources ----------------------------------------------------------------------------------

    def _source(self, item: Item) -> str:
        known = self._rates.all()
        return item.source if item.source in known or len(known) < MAX_SOURCES else "(others)"

    def advised(self, item: Item) -> float:
        """Items a second that the item's source should send."""
        return self._rates.advised(self._source(item)) or item.wanted

    def status(self, now: float) -> Mapping[str, object]:
        """What there is to see, for JSON."""
        return {
            "places": [place.name for place in self._policy.places],
            "waiting": len(self._queue),
            "counts": dict(self.counts),
            "rates": self._rates.all(),
            "links": {
                name: {"bytesPerSecond": link.bytes_per_second and round(link.bytes_per_second), "ahead": link.ahead}
                for name, link in self._links.items()
            },
            "workers": [
                {
                    "place": worker.place,
                    "address": worker.address,
                    "up": worker.up,
                    "inFlight": worker.in_flight,
                    "work": worker.work and round(worker.work, 4),
                    "expected": round(self._expected(worker, 0, now), 4),
                }
                for worker in self._workers.values()
            ],
        }

"""A watch of etcd: a gRPC stream, a thread that reads it, an observer on the reactor's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol

from metasync.etcd_wire import batches_in, grpc, keys_of, rpc
from metasync.interfaces import Compacted, StoreError, StoreUnavailable, WatchObserver
from metasync.model import KeyRange, WatchBatch

_AHEAD = 4
"""So many responses wait for the reactor at most; the rest waits in the stream."""

_METHOD = "/etcdserverpb.Watch/Watch"


class ThreadCalls(Protocol):
    def callFromThread(self, callable: Callable[..., object], *args: object) -> None: ...


class EtcdWatch:
    """One watch, which ends at the first error.

    :param over: told of the end on the reactor's thread; gives the error for the observer.
    """

    def __init__(
        self,
        reactor: ThreadCalls,
        channel: Any,
        keys: KeyRange,
        observer: WatchObserver,
        over: Callable[[EtcdWatch, Exception | None], StoreError | None],
    ) -> None:
        self.keys = keys
        self._reactor = reactor
        self._channel = channel
        self._observer = observer
        self._over = over
        self._start = 0
        self._cancelled = False
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._call: Any = None
        self._room = threading.Semaphore(_AHEAD)

    def start(self, start_revision: int, metadata: list[tuple[str, str]]) -> None:
        if self._cancelled:
            return
        self._start = start_revision
        # A member that has lost its leader ends the stream, instead of being silent.
        self._call = _open(self._channel, self._requests, [*metadata, ("hasleader", "true")])
        create = rpc.WatchCreateRequest(start_revision=start_revision, progress_notify=True, **keys_of(self.keys))
        self._requests.put(rpc.WatchRequest(create_request=create))
        threading.Thread(target=self._read, name="etcd watch", daemon=True).start()

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._hang_up()
            self._over(self, None)

    def _hang_up(self) -> None:
        self._requests.put(None)
        self._room.release()
        if self._call is not None:
            self._call.cancel()

    # The thread's side

    def _read(self) -> None:
        error: Exception = StoreUnavailable("etcd has ended the watch")
        try:
            for response in self._call:
                if response.canceled:
                    error = _reason(response)
                    break
                self._room.acquire()
                self._reactor.callFromThread(self._deliver, list(batches_in(response)), self._reached(response))
        except Exception as failure:  # whatever it is, the observer must hear of it
            error = failure
        self._reactor.callFromThread(self.fail, error)

    def _reached(self, response: Any) -> int:
        """Up to where everything has been delivered, as far as a response tells.

        A creation tells it if the watch begins later than now; a notification (no events) tells it of itself.
        """
        revision = int(response.header.revision)
        if response.created:
            return revision if self._start > revision else 0
        return revision if not response.events else 0

    # The reactor's side

    def _deliver(self, batches: list[WatchBatch], reached: int) -> None:
        self._room.release()
        for batch in batches:
            if self._cancelled:
                return
            self._observer.batch(batch)
        if reached and not self._cancelled:
            self._observer.progress(reached)

    def fail(self, error: Exception) -> None:
        """The watch is over, unless it was cancelled before."""
        if self._cancelled:
            return
        self._cancelled = True
        self._hang_up()
        told = self._over(self, error)
        if told is not None:
            self._observer.failed(told)


def _open(channel: Any, requests: SimpleQueue[Any], metadata: list[tuple[str, str]]) -> Any:
    method = channel.stream_stream(
        _METHOD,
        request_serializer=rpc.WatchRequest.SerializeToString,
        response_deserializer=rpc.WatchResponse.FromString,
    )

    def outgoing() -> Iterator[Any]:
        while (request := requests.get()) is not None:
            yield request

    return method(outgoing(), metadata=metadata)


def _reason(response: Any) -> StoreError:
    if response.compact_revision:
        return Compacted(response.compact_revision)
    return StoreUnavailable(f"etcd has ended the watch: {response.cancel_reason or 'no reason given'}")


def compact_revision(
    reactor: ThreadCalls, channel: Any, metadata: list[tuple[str, str]], key: bytes, done: Callable[[int], None]
) -> None:
    """Ask for the oldest revision that can be read: etcd tells it only to a watch that begins before it."""

    def ask() -> None:
        requests: SimpleQueue[Any] = SimpleQueue()
        call = _open(channel, requests, metadata)
        requests.put(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=key, start_revision=1)))
        found = 0
        try:
            for response in call:
                if not response.created or response.canceled:
                    found = int(response.compact_revision)
                    break
        except grpc.RpcError:
            pass  # who asked gets 0: the oldest revision is not known
        requests.put(None)
        call.cancel()
        reactor.callFromThread(done, found)

    threading.Thread(target=ask, name="etcd compaction", daemon=True).start()

"""A store in etcd, 3.4 or later.

Calls go out from the reactor's thread and come back on gRPC's own; each watch has a thread that reads its stream.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from metasync.etcd_watch import EtcdWatch, compact_revision
from metasync.etcd_wire import (
    capacity,
    error_of,
    grpc,
    keys_of,
    range_result,
    rpc,
    txn_of,
    txn_result,
)
from metasync.feeds import spawn
from metasync.interfaces import Compacted, FutureRevision, LeaseNotFound, StoreError, StoreUnavailable, WatchObserver
from metasync.model import Compare, KeyRange, Lease, Op, RangeResult, TxnResult
from metasync.mvcc import check_ops, check_size

SERVER_MAX_TXN_OPS = 128
SERVER_MAX_REQUEST_BYTES = 1_572_864
"""etcd's defaults (``--max-txn-ops``, ``--max-request-bytes``: 1.5 MiB)."""

CALL_TIMEOUT = 10.0
READ_ATTEMPTS = 4
RETRY_WAIT = 0.5
"""Seconds that a call may take; how often a read is tried while no member answers, and the pause between."""

_LOG_IN = ("user name is empty", "revision in header is old", "revision of auth store is old")


class EtcdReactor(Protocol):
    """What is needed of the reactor."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> IDelayedCall: ...

    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where etcd is and who we are, from a URL (:func:`metasync.opening.open_store`)."""

    endpoints: tuple[str, ...]
    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    max_txn_ops: int = SERVER_MAX_TXN_OPS
    max_request_bytes: int = SERVER_MAX_REQUEST_BYTES

    @classmethod
    def parse(cls, url: str) -> Address:
        """:raises StoreError: if the URL makes no sense."""
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        known = {"ca", "cert", "key", "user", "password-file", "max-txn-ops", "max-request-bytes"}
        if query.keys() - known:
            raise StoreError(f"{url}: unknown {', '.join(sorted(query.keys() - known))}; known are {sorted(known)}")
        endpoints = tuple(unquote(each) for each in parts.netloc.split(",") if each)
        if not endpoints or parts.path not in ("", "/"):
            raise StoreError(f"{url} names no etcd; use etcd://HOST:PORT[,HOST:PORT…]")
        if bool(query.get("cert")) != bool(query.get("key")):
            raise StoreError(f"{url}: cert and key go together")
        return cls(
            tuple(each if ":" in each else f"{each}:2379" for each in endpoints),
            parts.scheme == "etcds",
            query.get("ca"),
            query.get("cert"),
            query.get("key"),
            query.get("user"),
            query.get("password-file"),
            _number(url, query, "max-txn-ops", SERVER_MAX_TXN_OPS),
            _number(url, query, "max-request-bytes", SERVER_MAX_REQUEST_BYTES),
        )

    def __str__(self) -> str:
        return ",".join(self.endpoints)


class EtcdStore:
    """A :class:`metasync.interfaces.Store` in etcd. Make it with :meth:`open`.

    When the connection to etcd breaks, every watch fails with ``StoreUnavailable``, so that who needs to know that
    it may be talking to a restored etcd learns it.
    """

    log = Logger()

    def __init__(
        self,
        reactor: EtcdReactor,
        address: Address,
        *,
        max_txn_ops: int = 0,
        max_request_bytes: int = 0,
    ) -> None:
        max_txn_ops = max_txn_ops or address.max_txn_ops
        max_request_bytes = max_request_bytes or address.max_request_bytes
        self.address = address
        self.max_txn_ops = capacity(max_txn_ops)
        self.max_compares = max_txn_ops
        self.max_request_bytes = max_request_bytes
        self.identity = ""
        self._server_ops = max_txn_ops
        self._reactor = reactor
        self._channel = _channel(address)
        self._kv = rpc.KVStub(self._channel)
        self._lease = rpc.LeaseStub(self._channel)
        # A stream in etcd's interface; of one request and one answer it is the same on the wire.
        self._keep_alive = self._channel.unary_unary(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )
        self._token: str | None = None
        self._seen = 0
        self._watches: set[EtcdWatch] = set()
        self._greeting: Deferred[None] | None = None
        self._closed = False

    @classmethod
    def open(cls, reactor: EtcdReactor, url: str, **options: Any) -> EtcdStore:
        """Connect when first needed; nothing is sent yet.

        :param options: ``max_txn_ops`` and ``max_request_bytes``, as etcd was started with; else the URL's, else etcd's
            own defaults.
        :raises StoreError: if the URL makes no sense, or a file it names cannot be read.
        """
        try:
            return cls(reactor, Address.parse(url), **options)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        request = rpc.RangeRequest(
            revision=revision, limit=limit, min_mod_revision=min_mod_revision, keys_only=keys_only, **keys_of(keys)
        )
        response = await self._read(self._kv.Range, request)
        return range_result(response, response.header.revision)

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        for ops in (success, failure):
            check_size(compares, ops, self.max_txn_ops, self.max_request_bytes)
            check_ops(ops)
        request = txn_of(compares, success, failure, self._server_ops)
        return txn_result(await self._call(self._kv.Txn, request))

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> EtcdWatch:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        watch = EtcdWatch(self._reactor, self._channel, keys, observer, self._over)
        self._watches.add(watch)
        if (start_revision or self._seen) and (self._token or not self.address.user):
            watch.start(start_revision or self._seen + 1, self._metadata())
        else:
            spawn(self._greet(watch, start_revision), watch.fail)
        return watch

    async def _greet(self, watch: EtcdWatch, start_revision: int) -> None:
        """Begin a watch that comes before any call: learn what "now" is, and who we are, before others go on."""
        done: Deferred[None] = Deferred()
        self._greeting, before = done, self._greeting
        try:
            if before is not None:
                await _follow(before)
            request = rpc.RangeRequest(limit=1, keys_only=True, **keys_of(watch.keys))
            response = await self._call_now(self._kv.Range, request, 0)
            watch.start(start_revision or response.header.revision + 1, self._metadata())
        finally:
            if self._greeting is done:
                self._greeting = None
            done.callback(None)

    def _over(self, watch: EtcdWatch, error: Exception | None) -> StoreError | None:
        self._watches.discard(watch)
        if isinstance(error, grpc.RpcError):
            self._token = None  # it may have expired
            return error_of(error, str(self.address))
        return error if isinstance(error, StoreError) or error is None else StoreUnavailable(str(error))

    async def compact(self, revision: int) -> None:
        await self._call(self._kv.Compact, rpc.CompactionRequest(revision=revision), revision)

    async def lease_grant(self, ttl: int, lease: int = 0) -> Lease:
        granted = await self._call(self._lease.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl, ID=lease))
        return Lease(granted.ID, granted.TTL, granted.TTL, granted.header.revision)

    async def lease_keep_alive(self, lease: int) -> Lease:
        kept = await self._call(self._keep_alive, rpc.LeaseKeepAliveRequest(ID=lease))
        if not kept.TTL:
            raise LeaseNotFound(f"lease {lease} does not exist")
        return Lease(lease, kept.TTL, kept.TTL, kept.header.revision)

    async def lease_revoke(self, lease: int) -> int:
        revoked = await self._call(self._lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        return int(revoked.header.revision)

    async def lease_time_to_live(self, lease: int) -> Lease:
        found = await self._call(self._lease.LeaseTimeToLive, rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
        if found.TTL < 0:
            raise LeaseNotFound(f"lease {lease} does not exist")
        return Lease(lease, found.TTL, found.grantedTTL, found.header.revision, tuple(sorted(found.keys)))

    async def leases(self) -> tuple[int, ...]:
        found = await self._call(self._lease.LeaseLeases, rpc.LeaseLeasesRequest())
        return tuple(sorted(each.ID for each in found.leases))

    async def close(self) -> None:
        self._closed = True
        for watch in list(self._watches):
            watch.cancel()
        self._channel.close()

    # Calls

    async def _read(self, method: Any, request: Any) -> Any:
        """A read may be asked again: until a member answers, or too long has passed."""
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return await self._call(method, request, request.revision)
            except StoreUnavailable:
                if self._closed:
                    raise
            await deferLater(self._reactor, RETRY_WAIT, lambda: None)  # type: ignore[arg-type]
        return await self._call(method, request, request.revision)

    async def _call(self, method: Any, request: Any, revision: int = 0) -> Any:
        while self._greeting is not None:
            await _follow(self._greeting)
        return await self._call_now(method, request, revision)

    async def _call_now(self, method: Any, request: Any, revision: int) -> Any:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        try:
            response = await self._send(method, request, self._metadata())
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED and not self._must_log_in(error):
                raise await self._explain(error, request, revision) from error
            await self._authenticate()
            response = await self._retry(method, request, revision)
        self._saw(response.header)
        return response

    def _must_log_in(self, error: Any) -> bool:
        """Whether to log in, again perhaps.

        Without a token a server with authentication says so with other codes than with an old one, and takes us for the
        user whom our certificate names, if there is one. A token that is a JWT is of no use any more once any user or
        role was changed.
        """
        if not self.address.user:
            return False
        text = error.details() or ""
        nobody = self._token is None and error.code() is grpc.StatusCode.PERMISSION_DENIED
        return nobody or any(each in text for each in _LOG_IN)

    async def _retry(self, method: Any, request: Any, revision: int) -> Any:
        try:
            return await self._send(method, request, self._metadata())
        except grpc.RpcError as error:
            raise await self._explain(error, request, revision) from error

    def _send(self, method: Any, request: Any, metadata: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        call = method.future(request, timeout=CALL_TIMEOUT, metadata=metadata, wait_for_ready=False)
        call.add_done_callback(lambda finished: self._reactor.callFromThread(_deliver, finished, done))
        return done

    def _saw(self, header: Any) -> None:
        identity = f"{header.cluster_id:x}"
        if self.identity and identity != self.identity:
            self.log.warn(
                "etcd at {address} is another cluster now: {new} was {old}",
                address=self.address,
                new=identity,
                old=self.identity,
            )
        self.identity = identity
        self._seen = max(self._seen, header.revision)

    def _metadata(self) -> list[tuple[str, str]]:
        return [("token", self._token)] if self._token else []

    async def _authenticate(self) -> None:
        user, file = self.address.user, self.address.password_file
        if not user or not file:
            raise StoreUnavailable(f"etcd at {self.address} wants a user: add user= and password-file= to its URL")
        password = (_read(file) or b"").decode().strip()
        request = rpc.AuthenticateRequest(name=user, password=password)
        try:
            response = await self._send(rpc.AuthStub(self._channel).Authenticate, request, [])
        except grpc.RpcError as error:
            raise error_of(error, str(self.address)) from error
        self._token = response.token

    async def _explain(self, error: Any, request: Any, revision: int) -> StoreError:
        text = error.details() or ""
        if "required revision has been compacted" in text:
            oldest: Deferred[int] = Deferred()
            # A key that was asked for: others we may not be allowed to watch.
            key = getattr(request, "key", b"") or b"\0"
            compact_revision(self._reactor, self._channel, self._metadata(), key, oldest.callback)
            return Compacted(await oldest)
        if "required revision is a future revision" in text:
            return FutureRevision(f"revision {revision} has not happened yet")
        return error_of(error, str(self.address))


def _follow(done: Deferred[None]) -> Deferred[None]:
    """A Deferred that fires when ``done`` does, and leaves it to others too."""
    mine: Deferred[None] = Deferred()
    done.addBoth(lambda _: mine.callback(None))
    return mine


def _number(url: str, query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdigit() or not int(text):
        raise StoreError(f"{url}: {name} is not a number")
    return int(text)


def _deliver(call: Any, done: Deferred[Any]) -> None:
    try:
        done.callback(call.result())
    except grpc.RpcError as error:
        done.errback(Failure(error))  # type: ignore[no-untyped-call]
    except grpc.FutureCancelledError:
        done.errback(StoreUnavailable("the store is closed"))


def _channel(address: Address) -> Any:
    hosts = [endpoint.rpartition(":")[0].strip("[]") for endpoint in address.endpoints]
    target = _resolve(address) if len(hosts) > 1 else address.endpoints[0]
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ]
    if not address.tls:
        return grpc.insecure_channel(target, options)
    if len(hosts) > 1:
        options.append(("grpc.default_authority", hosts[0]))
    credentials = grpc.ssl_channel_credentials(_read(address.ca), _read(address.key), _read(address.certificate))
    return grpc.secure_channel(target, credentials, options)


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _resolve(address: Address) -> str:
    """Several members as one target, which gRPC takes as addresses only.

    :raises StoreError: if a name is not known.
    """
    found = []
    for endpoint in address.endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            family, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        except (OSError, ValueError) as error:
            raise StoreError(f"etcd member {endpoint} cannot be found: {error}") from error
        name = str(place[0])
        found.append((family, f"{name}:{port}" if family == socket.AF_INET else f"[{name}]:{port}"))
    if len({family for family, _ in found}) > 1:
        raise StoreError(f"the etcd members {address} must be all IPv4 or all IPv6")
    scheme = "ipv4" if found[0][0] == socket.AF_INET else "ipv6"
    return f"{scheme}:" + ",".join(place for _, place in found)

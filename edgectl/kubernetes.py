"""A client of the Kubernetes REST API (https://kubernetes.io/docs/reference/using-api/api-concepts/) over treq."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from edgectl.errors import ApiError, ApiUnreachable, ConfigError, StatusError
from edgectl.httpbody import Body, Events, cause, collect, decode, timed_out
from edgectl.kubeconfig import ClusterConfig
from edgectl.watch import Object

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

REQUEST_TIMEOUT = 30.0
"""Seconds for a request with its whole answer; client-go's usual choice for controllers."""

CONNECT_TIMEOUT = 10.0
"""Seconds for a TCP and TLS connection."""

MAX_BODY = 64 * 1024 * 1024
"""A page of 500 objects, most of them small; an object is at most 1.5 MiB (etcd's default limit)."""

_TOKEN_LIFE = 60.0
"""Seconds for which a token file is not read again (client-go does the same)."""

_MAX_CONNECTIONS = 128
"""Kept open: as many as the controller has requests under way at most."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, by where it stands in the API. ``group`` is empty for the core one."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL's path of a collection, an object or a subresource. No namespace means all of them."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


NODES = Resource("", "v1", "nodes", namespaced=False)
PODS = Resource("", "v1", "pods")
CONFIGMAPS = Resource("", "v1", "configmaps")
SECRETS = Resource("", "v1", "secrets")
EVENTS = Resource("", "v1", "events")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
SERVICES = Resource("", "v1", "services")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")
LEASES = Resource("coordination.k8s.io", "v1", "leases")


class KubernetesClient:
    """Talks to one API server as one user, over kept-alive connections. It never blocks the reactor.

    All calls raise :class:`~edgectl.errors.StatusError` for an error the server answered with, and
    :class:`~edgectl.errors.ApiUnreachable` when no whole answer came in time.

    :param agent: how requests are made (default: over TCP and TLS, as ``config`` says).
    :param max_body: the longest answer that is taken, in bytes.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        config: ClusterConfig,
        agent: IAgent | None = None,
        max_body: int = MAX_BODY,
    ) -> None:
        self._reactor = reactor
        self._max_body = max_body
        self._config = config
        self._pool: HTTPConnectionPool | None = None
        if agent is None:
            self._pool = HTTPConnectionPool(reactor, persistent=True)  # type: ignore[no-untyped-call]
            self._pool.maxPersistentPerHost = _MAX_CONNECTIONS
            agent = Agent(  # type: ignore[no-untyped-call]
                reactor, cluster_tls(config), connectTimeout=CONNECT_TIMEOUT, pool=self._pool
            )
        self._http = HTTPClient(agent)
        self._token: tuple[float, str] | None = None

    async def close(self) -> None:
        """Let go of idle connections. Requests under way are the caller's to cancel."""
        if self._pool is not None:
            await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        resource_version: str = "",
    ) -> Object:
        """One page of a collection (all of it with ``limit`` 0), as the ``List`` object."""
        params = _params(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit) if limit else "",
            resourceVersion=resource_version,
        )
        if continue_:
            params.append(("continue", continue_))
        return await self.request("GET", resource.path(namespace), params=params)

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return await self.request("GET", resource.path(namespace, name))

    async def create(
        self, resource: Resource, namespace: str, body: Object, *, name: str = "", subresource: str = ""
    ) -> Object:
        """Create an object; or, with name and subresource, post to that (``token``, ``eviction``, ``binding``)."""
        return await self.request("POST", resource.path(namespace, name, subresource), body=body)

    async def update(self, resource: Resource, body: Object, subresource: str = "") -> Object:
        """Replace an object. Its ``metadata.resourceVersion``, if present, must be the current one."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        return await self.request("PUT", path, body=body)

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Object,
        *,
        kind: str = MERGE_PATCH,
        subresource: str = "",
    ) -> Object:
        """Change an object. ``metadata.uid`` and ``resourceVersion`` in the patch are preconditions (409)."""
        path = resource.path(namespace, name, subresource)
        return await self.request("PATCH", path, body=patch, content_type=kind)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", grace: int | None = None
    ) -> Object:
        """Delete an object, if its UID is ``uid`` (409 otherwise).

        :param grace: seconds; 0 removes a Pod at once.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return await self.request("DELETE", resource.path(namespace, name), body=options)

    async def watch(
        self,
        resource: Resource,
        namespace: str,
        event: Callable[[Object], None],
        *,
        resource_version: str,
        seconds: float,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        """Call ``event`` with each watch event (``{"type", "object"}``) until the server ends the watch.

        ``ERROR`` events are raised as :class:`StatusError`. Cancelling the coroutine ends the watch.

        :param seconds: for which the server should keep it open. A server that is then still silent for a
            while is taken for dead.
        """
        params = _params(
            watch="1",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=str(int(seconds)),
            labelSelector=label_selector,
            fieldSelector=field_selector,
        )
        path = resource.path(namespace)
        response = await self._deadline(self._send("GET", path, params), REQUEST_TIMEOUT, f"watch {path}")
        if response.code != 200:
            raise await self._deadline(self._status(response, f"watch {path}"), REQUEST_TIMEOUT, f"watch {path}")
        body = Events(event)
        response.deliverBody(body)  # type: ignore[no-untyped-call]
        try:
            await body.done.addTimeout(seconds + REQUEST_TIMEOUT, self._reactor, timed_out)
        except TimeoutError:
            raise ApiUnreachable(f"watch {path}: the server did not end it in time") from None

    async def choose(self, resource: Resource, versions: Sequence[str]) -> Resource:
        """The resource in the first of ``versions`` of its group that the server has.

        :raises StatusError: with code 404, if it has none of them.
        """
        group = await self.request("GET", f"/apis/{quote(resource.group, safe='')}")
        served = {entry.get("version") for entry in group.get("versions") or ()}
        for version in versions:
            if version in served:
                return replace(resource, version=version)
        raise StatusError(404, "NotFound", f"the server has none of {resource.group}/{'|'.join(versions)}")

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: builtins.list[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Any request whose answer is one JSON object."""
        what = f"{method} {path}"
        exchange = self._exchange(method, path, params or [], body, content_type)
        return await self._deadline(exchange, REQUEST_TIMEOUT, what)

    async def _exchange(
        self, method: str, path: str, params: builtins.list[tuple[str, str]], body: Object | None, content_type: str
    ) -> Object:
        response = await self._send(method, path, params, body, content_type)
        if not 200 <= response.code < 300:
            raise await self._status(response, f"{method} {path}")
        answer = decode(await collect(response, self._max_body))
        if not isinstance(answer, dict):
            raise ApiUnreachable(f"{method} {path}: the answer is not a JSON object; is this a Kubernetes API?")
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        params: builtins.list[tuple[str, str]],
        body: Object | None = None,
        content_type: str = "",
    ) -> IResponse:
        headers = Headers({"Accept": ["application/json"], "User-Agent": ["kubebus-edgectl"]})
        if content_type and body is not None:
            headers.setRawHeaders("Content-Type", [content_type])
        if token := self._bearer():
            headers.setRawHeaders("Authorization", [f"Bearer {token}"])
        data = Body(json.dumps(body, separators=(",", ":")).encode()) if body is not None else None
        response = await self._http.request(
            method,
            self._config.server + path,
            params=params,
            headers=headers,
            data=data,
            allow_redirects=False,
            unbuffered=True,
            reactor=cast(Any, self._reactor),
        )
        return response.original

    async def _status(self, response: IResponse, what: str) -> StatusError:
        after = response.headers.getRawHeaders("Retry-After") or [""]
        retry_after = float(after[0]) if after[0].isdigit() else None
        data = await collect(response, self._max_body)
        status = decode(data)
        if isinstance(status, dict):
            return StatusError.from_status(status, response.code, retry_after, what)
        return StatusError(response.code, "", data[:200].decode("utf-8", "replace"), retry_after, what)

    async def _deadline(self, coroutine: Coroutine[Any, Any, _T], seconds: float, what: str) -> _T:
        deferred: Deferred[_T] = Deferred.fromCoroutine(coroutine)
        try:
            return await deferred.addTimeout(seconds, self._reactor, timed_out)
        except (ApiError, CancelledError):
            raise
        except TimeoutError:
            raise ApiUnreachable(f"{what}: no answer within {seconds:.0f} s") from None
        except Exception as error:  # treq and Twisted have no common class of transport errors
            raise ApiUnreachable(f"{what}: {cause(error)}") from error

    def _bearer(self) -> str | None:
        if self._config.token_file is None:
            return self._config.token
        now = self._reactor.seconds()
        if self._token is None or now - self._token[0] >= _TOKEN_LIFE:
            try:
                self._token = (now, self._config.token_file.read_text(encoding="ascii").strip())
            except (OSError, UnicodeDecodeError) as error:
                raise ApiUnreachable(f"token file {self._config.token_file}: {error}") from None
        return self._token[1]


def cluster_tls(config: ClusterConfig) -> IPolicyForHTTPS:
    """The TLS that a cluster's configuration asks for.

    :raises ConfigError: if a certificate or a key in it cannot be read.
    """
    try:
        roots = trust_roots(config.ca) if config.ca is not None else None
        options: dict[str, Any] = {}
        if config.client_certificate is not None and config.client_key is not None:
            own, *chain = x509.load_pem_x509_certificates(config.client_certificate)
            key = load_pem_private_key(config.client_key, None)
            options = {"privateKey": key, "certificate": own, "extraCertChain": chain}
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a certificate or key for {config.server} cannot be read: {error}") from None
    return _ClusterTLS(roots, options, config.tls_server_name or urlsplit(config.server).hostname or "")


def trust_roots(pem: bytes) -> Any:
    """Certificates in PEM, as Twisted's ``trustRoot``."""
    twisted: Any = ssl
    roots = [root.public_bytes(Encoding.PEM) for root in x509.load_pem_x509_certificates(pem)]
    return twisted.trustRootFromCertificates([twisted.Certificate.loadPEM(root) for root in roots])


@implementer(IPolicyForHTTPS)
class _ClusterTLS:
    """One TLS context for all connections to the one API server."""

    def __init__(self, roots: Any, options: dict[str, Any], name: str) -> None:
        self._creator = ssl.optionsForClientTLS(name, trustRoot=roots, extraCertificateOptions=options)

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return self._creator


def _params(**values: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in values.items() if value]

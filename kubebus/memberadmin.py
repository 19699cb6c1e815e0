# mypy: disallow-untyped-calls=False
"""``/v1/tokens`` and ``/v1/nodes`` of the administration socket: who may join, and who has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

from kubebus.admin import BadRequest, Conflict, Folder, JSONResource, NotFound
from kubebus.identity import InvalidIdentity
from kubebus.interfaces import NodeRecord
from kubebus.joinstring import HostPort, JoinString
from kubebus.members import Members, NotRevoked
from kubebus.members import NotFound as NoSuchMember
from kubebus.records import TokenRecord
from kubebus.tokens import TOKEN_LIFETIME

MAX_ROUTERS = 8
"""So many routers are named in a join string; the node learns of the rest when it has joined."""

_T = TypeVar("_T")


class TokensResource(Resource):
    """``GET /v1/tokens``, ``POST /v1/tokens``, ``DELETE /v1/tokens/ID``.

    :param routers: where new nodes reach the routers, for join strings.
    :param ca_hash: of the CA that routers show now.
    """

    def __init__(
        self, members: Members, routers: Callable[[], tuple[HostPort, ...]], ca_hash: Callable[[], str]
    ) -> None:
        super().__init__()
        self._members = members
        self._routers = routers
        self._ca_hash = ca_hash
        self._all = JSONResource(GET=self._list, POST=self._create)

    def render(self, request: Request) -> int | bytes:
        return self._all.render(request)

    def getChild(self, path: bytes, request: Request) -> IResource:
        token_id = path.decode("ascii", "replace")

        async def revoke(body: object, query: Mapping[str, str]) -> object:
            await _found(self._members.revoke_token(token_id))
            return {"revoked": token_id}

        return JSONResource(DELETE=revoke) if path else self._all

    async def _list(self, body: object, query: Mapping[str, str]) -> object:
        return {"tokens": [token_json(token) for token in await self._members.tokens()]}

    async def _create(self, body: object, query: Mapping[str, str]) -> object:
        fields = body if isinstance(body, dict) else {}
        node, site, lifetime = fields.get("node"), fields.get("site"), fields.get("lifetime", TOKEN_LIFETIME)
        named = all(name is None or isinstance(name, str) for name in (node, site))
        if not named or not isinstance(lifetime, int | float):
            raise BadRequest("'node' and 'site' must be names and 'lifetime' a number of seconds")
        try:
            token, secret = await self._members.create_token(float(lifetime), node, site)
        except (ValueError, InvalidIdentity) as error:
            raise BadRequest(str(error)) from error
        join_string = JoinString(
            network=self._members.network,
            routers=self._routers()[:MAX_ROUTERS],
            ca_hash=self._ca_hash(),
            token=token.id,
            secret=secret,
            expires_at=token.expires_at,
            node=token.node,
        )
        return {**token_json(token), "joinString": join_string.encode()}


def token_json(token: TokenRecord) -> dict[str, object]:
    return {
        "id": token.id,
        "node": token.node,
        "site": token.site,
        "createdAt": token.created_at,
        "expiresAt": token.expires_at,
        "usedAt": token.used_at,
        "usedBy": token.used_by,
    }


class NodesResource(Resource):
    """``GET /v1/nodes``, ``POST /v1/nodes/NAME/revoke``, ``DELETE /v1/nodes/NAME``.

    :param links: what is known of the live links, by node: merged into what the registry says.
    """

    def __init__(self, members: Members, links: Callable[[], Mapping[str, Mapping[str, object]]] = dict) -> None:
        super().__init__()
        self._members = members
        self._links = links
        self._all = JSONResource(GET=self._list)

    def render(self, request: Request) -> int | bytes:
        return self._all.render(request)

    def getChild(self, path: bytes, request: Request) -> IResource:
        if not path:
            return self._all
        name = path.decode("ascii", "replace")

        async def revoke(body: object, query: Mapping[str, str]) -> object:
            node = await _found(self._members.revoke(name))
            return {"revoked": name, "revokedAt": node.revoked_at}

        async def remove(body: object, query: Mapping[str, str]) -> object:
            try:
                await _found(self._members.remove(name))
            except NotRevoked as error:
                raise Conflict(str(error)) from error
            return {"removed": name}

        node = Folder()
        node.putChild(b"", JSONResource(DELETE=remove))
        node.putChild(b"revoke", JSONResource(POST=revoke))
        # DELETE /v1/nodes/NAME ends here, without a further segment.
        node.render = JSONResource(DELETE=remove).render  # type: ignore[method-assign]
        return node

    async def _list(self, body: object, query: Mapping[str, str]) -> object:
        links = self._links()
        nodes = await self._members.nodes()
        return {"nodes": [{**node_json(node), **links.get(node.name, {})} for node in nodes]}


def node_json(node: NodeRecord) -> dict[str, object]:
    return {
        "name": node.name,
        "site": node.site,
        "addresses": list(map(str, node.addresses)),
        "podSubnets": list(map(str, node.pod_subnets)),
        "enrolledAt": node.enrolled_at,
        "revokedAt": node.revoked_at,
    }


async def _found(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except NoSuchMember as error:
        raise NotFound(str(error)) from error

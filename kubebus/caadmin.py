# mypy: disallow-untyped-calls=False
"""``/v1/ca`` of the administration socket: the certificate authorities that the network trusts."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

from kubebus.admin import BadRequest, Conflict, JSONResource, NotFound
from kubebus.ca import expires_at, key_hash
from kubebus.members import Members
from kubebus.trust import RouterTrust


class AuthoritiesResource(Resource):
    """``GET /v1/ca``, ``POST /v1/ca/rotate``, ``DELETE /v1/ca/HASH``."""

    def __init__(self, trust: RouterTrust, members: Members) -> None:
        super().__init__()
        self._trust = trust
        self._members = members
        self._all = JSONResource(GET=self._list)
        self.putChild(b"", self._all)
        self.putChild(b"rotate", JSONResource(POST=self._rotate))

    def render(self, request: Request) -> int | bytes:
        return self._all.render(request)

    def getChild(self, path: bytes, request: Request) -> IResource:
        ca_hash = path.decode("ascii", "replace")

        async def retire(body: object, query: Mapping[str, str]) -> object:
            return await self._retire(ca_hash, bool(query.get("force")))

        return JSONResource(DELETE=retire)

    async def _list(self, body: object, query: Mapping[str, str]) -> object:
        issuers = list((await self._members.issuers()).values())
        hashes = {key_hash(certificate.public_key()): certificate for certificate in self._trust.bundle}
        return {
            "authorities": [
                {
                    "hash": name,
                    "issues": name == self._trust.ca_hash,
                    "nodes": issuers.count(name),
                    "expiresAt": expires_at(certificate),
                }
                for name, certificate in hashes.items()
            ]
        }

    async def _rotate(self, body: object, query: Mapping[str, str]) -> object:
        try:
            return {"hash": (await self._trust.rotate()).hash}
        except ValueError as error:
            raise Conflict(str(error)) from error

    async def _retire(self, ca_hash: str, force: bool) -> object:
        issuers = await self._members.issuers()
        dependent = sorted(name for name, issuer in issuers.items() if issuer == ca_hash)
        if dependent and not force:
            raise BadRequest(
                f"{len(dependent)} nodes have their certificate from this authority ({', '.join(dependent[:5])}"
                f"{', …' if len(dependent) > 5 else ''}): wait until they have renewed it, or use --force"
            )
        try:
            await self._trust.retire(ca_hash)
        except LookupError as error:
            raise NotFound(str(error)) from error
        except ValueError as error:
            raise BadRequest(str(error)) from error
        return {"retired": ca_hash}

"""Keeps each node's serving certificate from the cluster's signer: asks, waits for approval, renews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from edgectl.apiserver.pki import write_private
from edgectl.errors import StatusError
from edgectl.informer import Informer
from edgectl.interfaces import EdgeNode, NodeDirectory
from edgectl.kubelet_csr import (
    CSRS,
    SIGNER,
    BadCertificate,
    Issued,
    issued,
    key_pem,
    load_key,
    refused,
    request_for,
    request_name,
)
from edgectl.kubernetes import KubernetesClient
from edgectl.watch import Object
from edgectl.workqueue import Workers

_CONCURRENCY = 4
"""Approvals take their time anyway."""


class ServingCertificates(Service):
    """Certificates for the nodes of ``directory``, kept in ``folder``: a restart asks for nothing anew.

    One watch tells of all requests. A request that is denied is made again once the cluster has removed it (its
    controller manager does, after an hour).

    :param client: is closed when the service has stopped.
    :param random: uniform over [0, 1).
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        client: KubernetesClient,
        directory: NodeDirectory,
        folder: Path,
        random: Callable[[], float],
    ) -> None:
        self._reactor, self._client, self._directory, self._folder = reactor, client, directory, folder
        self._requests = Informer(reactor, client, CSRS, random, field_selector=f"spec.signerName={SIGNER}")
        self._work: Workers[str] = Workers(reactor, "serving certificate of node", self._look, random, _CONCURRENCY)
        self._nodes: dict[str, EdgeNode] = {}
        self._issued: dict[str, Issued] = {}
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        # By the name of the request.
        self._waiting: dict[str, str] = {}
        self._told: dict[str, str] = {}

    def current(self, node: EdgeNode) -> Issued | None:
        """The node's certificate, if it has a good one."""
        found = self._issued.get(node.name)
        return found if found is not None and found.serves(node, self._reactor.seconds()) else None

    def startService(self) -> None:
        """:raises OSError: if the folder cannot be made or read."""
        super().startService()  # type: ignore[no-untyped-call]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.pem")):
            self._load(path)
        self._directory.subscribe(self._node_changed)
        self._requests.subscribe(self._request_changed, self._work.start)
        self._requests.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._requests.stop()
        await self._work.stop()
        await self._client.close()

    def _load(self, path: Path) -> None:
        name, _, asked = path.name.removesuffix(".pem").partition(".")
        try:
            if asked:
                self._keys[name] = load_key(path.read_bytes())
            else:
                self._issued[name] = Issued.decode(path.read_bytes())
        except ValueError as error:
            self._log.warn("{path} is damaged and not used: {error}", path=str(path), error=str(error))

    def _node_changed(self, name: str, node: EdgeNode | None) -> None:
        old = self._nodes.pop(name, None)
        if node is not None:
            self._nodes[name] = node
        if old is None or node is None or (old.addresses, old.revoked) != (node.addresses, node.revoked):
            self._work.add(name)

    def _request_changed(self, key: str, old: Object | None, new: Object | None) -> None:
        if key in self._waiting:
            self._work.add(self._waiting[key])

    async def _look(self, name: str) -> None:
        node, now = self._nodes.get(name), self._reactor.seconds()
        if node is None or node.revoked:
            self._forget(name)
            return
        present = self.current(node)
        if present is not None and now < present.renew_at:
            self._work.add_after(name, present.renew_at - now)
            return
        key = self._key(name)
        request = await self._request(node, key)
        try:
            got = issued(request, node, key, now)
        except BadCertificate as error:
            self._tell(name, f"what {SIGNER} gave cannot be used: {error}")
            return
        if why := refused(request):
            self._tell(name, f"{SIGNER} gives none: {why}")
        if got is None:
            if present is not None:
                self._work.add_after(name, max(1.0, present.expires - now))
            return
        self._keep(name, got)
        self._work.add_after(name, max(1.0, got.renew_at - now))

    async def _request(self, node: EdgeNode, key: ec.EllipticCurvePrivateKey) -> Object:
        name = request_name(node, key)
        self._waiting = {request: who for request, who in self._waiting.items() if who != node.name}
        self._waiting[name] = node.name
        if (known := self._requests.items.get(name)) is not None:
            return known
        try:
            made = await self._client.create(CSRS, "", request_for(node, key))
        except StatusError as error:
            if not error.already_exists:
                raise
            return await self._client.get(CSRS, "", name)
        self._log.info(
            "node {node}: asks {signer} for its serving certificate; 'kubectl certificate approve {request}' approves",
            node=node.name,
            signer=SIGNER,
            request=name,
        )
        return made

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Of the request that is under way. It is on disk before anybody hears of it."""
        if name not in self._keys:
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self._asked(name), key_pem(key))
            self._keys[name] = key
        return self._keys[name]

    def _keep(self, name: str, got: Issued) -> None:
        write_private(self._path(name), got.encode())
        self._issued[name] = got
        self._drop_request(name)
        self._told.pop(name, None)
        self._log.info("node {node}: has a serving certificate of {signer}", node=name, signer=SIGNER)

    def _forget(self, name: str) -> None:
        self._drop_request(name)
        self._issued.pop(name, None)
        self._told.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _drop_request(self, name: str) -> None:
        self._keys.pop(name, None)
        self._asked(name).unlink(missing_ok=True)
        self._waiting = {request: who for request, who in self._waiting.items() if who != name}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"

    def _asked(self, name: str) -> Path:
        return self._folder / f"{name}.asked.pem"

    def _tell(self, name: str, what: str) -> None:
        if self._told.get(name) != what:
            self._told[name] = what
            self._log.error("node {node}: no serving certificate: {what}", node=name, what=what)

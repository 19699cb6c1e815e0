# mypy: disallow-untyped-calls=False
"""The identity of a network as processes: a router that only admits, and an edge that only enrols and renews.

``python -m tests.integration.identity_process CONFIG.json``. A router says ``serving`` on its output. An edge says
``ready``, works through its ``joins`` (pairs of a name and a join string) at the same time, says how each went
(``enrolled NAME``, ``refused NAME CODE``), then renews each ``renewals`` times (``renewed NAME``), dials each router
with each (``admitted NAME ROUTER``, ``turned-away NAME ROUTER``) if ``dial`` is set, and says ``done``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from kubebus.addresses import AddressPlan
from kubebus.admin import AdminService
from kubebus.backoff import Backoff
from kubebus.ca import Authority
from kubebus.caadmin import AuthoritiesResource
from kubebus.credentials import Keyring
from kubebus.enrol import Issuer, join_handler, renew_farewell, renew_handler
from kubebus.identity import PeerIdentity
from kubebus.join import RenewalFailed, renew, tcp_endpoint
from kubebus.joinstring import HostPort, JoinString
from kubebus.listener import Listener
from kubebus.memberadmin import NodesResource, TokensResource
from kubebus.members import Members
from kubebus.renewal import enrolled
from kubebus.tap.registry import StoreRegistry
from kubebus.tlsconfig import JOIN, LINK, RENEW
from kubebus.tokens import Refused
from kubebus.trust import RouterTrust, network_record
from metasync.opening import open_store


class Hello(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


async def router(reactor: Any, config: dict[str, Any]) -> None:
    state = Path(config["state"])
    registry = StoreRegistry(reactor, open_store(reactor, config["store"]), "default")
    authority = Authority.load_or_create(state / "ca.pem", "kubebus default", time.time())
    shared = await network_record(registry, authority, state / "ca.pem")
    trust = RouterTrust(
        reactor,
        registry,
        authority,
        shared,
        "default",
        config["name"],
        ["127.0.0.1"],
        (LINK, JOIN, RENEW),
        clock=time.time,
        path=state / "ca.pem",
    )
    trust.startService()
    members = Members("default", registry, AddressPlan(trust.ula), time.time)
    issuer = Issuer(members, lambda: trust.authority, lambda: trust.bundle, time.time)
    ended: Deferred[None] = Deferred()

    def link(identity: PeerIdentity | None, address: IAddress) -> Hello:
        return Hello()

    listener = Listener(
        reactor,
        TCP4ServerEndpoint(reactor, config["port"], interface="127.0.0.1"),
        trust.tls,
        {LINK: link, JOIN: join_handler(reactor, issuer), RENEW: renew_handler(reactor, issuer)},
        members.check,
        ended.errback,
        farewells={RENEW: renew_farewell},
    )
    listener.startService()
    routers = (HostPort("127.0.0.1", config["port"]),)
    resources = {
        "tokens": TokensResource(members, lambda: routers, lambda: trust.ca_hash),
        "nodes": NodesResource(members),
        "ca": AuthoritiesResource(trust, members),
    }
    AdminService(reactor, Path(config["socket"]), resources).startService()
    print("serving", flush=True)
    await ended


class Ear(Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.lost: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(self.heard)


async def edge(reactor: Any, config: dict[str, Any]) -> None:
    print("ready", flush=True)

    async def live(name: str, join_string: str) -> None:
        keyring = Keyring(Path(config["state"]) / name)
        backoff = Backoff(lambda: 1.0, 0.05, 0.2)
        try:
            await enrolled(reactor, keyring, name, JoinString.decode(join_string), backoff=backoff)
        except Refused as refused:
            print("refused", name, refused.refusal.value, flush=True)
            return
        print("enrolled", name, flush=True)
        for _ in range(config.get("renewals", 0)):
            try:
                await renew(reactor, keyring)
            except (RenewalFailed, Refused) as error:
                print("unrenewed", name, error, flush=True)
            else:
                print("renewed", name, flush=True)
        for port in config.get("dial", ()):
            ear = Ear()
            endpoint = tcp_endpoint(reactor, HostPort("127.0.0.1", port))
            await connectProtocol(wrapClientTLS(keyring.client_connection_creator(LINK), endpoint), ear)
            print("admitted" if await ear.lost == b"hello" else "turned-away", name, port, flush=True)

    await gatherResults([Deferred.fromCoroutine(live(*pair)) for pair in config["joins"]])
    print("done", flush=True)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    work = {"router": router, "edge": edge}[config["side"]]
    react(lambda reactor: Deferred.fromCoroutine(work(reactor, config)))


if __name__ == "__main__":
    main()

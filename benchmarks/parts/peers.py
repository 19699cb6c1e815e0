"""Many peers: what one costs the router in memory and in its handshake, and how long all take to come back at once."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

from benchmarks.catalogue import OPENVPN, OURS
from benchmarks.parts.base import Part
from benchmarks.processes import cpu_seconds, rss
from benchmarks.tunnels import TUNNELS
from benchmarks.tunnels.openvpn import OpenVPN
from benchmarks.world import Hub
from kubebus.memory import AFTER_CROWD, FIRST
from tests.integration import network_crowd
from tests.integration.network_lab import NetworkLab, Process
from tests.lab.daemon import Daemon
from tests.lab.waiting import LabError, wait_until


class Peers(Part):
    """Ours: a router without the rest of the cloud side, and all edges in one other process.

    OpenVPN: its server, and clients that make no device; a process each, so not a thousand of them. Both have
    certificates of P-256 and TLS 1.3, and count from the accepted connection to the configuration that the peer was
    given; what OpenVPN's first client costs once (pages of its TLS library) is not counted, ours is.
    """

    name = "peers"
    what = "memory of an idle peer, handshakes per second of the router's CPU, storm after the router's restart"
    subjects = (OURS, OPENVPN)
    rounds = 1
    seconds = (160, 115)

    def expected(self, subject: str, quick: bool) -> float:
        return self.seconds[quick] if subject == OURS else (80, 52)[quick]

    def missing(self, subject: str) -> str | None:
        return TUNNELS[subject].missing()

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        if subject == OURS:
            return _crowd(100 if quick else 1000)
        return _openvpn(20 if quick else 100)


def _crowd(count: int) -> Mapping[str, float]:
    nodes = {f"node{number}": number for number in range(2, 2 + count)}
    lab = NetworkLab(sites=0, nodes=nodes)
    try:
        lab.start()
        folder = lab.folder / "crowd"
        for name in nodes:
            (folder / name).mkdir(parents=True)
            lab.credentials(name, folder / name)
        gc.collect()
        config = {"nodes": nodes, "state": str(folder), "routers": lab.routers}
        crowd = Process("crowd", lab.net.host, folder, config, network_crowd.__name__)
        lab.daemons.append(crowd)
        wait_until(lab.router.control.exists, 30, "the router is up")
        memory, cpu = rss(lab.router.pid), cpu_seconds(lab.router.pid)
        crowd.start()
        wait_until(crowd.control.exists, 120, "the crowd is started")
        wait_until(lambda: crowd.ask("connected") == count, 120, "all are connected", 0.2)
        # All that the router does from accepting a connection to a link that is up.
        values = {"handshakes": count / (cpu_seconds(lab.router.pid) - cpu)}
        # Idle is who has said nothing but heartbeats for a while; by then the router has tidied up after the crowd.
        time.sleep(FIRST + AFTER_CROWD)
        values["peer_memory"] = (rss(lab.router.pid) - memory) / count / 1e3
        values["storm"] = _storm(lab, crowd, count)
        values["late_storm"] = _storm(lab, crowd, count, outage=True)
        return values
    finally:
        lab.close()


def _storm(lab: NetworkLab, crowd: Process, count: int, outage: bool = False) -> float:
    """Seconds from the new router's first answer until every edge is connected again.

    :param outage: the router was away for so long that every edge waits for the longest time between its attempts.
    """
    lab.router.kill9()
    lab.router.control.unlink()
    wait_until(lambda: crowd.ask("connected") == 0, 30, "all have noticed")
    if outage:
        crowd.ask("wear_out")
    lab.router.start()
    wait_until(lab.router.control.exists, 30, "the router is up again", 0.01)
    began = time.monotonic()
    # The edges are asked, which costs nothing: a list of a thousand nodes, again and again, would keep the router busy.
    wait_until(lambda: crowd.ask("connected") == count, 120, "all are connected again", 0.1)
    took = time.monotonic() - began
    connected = sum(node["connected"] for node in lab.router.status()["nodes"])
    if connected != count:
        raise LabError(f"the edges take themselves for connected, the router knows {connected} of {count}")
    return took


def _openvpn(count: int) -> Mapping[str, float]:
    clients: list[Daemon] = []
    with Hub(1) as hub, OpenVPN(hub) as server:
        assert server.hub_process is not None
        pid = server.hub_process.pid
        try:
            memory, cpu = rss(pid), cpu_seconds(pid)
            clients.extend(server.idle_client(number, hub.edges[0]) for number in range(count))
            for client in clients:
                client.wait_for("Initialization Sequence Completed", 120)
            handshakes = count / (cpu_seconds(pid) - cpu)
            # As long as ours is given.
            time.sleep(FIRST + AFTER_CROWD)
            return {"peer_memory": (rss(pid) - memory) / count / 1e3, "handshakes": handshakes}
        finally:
            for client in clients:
                client.close(0.2)

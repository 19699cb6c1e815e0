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
from tests.lab.waiting import wait_until


class Peers(Part):
    """Ours: a router without the rest of the cloud side, and all edges in one other process.

    OpenVPN: its server, and clients that make no device; a process each, so not a thousand of them.
    """

    name = "peers"
    what = "memory of an idle peer, handshakes per second of the router's CPU, storm after the router's restart"
    subjects = (OURS, OPENVPN)
    rounds = 1

    def missing(self, subject: str) -> str | None:
        return TUNNELS[subject].missing()

    def measure(self, subject: str, quick: bool) -> Mapping[str, float]:
        if subject == OURS:
            return _crowd(100 if quick else 1000)
        return _openvpn(20 if quick else 60)


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
    if outage:
        wait_until(lambda: crowd.ask("connected") == 0, 30, "all have noticed")
        crowd.ask("wear_out")
    lab.router.start()
    wait_until(lab.router.control.exists, 30, "the router is up again")
    began = time.monotonic()
    wait_until(lambda: _connected(lab.router) == count, 120, "all are connected again", 0.1)
    return time.monotonic() - began


def _connected(router: Process) -> int:
    return sum(node["connected"] for node in router.status()["nodes"])


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
            return {
                "peer_memory": (rss(pid) - memory) / count / 1e3,
                "handshakes": count / (cpu_seconds(pid) - cpu),
            }
        finally:
            for client in clients:
                client.close(0.2)

"""All metrics, and what ours must reach. Ratios are taken within one run, so they hold on other machines too."""

from __future__ import annotations

from benchmarks.model import Metric, Target
from benchmarks.profiling import KINDS

OURS = "kubebus"
RAW = "raw"
OPENVPN = "openvpn-udp"
OPENVPN_TCP = "openvpn-tcp"
WIREGUARD = "wireguard-go"
NEBULA = "nebula"

# Our processes under one stream, as the keys of their shares have them: ``profile_hub_python``.
PROFILED = {"hub": "router", "edge": "sending edge", "receiver": "receiving edge"}

METRICS = [
    Metric("stream_1", "1 stream", "Mbit/s"),
    Metric("stream_8", "8 streams", "Mbit/s"),
    Metric("both_ways", "both directions at once, sum", "Mbit/s"),
    Metric("cpu_hub", "CPU of the router per GB", "s/GB", more=False),
    Metric("cpu_edge", "CPU of the sending edge per GB", "s/GB", more=False),
    Metric("cpu_receiver", "CPU of the receiving edge per GB", "s/GB", more=False),
    Metric("ping_idle", "ping, idle", "ms", more=False),
    Metric("ping_loaded", "ping under 8 streams", "ms", more=False),
    Metric("pps_64", "64-byte packets", "kpps"),
    Metric("pps_1350", "1350-byte packets", "kpps"),
    Metric("tcp_4", "1 stream, IPv4", "Mbit/s"),
    Metric("tcp_6", "1 stream, IPv6", "Mbit/s"),
    Metric("tcp_ratio", "1 stream, IPv6 against IPv4", "ratio"),
    Metric("udp_4", "UDP, 1350 bytes, IPv4", "Mbit/s"),
    Metric("udp_6", "UDP, 1350 bytes, IPv6", "Mbit/s"),
    Metric("udp_ratio", "UDP packets, IPv6 against IPv4", "ratio"),
    Metric("pair_one", "2 streams, 1 router process", "Mbit/s"),
    Metric("pair_two", "2 streams, 2 router processes", "Mbit/s"),
    Metric("pair_gain", "2 router processes against 1", "ratio"),
    Metric("pair_cpu_one", "CPU of all, 1 router process, per GB", "s/GB", more=False),
    Metric("pair_cpu_two", "CPU of all, 2 router processes, per GB", "s/GB", more=False),
    Metric("bad_goodput", "bad link (200 ms, 2 %, 10 Mbit/s): goodput", "Mbit/s"),
    Metric("bad_ping", "bad link: ping under load", "ms", more=False),
    Metric("stall_recovery", "bad link: answer after a stall of 5 s", "s", more=False),
    Metric("bad_relay_rtt", "bad link, the relay itself: round trip", "ms", more=False),
    Metric("bad_relay_loss", "bad link, the relay itself: loss", "%", more=False),
    Metric("bad_relay_rate", "bad link, the relay itself: rate", "Mbit/s"),
    Metric("bad_cubic_goodput", "bad link, kernels with CUBIC: goodput", "Mbit/s"),
    Metric("bad_cubic_ping", "bad link, kernels with CUBIC: ping under load", "ms", more=False),
    Metric("slow_goodput", "slow link (600 ms, 1 %, 64 kbit/s): goodput", "kbit/s"),
    Metric("slow_ping", "slow link: ping under load", "ms", more=False),
    Metric("slow_relay_rtt", "slow link, the relay itself: round trip", "ms", more=False),
    Metric("slow_relay_loss", "slow link, the relay itself: loss", "%", more=False),
    Metric("slow_relay_rate", "slow link, the relay itself: rate", "Mbit/s"),
    Metric("stopped_growth", "stopped receiver: router grows", "MB", more=False),
    Metric("stopped_ping", "stopped receiver: others' ping, against idle", "ratio", more=False),
    Metric("stopped_recovery", "stopped receiver: back after", "ms", more=False),
    Metric("peer_memory", "memory of an idle peer at the router", "KB", more=False),
    Metric("handshakes", "handshakes per second of CPU", "1/s"),
    Metric("storm", "storm of all nodes until all are up", "s", more=False),
    Metric("late_storm", "the same after an outage of 15 minutes", "s", more=False),
    Metric("edge_rss", "edge agent, idle: RSS", "MB", more=False),
    Metric("edge_pss", "edge agent, idle: PSS", "MB", more=False),
    Metric("lean_rss", "edge agent --no-pods, idle: RSS", "MB", more=False),
    Metric("lean_pss", "edge agent --no-pods, idle: PSS", "MB", more=False),
    Metric("router_rss", "router, idle: RSS", "MB", more=False),
    Metric("router_pss", "router, idle: PSS", "MB", more=False),
    Metric("dockerd_rss", "dockerd, idle: RSS", "MB", more=False),
    Metric("dockerd_pss", "dockerd, idle: PSS", "MB", more=False),
    Metric("containerd_rss", "containerd, idle: RSS", "MB", more=False),
    Metric("containerd_pss", "containerd, idle: PSS", "MB", more=False),
    Metric("edge_cpu", "edge agent, idle: CPU", "% of a core", more=False),
    Metric("edge_cpu_day", "edge agent, idle: CPU a day", "s", more=False),
    Metric("edge_wakeups", "edge agent, idle: wake-ups", "1/s", more=False),
    Metric("lean_cpu_day", "edge agent --no-pods, idle: CPU a day", "s", more=False),
    Metric("lean_wakeups", "edge agent --no-pods, idle: wake-ups", "1/s", more=False),
    Metric("router_cpu", "router of both, idle: CPU", "% of a core", more=False),
    Metric("router_cpu_day", "router of both, idle: CPU a day", "s", more=False),
    Metric("router_wakeups", "router of both, idle: wake-ups", "1/s", more=False),
    Metric("engine_cpu_day", "dockerd and containerd, idle: CPU a day", "s", more=False),
    Metric("link_bytes", "idle link, counted at IP level", "MB/day", more=False),
    Metric("lean_link_bytes", "idle link of --no-pods, counted at IP level", "MB/day", more=False),
    *(
        Metric(f"profile_{process}_{kind}", f"{title} under 1 stream: {kind}", "%", more=False)
        for process, title in PROFILED.items()
        for kind in KINDS
    ),
]

TARGETS = [
    Target("stream_1", OPENVPN, 7),
    Target("stream_1", WIREGUARD, 12),
    Target("stream_1", RAW, 0.25),
    Target("stream_8", OPENVPN, 7),
    Target("both_ways", OPENVPN, 7),
    Target("ping_idle", OPENVPN, 1.6),
    Target("ping_idle", WIREGUARD, 0.85),
    Target("ping_loaded", OPENVPN, 0.4),
    Target("pps_64", OPENVPN, 3),
    # "As good as", less what two runs of the same differ by.
    Target("tcp_ratio", None, 0.9),
    Target("udp_ratio", None, 0.9),
    Target("bad_goodput", OPENVPN_TCP, 1.5),
    Target("bad_ping", OPENVPN_TCP, 0.5),
    Target("bad_cubic_goodput", OPENVPN_TCP, 1.5),
    Target("bad_cubic_ping", OPENVPN_TCP, 0.5),
    Target("stopped_growth", None, 8),
    Target("stopped_ping", None, 1.25),
    Target("stopped_recovery", None, 100),
    Target("peer_memory", None, 30),
    Target("peer_memory", OPENVPN, 0.2),
    Target("handshakes", None, 700),
    Target("handshakes", OPENVPN, 1.8),
    Target("storm", None, 10),
    Target("late_storm", None, 70),
    Target("edge_rss", None, 56),
    Target("lean_rss", None, 40),
    Target("edge_cpu", None, 0.5),
    Target("link_bytes", None, 1),
]

BY_KEY = {metric.key: metric for metric in METRICS}

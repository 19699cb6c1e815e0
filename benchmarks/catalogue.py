"""All metrics, and what ours must reach. Ratios are taken within one run, so they hold on other machines too."""

from __future__ import annotations

from benchmarks.model import Metric, Target

OURS = "kubebus"
RAW = "raw"
OPENVPN = "openvpn-udp"
OPENVPN_TCP = "openvpn-tcp"
WIREGUARD = "wireguard-go"
NEBULA = "nebula"

METRICS = [
    Metric("stream_1", "1 stream", "Mbit/s"),
    Metric("stream_8", "8 streams", "Mbit/s"),
    Metric("both_ways", "both directions at once, sum", "Mbit/s"),
    Metric("cpu_hub", "CPU of the router per GB", "s/GB", more=False),
    Metric("cpu_edge", "CPU of the sending edge per GB", "s/GB", more=False),
    Metric("ping_idle", "ping, idle", "ms", more=False),
    Metric("ping_loaded", "ping under 8 streams", "ms", more=False),
    Metric("pps_64", "64-byte packets", "kpps"),
    Metric("pps_1350", "1350-byte packets", "kpps"),
    Metric("bad_goodput", "bad link (200 ms, 2 %, 10 Mbit/s): goodput", "Mbit/s"),
    Metric("bad_ping", "bad link: ping under load", "ms", more=False),
    Metric("slow_goodput", "slow link (300 ms, 1 %, 256 kbit/s): goodput", "Mbit/s"),
    Metric("slow_ping", "slow link: ping under load", "ms", more=False),
    Metric("stall_recovery", "time to answer after a stall of 5 s", "s", more=False),
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
    Metric("router_rss", "router, idle: RSS", "MB", more=False),
    Metric("router_pss", "router, idle: PSS", "MB", more=False),
    Metric("engine_rss", "dockerd and containerd, idle: RSS", "MB", more=False),
    Metric("edge_cpu", "edge agent, idle: CPU", "% of a core", more=False),
    Metric("edge_wakeups", "edge agent, idle: wake-ups", "1/s", more=False),
    Metric("link_bytes", "idle link, counted at IP level", "MB/day", more=False),
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
    Target("bad_goodput", OPENVPN_TCP, 1.5),
    Target("bad_ping", OPENVPN_TCP, 0.5),
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

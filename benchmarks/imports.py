"""What each import adds to the agent's memory: ``python -OO -m benchmarks.imports [--plain]``.

Without ``--plain`` as under :mod:`appengine.lean`, with it as under ``twistd``. The order is that of the agent; each
line holds what its module brings that no line before it did.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

STEPS = (
    ("`asyncio`", ("asyncio", "hashlib", "hmac")),
    ("`twisted.internet.defer`, `zope.interface`", ("twisted.internet.defer",)),
    ("`OpenSSL`, `cryptography`", ("OpenSSL.SSL", "cryptography.x509")),
    ("the reactor", ("twisted.internet.reactor",)),
    ("`twistd`", ("twisted.scripts.twistd",)),
    ("`pyroute2`", ("kubebus.rtnetlink",)),
    ("`sqlite3`", ("sqlite3",)),
    ("`kubebus`, `metasync`", ("appengine.tap", "appengine.tap.device", "metasync.sqlite")),
    ("`appengine`", ("appengine.kubelet", "appengine.service", "appengine.dockerengine", "kubebus.hairpin")),
    ("`twisted.names`, Services", ("appengine.services.dns", "appengine.services.proxy")),
    ("`twisted.web`, when somebody asks", ("kubebus.admin", "metasync.admin", "metasync.gateway")),
    ("`docker`, when an archive of images is loaded", ("docker",)),
)


def memory() -> tuple[float, float]:
    """MB that are resident now, and those of them that belong to no file."""
    found = {"Rss:": 0.0, "Anonymous:": 0.0}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, value, *_ = line.split()
        if name in found:
            found[name] = int(value) * 1024 / 1e6
    return found["Rss:"], found["Anonymous:"]


def main() -> None:
    print("| import | RSS, MB | of it anonymous |\n|---|---|---|")
    before = memory()
    print(f"| Python | {before[0]:.1f} | {before[1]:.1f} |")
    instead: dict[str, Callable[[], None]] = {}
    if "--plain" not in sys.argv:
        lean = importlib.import_module("appengine.lean")
        lean.keep_out()
        instead["twisted.internet.defer"] = lean.endpoints_without_tls
        instead["twisted.internet.reactor"] = lean.reactor_without_tls
    for title, modules in STEPS:
        for module in modules:
            if module in instead:
                instead[module]()
            importlib.import_module(module)
        now = memory()
        print(f"| {title} | {now[0] - before[0]:.1f} | {now[1] - before[1]:.1f} |")
        before = now
    print(f"| in all | {before[0]:.1f} | {before[1]:.1f} |")


if __name__ == "__main__":
    main()

"""Tells the site what the balancer of this node does: one key in the site's data, written anew every two seconds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from examples.campus.apps.site import NODES, site_data
from examples.metadata import MetadataError

PERIOD = 2.0
"""Seconds between two reports. A report costs each node of the site, and the cloud, a write."""


def report(status: Mapping[str, Any], now: float) -> dict[str, Any]:
    """What is worth telling of a balancer's ``/status``: frames by outcome since its start, and the cameras it has."""
    counts = status["counts"]
    return {
        "time": round(now, 3),
        "offered": counts.get("offered", 0),
        "answered": counts.get("answered", 0),
        "refused": sum(count for name, count in counts.items() if name.startswith("refused ")),
        "cameras": sorted(status["rates"]),
    }


def ask(port: int = 8080) -> dict[str, Any]:
    """The status of the balancer in this pod."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/status")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return found


def main() -> None:
    node, store = os.environ["NODE_NAME"], site_data()
    told = ""
    while True:
        try:
            store.write({NODES + node: report(ask(), time.time())})
            problem = ""
        except (OSError, HTTPException, ValueError, MetadataError) as error:
            problem = str(error)
        if problem != told:
            print(problem or "all is well again", flush=True)
            told = problem
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()

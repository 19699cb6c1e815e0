"""What a pod of the campus finds, asked from inside it: names, connections, and the site's data.

``python -m examples.campus.apps.errand put KEY VALUE`` writes into the site's data; ``… await SECONDS KEY=VALUE …``
waits until all these stand there; ``… get NAME:PORT …`` looks each name up and asks each of its addresses by HTTP. All
print one line of JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import Any

from examples.campus.apps.site import site_data

TIMEOUT = 3.0
"""Seconds for one connection."""


def get(name: str, port: int) -> dict[str, Any]:
    """What each address behind a name answers: its text, or the name of the error."""
    try:
        found = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return {"error": str(error)}
    addresses = sorted({str(address[0]) for *_, address in found})
    return {address: _ask(address, port) for address in addresses}


def _ask(address: str, port: int) -> str:
    connection = HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def wait_for(wanted: dict[str, str], seconds: float) -> dict[str, Any]:
    """The seconds until all keys have these values, or what they have instead."""
    store, began = site_data(), time.monotonic()
    while True:
        found = {key: json.loads(store.get(key).get(key, "null")) for key in wanted}
        waited = time.monotonic() - began
        if found == wanted:
            return {"seconds": round(waited, 2)}
        if waited > seconds:
            return {"error": f"after {seconds:g} s there is {found}, not {wanted}"}
        time.sleep(0.1)


def main(arguments: list[str]) -> dict[str, Any]:
    match arguments:
        case ["put", key, value]:
            site_data().write({key: value})
            return {}
        case ["await", seconds, *pairs]:
            return wait_for(dict(pair.split("=", 1) for pair in pairs), float(seconds))
        case ["get", *targets]:
            return {target: get(target.rpartition(":")[0], int(target.rpartition(":")[2])) for target in targets}
    raise SystemExit(__doc__)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))

"""The site's recorder: keeps the journal of the watch, one entry a second, and serves the latest at ``/``.

Who is watched must be able to ask when, so there is one journal, and one writer at a time: the pod is marked for
takeover, and goes on at another node when its own dies. What it needs is in the site's data, which every node has.
An entry says who wrote it, and what the balancers of the site had told by then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from examples.campus.apps.site import JOURNAL, NODES, site_data
from examples.metadata import Metadata, MetadataError

PERIOD = 1.0
KEEP = 3600
"""So many entries of its own a writer keeps: an hour."""


class Recorder:
    """
    :param uid: of the pod that this runs in. Each life of it at another node has one of its own, so two writers, should
        there ever be two, would not overwrite each other's entries: it would be seen.
    """

    def __init__(self, store: Metadata, uid: str, node: str) -> None:
        self._store = store
        self._uid, self._node = uid, node
        self._number: int | None = None
        self.latest: dict[str, Any] | None = None

    def turn(self, now: float) -> None:
        """Write the next entry.

        :raises MetadataError: if the store does not take it.
        """
        if self._number is None:
            last = self._store.last(f"{JOURNAL}{self._uid}/")
            self._number = int(last.rpartition("/")[2]) if last else 0
        reports = {key.removeprefix(NODES): json.loads(told) for key, told in self._store.get(NODES).items()}
        number = self._number + 1
        entry = {
            "time": round(now, 3),
            "node": self._node,
            "ages": {node: round(now - told["time"], 1) for node, told in reports.items()},
            "answered": {node: told["answered"] for node, told in reports.items()},
            "cameras": {node: told["cameras"] for node, told in reports.items()},
        }
        old = [self._key(number - KEEP)] if number > KEEP else []
        self._store.write({self._key(number): entry}, old)
        self._number = number
        self.latest = {"uid": self._uid, "number": number, **entry}

    def _key(self, number: int) -> str:
        return f"{JOURNAL}{self._uid}/{number:08}"


def serve(recorder: Recorder, port: int = 8080) -> None:
    """Serve the latest entry in the background."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            latest = recorder.latest
            body = json.dumps(latest).encode()
            self.send_response(200 if latest else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uid, node = os.environ["POD_UID"], os.environ["NODE_NAME"]
    recorder = Recorder(site_data(), uid, node)
    serve(recorder)
    print(f"{uid} records at {node}", flush=True)
    told = ""
    while True:
        try:
            recorder.turn(time.time())
            problem = ""
        except (MetadataError, ValueError, KeyError) as error:
            problem = repr(error)
        if problem != told:
            print(problem or "all is well again", flush=True)
            told = problem
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()

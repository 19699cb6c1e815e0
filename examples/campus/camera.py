"""A camera: a device on the site's LAN that sends frames to a balancer, and keeps a record of what came of each.

``python -m examples.campus.camera NUMBER CONTROL RECORD BALANCER [BALANCER …]``. It sends to the first balancer that
answers, and goes back to an earlier one when that is there again. It sends as fast as the control file says
(``{"rate": 4}``, frames a second), or as the balancer advises if that is slower. Of each frame, a line of JSON goes to
the record: when, what came of it, and how the answer compares to the truth.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from examples.campus.apps.scene import Scene, Thing, match

AT_ONCE = 12
"""Frames that are waited for. A camera has no memory for more: further ones are not taken."""
PATIENCE = 3.0
"""Seconds until a balancer that says nothing is given up: longer than any balancer keeps a frame."""
CONNECT = 0.5
"""Seconds to a balancer on the same LAN."""
RETURN = 3.0
"""Seconds between looks at the balancers before the present one."""


class Camera:
    def __init__(self, number: int, control: Path, record: Path, balancers: list[str]) -> None:
        self._name = f"camera-{number}"
        self._scene = Scene(number)
        self._control = control
        self._record = open(record, "a", buffering=1)  # noqa: SIM115 (it is open to the end)
        self._lock = threading.Lock()
        self._balancers = balancers
        self._chosen = 0
        self._wanted = 1.0
        self._advised = float("inf")
        self._flying = 0
        self._frames = 0
        self._local = threading.local()

    def run(self) -> None:
        began = due = time.monotonic()
        looked = read = began
        with ThreadPoolExecutor(AT_ONCE + 1) as pool:
            while True:
                now = time.monotonic()
                if now >= read:
                    self._wanted = float(json.loads(self._control.read_text())["rate"])
                    read = now + 0.2
                if self._chosen and now - looked > RETURN:
                    looked = now
                    pool.submit(self._look_back)
                if now >= due and self._wanted > 0:
                    # A frame that is not taken is not taken later either.
                    due = max(due + 1 / min(self._wanted, self._advised), now)
                    if self._flying < AT_ONCE:
                        self._flying += 1
                        self._frames += 1
                        truth, frame = self._scene.truth(now - began), self._scene.frame(now - began)
                        pool.submit(self._send, self._frames, frame, truth)
                    else:
                        self._write({"time": time.time(), "outcome": "not taken"})
                time.sleep(max(0.0, min(due, read) - time.monotonic()))

    def _send(self, number: int, frame: bytes, truth: list[Thing]) -> None:
        found: dict[str, Any] = {
            "number": number,
            "time": time.time(),
            "wanted": self._wanted,
            "advised": self._limit(),
        }
        began = time.monotonic()
        try:
            found |= self._try_all(frame, truth)
        except Exception as error:
            found |= {"outcome": "error", "why": f"{type(error).__name__}: {error}"}
        found["seconds"] = round(time.monotonic() - began, 4)
        with self._lock:
            self._flying -= 1
        self._write(found)

    def _limit(self) -> float:
        return round(min(self._wanted, self._advised), 2)

    def _try_all(self, frame: bytes, truth: list[Thing]) -> dict[str, Any]:
        first = self._chosen
        why = ""
        for step in range(len(self._balancers)):
            index = (first + step) % len(self._balancers)
            try:
                status, headers, body = self._post(self._balancers[index], frame)
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if step:
                self._chosen = index
            self._advised = float(headers.get("balancer-rate", "inf"))
            told = {"balancer": index, "place": headers.get("balancer-place"), "worker": headers.get("balancer-worker")}
            if status != 200:
                return {**told, "outcome": "refused", "why": headers.get("balancer-reason", str(status))}
            things = [Thing(each["kind"], each["x"], each["y"]) for each in json.loads(body)["things"]]
            return {**told, "outcome": "answered", "match": match(things, truth)}
        return {"outcome": "failed", "why": why}

    def _post(self, balancer: str, frame: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One connection for each thread and balancer; it is opened anew when the balancer closed it."""
        connections = self._local.__dict__.setdefault("connections", {})
        kept = connections.pop(balancer, None)
        headers = {"source": self._name, "wanted-rate": f"{self._wanted:g}", "content-type": "image/x-portable-graymap"}
        for connection in (kept, None):
            if connection is None:
                host, _, port = balancer.rpartition(":")
                connection = http.client.HTTPConnection(host, int(port), timeout=CONNECT)
                connection.connect()
                connection.sock.settimeout(PATIENCE)
            elif connection.sock is None:
                continue
            try:
                connection.request("POST", "/work", frame, headers)
                response = connection.getresponse()
                body = response.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()
                if connection is kept:
                    continue
                raise
            except BaseException:
                connection.close()
                raise
            connections[balancer] = connection
            return response.status, response.headers, body
        raise AssertionError("not reached")

    def _look_back(self) -> None:
        for index in range(self._chosen):
            host, _, port = self._balancers[index].rpartition(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=CONNECT)
            try:
                connection.request("GET", "/status")
                workers = json.loads(connection.getresponse().read())["workers"]
            except (OSError, http.client.HTTPException, ValueError):
                continue
            finally:
                connection.close()
            if any(worker["up"] for worker in workers):
                self._chosen = index
                return

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._record.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    Camera(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]).run()

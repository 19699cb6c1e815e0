"""Find persons and vehicles in a frame, by matched filters; and a worker that does it over HTTP.

A frame is judged by itself: any worker may get any frame, without having seen those before. For each kind and size,
the frame is correlated with the shape of the thing against its surroundings, normalised by the local contrast, so that
neither light nor ground matter; peaks above a threshold are things. NumPy does that in a few milliseconds; OpenCV,
of which it would need one function, would double the image.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6

import numpy as np
from numpy.typing import NDArray

from examples.campus.apps.scene import HEADER, HEIGHT, SCALES, SHAPES, WIDTH, Thing

MAX_BODY = 1 << 20
THRESHOLD = 0.72
"""Of the correlation, which is 1 where a thing looks exactly like its shape."""

_BORDER = 5.0
"""Pixels around a thing that are taken for its surroundings."""


class FrameError(ValueError):
    """The body is no frame. The message says why."""


class Detector:
    def __init__(self) -> None:
        self._filters = [
            (kind, scale, *self._filter(across * scale, down * scale))
            for kind, (across, down) in SHAPES.items()
            for scale in SCALES
        ]

    def _filter(self, across: float, down: float) -> tuple[NDArray[np.complex64], NDArray[np.complex64], int, float]:
        """The transforms of the template (mean 0) and of its window, the window's size, and the template's norm."""
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
        rows = np.where(rows > HEIGHT // 2, rows - HEIGHT, rows)
        columns = np.where(columns > WIDTH // 2, columns - WIDTH, columns)
        inside = (columns / across) ** 2 + (rows / down) ** 2 <= 1
        window = (columns / (across + _BORDER)) ** 2 + (rows / (down + _BORDER)) ** 2 <= 1
        template = np.where(window, inside - inside.sum() / window.sum(), 0.0)
        norm = float(np.sqrt((template**2).sum()))
        return np.conj(np.fft.rfft2(template)), np.conj(np.fft.rfft2(window)), int(window.sum()), norm

    def find(self, frame: bytes) -> list[Thing]:
        """:raises FrameError: if it is none."""
        if not frame.startswith(HEADER) or len(frame) != len(HEADER) + WIDTH * HEIGHT:
            raise FrameError(f"expected {WIDTH}x{HEIGHT} pixels as PGM, got {len(frame)} bytes")
        image = np.frombuffer(frame, np.uint8, offset=len(HEADER)).reshape(HEIGHT, WIDTH).astype(np.float64)
        image -= image.mean()
        spectrum, squares = np.fft.rfft2(image), np.fft.rfft2(image**2)
        peaks: list[tuple[float, Thing]] = []
        for kind, scale, template, window, size, norm in self._filters:
            means = np.fft.irfft2(spectrum * window, image.shape) / size
            spread = np.fft.irfft2(squares * window, image.shape) - size * means**2
            score = np.fft.irfft2(spectrum * template, image.shape) / (norm * np.sqrt(np.maximum(spread, size * 25.0)))
            peaks += _peaks(kind, scale, score)
        return _strongest(peaks)


def _peaks(kind: str, scale: float, score: NDArray[np.float64]) -> list[tuple[float, Thing]]:
    found: list[tuple[float, Thing]] = []
    score = score.copy()
    score[:4], score[-4:], score[:, :4], score[:, -4:] = 0, 0, 0, 0
    while score.max() > THRESHOLD and len(found) < 20:
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        found.append((float(score[row, column]), Thing(kind, float(column), float(row), scale)))
        score[max(0, row - 8) : row + 9, max(0, column - 8) : column + 9] = 0
    return found


def _strongest(peaks: list[tuple[float, Thing]]) -> list[Thing]:
    """Of peaks that are in each other's way, the strongest."""
    kept: list[Thing] = []
    for _, thing in sorted(peaks, key=lambda each: -each[0]):
        if all(abs(thing.x - each.x) > 9 or abs(thing.y - each.y) > 9 for each in kept):
            kept.append(thing)
    return kept


class Handler(BaseHTTPRequestHandler):
    """Frames are posted to ``/``; ``/health`` takes anything."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    detector = Detector()
    one_at_a_time = threading.Lock()

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(413, {"error": f"a body of at most {MAX_BODY} bytes is wanted"})
            return
        body = self.rfile.read(int(length))
        if self.path == "/health":
            self._answer(200, {})
            return
        came = time.monotonic()
        with self.one_at_a_time:
            began = time.monotonic()
            try:
                found = self.detector.find(body)
            except FrameError as error:
                self._answer(400, {"error": str(error)})
                return
            done = time.monotonic()
        things = [{"kind": each.kind, "x": each.x, "y": each.y} for each in found]
        self._answer(200, {"things": things}, work=done - began, waited=began - came)

    def do_GET(self) -> None:
        self._answer(200, {})

    def _answer(self, code: int, answer: object, *, work: float = 0.0, waited: float = 0.0) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("work-seconds", f"{work:.4f}")
        self.send_header("waited-seconds", f"{waited:.4f}")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = AF_INET6 if os.path.exists("/proc/net/if_inet6") else ThreadingHTTPServer.address_family


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    print(f"detecting on port {port}", flush=True)
    Server(("", port), Handler).serve_forever()

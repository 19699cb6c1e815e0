"""A small registry of the v2 API with one image, behind a password, on the loopback of a namespace.

``python -m tests.integration.registry PORT ROOTFS``: the image ``private/app`` under any tag, for the user ``device``
with the password ``pa:ss``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from appengine.pauseimage import go_architecture

CREDENTIALS = ("device", "pa:ss")
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(layer: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an image of one layer, and its blobs by digest."""
    import os

    config = json.dumps(
        {
            "architecture": go_architecture(os.uname().machine),
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    kind = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": kind, "size": len(config), "digest": digest(config)},
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "size": len(layer),
                "digest": digest(layer),
            }
        ],
    }
    return json.dumps(manifest).encode(), {digest(config): config, digest(layer): layer}


class Registry(BaseHTTPRequestHandler):
    manifest: bytes
    blobs: dict[str, bytes]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        wanted = "Basic " + b64encode(":".join(CREDENTIALS).encode()).decode()
        kind, content, status = "application/json", b"{}", 200
        if self.headers.get("Authorization") != wanted:
            status = 401
        elif self.path.startswith("/v2/private/app/manifests/"):
            kind, content = _MANIFEST, self.manifest
        elif self.path.startswith("/v2/private/app/blobs/"):
            kind, content = "application/octet-stream", self.blobs.get(self.path.rpartition("/")[2], b"")
        elif self.path != "/v2/":
            status = 404
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="the site"')
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Content-Digest", digest(content))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def main(port: int, rootfs: Path) -> None:
    Registry.manifest, Registry.blobs = image(rootfs.read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", port), Registry)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

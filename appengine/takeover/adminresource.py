# mypy: disallow-untyped-calls=False
"""``/v1/takeover`` of the administration socket: which pods need the site's lease, and who runs them."""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.web.http import Request
from twisted.web.resource import Resource

from appengine.podspec import Json


class TakeoverResource(Resource):
    """GET only.

    :param status: what is to be shown, JSON-able.
    """

    isLeaf = True

    def __init__(self, status: Callable[[], Json]) -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(self._status()).encode()

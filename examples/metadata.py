"""The node's metadata store, as an application reaches it: etcd's JSON gateway. It works without the cloud."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any


class MetadataError(Exception):
    """The store refused, or does not answer. The message says which request and what was said."""


class Metadata:
    """One scope of application data. Not for several threads.

    :param address: host and port of the node's local API.
    :param scope: ``all``, ``node.NAME``, or ``site.NAME``.
    :param token: proves the namespace; keys stand below it.
    """

    def __init__(self, address: str, scope: str, token: str) -> None:
        self._address = address
        self._path = f"/scopes/{scope}/v3/kv/"
        self._token = token
        self._connection: HTTPConnection | None = None

    def get(self, prefix: str) -> dict[str, str]:
        """All keys that begin with ``prefix``, with their values."""
        first = prefix.encode()
        answer = self._call("range", {"key": _text(first), "range_end": _text(_after(first))})
        return {_plain(kv["key"]): _plain(kv.get("value", "")) for kv in answer.get("kvs", ())}

    def last(self, prefix: str) -> str | None:
        """The last of the keys that begin with ``prefix``."""
        first = prefix.encode()
        request = {"key": _text(first), "range_end": _text(_after(first)), "limit": 1, "keys_only": True}
        answer = self._call("range", {**request, "sort_order": "DESCEND", "sort_target": "KEY"})
        return next((_plain(kv["key"]) for kv in answer.get("kvs", ())), None)

    def write(self, puts: Mapping[str, object], deletes: Sequence[str] = ()) -> None:
        """Put values (as JSON) and delete keys, at most 40 in all: in one transaction."""
        ops: list[dict[str, Any]] = [
            {"request_put": {"key": _text(key.encode()), "value": _text(json.dumps(value).encode())}}
            for key, value in puts.items()
        ]
        ops += [{"request_delete_range": {"key": _text(key.encode())}} for key in deletes]
        self._call("txn", {"success": ops})

    def _call(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        body, headers = json.dumps(request), {"Authorization": self._token, "Content-Type": "application/json"}
        try:
            if self._connection is None:
                self._connection = HTTPConnection(self._address, timeout=5)
            self._connection.request("POST", self._path + what, body, headers)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise MetadataError(f"{what} at {self._address}: {error!r}") from error
        if response.status != 200:
            raise MetadataError(f"{what} at {self._address}: {answer.get('error', response.status)}")
        return dict(answer)


def from_environment(scope: str) -> Metadata:
    """By METADATA_ADDRESS and METADATA_TOKEN, as the manifests set them."""
    return Metadata(os.environ["METADATA_ADDRESS"], scope, os.environ["METADATA_TOKEN"])


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _plain(text: str) -> str:
    return b64decode(text).decode()


def _after(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix (which does not end with 255)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])

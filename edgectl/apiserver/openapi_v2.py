"""The OpenAPI v2 document, as JSON and in the protobuf form that kubectl asks for (it reads no other).

Field numbers: ``openapiv2/OpenAPIv2.proto`` of ``google/gnostic-models``.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from edgectl.apiserver.discovery import VERSION

Obj = dict[str, Any]

PROTOBUF_TYPE = b"application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""As kube-apiserver answers: clients ask with an ``@``, which is no valid media type."""


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@cache
def document() -> bytes:
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return json.dumps({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}).encode()


@cache
def protobuf() -> bytes:
    """``Document``: swagger = 1, info = 2 (title = 1, version = 2)."""
    info = _field(1, b"Kubernetes") + _field(2, VERSION["gitVersion"].encode())
    return _field(1, b"2.0") + _field(2, info)

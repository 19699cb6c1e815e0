"""The OpenAPI v2 document, as JSON and in the protobuf form that kubectl asks for (it reads no other).

kubectl 1.20 checks manifests by it and explains fields from it. Field numbers: ``openapiv2/OpenAPIv2.proto`` of
``google/gnostic-models``; values of vendor extensions are YAML there, and JSON is YAML.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from edgectl.apiserver.discovery import VERSION
from edgectl.apiserver.openapi import definitions
from edgectl.apiserver.resources import RESOURCES

Obj = dict[str, Any]

PROTOBUF_TYPE = b"application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""As kube-apiserver answers: clients ask with an ``@``, which is no valid media type."""


@cache
def _document() -> Obj:
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": {},
        "definitions": definitions(list(RESOURCES), "#/definitions/"),
    }


@cache
def document() -> bytes:
    return json.dumps(_document(), separators=(",", ":")).encode()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode()) if value else b""


def _named(number: int, name: str, value: bytes) -> bytes:
    """An entry of a map: NamedSchema and NamedAny have the name first, then the value."""
    return _field(number, _text(1, name) + _field(2, value))


def _schema(schema: Obj) -> bytes:
    """``Schema``."""
    made = _text(1, schema.get("$ref", "")) + _text(2, schema.get("format", ""))
    made += _text(4, schema.get("description", ""))
    made += b"".join(_text(19, name) for name in schema.get("required", ()))
    if "additionalProperties" in schema:
        made += _field(21, _field(1, _schema(schema["additionalProperties"])))
    if "type" in schema:
        made += _field(22, _text(1, schema["type"]))
    if "items" in schema:
        made += _field(23, _field(1, _schema(schema["items"])))
    if schema.get("properties"):
        members = schema["properties"].items()
        made += _field(25, b"".join(_named(1, name, _schema(member)) for name, member in members))
    for name, value in schema.items():
        if name.startswith("x-"):
            made += _named(31, name, _text(2, json.dumps(value)))
    return made


@cache
def protobuf() -> bytes:
    """``Document``."""
    found = _document()
    info = _text(1, found["info"]["title"]) + _text(2, found["info"]["version"])
    types = b"".join(_named(1, name, _schema(schema)) for name, schema in found["definitions"].items())
    return _text(1, found["swagger"]) + _field(2, info) + _field(8, b"") + _field(9, types)

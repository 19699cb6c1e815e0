"""Service account tokens for pods at the edge: which are needed, when they are due, how they reach a node. Pure.

A node cannot ask the API server for tokens while it is away, so the cloud does (TokenRequest, bound to the pod). A
token goes down as a Secret of its own, and the pod's ``serviceAccountToken`` projection becomes a projection of that
Secret: rotation is then an ordinary change of a Secret, and a node needs to know nothing of tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgectl.watch import Object

SECRET_PREFIX = "kubebus-token-"
EXPIRES = "kubebus.io/expires"
ISSUED = "kubebus.io/issued"
"""Annotations of a token's Secret: UNIX seconds."""

DEFAULT_SECONDS = 3600
"""``expirationSeconds`` where a pod names none (the API's default)."""

RENEW_AT, MAX_AGE = 0.8, 24 * 3600.0
"""A token is renewed at 80 % of its life, or when it is a day old (the kubelet's rules)."""

_FIELD = "serviceAccountToken"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One ``serviceAccountToken`` of a pod. ``number`` counts them within it."""

    number: int
    audience: str
    seconds: int

    def secret_name(self, uid: str) -> str:
        return f"{SECRET_PREFIX}{uid}-{self.number}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its times, in UNIX seconds."""

    value: str
    issued: float
    expires: float

    @property
    def due(self) -> float:
        """When it should be renewed."""
        return self.issued + min((self.expires - self.issued) * RENEW_AT, MAX_AGE)


def sources(pod: Mapping[str, Any]) -> list[TokenSource]:
    """The tokens that a pod asks for."""
    return [
        TokenSource(number, str(field.get("audience") or ""), _seconds(field))
        for number, field in enumerate(_fields(pod["spec"]))
    ]


def token_request(source: TokenSource, pod: Mapping[str, Any]) -> Object:
    """The body to post to ``serviceaccounts/<name>/token``. The token ends with the pod."""
    metadata = pod["metadata"]
    spec: Object = {
        "expirationSeconds": source.seconds,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        "audiences": [source.audience] if source.audience else [],
    }
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def token_of(answer: Mapping[str, Any], now: float) -> Token:
    """What a TokenRequest gave.

    :raises ValueError: if it is no token.
    """
    status = answer.get("status") or {}
    value, expires = status.get("token"), status.get("expirationTimestamp")
    if not isinstance(value, str) or not isinstance(expires, str):
        raise ValueError("the API server answered a TokenRequest without a token")
    return Token(value, now, datetime.fromisoformat(expires).timestamp())


def secret(source: TokenSource, pod: Mapping[str, Any], token: Token) -> Object:
    """The Secret that carries a token down."""
    metadata = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": source.secret_name(metadata["uid"]),
            "namespace": metadata["namespace"],
            "annotations": {ISSUED: str(int(token.issued)), EXPIRES: str(int(token.expires))},
        },
        "data": {"token": base64.b64encode(token.value.encode()).decode()},
    }


def token_in(item: Mapping[str, Any]) -> Token | None:
    """The token in such a Secret, as the store held it."""
    try:
        annotations = item["metadata"]["annotations"]
        value = base64.b64decode(item["data"]["token"]).decode()
        return Token(value, float(annotations[ISSUED]), float(annotations[EXPIRES]))
    except (KeyError, TypeError, ValueError):
        return None


def with_secrets(pod: Object) -> Object:
    """The pod with every ``serviceAccountToken`` projection made one of its token's Secret."""
    spec = pod["spec"]
    if not any(True for _ in _fields(spec)):
        return pod
    numbers = iter(range(len(spec["volumes"]) * 1000))
    uid = pod["metadata"]["uid"]
    return {**pod, "spec": {**spec, "volumes": [_volume(volume, uid, numbers) for volume in spec["volumes"]]}}


def _volume(volume: Object, uid: str, numbers: Iterator[int]) -> Object:
    projected = volume.get("projected")
    if not isinstance(projected, Mapping):
        return volume
    changed = [_source(source, uid, numbers) for source in projected.get("sources") or ()]
    return {**volume, "projected": {**projected, "sources": changed}}


def _source(source: Object, uid: str, numbers: Iterator[int]) -> Object:
    field = source.get(_FIELD)
    if not isinstance(field, Mapping):
        return source
    name = TokenSource(next(numbers), "", 0).secret_name(uid)
    return {"secret": {"name": name, "items": [{"key": "token", "path": field.get("path", "token")}]}}


def _fields(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for volume in spec.get("volumes") or ():
        projected = volume.get("projected")
        for source in (projected.get("sources") or ()) if isinstance(projected, Mapping) else ():
            if isinstance(source.get(_FIELD), Mapping):
                yield source[_FIELD]


def _seconds(field: Mapping[str, Any]) -> int:
    seconds = field.get("expirationSeconds")
    return seconds if isinstance(seconds, int) and seconds > 0 else DEFAULT_SECONDS

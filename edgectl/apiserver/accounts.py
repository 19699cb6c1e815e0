"""Tokens of service accounts: signed claims, which end and can be bound to a pod.

Claims: ``k8s.io/kubernetes/pkg/serviceaccount``. The key is in the metadata store, so that all servers on it share it;
it is no object of the API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from edgectl.apiserver import errors
from edgectl.apiserver.admission import TOKEN_SECONDS
from edgectl.apiserver.cache import WatchCache
from edgectl.apiserver.identity import User
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.resources import POD, SERVICE_ACCOUNT
from edgectl.apiserver.storage import ObjectStore
from edgectl.apiserver.verbs import Api
from metasync.model import Compare, KeyRange, Put

Obj = dict[str, Any]

ISSUER = "https://kubernetes.default.svc"
"""Who issues the tokens, and the audience by which they are good for this API."""

MIN_SECONDS = 600
DEFAULT_SECONDS = 3600
MAX_SECONDS = 1 << 32
LONG_SECONDS = 365 * 24 * 3600
"""How long a pod's token serves that is asked for the usual time, as in Kubernetes
(``--service-account-extend-token-expiration``): it is replaced hourly, but a node that is away keeps it."""

MAX_TOKEN = 16 * 1024
"""The longest token looked at, in characters."""


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class SigningKey:
    """Signs and checks claims: JWT with ES256."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._id = _encode(hashlib.sha256(public).digest())

    @classmethod
    async def of_store(cls, objects: ObjectStore) -> SigningKey:
        """The key of a network, made if there is none. Errors are the store's."""
        place = objects.record_key("keys", "service-accounts")
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        await objects.store.txn([Compare.absent(place)], [Put(place, made)])
        found = await objects.store.range(KeyRange.single(place))
        key = serialization.load_pem_private_key(found.kvs[0].value, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key)

    def sign(self, claims: Obj) -> str:
        header = _encode(json.dumps({"alg": "ES256", "kid": self._id}).encode())
        text = f"{header}.{_encode(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def claims(self, token: str) -> Obj | None:
        """The claims of a token that this key signed, else ``None``. That they still hold is not looked at."""
        parts = token.split(".")
        if len(parts) != 3 or len(token) > MAX_TOKEN:
            return None
        try:
            header, claims, signature = (_decode(part) for part in parts)
            if json.loads(header).get("alg") != "ES256" or len(signature) != 64:
                return None
            numbers = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            signed = f"{parts[0]}.{parts[1]}".encode()
            self._key.public_key().verify(encode_dss_signature(*numbers), signed, ec.ECDSA(hashes.SHA256()))
            found = json.loads(claims)
        except (ValueError, AttributeError, InvalidSignature):
            return None
        return found if isinstance(found, dict) else None


class AccountTokens:
    """Issues tokens and knows their users. It is a TokenAuthenticator."""

    def __init__(self, key: SigningKey, api: Api) -> None:
        self._key = key
        self._api = api

    @property
    def _cache(self) -> WatchCache:
        return self._api.cache

    async def issue(self, namespace: str, name: str, request: Any) -> Obj:
        """Answer a ``TokenRequest``.

        :raises ApiError: if there is no such account, or what it is to be bound to is not there.
        """
        account = await self._api.get(SERVICE_ACCOUNT, namespace, name)
        spec = request.get("spec") if isinstance(request, dict) else None
        spec = spec if isinstance(spec, dict) else {}
        seconds = spec.get("expirationSeconds", DEFAULT_SECONDS)
        if not isinstance(seconds, int) or not MIN_SECONDS <= seconds <= MAX_SECONDS:
            cause = errors.wrong("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
            raise errors.invalid("authentication.k8s.io", "TokenRequest", "", [cause])
        audiences = spec.get("audiences") or [ISSUER]
        if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
            raise errors.bad_request("spec.audiences: is not a list of strings")
        bound = await self._bound(namespace, spec.get("boundObjectRef"))
        now = self._api.seconds()
        usual = seconds == TOKEN_SECONDS and bound is not None and audiences == [ISSUER]
        claims = self._claims(account, audiences, bound, now, LONG_SECONDS if usual else seconds)
        answer = {key: value for key, value in spec.items() if value is not None}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamp(now)},
            "spec": {**answer, "audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": self._key.sign(claims), "expirationTimestamp": timestamp(now + seconds)},
        }

    def _claims(self, account: Obj, audiences: list[str], bound: Obj | None, now: float, seconds: int) -> Obj:
        meta = account["metadata"]
        private: Obj = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if bound is not None:
            private["pod"] = {"name": bound["metadata"]["name"], "uid": bound["metadata"]["uid"]}
        return {
            "aud": audiences,
            "exp": int(now) + seconds,
            "iat": int(now),
            "nbf": int(now),
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
            "kubernetes.io": private,
        }

    async def _bound(self, namespace: str, reference: Any) -> Obj | None:
        if not isinstance(reference, dict):
            return None
        if reference.get("kind") != "Pod":
            raise errors.bad_request(f"cannot bind token to object of type {str(reference.get('kind'))[:64]}")
        pod = await self._api.get(POD, namespace, str(reference.get("name")))
        uid = reference.get("uid")
        if uid and uid != pod["metadata"]["uid"]:
            why = f"the UID in the bound object reference ({uid}) does not match the UID in record"
            raise errors.conflict("", "pods", pod["metadata"]["name"], why)
        return pod

    def user(self, token: str) -> User | None:
        return self.reviewed(token, [ISSUER])

    def reviewed(self, token: str, audiences: list[str]) -> User | None:
        """The user of a token that is good for one of the audiences now, else ``None``."""
        claims = self._key.claims(token)
        if claims is None or claims.get("iss") != ISSUER or not set(audiences) & set(claims.get("aud", ())):
            return None
        if not claims.get("nbf", 0) - 60 <= self._api.seconds() < claims.get("exp", 0):
            return None
        private = claims.get("kubernetes.io", {})
        namespace, account = private.get("namespace", ""), private.get("serviceaccount", {})
        if not self._there(SERVICE_ACCOUNT, namespace, account):
            return None
        if "pod" in private and not self._there(POD, namespace, private["pod"]):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        return User(str(claims.get("sub")), groups, str(account.get("uid", "")))

    def _there(self, resource: Any, namespace: str, reference: Obj) -> bool:
        found = self._cache.get(resource, namespace, str(reference.get("name")))
        return found is not None and found["metadata"]["uid"] == reference.get("uid")

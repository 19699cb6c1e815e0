"""Who may use the kubelet API of a node. The API server decides, as it does for every kubelet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, Protocol, TypeVar

from cryptography import x509
from cryptography.x509.oid import NameOID

from edgectl.kubernetes import KubernetesClient, Resource
from edgectl.watch import Object

TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", namespaced=False)
ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", namespaced=False)

ALLOWED_SECONDS, DENIED_SECONDS = 300.0, 30.0
"""How long an answer is believed: the kubelet's ``cacheAuthorizedTTL`` and ``cacheUnauthorizedTTL``."""

TOKEN_SECONDS = 120.0
"""The kubelet's ``authentication.webhook.cacheTTL``."""

_MAX_ANSWERS = 4096

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class User:
    """A caller whom a certificate or the API server vouches for."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


class Access(Protocol):
    """Judges callers. Both raise :class:`~edgectl.errors.ApiError` when the judge cannot be asked."""

    async def of_token(self, token: str) -> User | None:
        """Whose bearer token this is, if it is valid."""

    async def allowed(self, user: User, verb: str, node: str, subresource: str) -> bool:
        """Whether the user may do this with ``nodes/<subresource>`` of that node."""


def user_of(certificate: x509.Certificate) -> User | None:
    """Common name and organisations, as Kubernetes reads a client certificate. The caller has verified it."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        return None
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return User(str(names[0].value), (*(str(group.value) for group in groups), "system:authenticated"))


class ReviewedAccess:
    """Asks by TokenReview and SubjectAccessReview, and remembers the answers for a while.

    :param seconds: the time, in seconds.
    """

    def __init__(self, client: KubernetesClient, seconds: Callable[[], float]) -> None:
        self._client = client
        self._seconds = seconds
        self._users: _Answers[bytes, User | None] = _Answers(seconds)
        self._decisions: _Answers[tuple[User, str, str, str], bool] = _Answers(seconds)

    async def of_token(self, token: str) -> User | None:
        key = sha256(token.encode()).digest()
        known = self._users.get(key)
        if known is not None:
            return known[0]
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await self._client.create(TOKEN_REVIEWS, "", review)).get("status", {})
        user = _reviewed_user(status) if status.get("authenticated") is True else None
        self._users.put(key, user, TOKEN_SECONDS)
        return user

    async def allowed(self, user: User, verb: str, node: str, subresource: str) -> bool:
        key = (user, verb, node, subresource)
        known = self._decisions.get(key)
        if known is not None:
            return known[0]
        review: Object = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": list(user.groups),
                "uid": user.uid,
                "resourceAttributes": {
                    "verb": verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": subresource,
                    "name": node,
                },
            },
        }
        status = (await self._client.create(ACCESS_REVIEWS, "", review)).get("status", {})
        allowed = status.get("allowed") is True and status.get("denied") is not True
        self._decisions.put(key, allowed, ALLOWED_SECONDS if allowed else DENIED_SECONDS)
        return allowed


def _reviewed_user(status: Object) -> User:
    user = status.get("user", {})
    return User(str(user.get("username", "")), tuple(user.get("groups") or ()), str(user.get("uid") or ""))


class _Answers(Generic[K, V]):
    """The newest answers, each until its time."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._answers: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> tuple[V] | None:
        entry = self._answers.get(key)
        if entry is None or entry[0] <= self._seconds():
            self._answers.pop(key, None)
            return None
        return (entry[1],)

    def put(self, key: K, value: V, life: float) -> None:
        self._answers.pop(key, None)
        self._answers[key] = (self._seconds() + life, value)
        while len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)

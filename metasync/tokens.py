"""Who may reach which application data on a node."""

from __future__ import annotations

import hmac
from hashlib import sha256


class NamespaceTokens:
    """Tokens that prove a namespace. They need no store: a token is the namespace, signed.

    :param secret: at least 16 bytes, the node's own; whoever knows it can make tokens.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the secret of the namespace tokens must have at least 16 bytes")
        self._secret = secret

    def issue(self, namespace: str) -> str:
        return f"{namespace}.{self._sign(namespace)}"

    def namespace_of(self, token: str) -> str | None:
        """The namespace that a token proves, or ``None``."""
        namespace, _, signature = token.rpartition(".")
        good = bool(namespace) and hmac.compare_digest(signature.encode(), self._sign(namespace).encode())
        return namespace if good else None

    def mask(self, namespace: str) -> int:
        """A number of 63 bits that is this namespace's own, and nobody knows."""
        digest = hmac.new(self._secret, b"leases of " + namespace.encode(), sha256).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def _sign(self, namespace: str) -> str:
        return hmac.new(self._secret, namespace.encode(), sha256).hexdigest()

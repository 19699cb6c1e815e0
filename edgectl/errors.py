"""What can go wrong between the controller and a Kubernetes API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_MESSAGE = 1000


class ConfigError(Exception):
    """A kubeconfig, or the environment of a pod, does not say how to reach the API server. The message says what."""


class ApiError(Exception):
    """A request to the Kubernetes API failed."""


class ApiUnreachable(ApiError):
    """There was no answer, or half of one. A write that fails so may or may not have happened."""


class StatusError(ApiError):
    """The API server answered with an error.

    :ivar code: the HTTP status code.
    :ivar reason: the machine-readable reason of the ``Status`` object (``NotFound``, ``Conflict``…), or ``""``.
    :ivar retry_after: seconds to wait before the next try, if the server said so.
    """

    def __init__(
        self, code: int, reason: str = "", message: str = "", retry_after: float | None = None, request: str = ""
    ) -> None:
        super().__init__(f"{request + ': ' if request else ''}{code} {reason}: {message[:_MAX_MESSAGE]}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @classmethod
    def from_status(
        cls, status: Mapping[str, Any], code: int = 0, retry_after: float | None = None, request: str = ""
    ) -> StatusError:
        """From a ``v1 Status`` object, as a response's body or as the object of a watch's ``ERROR`` event."""
        details = status.get("details")
        if retry_after is None and isinstance(details, Mapping):
            seconds = details.get("retryAfterSeconds")
            retry_after = float(seconds) if isinstance(seconds, int) and seconds > 0 else None
        said = status.get("code")
        return cls(
            code or (said if isinstance(said, int) else 500),
            str(status.get("reason", "")),
            str(status.get("message", "")),
            retry_after,
            request,
        )

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def conflict(self) -> bool:
        """The object has changed, or its UID is another; or (see :attr:`already_exists`) it is there already."""
        return self.code == 409

    @property
    def already_exists(self) -> bool:
        return self.code == 409 and self.reason == "AlreadyExists"

    @property
    def gone(self) -> bool:
        """The resource version or continue token is too old: list again."""
        return self.code == 410

    @property
    def invalid(self) -> bool:
        """The server will never accept this request as it is."""
        return self.code in (400, 413, 422)

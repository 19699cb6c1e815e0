"""Asks for the service account tokens of the pods at the edge, and again before they expire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from edgectl.errors import ApiError, StatusError
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import SERVICE_ACCOUNTS, KubernetesClient
from edgectl.mirror import Mirror
from edgectl.podsync import PodIndex, node_name
from edgectl.tokens import Token, TokenSource, secret, sources, token_in, token_of, token_request
from edgectl.watch import Object
from metasync.keys import NodeKeys


class TokenSync:
    """A handler of work by pod, and what :class:`~edgectl.podsync.PodSync` asks for a pod's Secrets.

    Tokens in the store outlive the controller: only those that are due are asked for after its restart.

    :param warn: told of a pod whose tokens are refused: the pod, a reason, a message.
    :param ready: called with a node's name when a token for it has come, or will not come for now.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        network: str,
        directory: Mapping[str, EdgeNode],
        index: PodIndex,
        mirror: Callable[[], Mirror],
        ready: Callable[[str], None],
        warn: Callable[[Mapping[str, Any], str, str], None],
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._network = network
        self._directory = directory
        self._index = index
        self._mirror = mirror
        self._ready = ready
        self._warn = warn
        self._tokens: dict[tuple[str, int], Token] = {}
        self._refused: set[str] = set()

    def secrets(self, pod: Mapping[str, Any]) -> tuple[list[Object], bool]:
        """The pod's token Secrets, and whether a new pod can go down with them (or has to wait for more).

        Tokens that were refused are not waited for: the pod goes down without, and its node says what is missing.
        """
        known = [(source, self._known(pod, source)) for source in sources(pod)]
        found = [secret(source, pod, token) for source, token in known if token is not None]
        return found, len(found) == len(known) or pod["metadata"]["uid"] in self._refused

    async def renew(self, key: str) -> float | None:
        """Ask for the tokens of the pod ``namespace/name`` that are due; the seconds until the next is, if any."""
        pod = self._index.pods.get(key)
        if pod is None or node_name(pod) not in self._directory or _ending(pod):
            return None
        times = [await self._renewed(pod, source) for source in sources(pod)]
        return max(1.0, min(times) - self._reactor.seconds()) if times else None

    def forget(self, pod: Mapping[str, Any]) -> None:
        """The pod is gone."""
        uid = pod["metadata"]["uid"]
        self._refused.discard(uid)
        for source in sources(pod):
            self._tokens.pop((uid, source.number), None)

    async def _renewed(self, pod: Mapping[str, Any], source: TokenSource) -> float:
        """When the token, renewed if it was due, will be due again."""
        known = self._known(pod, source)
        now = self._reactor.seconds()
        if known is not None and now < known.due:
            return known.due
        metadata, uid = pod["metadata"], pod["metadata"]["uid"]
        account = pod["spec"].get("serviceAccountName") or "default"
        try:
            answer = await self._client.create(
                SERVICE_ACCOUNTS,
                metadata["namespace"],
                token_request(source, pod),
                name=account,
                subresource="token",
            )
            token = token_of(answer, now)
        except (ApiError, ValueError) as error:
            self._failed(pod, error)
            raise
        self._refused.discard(uid)
        self._tokens[uid, source.number] = token
        self._ready(node_name(pod))
        return token.due

    def _failed(self, pod: Mapping[str, Any], error: Exception) -> None:
        """An old token serves until it expires; a pod that has none must not wait for ever."""
        metadata = pod["metadata"]
        if isinstance(error, StatusError) and metadata["uid"] not in self._refused:
            self._refused.add(metadata["uid"])
            self._log.warn(
                "pod {namespace}/{name}: no service account token: {error}",
                namespace=metadata["namespace"], name=metadata["name"], error=error,
            )  # fmt: skip
            self._warn(pod, "FailedToken", f"no service account token: {error.message}")
            self._ready(node_name(pod))

    def _known(self, pod: Mapping[str, Any], source: TokenSource) -> Token | None:
        metadata = pod["metadata"]
        token = self._tokens.get((metadata["uid"], source.number))
        if token is not None:
            return token
        node = node_name(pod)
        mirrored = self._mirror().nodes.get(node)
        if mirrored is None:
            return None
        name = source.secret_name(metadata["uid"])
        item = mirrored.tokens.get(NodeKeys(self._network, node).desired_object("secrets", metadata["namespace"], name))
        token = token_in(item) if item is not None else None
        if token is not None:
            self._tokens[metadata["uid"], source.number] = token
        return token


def _ending(pod: Mapping[str, Any]) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return bool(pod["metadata"].get("deletionTimestamp")) or phase in ("Succeeded", "Failed")

"""For tests of the Kubernetes API: a small blocking client, and the contract that every such API keeps.

The contract runs against the embedded control plane and against a real kube-apiserver.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import SkipTest, TestCase
from urllib.parse import quote, urlencode, urlsplit

Obj = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # The parts are mixins: by themselves they are no tests.

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True)
class Answer:
    code: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.body[key]


def _pem_of(entry: Obj, key: str) -> bytes:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    return Path(entry[key]).read_bytes()


class ApiClient:
    """Requests to one API server, one connection each, by the first user of a kubeconfig that is JSON.

    :param token: a bearer token instead of the user's certificate.
    """

    def __init__(self, kubeconfig: Path, *, token: str | None = None) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        self._address = (str(url.hostname), int(url.port or 443))
        self._token = token
        self._tls = ssl.create_default_context(cadata=_pem_of(cluster, "certificate-authority").decode())
        if token is None:
            with tempfile.NamedTemporaryFile() as pem:
                pem.write(_pem_of(user, "client-certificate") + b"\n" + _pem_of(user, "client-key"))
                pem.flush()
                self._tls.load_cert_chain(pem.name)

    def _open(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._address, context=self._tls, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        headers: dict[str, str] | None = None,
        timeout: float = 30,
        **query: str,
    ) -> Answer:
        """One request; the answer whatever its code."""
        sent = {"Accept": accept, "Content-Type": content_type, **(headers or {})}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(self._open(timeout)) as connection:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, data, sent)
            answer = connection.getresponse()
            raw = answer.read()
            told = {key.lower(): value for key, value in answer.getheaders()}
            is_json = told.get("content-type", "").startswith("application/json")
            return Answer(answer.status, json.loads(raw) if is_json and raw else raw, told)

    @contextlib.contextmanager
    def watch(self, path: str, *, timeout: float = 20, **query: str) -> Iterator[Iterator[Obj]]:
        """The events of a watch as they come; the watch is over with the block."""
        with contextlib.closing(self._open(timeout)) as connection:
            connection.request("GET", f"{path}?{urlencode({'watch': '1', **query})}")
            answer = connection.getresponse()
            yield (json.loads(line) for line in iter(answer.readline, b""))


def needs(major: int, minor: int) -> Callable[[F], F]:
    """Marks a test of the contract with the lowest Kubernetes version that it holds for."""

    def mark(test: F) -> F:
        test.lowest_version = (major, minor)  # type: ignore[attr-defined]
        return test

    return mark


def config_map(name: str, **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> Obj:
    container = {"name": "main", "image": "busybox:1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], **spec},
    }


class ContractCase(_Case):
    """What the parts of the contract share. A subclass gives ``client``, ``version`` and a fresh ``namespace``."""

    client: ApiClient
    version: tuple[int, int]
    namespace: str

    def setUp(self) -> None:
        super().setUp()
        lowest = getattr(getattr(self, self.id().rpartition(".")[2]), "lowest_version", (0, 0))
        if self.version < lowest:
            raise SkipTest(f"needs Kubernetes {lowest[0]}.{lowest[1]}, this is {self.version[0]}.{self.version[1]}")

    def path(self, plural: str, name: str = "", subresource: str = "", group: str = "") -> str:
        root = f"/apis/{group}" if group else "/api/v1"
        parts = [part for part in (name, subresource) if part]
        return "/".join([f"{root}/namespaces/{self.namespace}/{plural}", *(quote(one, safe="") for one in parts)])

    def get(self, plural: str, name: str = "", **options: Any) -> Answer:
        return self.client.request("GET", self.path(plural, name), **options)

    def create(self, plural: str, obj: Obj, **options: Any) -> Answer:
        return self.client.request("POST", self.path(plural), obj, **options)

    def made(self, plural: str, obj: Obj) -> Obj:
        """The object as created."""
        answer = self.create(plural, obj)
        self.assertEqual(answer.code, 201, answer.body)
        made: Obj = answer.body
        return made

    def update(self, plural: str, obj: Obj, subresource: str = "") -> Answer:
        return self.client.request("PUT", self.path(plural, obj["metadata"]["name"], subresource), obj)

    def send_patch(self, plural: str, name: str, patch: Any, content_type: str, **options: Any) -> Answer:
        subresource = options.pop("subresource", "")
        path = self.path(plural, name, subresource)
        return self.client.request("PATCH", path, patch, content_type=content_type, **options)

    def delete(self, plural: str, name: str, body: Any = None, **options: Any) -> Answer:
        return self.client.request("DELETE", self.path(plural, name), body, **options)

    def refused(self, answer: Answer, code: int, reason: str) -> str:
        """Check that it is a refusal in Status form; its message."""
        self.assertEqual(answer.code, code, answer.body)
        self.assertEqual((answer["kind"], answer["status"]), ("Status", "Failure"))
        self.assertEqual((answer["code"], answer["reason"]), (code, reason), answer.body)
        return str(answer["message"])

"""Pods from a folder of manifests on the device, as the kubelet's static pods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine.podspec import CONFIG_SOURCE, MAX_POD_BYTES, Json
from appengine.threads import Threads
from appengine.waiting import sleep

_SUFFIXES = (".json", ".yaml", ".yml")


class StaticPods:
    """Reads the folder now and then, and tells when what it holds has changed.

    :param changed: called with (namespace, name) → Pod.
    :param period: how often, in seconds.
    :ivar loaded: whether the folder has been read once: before that, nobody knows what is wanted.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        threads: Threads,
        folder: Path,
        node: str,
        changed: Callable[[dict[tuple[str, str], Json]], None],
        period: float,
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._folder = folder
        self._node = node
        self._changed = changed
        self._period = period
        self._signature: tuple[tuple[str, int, int], ...] | None = None
        self._loop: Deferred[None] | None = None
        self.loaded = False

    def start(self) -> None:
        self._loop = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with suppress(CancelledError):
                await self._loop

    async def _run(self) -> None:
        while True:
            try:
                signature = await self._threads.run(_signature, self._folder)
                if signature != self._signature:
                    self._signature = signature
                    self._changed(await self._threads.run(self._read))
                self.loaded = True
            except CancelledError:
                raise
            except Exception:
                self._log.failure("the folder of static pods {folder} cannot be read", folder=str(self._folder))
            await sleep(self._reactor, self._period)

    def _read(self) -> dict[tuple[str, str], Json]:
        pods = {}
        for path in _files(self._folder):
            try:
                document = read_manifest(path)
            except ValueError as error:
                self._log.warn("static pod {path}: {error}", path=str(path), error=str(error))
                continue
            pod = static_pod(document, self._node, path.name)
            pods[pod["metadata"]["namespace"], pod["metadata"]["name"]] = pod
        return pods


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and not p.name.startswith(".") and p.is_file())


def _signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _files(folder))


def read_manifest(path: Path) -> Json:
    """The Pod in a file.

    :raises ValueError: if it holds none; the message says what to do.
    """
    if path.stat().st_size > MAX_POD_BYTES:
        raise ValueError(f"it is over {MAX_POD_BYTES} bytes")
    text = path.read_text(errors="replace")
    try:
        document = json.loads(text)
    except ValueError as error:
        document = _yaml(text, error)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or document.get("kind") != "Pod":
        raise ValueError("it is no Pod (kind: Pod)")
    return document


def _yaml(text: str, error: ValueError) -> Any:
    try:
        from importlib import import_module

        yaml = import_module("yaml")
    except ImportError:
        raise ValueError(f"it is not JSON ({error}), and for YAML PyYAML must be installed") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        raise ValueError(f"it is neither JSON nor YAML: {str(wrong)[:300]}") from None


def static_pod(document: Json, node: str, file: str) -> Json:
    """The pod as it runs here: its name ends with the node's, its UID follows from its contents, as the kubelet's."""
    given = document.get("metadata")
    metadata: Json = dict(given) if isinstance(given, dict) else {}
    digest = hashlib.sha256(json.dumps([node, file, document], sort_keys=True, default=str).encode()).hexdigest()[:32]
    annotations = metadata.get("annotations")
    metadata.update(
        name=f"{metadata.get('name') or 'pod'}-{node}",
        namespace=str(metadata.get("namespace") or "default"),
        uid=digest,
        annotations={**(annotations if isinstance(annotations, dict) else {}), CONFIG_SOURCE: "file"},
    )
    for key in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(key, None)
    return {**document, "apiVersion": "v1", "metadata": metadata}

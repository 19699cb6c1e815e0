"""The images of a node's containers: there already, pulled, or why not. Made for sites without a registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.backoff import Backoff
from appengine.pauseimage import PAUSE_PATH, PAUSE_VERSION, go_architecture, pause_layer
from appengine.podspec import Container
from appengine.runtime import EngineError, ImageView, NoSuchImage, PullFailed, Runtime, RuntimeUnavailable

PAUSE_REPOSITORY = "kubebus/pause"


class ImageWaiting(Exception):
    """There is no image yet.

    :ivar reason: the kubelet's word, or an empty string while it is being pulled.
    :ivar retry_at: when to ask again (UNIX seconds), ``None`` to be woken.
    """

    def __init__(self, reason: str, message: str, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_at = retry_at


class Images:
    """Finds and pulls images. One image is pulled once at a time, however many pods wait for it.

    :param folder: image archives (``docker save``) that are loaded before anything is pulled.
    :param changed: called when there are new images.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, runtime: Runtime, folder: Path | None = None, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._changed = changed
        self._loaded: dict[str, tuple[int, int]] = {}
        self._loading: Deferred[None] | None = None
        self._reactor = reactor
        self._runtime = runtime
        self._backoff = Backoff()
        self._failed: dict[str, tuple[float, str]] = {}
        self._pulling: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        self._pulled: set[tuple[str, str]] = set()

    async def pause(self) -> str:
        """The pause image's reference; made if it is not there."""
        reference = f"{PAUSE_REPOSITORY}:{PAUSE_VERSION}"
        try:
            await self._runtime.image(reference)
        except NoSuchImage:
            info = await self._runtime.info()
            layer = pause_layer(go_architecture(info.architecture))
            await self._runtime.import_image(layer, PAUSE_REPOSITORY, PAUSE_VERSION, f"/{PAUSE_PATH}")
            self._log.info("made the pause image {reference}", reference=reference)
        return reference

    async def load_folder(self) -> None:
        """Load the archives that have come to the folder since it was last looked at."""
        if self._loading is not None:
            waiter: Deferred[None] = Deferred()
            self._loading.chainDeferred(waiter)
            await waiter
            return
        self._loading = Deferred()
        try:
            for path, mark in _archives(self._folder):
                if self._loaded.get(path) == mark:
                    continue
                try:
                    await self._runtime.load_image(path)
                except RuntimeUnavailable:
                    return
                except EngineError as error:
                    self._log.error("image archive {path} cannot be loaded: {error}", path=path, error=str(error))
                else:
                    self._log.info("loaded image archive {path}", path=path)
                self._loaded[path] = mark
                self._changed()
        finally:
            loading, self._loading = self._loading, None
            loading.callback(None)

    async def find(
        self, container: Container, attempt_id: str, auths: Sequence[Mapping[str, str]], wake: Callable[[], None]
    ) -> ImageView:
        """The image of a container that is to start.

        :param attempt_id: names this start of the container: ``Always`` means one pull for each.
        :param auths: registry credentials to try, in Docker's AuthConfig form.
        :param wake: called when it is worth asking again.
        :raises ImageWaiting: while there is none.
        """
        reference, policy = container.image, container.pull_policy
        try:
            present: ImageView | None = await self._runtime.image(reference)
        except NoSuchImage:
            present = await self._from_folder(reference)
        except EngineError as error:
            if isinstance(error, RuntimeUnavailable):
                raise
            raise ImageWaiting("InvalidImageName", f"image {reference!r}: {error}", self._now() + 60) from error
        if policy == "Never":
            if present is None:
                raise ImageWaiting(
                    "ErrImageNeverPull",
                    f'Container image "{reference}" is not present with pull policy of Never',
                    self._now() + 30,
                )
            return present
        if present is not None and (policy == "IfNotPresent" or (reference, attempt_id) in self._pulled):
            self._pulled.discard((reference, attempt_id))
            return present
        failed = self._failed.get(reference)
        if failed is not None:
            event, message = failed
            until = self._backoff.until(reference, event, self._now())
            if present is not None and until is not None:
                return present
            if until is not None:
                raise self._waiting(reference, message, until)
        self._pull(reference, attempt_id, auths, wake)
        raise ImageWaiting("", f"pulling image {reference!r}")

    async def _from_folder(self, reference: str) -> ImageView | None:
        await self.load_folder()
        try:
            return await self._runtime.image(reference)
        except NoSuchImage:
            return None

    def _waiting(self, reference: str, message: str, until: float) -> ImageWaiting:
        if self._now() - self._failed[reference][0] < 2:
            return ImageWaiting("ErrImagePull", message, min(until, self._now() + 2))
        return ImageWaiting("ImagePullBackOff", f'Back-off pulling image "{reference}": {message}', until)

    def _now(self) -> float:
        return float(self._reactor.seconds())

    def _pull(
        self, reference: str, attempt_id: str, auths: Sequence[Mapping[str, str]], wake: Callable[[], None]
    ) -> None:
        waiting = self._pulling.get(reference)
        if waiting is not None:
            waiting.append((attempt_id, wake))
            return
        self._pulling[reference] = [(attempt_id, wake)]

        async def pull() -> None:
            try:
                await self._try(reference, auths)
                self._pulled.update((reference, who) for who, _ in self._pulling[reference])
                self._failed.pop(reference, None)
                self._backoff.reset(reference)
                self._changed()
            except EngineError as error:
                now = self._now()
                self._log.warn("image {image} cannot be pulled: {error}", image=reference, error=str(error))
                self._backoff.failed(reference, now, now)
                self._failed[reference] = (now, str(error))
            finally:
                for _, woken in self._pulling.pop(reference):
                    woken()

        def begin() -> None:
            Deferred.fromCoroutine(pull()).addErrback(
                lambda failure: self._log.failure("pulling {image}", failure, image=reference)
            )

        # Not at once: whoever asks is told to wait before it can be woken.
        self._reactor.callLater(0, begin)

    async def _try(self, reference: str, auths: Sequence[Mapping[str, str]]) -> None:
        self._log.info("pulling image {image}", image=reference)
        refused: PullFailed | None = None
        for auth in [*auths, None]:
            try:
                await self._runtime.pull(reference, auth)
                return
            except PullFailed as error:
                refused = refused or error
        if refused is not None:
            raise refused


def _archives(folder: Path | None) -> list[tuple[str, tuple[int, int]]]:
    """The archives in a folder, with what tells a new one from an old one under the same name."""
    if folder is None or not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".tar", ".tar.gz", ".tgz")) and not path.name.startswith("."):
            state = path.stat()
            found.append((str(path), (state.st_mtime_ns, state.st_size)))
    return found

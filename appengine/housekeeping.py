"""Keeps a node in health: frees disk, evicts under pressure, and holds pods to the size of their ``emptyDir``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from appengine.admission import pod_request
from appengine.eviction import Candidate, Pressures, eviction_message, ranked
from appengine.images import PAUSE_REPOSITORY
from appengine.node import Node
from appengine.nodestatus import Pressure
from appengine.podspec import Kind, Pod
from appengine.quantity import bytes_of
from appengine.runtime import EngineError
from appengine.worker import Worker

_SIZE_CHECK = 60.0
_MOST_FILES = 200_000


class Housekeeper:
    """Does one round at a time, after each measurement of the node.

    :param images_changed: called when images were removed.
    """

    _log = Logger()

    def __init__(
        self,
        node: Node,
        pressures: Pressures,
        pods: Callable[[], Sequence[Worker]],
        images_changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._pressures = pressures
        self._pods = pods
        self._images_changed = images_changed
        self._busy = False
        self._sized_at = 0.0

    def measured(self, pressure: Pressure) -> None:
        if self._busy:
            return
        self._busy = True
        Deferred.fromCoroutine(self._round(pressure)).addErrback(self._failed).addBoth(lambda _: self._done())

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, EngineError):
            self._log.info("housekeeping is put off: {error}", error=str(error))
        else:
            self._log.failure("housekeeping failed", failure)

    def _done(self) -> None:
        self._busy = False

    async def _round(self, pressure: Pressure) -> None:
        signals = self._pressures.signals
        if self._pressures.image_gc_wanted(pressure) or signals["DiskPressure"]:
            # Under pressure all that no pod needs goes, as with the kubelet.
            wanted = pressure.disk_size if signals["DiskPressure"] else self._pressures.image_gc_bytes(pressure)
            freed = await self.free_disk(wanted)
            if signals["DiskPressure"] and not freed:
                await self._evict("ephemeral-storage")
        if signals["MemoryPressure"]:
            await self._evict("memory")
        if self._node.now() - self._sized_at >= _SIZE_CHECK:
            self._sized_at = self._node.now()
            await self._check_sizes()

    # -- disk -------------------------------------------------------------------------------------------------------

    async def free_disk(self, wanted: int) -> int:
        """Remove dead containers that others have followed, and images that no pod needs; the bytes freed by images."""
        for worker in self._pods():
            await worker.drop_superseded()
        used_ids, used_names = await self._needed()
        unused = [
            image
            for image in await self._node.runtime.images()
            if image.id not in used_ids and not used_names & {_plain(name) for name in image.names}
        ]
        freed = 0
        for image in sorted(unused, key=lambda image: image.size, reverse=True):
            if freed >= wanted:
                break
            try:
                await self._node.runtime.remove_image(image.id)
            except EngineError as error:
                self._log.info("image {image} stays: {error}", image=image.names or image.id, error=str(error))
                continue
            freed += image.size
            self._log.info("removed image {image}, which no pod here needs", image=image.names or image.id)
        if freed:
            self._images_changed()
        return freed

    async def _needed(self) -> tuple[set[str], set[str]]:
        """The images of all containers, also others' than ours, and of all desired pods."""
        names = {
            _plain(container.image)
            for worker in self._pods()
            if worker.pod is not None
            for container in worker.pod.every_container
        }
        ids = set(await self._node.runtime.images_in_use())
        return ids, names | {_plain(f"{PAUSE_REPOSITORY}:1")}

    # -- eviction ---------------------------------------------------------------------------------------------------

    async def _evict(self, resource: str) -> None:
        """The one pod that is to go first; the next measurement tells whether that was enough."""
        candidates = []
        for worker in self._pods():
            if worker.pod is None or not worker.active:
                continue
            used = await (self._memory(worker) if resource == "memory" else self._disk(worker))
            candidates.append(Candidate(worker.pod, used, pod_request(worker.pod, resource)))
        order = ranked(candidates)
        if not order:
            return
        first = order[0].pod
        for worker in self._pods():
            if worker.pod is first:
                worker.evict(eviction_message(resource))

    async def _memory(self, worker: Worker) -> int:
        used = 0
        for view in list(worker.views.values()):
            if view.running and view.kind is not Kind.PAUSE:
                used += (await self._node.runtime.stats(view.id)).memory
        return used

    async def _disk(self, worker: Worker) -> int:
        return await self._node.files.run(directory_size, self._node.volumes.pod_dir(worker.ref.uid))

    async def _check_sizes(self) -> None:
        """A pod whose ``emptyDir`` has outgrown its limit goes, as with the kubelet."""
        for worker in self._pods():
            if worker.pod is None or not worker.active:
                continue
            for name, limit in _limits(worker.pod):
                path = self._node.volumes.pod_dir(worker.ref.uid) / "volumes" / name
                if await self._node.files.run(directory_size, path) > limit:
                    text = f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}". '
                    worker.evict(text)
                    break


def _limits(pod: Pod) -> list[tuple[str, int]]:
    return [
        (str(volume["name"]), bytes_of(source["sizeLimit"]))
        for volume in pod.volumes
        if (source := volume.get("emptyDir")) and source.get("sizeLimit") and source.get("medium") != "Memory"
    ]


def _plain(name: str) -> str:
    """One spelling for the names of one image: without Docker Hub's host, with a tag."""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return short if "@" in short or ":" in short.rpartition("/")[2] else short + ":latest"


def directory_size(path: Path) -> int:
    """Bytes that a directory takes on its disk. Of very many files the rest is not counted."""
    total, seen = 0, 0
    for folder, _, files in os.walk(path):
        for name in files:
            seen += 1
            if seen > _MOST_FILES:
                return total
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total

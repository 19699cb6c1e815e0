"""A runtime in memory, and the contract that every :class:`appengine.runtime.Runtime` keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, ParamSpec, TypeVar

from appengine import labels
from appengine.firewall import Firewall, HostPort
from appengine.interfaces import NodeNetwork
from appengine.podspec import Kind
from appengine.runtime import (
    ContainerConfig,
    ContainerState,
    ContainerView,
    EngineError,
    EngineInfo,
    ExecResult,
    ImageView,
    LogOptions,
    NetworkConfig,
    NoSuchContainer,
    NoSuchImage,
    Output,
    PullFailed,
    RuntimeObserver,
    RuntimeUnavailable,
    Session,
    Usage,
)
from appengine.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class MemoryRuntime:
    """Containers that are only told of. Tests end them, cut the runtime off, and read what was made.

    :ivar configs: container ID → its configuration.
    :ivar stubborn: names of containers that ignore SIGTERM.
    :param wall: the time of day [default: the reactor's].
    :ivar registry: references of images that can be pulled.
    """

    def __init__(
        self, reactor: Any, images: Sequence[str] = ("busybox:lab",), wall: Callable[[], float] | None = None
    ) -> None:
        self._reactor = reactor
        self._wall = wall or reactor.seconds
        self._observer: RuntimeObserver | None = None
        self.containers: dict[str, ContainerView] = {}
        self.configs: dict[str, ContainerConfig] = {}
        self.local: dict[str, ImageView] = {name: ImageView(f"sha256:{name}", (name,), 1) for name in images}
        self.registry: set[str] = set()
        self.networks: dict[str, NetworkConfig] = {}
        self.stubborn: set[str] = set()
        self.signals: list[tuple[str, str]] = []
        self.commands: list[tuple[str, tuple[str, ...]]] = []
        self.pulls: list[str] = []
        self.available = True
        self.refuse_start: dict[str, str] = {}
        self.execs: Callable[[str, Sequence[str]], ExecResult] = lambda name, command: ExecResult(0, b"")
        self.sessions: list[MemorySession] = []
        self.log_options: list[LogOptions] = []
        self.exit_code: int | None = 0
        self._made = 0

    # -- for tests ----------------------------------------------------------------------------------------------

    def named(self, name: str) -> ContainerView:
        """The newest container of a name; ``POD`` for the pause container."""
        found = [view for view in self.containers.values() if view.name == name]
        if not found:
            raise AssertionError(f"there is no container {name!r}")
        return max(found, key=lambda view: view.attempt)

    def end(self, view: ContainerView, exit_code: int = 0, oom: bool = False) -> None:
        """A container's process ends."""
        self.containers[view.id] = replace(
            self.containers[view.id],
            state=ContainerState.EXITED,
            exit_code=exit_code,
            oom_killed=oom,
            finished_at=self._wall(),
        )
        self._tell(view.id, "die")

    def power_cut(self) -> None:
        """All containers die, and nobody is told."""
        for identity, view in self.containers.items():
            if view.running:
                self.containers[identity] = replace(
                    view, state=ContainerState.EXITED, exit_code=137, finished_at=self._wall()
                )

    def cut(self) -> None:
        """The runtime does not answer any more."""
        self.available = False
        if self._observer is not None:
            self._observer.disconnected("it does not answer")

    def mend(self) -> None:
        self.available = True
        if self._observer is not None:
            self._observer.connected()

    def _tell(self, identity: str, what: str) -> None:
        if self._observer is not None and self.available:
            self._reactor.callLater(0, self._observer.container_changed, identity, what)

    def _check(self) -> None:
        if not self.available:
            raise RuntimeUnavailable("it does not answer")

    def _get(self, identity: str) -> ContainerView:
        self._check()
        try:
            return self.containers[identity]
        except KeyError:
            raise NoSuchContainer(f"no such container: {identity}") from None

    # -- Runtime --------------------------------------------------------------------------------------------------

    def start(self, observer: RuntimeObserver) -> None:
        self._observer = observer
        if self.available:
            self._reactor.callLater(0, observer.connected)

    async def stop(self) -> None:
        self._observer = None

    async def info(self) -> EngineInfo:
        self._check()
        return EngineInfo("1.0", "x86_64", "Test", "linux", "6.1", 2, 2**31, "/var/lib/docker")

    async def list(self) -> Sequence[ContainerView]:
        self._check()
        return [*self.containers.values()]

    async def inspect(self, container_id: str) -> ContainerView:
        return self._get(container_id)

    async def create(self, config: ContainerConfig) -> str:
        self._check()
        if not any(config.image in (name, image.id) for name, image in self.local.items()):
            raise NoSuchImage(f"No such image: {config.image}")
        for identity, known in list(self.configs.items()):
            if known.name == config.name:
                if self.containers[identity].running:
                    raise EngineError(f"container {config.name} is there already, and runs")
                del self.configs[identity], self.containers[identity]
        self._made += 1
        identity = f"{self._made:064x}"
        self.configs[identity] = config
        self.containers[identity] = ContainerView(
            id=identity,
            pod=labels.ref_of(config.labels),
            name=config.labels.get(labels.CONTAINER_NAME, ""),
            kind=labels.kind_of(config.labels),
            attempt=labels.number(config.labels, labels.ATTEMPT),
            spec_hash=config.labels.get(labels.SPEC_HASH, ""),
            sandbox=config.labels.get(labels.SANDBOX, ""),
            state=ContainerState.CREATED,
            created_at=self._wall(),
            image=config.image,
            image_id=config.image,
            labels=dict(config.labels),
            stop_signal=config.stop_signal or "SIGTERM",
        )
        self._tell(identity, "create")
        return identity

    async def start_container(self, container_id: str) -> None:
        view = self._get(container_id)
        if view.name in self.refuse_start:
            raise EngineError(self.refuse_start[view.name])
        network = self.networks.get(self.configs[container_id].network)
        addresses: tuple[str, ...] = ()
        if view.kind is Kind.PAUSE and network is not None:
            addresses = tuple(str(subnet[2 + self._made]) for subnet in network.subnets)
        self.containers[container_id] = replace(
            view,
            state=ContainerState.RUNNING,
            started_at=self._wall(),
            finished_at=0.0,
            exit_code=0,
            pid=1000 + self._made,
            addresses=addresses,
        )
        self._tell(container_id, "start")

    async def signal(self, container_id: str, signal: str) -> None:
        view = self._get(container_id)
        if not view.running:
            return
        self.signals.append((view.name, signal))
        if signal == "SIGKILL":
            self.end(view, 137)
        elif view.name not in self.stubborn:
            self.end(view, 143)

    async def remove(self, container_id: str) -> None:
        self._check()
        self.configs.pop(container_id, None)
        if self.containers.pop(container_id, None) is not None:
            self._tell(container_id, "destroy")

    async def ensure_network(self, config: NetworkConfig) -> bool:
        self._check()
        known = self.networks.get(config.name)
        self.networks[config.name] = config
        return known != config

    async def image(self, reference: str) -> ImageView:
        self._check()
        try:
            return self.local[reference]
        except KeyError:
            raise NoSuchImage(f"No such image: {reference}") from None

    async def images(self) -> Sequence[ImageView]:
        self._check()
        return [*self.local.values()]

    async def images_in_use(self) -> Sequence[str]:
        self._check()
        return [view.image_id for view in self.containers.values()]

    async def import_image(self, layer: bytes, repository: str, tag: str, entrypoint: str) -> None:
        self._check()
        name = f"{repository}:{tag}"
        self.local[name] = ImageView(f"sha256:{name}", (name,), len(layer), entrypoint=(entrypoint,))

    async def load_image(self, path: str) -> None:
        self._check()
        self.local[path] = ImageView(f"sha256:{path}", (path,), 1)

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> None:
        self._check()
        self.pulls.append(reference)
        if reference not in self.registry:
            raise PullFailed(f"pull access denied for {reference}")
        self.local[reference] = ImageView(f"sha256:{reference}", (reference,), 1)

    async def remove_image(self, image_id: str) -> None:
        self._check()
        for name, image in list(self.local.items()):
            if image.id == image_id:
                del self.local[name]

    async def execute(self, container_id: str, command: Sequence[str], seconds: float) -> ExecResult:
        view = self._get(container_id)
        if not view.running:
            raise EngineError(f"container {container_id} is not running")
        self.commands.append((view.name, tuple(command)))
        return self.execs(view.name, command)

    async def exec_session(
        self, container_id: str, command: Sequence[str], tty: bool, stdin: bool, output: Output
    ) -> Session:
        view = self._get(container_id)
        self.commands.append((view.name, tuple(command)))
        self.sessions.append(MemorySession(output, self.exit_code))
        return self.sessions[-1]

    async def attach_session(self, view: ContainerView, stdin: bool, output: Output) -> Session:
        self._get(view.id)
        self.sessions.append(MemorySession(output, None))
        return self.sessions[-1]

    async def log_session(self, view: ContainerView, options: LogOptions, output: Output) -> Session:
        self._get(view.id)
        self.log_options.append(options)
        self.sessions.append(MemorySession(output, None))
        return self.sessions[-1]

    async def stats(self, container_id: str) -> Usage:
        self._get(container_id)
        return Usage(cpu_nanoseconds=5_000_000, memory=2**20)


class MemorySession:
    """A conversation that a test leads: what was written is in ``written``, what comes it says by ``output``."""

    def __init__(self, output: Output, code: int | None) -> None:
        self.reader = output
        self.written = b""
        self.eof = self.closed = self.paused = False
        self.size: tuple[int, int] | None = None
        self._code = code

    def write(self, data: bytes) -> None:
        self.written += data

    def close_write(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.close()

    async def resize(self, width: int, height: int) -> None:
        self.size = (width, height)

    async def exit_code(self) -> int | None:
        return self._code


class InlineThreads(Threads):
    """Does the work at once, on the caller's thread."""

    def __init__(self) -> None:
        super().__init__(None, 0, "inline")

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


class NoFirewall(Firewall):
    """Remembers what was asked for, and does nothing."""

    def __init__(self) -> None:
        super().__init__(InlineThreads())
        self.open: frozenset[HostPort] = frozenset()

    def ports(self, ports: frozenset[HostPort]) -> None:
        self.open = ports

    def apply(self) -> None:
        return

    async def stop(self, pods_left: bool) -> None:
        return


class FixedNetwork:
    """A :class:`appengine.interfaces.NetworkSource` of which the test is the network."""

    def __init__(self, place: NodeNetwork | None = None) -> None:
        self.place = place
        self._changed: list[Callable[[NodeNetwork], None]] = []

    def subscribe(self, changed: Callable[[NodeNetwork], None]) -> None:
        self._changed.append(changed)
        if self.place is not None:
            changed(self.place)

    def change(self, place: NodeNetwork) -> None:
        self.place = place
        for changed in self._changed:
            changed(place)


def place(subnet: str, network: str = "default", node: str = "edge-1", address: str = "10.250.0.2") -> NodeNetwork:
    """A node's place with one pod subnet."""
    from ipaddress import ip_network

    return NodeNetwork(
        network, node, (ip_address(address),), (ip_network(subnet),), (ip_network("10.192.0.0/12"),), "kb0", 1400
    )

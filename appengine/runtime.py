"""What the engine asks of a container runtime. Docker implements it; a memory one is in :mod:`appengine.testing`.

All calls are made on the reactor thread; none blocks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from appengine.podspec import Kind, PodRef


class EngineError(Exception):
    """The runtime refused or failed. The message is its own."""


class RuntimeUnavailable(EngineError):
    """The runtime does not answer: it is down or hangs. Nothing is known of what was asked."""


class NoSuchContainer(EngineError):
    """The container is gone."""


class NoSuchImage(EngineError):
    """The image is not on this node."""


class PullFailed(EngineError):
    """The image could not be pulled."""


class ContainerState(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container of ours as it was last seen. Times are UNIX seconds, 0 where there is none."""

    id: str
    pod: PodRef
    name: str
    kind: Kind
    attempt: int
    spec_hash: str
    sandbox: str
    state: ContainerState
    created_at: float
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    pid: int = 0
    image: str = ""
    image_id: str = ""
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    log_path: str = ""
    tty: bool = False

    @property
    def running(self) -> bool:
        return self.state is ContainerState.RUNNING


@dataclass(frozen=True, slots=True)
class Mount:
    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"


@dataclass(frozen=True, slots=True)
class Resources:
    """cgroup settings; 0 means none. ``memory`` in bytes, CPU in shares and microseconds as the kernel has them."""

    memory: int = 0
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class Security:
    user: str = ""
    groups: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """As Docker's ``SecurityOpt``: ``no-new-privileges``, ``seccomp=…``."""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """A container to be made. Its name is unique, so making it twice fails the second time.

    ``network`` is a network's name, ``host``, ``none`` or ``container:ID``; ``pid_mode`` and ``ipc_mode`` likewise.
    """

    name: str
    image: str
    labels: Mapping[str, str]
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    hostname: str = ""
    network: str = "none"
    pid_mode: str = ""
    ipc_mode: str = ""
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    security: Security = Security()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    log_bytes: int = 10 * 2**20
    log_files: int = 5


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    name: str
    subnets: tuple[IPv4Network | IPv6Network, ...]
    mtu: int
    bridge: str


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image on the node. ``user`` is what its containers run as, ``size`` in bytes."""

    id: str
    names: tuple[str, ...]
    size: int
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine's word on itself and its machine."""

    version: str
    architecture: str
    operating_system: str
    os_type: str
    kernel: str
    cpus: int
    memory: int
    root_dir: str
    name: str = "docker"


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses. CPU in nanoseconds since its start, memory in bytes (without idle page cache)."""

    cpu_nanoseconds: int = 0
    memory: int = 0
    memory_limit: int = 0
    pids: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which lines of a log. ``tail`` ``None`` means all; ``since`` in UNIX seconds."""

    follow: bool = False
    tail: int | None = None
    since: float = 0.0
    timestamps: bool = False


class Output(Protocol):
    """Who reads what a process or a log says. :meth:`ended` is the last call, and comes once."""

    def output(self, stream: int, data: bytes) -> None:
        """``stream``: 1 is the standard output (or the terminal), 2 the standard error."""

    def ended(self, error: Exception | None) -> None: ...


class Session(Protocol):
    """A conversation with a process, or a log that is being read. Also an ``IPushProducer`` of its output."""

    def write(self, data: bytes) -> None: ...

    def close_write(self) -> None:
        """The process reads its end of file."""

    def close(self) -> None:
        """Let go; :meth:`Output.ended` follows if it has not been called."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def exit_code(self) -> int | None:
        """Of the process, after its output has ended; ``None`` where there is none to tell."""


class RuntimeObserver(Protocol):
    """Who hears of containers. Calls come on the reactor thread, never during a call of the runtime."""

    def container_changed(self, container_id: str, what: str) -> None:
        """Something happened (``start``, ``die``, ``oom``, ``destroy``…): look at the container again."""

    def connected(self) -> None:
        """Events flow, from now on: what happened before must be read."""

    def disconnected(self, reason: str) -> None:
        """The runtime does not answer any more; it is tried again and again."""


class Runtime(Protocol):
    """Containers, images and networks of one node of one network; those of others are never seen."""

    def start(self, observer: RuntimeObserver) -> None:
        """Begin to tell of containers, and go on until :meth:`stop`, whatever happens to the runtime."""

    async def stop(self) -> None:
        """Let go. Containers go on."""

    async def info(self) -> EngineInfo: ...

    async def list(self) -> Sequence[ContainerView]:
        """All containers of ours, also dead ones."""

    async def inspect(self, container_id: str) -> ContainerView:
        """:raises NoSuchContainer: if it is gone, or not ours."""

    async def create(self, config: ContainerConfig) -> str:
        """Make a container and give its ID. If there is one of that name that never ran, it is replaced.

        :raises NoSuchImage: if the image is not on the node.
        """

    async def start_container(self, container_id: str) -> None: ...

    async def signal(self, container_id: str, signal: str) -> None:
        """Send a signal. A container that does not run (any more) is no error."""

    async def remove(self, container_id: str) -> None:
        """Kill if need be, and remove. A container that is gone is no error."""

    async def ensure_network(self, config: NetworkConfig) -> bool:
        """Make the network, or make it again where it is different. True if it is a new one."""

    async def image(self, reference: str) -> ImageView:
        """:raises NoSuchImage: if it is not on the node."""

    async def images(self) -> Sequence[ImageView]: ...

    async def images_in_use(self) -> Sequence[str]:
        """The IDs of the images of all containers on the engine, also dead ones and others' than ours."""

    async def import_image(self, layer: bytes, repository: str, tag: str, entrypoint: str) -> None: ...

    async def load_image(self, path: str) -> None:
        """Load the images of an archive made by ``docker save``."""

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> None:
        """:raises PullFailed: with the registry's reason."""

    async def remove_image(self, image_id: str) -> None: ...

    async def execute(self, container_id: str, command: Sequence[str], seconds: float) -> ExecResult:
        """Run a command in a container and wait for it.

        :raises TimeoutError: if it takes longer than ``seconds``; it may go on running.
        """

    async def exec_session(
        self, container_id: str, command: Sequence[str], tty: bool, stdin: bool, output: Output
    ) -> Session:
        """Run a command in a container, with its channels."""

    async def attach_session(self, view: ContainerView, stdin: bool, output: Output) -> Session:
        """Join the channels of a container's own process."""

    async def log_session(self, view: ContainerView, options: LogOptions, output: Output) -> Session: ...

    async def stats(self, container_id: str) -> Usage:
        """What a running container uses now."""

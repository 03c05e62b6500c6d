"""What the API server needs of the engine: one narrow Protocol per group of endpoints.

The engine implements these; tests give fakes. `ref` is what a client typed: a name, an id or a unique
prefix of one. Every method raises classes of proa.errors and nothing else.
"""

from asyncio import Future
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from proa.schema.archive import PathStat
from proa.schema.build import BuildOptions, BuildPruneReport
from proa.schema.container import ContainerConfig, ContainerCreateRequest, ContainerUpdateRequest
from proa.schema.container_state import (
    ContainerCreateResponse,
    ContainerInspectResponse,
    ContainerSummary,
    ContainerTopResponse,
    ContainerUpdateResponse,
    ContainerWaitResponse,
    FilesystemChange,
)
from proa.schema.exec import ExecCreateRequest, ExecInspectResponse, ExecStartRequest
from proa.schema.image import (
    ImageDeleteResponseItem,
    ImageHistoryResponseItem,
    ImageInspect,
    ImageSummary,
)
from proa.schema.network import (
    Network,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
)
from proa.schema.prune import (
    ContainersPruneReport,
    ImagesPruneReport,
    NetworksPruneReport,
    VolumesPruneReport,
)
from proa.schema.registry import AuthResponse, Credentials, DistributionInspect, SearchResult
from proa.schema.stats import ContainerStatsResponse
from proa.schema.stream import AttachOptions, LogsOptions, LogStream
from proa.schema.system import EventMessage, IDResponse, SystemDataUsage, SystemInfo, SystemVersion
from proa.schema.volume import Volume, VolumeCreateOptions, VolumeListResponse

Filters = Mapping[str, list[str]]
"""Docker's `filters` parameter, decoded: key to the values asked for."""


class HijackedConnection(Protocol):
    """A client's connection on its way out of HTTP."""

    def raw_stream_head(self, *, multiplexed: bool) -> bytes:
        """The response head that must reach the client first: 101 UPGRADED, or 200 without Upgrade."""
        ...

    def detach(self) -> tuple[int, bytes]:
        """Take the connection away from the server: (fd, input read already).

        The caller owns the fd. For TLS it is one end of a socketpair that the server pumps.
        Nothing has been written yet: the new owner writes the head. Called once, after every check
        that could fail with an HTTP error. Raises ConnectionResetError when the client is gone.
        """
        ...


class Containers(Protocol):
    """The verbs of /containers."""

    async def create(
        self, name: str | None, body: ContainerCreateRequest, platform: str | None
    ) -> ContainerCreateResponse: ...
    async def start(self, ref: str, detach_keys: str) -> None: ...
    async def stop(self, ref: str, signal: str | None, timeout: int | None) -> None: ...
    async def restart(self, ref: str, signal: str | None, timeout: int | None) -> None: ...
    async def kill(self, ref: str, signal: str | None) -> None: ...
    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...
    async def rename(self, ref: str, name: str) -> None: ...
    async def wait(self, ref: str, condition: str) -> "Future[ContainerWaitResponse]":
        """Register the wait; the future resolves when `condition` holds (status line goes out before).

        The future is this caller's alone: the server cancels it when the client goes away.
        """
        ...

    async def remove(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None: ...
    async def list(
        self, *, all: bool, limit: int, size: bool, filters: Filters
    ) -> Sequence[ContainerSummary]: ...
    async def inspect(self, ref: str, *, size: bool) -> ContainerInspectResponse: ...
    async def logs(self, ref: str, options: LogsOptions) -> LogStream: ...
    async def attach(self, ref: str, options: AttachOptions, connection: HijackedConnection) -> None: ...
    async def resize(self, ref: str, rows: int, columns: int) -> None: ...
    async def top(self, ref: str, ps_args: str) -> ContainerTopResponse: ...
    async def stats(
        self, ref: str, *, stream: bool, one_shot: bool
    ) -> AsyncIterator[ContainerStatsResponse]: ...
    async def update(self, ref: str, body: ContainerUpdateRequest) -> ContainerUpdateResponse: ...
    async def prune(self, filters: Filters) -> ContainersPruneReport: ...


class Files(Protocol):
    """The verbs on a container's files."""

    async def changes(self, ref: str) -> Sequence[FilesystemChange]: ...
    async def export(self, ref: str, *, image: bool = False) -> AsyncIterator[bytes]: ...
    async def stat(self, ref: str, path: str) -> PathStat: ...
    async def archive(self, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]: ...
    async def extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool, copy_owner: bool
    ) -> None: ...


class Commits(Protocol):
    """POST /commit."""

    async def commit(
        self,
        ref: str,
        asked: ContainerConfig | None,
        *,
        repo: str,
        tag: str,
        author: str,
        comment: str,
        changes: Sequence[str],
        pause: bool,
    ) -> IDResponse: ...


class Execs(Protocol):
    """The verbs of /exec."""

    async def create(self, ref: str, body: ExecCreateRequest) -> IDResponse: ...
    async def start(
        self, exec_id: str, body: ExecStartRequest, connection: HijackedConnection | None
    ) -> None:
        """Start it; `connection` is None when `body.detach`."""
        ...

    async def resize(self, exec_id: str, rows: int, columns: int) -> None: ...
    async def inspect(self, exec_id: str, *, wait: bool) -> ExecInspectResponse: ...


class Images(Protocol):
    """The verbs of /images."""

    async def list(
        self, *, all: bool, filters: Filters, digests: bool, shared_size: bool, manifests: bool
    ) -> Sequence[ImageSummary]: ...
    async def inspect(self, ref: str, *, platform: str, manifests: bool) -> ImageInspect:
        """`platform` (`os/architecture[/variant]`, or empty) is what it must be, here and below."""
        ...

    async def history(self, ref: str, *, platform: str) -> Sequence[ImageHistoryResponseItem]: ...
    async def tag(self, ref: str, repo: str, tag: str) -> None: ...
    async def remove(
        self, ref: str, *, force: bool, prune: bool, platform: str
    ) -> Sequence[ImageDeleteResponseItem]: ...
    def load(self, body: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream, one object a chunk."""
        ...

    async def save(self, refs: Sequence[str], *, platform: str) -> AsyncIterator[bytes]:
        """A docker archive (with an OCI layout inside) of the images; errors before the first byte."""
        ...

    def import_(
        self,
        body: AsyncIterator[bytes],
        *,
        url: str,
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[bytes]:
        """Of `url`, where it is not empty; progress as Docker's JSON stream, the image id last."""
        ...

    async def pull(
        self, repo: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; `tag` may be a digest; no tag at all means every one."""
        ...

    async def push(
        self, name: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; without a tag, all of the repository."""
        ...

    async def prune(self, filters: Filters) -> ImagesPruneReport: ...


class Networks(Protocol):
    """The verbs of /networks."""

    async def list(self, filters: Filters) -> Sequence[Network]: ...
    async def inspect(self, ref: str, *, scope: str = "") -> Network: ...
    async def create(self, body: NetworkCreateRequest) -> NetworkCreateResponse: ...
    async def remove(self, ref: str) -> None: ...
    async def connect(self, ref: str, body: NetworkConnectRequest) -> None: ...
    async def disconnect(self, ref: str, body: NetworkDisconnectRequest) -> None: ...
    async def prune(self, filters: Filters) -> NetworksPruneReport: ...


class Volumes(Protocol):
    """The verbs of /volumes."""

    async def list(self, filters: Filters) -> VolumeListResponse: ...
    async def create(self, body: VolumeCreateOptions) -> Volume: ...
    async def inspect(self, name: str) -> Volume: ...
    async def remove(self, name: str, *, force: bool) -> None: ...
    async def prune(self, filters: Filters) -> VolumesPruneReport: ...


class Registries(Protocol):
    """The verbs that ask a registry and touch no image here."""

    async def login(self, credentials: Credentials) -> AuthResponse: ...
    async def search(
        self, term: str, limit: int, filters: Filters, credentials: Credentials | None
    ) -> Sequence[SearchResult]: ...
    async def inspect(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> DistributionInspect: ...
    async def put_manifest(
        self,
        name: str,
        media_type: str,
        data: bytes,
        credentials: Credentials | None,
        *,
        source: str,
        insecure: bool,
    ) -> str:
        """Store one, what it names mounted from the repository `source` where it is given; its digest."""
        ...

    async def manifest(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> tuple[str, str, bytes]:
        """(media type, digest, the manifest or index as the registry has it)."""
        ...


class Builds(Protocol):
    """The verbs of /build."""

    async def build(
        self, options: BuildOptions, body: AsyncIterator[bytes], credentials: Mapping[str, Credentials]
    ) -> AsyncIterator[bytes]:
        """Progress as JSON lines; `credentials` by registry domain."""
        ...

    async def prune(
        self, *, all: bool, filters: Filters, keep_bytes: int = 0, max_used: int = 0, min_free: int = 0
    ) -> BuildPruneReport: ...


class BuildKit(Protocol):
    """Clients that speak BuildKit's protocol. `detach` takes the connection: (fd, input read already)."""

    async def serve(self, headers: Mapping[str, str], detach: Callable[[], tuple[int, bytes]]) -> None: ...
    async def session(self, headers: Mapping[str, str], detach: Callable[[], tuple[int, bytes]]) -> None: ...


class System(Protocol):
    """The verbs of the daemon itself."""

    async def version(self) -> SystemVersion: ...
    async def info(self) -> SystemInfo: ...
    async def disk_usage(self, kinds: Sequence[str]) -> SystemDataUsage: ...
    async def events(self, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[EventMessage]:
        """Past events since `since_ns` (0: none), then live ones until `until_ns` (0: for ever)."""
        ...


class Engine(Protocol):
    """The whole of it."""

    @property
    def containers(self) -> Containers: ...
    @property
    def execs(self) -> Execs: ...
    @property
    def files(self) -> Files: ...
    @property
    def commits(self) -> Commits: ...
    @property
    def images(self) -> Images: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def registries(self) -> Registries: ...
    @property
    def builds(self) -> Builds: ...
    @property
    def buildkit(self) -> BuildKit: ...
    @property
    def system(self) -> System: ...

"""An engine without containers: it implements proa.api.ports in memory, for tests and for the API's bench.

A container whose command is `true` exits at once; any other runs until it is stopped or killed. Attach and
exec echo their input as stdout frames and say `eof` on stderr when the input is half-closed.
"""

import asyncio
import contextlib
import itertools
import socket
from asyncio import Future
from collections.abc import AsyncIterator, Sequence

from proa.api.ports import Filters, HijackedConnection
from proa.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotModified,
    StartFailed,
    Unauthorized,
)
from proa.schema.archive import PathStat
from proa.schema.container import ContainerConfig, ContainerCreateRequest, ContainerUpdateRequest, HostConfig
from proa.schema.container_state import (
    ContainerCreateResponse,
    ContainerInspectResponse,
    ContainerState,
    ContainerSummary,
    ContainerTopResponse,
    ContainerUpdateResponse,
    ContainerWaitResponse,
    FilesystemChange,
)
from proa.schema.exec import ExecCreateRequest, ExecInspectResponse, ExecStartRequest
from proa.schema.image import ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect, ImageSummary
from proa.schema.network import (
    Network,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
    NetworkSettings,
)
from proa.schema.oci import Descriptor, Platform
from proa.schema.prune import (
    ContainersPruneReport,
    ImagesPruneReport,
    NetworksPruneReport,
    VolumesPruneReport,
)
from proa.schema.registry import AuthResponse, Credentials, DistributionInspect, SearchResult
from proa.schema.stats import ContainerStatsResponse
from proa.schema.stream import AttachOptions, LogsOptions, LogStream
from proa.schema.system import (
    EventActor,
    EventMessage,
    IDResponse,
    SystemDataUsage,
    SystemInfo,
    SystemVersion,
)
from proa.schema.volume import Volume, VolumeCreateOptions, VolumeListResponse

CREATED = "2026-01-02T03:04:05.000000006Z"
LOG = ((1, b"one\n"), (2, b"two\n"), (1, b"three\n"))


def frame(stream: int, data: bytes) -> bytes:
    """Docker's framing of attach, logs and exec streams."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class FakeContainer:
    """State of one container."""

    def __init__(self, id: str, name: str, body: ContainerCreateRequest) -> None:
        self.id = id
        self.name = name
        self.body = body
        self.running = False
        self.exit_code = 0
        self.waits: list[tuple[str, Future[ContainerWaitResponse]]] = []

    def finish(self, code: int) -> None:
        """Exit with `code`."""
        self.running, self.exit_code = False, code
        self.resolve("not-running", "next-exit")

    def resolve(self, *conditions: str) -> None:
        """Let the waits for `conditions` return."""
        for condition, future in self.waits:
            if condition in conditions and not future.done():
                future.set_result(ContainerWaitResponse(status_code=self.exit_code))


class FakeContainers:
    """The verbs of /containers; `calls` records what the API asked for."""

    def __init__(self) -> None:
        self.by_id: dict[str, FakeContainer] = {}
        self.calls: list[tuple[object, ...]] = []
        self.closed_streams: list[str] = []
        self._numbers = itertools.count(1)
        self.fail_with: BaseException | None = None

    def get(self, ref: str) -> FakeContainer:
        for container in self.by_id.values():
            if container.name == ref or container.id.startswith(ref):
                return container
        raise NotFound(f"No such container: {ref}")

    async def create(
        self, name: str | None, body: ContainerCreateRequest, platform: str | None
    ) -> ContainerCreateResponse:
        self.calls.append(("create", name, body, platform))
        if any(container.name == name for container in self.by_id.values()):
            raise Conflict(f'Conflict. The container name "/{name}" is already in use')
        number = next(self._numbers)
        id = f"{number:064x}"
        self.by_id[id] = FakeContainer(id, name or f"quirky_turing{number}", body)
        return ContainerCreateResponse(id=id, warnings=[])

    async def start(self, ref: str, detach_keys: str) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        container = self.get(ref)
        command = (container.body.cmd or [""])[0]
        if command == "nosuch":
            raise StartFailed('exec: "nosuch": executable file not found in $PATH: unknown', 127)
        if container.running:
            raise NotModified
        container.running = True
        if command == "true":
            container.finish(0)

    async def stop(self, ref: str, signal: str | None, timeout: int | None) -> None:
        self.calls.append(("stop", ref, signal, timeout))
        container = self.get(ref)
        if not container.running:
            raise NotModified
        container.finish(143)

    async def restart(self, ref: str, signal: str | None, timeout: int | None) -> None:
        self.get(ref).running = True

    async def kill(self, ref: str, signal: str | None) -> None:
        container = self.get(ref)
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        container.finish(137)

    async def pause(self, ref: str) -> None:
        self.get(ref)

    async def unpause(self, ref: str) -> None:
        self.get(ref)

    async def rename(self, ref: str, name: str) -> None:
        self.get(ref).name = name

    async def wait(self, ref: str, condition: str) -> "Future[ContainerWaitResponse]":
        container = self.get(ref)
        future: Future[ContainerWaitResponse] = asyncio.get_running_loop().create_future()
        container.waits.append((condition, future))
        if condition == "not-running" and not container.running:
            future.set_result(ContainerWaitResponse(status_code=container.exit_code))
        return future

    async def remove(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None:
        container = self.get(ref)
        self.calls.append(("remove", ref, volumes, force, link))
        if container.running and not force:
            raise Conflict(f'cannot remove container "/{container.name}": container is running')
        del self.by_id[container.id]
        container.resolve("not-running", "next-exit", "removed")

    async def list(
        self, *, all: bool, limit: int, size: bool, filters: Filters
    ) -> Sequence[ContainerSummary]:
        self.calls.append(("list", all, limit, size, filters))
        return [
            ContainerSummary(
                id=container.id,
                names=[f"/{container.name}"],
                image=container.body.image,
                command=" ".join(container.body.cmd or ()),
                created=1_700_000_000,
                ports=[],
                labels=container.body.labels or {},
                state="running" if container.running else "exited",
                status="Up 3 seconds" if container.running else "Exited (0) 3 seconds ago",
                mounts=[],
            )
            for container in self.by_id.values()
            if all or container.running
        ]

    async def inspect(self, ref: str, *, size: bool) -> ContainerInspectResponse:
        container = self.get(ref)
        return ContainerInspectResponse(
            id=container.id,
            created=CREATED,
            path=(container.body.cmd or [""])[0],
            args=(container.body.cmd or [])[1:],
            state=ContainerState(
                status="running" if container.running else "exited",
                running=container.running,
                exit_code=container.exit_code,
                started_at=CREATED,
                finished_at="0001-01-01T00:00:00Z",
            ),
            image="sha256:" + "a" * 64,
            name=f"/{container.name}",
            driver="overlay2",
            platform="linux",
            host_config=container.body.host_config or HostConfig(),
            mounts=[],
            config=ContainerConfig(
                image=container.body.image,
                cmd=container.body.cmd,
                tty=container.body.tty,
                open_stdin=container.body.open_stdin,
                labels={},
            ),
            network_settings=NetworkSettings(ports={}, networks={}),
        )

    async def logs(self, ref: str, options: LogsOptions) -> LogStream:
        container = self.get(ref)
        self.calls.append(("logs", ref, options))
        return LogStream(tty=container.body.tty, chunks=self._log(options, container.body.tty))

    async def _log(self, options: LogsOptions, tty: bool) -> AsyncIterator[bytes]:
        wanted = {1: options.stdout, 2: options.stderr}
        try:
            for stream, data in LOG:
                if wanted[stream]:
                    yield data if tty else frame(stream, data)
            if options.follow:
                await asyncio.get_running_loop().create_future()
        finally:
            self.closed_streams.append("logs")

    async def attach(self, ref: str, options: AttachOptions, connection: HijackedConnection) -> None:
        container = self.get(ref)
        self.calls.append(("attach", ref, options))
        tty = container.body.tty
        head = connection.raw_stream_head(multiplexed=not tty)
        serve_echo(connection.detach(), head, tty)

    async def resize(self, ref: str, rows: int, columns: int) -> None:
        self.calls.append(("resize", ref, rows, columns))

    async def top(self, ref: str, ps_args: str) -> ContainerTopResponse:
        self.calls.append(("top", ref, ps_args))
        return ContainerTopResponse(titles=["PID", "CMD"], processes=[["1", "sleep"]])

    async def stats(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[ContainerStatsResponse]:
        self.get(ref)
        return self._samples(ref, stream)

    async def _samples(self, ref: str, stream: bool) -> AsyncIterator[ContainerStatsResponse]:
        try:
            yield ContainerStatsResponse(name=f"/{ref}", id=ref, read=CREATED, preread=CREATED)
            if stream:
                await asyncio.get_running_loop().create_future()
        finally:
            self.closed_streams.append("stats")

    async def update(self, ref: str, body: ContainerUpdateRequest) -> ContainerUpdateResponse:
        self.calls.append(("update", ref, body))
        return ContainerUpdateResponse(warnings=[])

    async def prune(self, filters: Filters) -> ContainersPruneReport:
        return ContainersPruneReport(containers_deleted=list(self.by_id), space_reclaimed=0)


_echoes: set[asyncio.Task[None]] = set()


def serve_echo(detached: tuple[int, bytes], head: bytes, tty: bool) -> None:
    """Own a hijacked connection: answer each read with its bytes, the end of input with `eof`."""
    fd, initial = detached
    task = asyncio.get_running_loop().create_task(_echo(fd, initial, head, tty))
    _echoes.add(task)
    task.add_done_callback(_echoes.discard)


async def _echo(fd: int, initial: bytes, head: bytes, tty: bool) -> None:
    with socket.socket(fileno=fd) as peer, contextlib.suppress(ConnectionError):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, head)
        data = initial or await loop.sock_recv(peer, 65536)
        while data:
            await loop.sock_sendall(peer, data if tty else frame(1, data))
            data = await loop.sock_recv(peer, 65536)
        await loop.sock_sendall(peer, b"eof" if tty else frame(2, b"eof"))


class FakeExecs:
    """The verbs of /exec."""

    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.bodies: dict[str, tuple[str, ExecCreateRequest]] = {}
        self.started: list[tuple[str, ExecStartRequest, bool]] = []

    async def create(self, ref: str, body: ExecCreateRequest) -> IDResponse:
        container = self._containers.get(ref)
        exec_id = f"{len(self.bodies) + 0xE000:064x}"
        self.bodies[exec_id] = (container.id, body)
        return IDResponse(id=exec_id)

    async def start(
        self, exec_id: str, body: ExecStartRequest, connection: HijackedConnection | None
    ) -> None:
        if exec_id not in self.bodies:
            raise NotFound(f"No such exec instance: {exec_id}")
        self.started.append((exec_id, body, connection is not None))
        if connection is not None:
            head = connection.raw_stream_head(multiplexed=not body.tty)
            serve_echo(connection.detach(), head, body.tty)

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        pass

    async def inspect(self, exec_id: str, *, wait: bool) -> ExecInspectResponse:
        container_id, _ = self.bodies[exec_id]
        return ExecInspectResponse(id=exec_id, container_id=container_id, exit_code=0, pid=0)


class FakeFiles:
    """The verbs on a container's files; `received` is what arrived."""

    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.received = bytearray()
        self.calls: list[tuple[object, ...]] = []
        self.archived = [b"tar" * 100, b"x" * 200_000, b"end"]

    async def changes(self, ref: str) -> Sequence[FilesystemChange]:
        self._containers.get(ref)
        return [FilesystemChange(path="/etc", kind=0), FilesystemChange(path="/etc/new", kind=1)]

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        self._containers.get(ref)
        return self._archive()

    async def stat(self, ref: str, path: str) -> PathStat:
        self._containers.get(ref)
        if path == "/nosuch":
            raise NotFound(f"Could not find the file {path} in container {ref}")
        return PathStat(name="etc", size=4096, mode=1 << 31 | 0o755, mtime=CREATED)

    async def archive(self, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        return await self.stat(ref, path), self._archive()

    async def _archive(self) -> AsyncIterator[bytes]:
        for chunk in self.archived:
            yield chunk

    async def extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool, copy_owner: bool
    ) -> None:
        self.calls.append(("extract", ref, path, keep_kinds, copy_owner))
        if path == "/sealed":
            raise Forbidden("container rootfs is marked read-only")
        async for chunk in body:
            self.received += chunk


class FakeCommits:
    """POST /commit."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def commit(self, ref: str, asked: ContainerConfig | None, **options: object) -> IDResponse:
        self.calls.append(("commit", ref, asked, options))
        return IDResponse(id="sha256:" + "c" * 64)


class FakeImages:
    """The verbs of /images; `loaded` is what arrived."""

    def __init__(self) -> None:
        self.loaded = bytearray()
        self.gate: asyncio.Event | None = None
        self.calls: list[tuple[object, ...]] = []
        self.saved = [b"tar" * 100, b"x" * 200_000, b"end"]

    async def list(
        self, *, all: bool, filters: Filters, digests: bool, shared_size: bool
    ) -> Sequence[ImageSummary]:
        return [ImageSummary(id="sha256:" + "a" * 64, repo_tags=["busybox:latest"], size=5, shared_size=-1)]

    async def inspect(self, ref: str) -> ImageInspect:
        if ref not in ("library/busybox:latest", "sha256:" + "a" * 64):
            raise NotFound(f"No such image: {ref}")
        return ImageInspect(id="sha256:" + "a" * 64, repo_tags=["busybox:latest"], os="linux")

    async def history(self, ref: str) -> Sequence[ImageHistoryResponseItem]:
        return [ImageHistoryResponseItem(id="<missing>", created_by="ADD")]

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        self.calls.append(("tag", ref, repo, tag))

    async def remove(self, ref: str, *, force: bool, prune: bool) -> Sequence[ImageDeleteResponseItem]:
        return [ImageDeleteResponseItem(untagged=ref)]

    async def load(self, body: AsyncIterator[bytes], *, quiet: bool) -> AsyncIterator[bytes]:
        async for chunk in body:
            if self.gate is not None:
                await self.gate.wait()
            if not self.loaded and chunk.startswith(b"bad"):
                raise InvalidParameter("invalid tar header")
            self.loaded += chunk
            if chunk.endswith(b"late"):
                yield b'{"status":"Loading"}\r\n'
                raise InvalidParameter("archive ends early")
        yield b'{"stream":"Loaded image: busybox:latest\\n"}\r\n'

    async def save(self, refs: Sequence[str]) -> AsyncIterator[bytes]:
        self.calls.append(("save", tuple(refs)))
        if "nosuch" in refs:
            raise NotFound("No such image: nosuch")
        return self._archive()

    async def _archive(self) -> AsyncIterator[bytes]:
        for chunk in self.saved:
            yield chunk

    async def import_(
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
        async for chunk in body:
            self.loaded += chunk
        self.calls.append(("import", url, repo, tag, message, tuple(changes), platform))
        yield b'{"status":"sha256:' + b"a" * 64 + b'"}\r\n'

    async def pull(
        self, repo: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        self.calls.append(("pull", repo, tag, platform, credentials))
        raise NotFound(f"pull access denied for {repo}")

    async def push(
        self, name: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        self.calls.append(("push", name, tag, platform, credentials))
        raise NotFound(f"An image does not exist locally with the tag: {name}")

    async def prune(self, filters: Filters) -> ImagesPruneReport:
        return ImagesPruneReport(images_deleted=[], space_reclaimed=0)


class FakeNetworks:
    """The verbs of /networks; `calls` is what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def create(self, body: NetworkCreateRequest) -> NetworkCreateResponse:
        self.calls.append(("create", body))
        return NetworkCreateResponse(id="n" * 64)

    async def remove(self, ref: str) -> None:
        self.calls.append(("remove", ref))

    async def connect(self, ref: str, body: NetworkConnectRequest) -> None:
        self.calls.append(("connect", ref, body))

    async def disconnect(self, ref: str, body: NetworkDisconnectRequest) -> None:
        self.calls.append(("disconnect", ref, body))

    async def prune(self, filters: Filters) -> NetworksPruneReport:
        return NetworksPruneReport(networks_deleted=["mine"])

    async def list(self, filters: Filters) -> Sequence[Network]:
        return [await self.inspect("bridge")]

    async def inspect(self, ref: str, *, scope: str = "") -> Network:
        if ref == "n" * 64:
            return Network(name="mine", id=ref, created=CREATED, scope="local", driver="bridge")
        if ref != "bridge":
            raise NotFound(f"network {ref} not found")
        return Network(name="bridge", id="b" * 64, created=CREATED, scope="local", driver="bridge")


class FakeVolumes:
    """The verbs of /volumes."""

    def __init__(self) -> None:
        self.by_name: dict[str, Volume] = {}

    async def list(self, filters: Filters) -> VolumeListResponse:
        return VolumeListResponse(volumes=list(self.by_name.values()), warnings=[])

    async def create(self, body: VolumeCreateOptions) -> Volume:
        name = body.name or "v" * 64
        self.by_name[name] = Volume(name=name, driver="local", mountpoint=f"/v/{name}", created_at=CREATED)
        return self.by_name[name]

    async def inspect(self, name: str) -> Volume:
        if name not in self.by_name:
            raise NotFound(f"get {name}: no such volume")
        return self.by_name[name]

    async def remove(self, name: str, *, force: bool) -> None:
        del self.by_name[(await self.inspect(name)).name]

    async def prune(self, filters: Filters) -> VolumesPruneReport:
        return VolumesPruneReport(volumes_deleted=[], space_reclaimed=0)


class FakeRegistries:
    """The verbs that ask a registry: there is one image, x, and one user, who says `secret`."""

    MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def login(self, credentials: Credentials) -> AuthResponse:
        self.calls.append(("login", credentials))
        if credentials.password != "secret":
            raise Unauthorized("incorrect username or password")
        return AuthResponse(status="Login Succeeded", identity_token="")

    async def search(
        self, term: str, limit: int, filters: Filters, credentials: Credentials | None
    ) -> Sequence[SearchResult]:
        self.calls.append(("search", term, limit, filters, credentials))
        return [SearchResult(name=term, description="found", star_count=3, is_official=True)]

    async def inspect(self, name: str, credentials: Credentials | None) -> DistributionInspect:
        self.calls.append(("inspect", name, credentials))
        descriptor = Descriptor(media_type="m", digest="sha256:" + "a" * 64, size=len(self.MANIFEST))
        return DistributionInspect(
            descriptor=descriptor, platforms=[Platform(architecture="amd64", os="linux")]
        )

    async def manifest(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> tuple[str, str, bytes]:
        self.calls.append(("manifest", name, credentials, insecure))
        if name.startswith("nosuch"):
            raise NotFound(f"manifest for {name} not found: manifest unknown: manifest unknown")
        return "application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, self.MANIFEST


class FakeSystem:
    """The verbs of the daemon itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.events_closed = asyncio.Event()

    async def version(self) -> SystemVersion:
        return SystemVersion(version="28.0.0", api_version="1.51", min_api_version="1.40", os="linux")

    async def disk_usage(self, kinds: Sequence[str]) -> SystemDataUsage:
        self.calls.append(("df", tuple(kinds)))
        return SystemDataUsage(layers_size=5, images=[], containers=[], volumes=[], build_cache=[])

    async def info(self) -> SystemInfo:
        return SystemInfo(id="fake", containers=0, driver="overlay2", server_version="28.0.0", ncpu=2)

    async def events(self, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[EventMessage]:
        self.calls.append(("events", since_ns, until_ns, filters))
        return self._events(until_ns)

    async def _events(self, until_ns: int) -> AsyncIterator[EventMessage]:
        try:
            for action in ("create", "start"):
                yield EventMessage(
                    type="container",
                    action=action,
                    actor=EventActor(id="c" * 64, attributes={"image": "busybox", "name": "one"}),
                    scope="local",
                    time=1_700_000_000,
                    time_nano=1_700_000_000_000_000_001,
                )
            if not until_ns:
                await asyncio.get_running_loop().create_future()
        finally:
            self.events_closed.set()


class FakeEngine:
    """The whole of it."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs(self.containers)
        self.files = FakeFiles(self.containers)
        self.commits = FakeCommits()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.registries = FakeRegistries()
        self.system = FakeSystem()

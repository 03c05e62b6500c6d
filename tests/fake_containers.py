"""Containers that are none: the verbs on them, their execs and their files, in memory.

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
    NotFound,
    NotModified,
    StartFailed,
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
from proa.schema.network import (
    NetworkSettings,
)
from proa.schema.prune import (
    ContainersPruneReport,
)
from proa.schema.stats import ContainerStatsResponse
from proa.schema.stream import AttachOptions, LogsOptions, LogStream
from proa.schema.system import (
    IDResponse,
)

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

    async def export(self, ref: str, *, image: bool = False) -> AsyncIterator[bytes]:
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

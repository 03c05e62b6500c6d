"""RUN: a command in a container that nobody sees, started by the same path as any other.

Owns what a step has beside its layer: a directory, a place on a network, its output's stream and its end. All
of it is gone when the step is, however it ends; what a killed daemon leaves is swept at the next start.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from proa.build import graph
from proa.build.ports import Output, StepFailed
from proa.engine.ports import ContainerNetworks, KeeperClient
from proa.engine.resolve import Context, Host, Peer, Resolved, ready, resolve
from proa.errors import NotFound, System, Unavailable
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerCreateRequest, HostConfig, Ulimit
from proa.schema.image import ImageConfig
from proa.schema.keeper import Attach, Exited, Started
from proa.schema.plan import Mount, Overlay

NETWORKS: Mapping[str, str] = {"none": "none", "host": "host"}
_HEAD = 8
"""Bytes of a frame's head: stream, three zeros, length."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a build asks of all its commands, as `docker build` has it."""

    network_mode: str = "default"
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


class Commands:
    """Runs commands of builds. One for the daemon."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        host: Host,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        read_in_layers: Callable[[Sequence[str], Sequence[str]], Sequence[bytes | None]],
        seccomp: Callable[[bytes | None, int], bytes],
        remove_tree: Callable[[str], None],
        directory: Path,
    ) -> None:
        """`directory` holds a directory for each step that runs."""
        self._config = config
        self._host = host
        self._keeper = keeper
        self._networks = networks
        self._read = read_in_layers
        self._seccomp = seccomp
        self._remove_tree = remove_tree
        self._directory = directory
        self._running: dict[str, asyncio.Future[int]] = {}

    def exited(self, exited: Exited) -> bool:
        """A process has ended; False where it was no command of a build."""
        future = self._running.get(exited.id)
        if future is None:
            return False
        self._keeper.acknowledge(exited.id)
        if not future.done():
            future.set_result(exited.code)
        return True

    def lost(self) -> None:
        """The keeper is gone, and with it every command."""
        for future in self._running.values():
            if not future.done():
                future.set_exception(Unavailable("the keeper has gone away"))

    async def run(
        self,
        rootfs: Overlay,
        step: graph.Run,
        mounts: Sequence[Mount],
        proxy: Sequence[str],
        limits: Limits,
        output: Output,
    ) -> None:
        """Run it to its end. Raises StepFailed, StartFailed; cancelled, it ends the command first."""
        id_ = secrets.token_hex(32)
        async with AsyncExitStack() as stack:
            directory = self._make_directory(id_, stack)
            resolved = self._resolve(id_, directory, rootfs, step, proxy, limits)
            sandbox = await self._networks.connect(id_, resolved.network)
            stack.push_async_callback(self._networks.disconnect, id_)
            self._networks.write_files(directory, resolved.network, sandbox)
            plan = ready(resolved.plan, rootfs=rootfs, net=sandbox.plan_network)
            plan = replace(plan, mounts=(*plan.mounts, *mounts))
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._running[id_] = ended
            stack.callback(self._running.pop, id_)
            output(0, id_.encode())
            reading = await self._attach(id_, output, stack)
            starting = asyncio.ensure_future(self._keeper.start(plan, _started))
            code = await self._end(id_, starting, ended)
            await reading
        if code:
            raise StepFailed(step.arguments, code)

    async def _end(self, id_: str, starting: "asyncio.Future[Any]", ended: "asyncio.Future[int]") -> int:
        """Its exit code. Cancelled in the middle of its start, it is ended when it has started."""
        try:
            await asyncio.shield(starting)
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            await asyncio.wait((starting,))
            if starting.exception() is not None:
                raise
            with suppress(NotFound, Unavailable):
                await asyncio.shield(asyncio.ensure_future(self._keeper.signal(id_, 9)))
            with suppress(Unavailable):
                await asyncio.shield(ended)
            raise

    def _make_directory(self, id_: str, stack: AsyncExitStack) -> str:
        path = f"{self._directory}/{id_}"
        try:
            os.makedirs(path, 0o700)
        except OSError as exc:
            raise System(f"mkdir {exc.filename}: {(exc.strerror or '').lower()}") from exc
        stack.callback(self._remove_tree, path)
        return path

    # ---- the plan ---------------------------------------------------------------------------------

    def _resolve(
        self,
        id_: str,
        directory: str,
        rootfs: Overlay,
        step: graph.Run,
        proxy: Sequence[str],
        limits: Limits,
    ) -> Resolved:
        insecure = step.security == "insecure"
        request = ContainerCreateRequest(
            cmd=list(step.arguments),
            env=[*step.environment, *proxy],
            working_dir=step.directory,
            user=step.user,
            hostname="buildkitsandbox",
            host_config=HostConfig(
                network_mode=NETWORKS.get(step.network, limits.network_mode),
                auto_remove=True,
                privileged=insecure,
                extra_hosts=list(limits.extra_hosts),
                shm_size=limits.shm_size,
                ulimits=list(limits.ulimits) or None,
                cgroup_parent=limits.cgroup_parent,
                memory=limits.memory,
                memory_swap=limits.memory_swap,
                cpu_shares=limits.cpu_shares,
                cpu_period=limits.cpu_period,
                cpu_quota=limits.cpu_quota,
                cpuset_cpus=limits.cpuset_cpus,
                cpuset_mems=limits.cpuset_mems,
            ),
        )
        resolved = resolve(request, self._context(id_, directory, rootfs))
        stdio = replace(resolved.plan.stdio, log=None)
        return replace(resolved, plan=replace(resolved.plan, stdio=stdio))

    def _context(self, id_: str, directory: str, rootfs: Overlay) -> Context:
        return Context(
            id=id_,
            directory=directory,
            config=self._config,
            host=self._host,
            image=ImageConfig(),
            read=lambda paths: self._read(rootfs.lower, tuple(paths)),
            peer=_no_peer,
            volume_path=_no_volume,
            endpoint_faults=lambda _: (),
            find_image=_no_image,
            seccomp=self._seccomp,
        )

    # ---- output -----------------------------------------------------------------------------------

    async def _attach(self, id_: str, output: Output, stack: AsyncExitStack) -> "asyncio.Task[None]":
        """Have the keeper send the output of the process to come; the task ends with it."""
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        ours.setblocking(False)
        with theirs:
            wish = Attach(seq=0, id=id_, stdout=True, stderr=True, multiplexed=True)
            stack.callback(self._keeper.forget, id_)
            await self._keeper.attach(theirs.fileno(), wish)
        reading = asyncio.ensure_future(_read_frames(ours, output))
        stack.callback(reading.cancel)
        return reading


async def _read_frames(source: socket.socket, output: Output) -> None:
    """Docker's multiplexed stream to calls, to its end."""
    loop = asyncio.get_running_loop()
    pending = bytearray()
    while chunk := await loop.sock_recv(source, 1 << 16):
        pending += chunk
        while len(pending) >= _HEAD:
            end = _HEAD + int.from_bytes(pending[4:_HEAD], "big")
            if len(pending) < end:
                break
            output(pending[0], bytes(pending[_HEAD:end]))
            del pending[:end]


def _started(started: Started) -> None:
    """Nothing waits for it."""


def _no_peer(ref: str) -> Peer:
    raise NotFound(f"No such container: {ref}")


def _no_image(ref: str) -> Any:
    raise NotFound(f"No such image: {ref}")


def _no_volume(name: str) -> Any:
    raise NotFound(f"No such volume: {name}")

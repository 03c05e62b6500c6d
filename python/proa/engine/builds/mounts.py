"""`RUN --mount`: what each kind of mount of a step is on this host, and who else may use it meanwhile.

    bind      what counts of a context, or a stage's layers: read-only, or written into an upper that goes
    cache     a directory of cache_mounts.py
    tmpfs     a tmpfs
    secret    a file of the exec root that is gone with the step, or a variable
    ssh       the client's agent's socket

Sources are resolved beneath their root by the native core, where they are mounted.

Source: the Dockerfile reference, "RUN --mount"; security.md, build mounts.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from msgspec import Struct

from proa.build import graph
from proa.build.dockerfile.mounts import MountType
from proa.build.ports import Mounted
from proa.engine.builds.cache_mounts import CacheDirectories, Seed, cache_name
from proa.errors import InvalidParameter, System
from proa.schema.plan import Bind, Layers, Mount, Tmpfs


class Prepared(Struct, frozen=True):
    """Mounts for the plan, and variables for the command."""

    mounts: tuple[Mount, ...]
    environment: tuple[str, ...]


class StepMounts:
    """The mounts of one build's steps."""

    def __init__(
        self,
        *,
        caches: CacheDirectories,
        files: Callable[[str, str], Awaitable[str]],
        seed: Seed,
        secrets: dict[str, bytes],
        agents: dict[str, str],
        scratch: Path,
        remove_tree: Callable[[str], None],
    ) -> None:
        """`files` has what counts of a context's path in a directory, at that path; `scratch`, on the host
        and closed to others, holds a directory for each step that needs one.
        """
        self._caches = caches
        self._files = files
        self._seed = seed
        self._secrets = secrets
        self._agents = agents
        self._scratch = scratch
        self._remove_tree = remove_tree

    @asynccontextmanager
    async def of(self, step: graph.Run, mounted: Sequence[Mounted]) -> AsyncIterator[Prepared]:
        """Everything that a step mounts, while it runs. Raises InvalidParameter, NotFound, System."""
        async with AsyncExitStack() as stack:
            scratch = _Scratch(self._scratch, self._remove_tree, stack)
            mounts: list[Mount] = []
            environment: list[str] = []
            caches = [each for each in mounted if each.mount.type is MountType.CACHE]
            directories = await self._caches.use(caches, self._seed, stack)
            for each in mounted:
                await self._add(each, scratch, directories, mounts, environment)
            if step.script is not None:
                name, text = step.script
                path = scratch.file(name, text.encode(), 0o755, 0, 0)
                mounts.append(Bind(source=path, target=f"/dev/pipes/{name}", readonly=True, recursive=False))
            yield Prepared(tuple(mounts), tuple(environment))

    async def _add(
        self,
        each: Mounted,
        scratch: "_Scratch",
        caches: Mapping[str, str],
        mounts: list[Mount],
        environment: list[str],
    ) -> None:
        mount = each.mount
        match mount.type:
            case MountType.BIND:
                mounts.append(await self._bind(each, scratch))
            case MountType.CACHE:
                directory = caches[cache_name(each)]
                mounts.append(Bind(source=directory, target=mount.target, readonly=mount.read_only))
            case MountType.TMPFS:
                options = (f"size={mount.size}",) if mount.size else ()
                mounts.append(Tmpfs(target=mount.target, options=options, noexec=False, nodev=False))
            case MountType.SECRET:
                self._secret(mount, scratch, mounts, environment)
            case MountType.SSH:
                self._agent(mount, mounts, environment)

    async def _bind(self, each: Mounted, scratch: "_Scratch") -> Mount:
        mount = each.mount
        lower = each.lower
        if mount.input is None:
            lower = (await self._files(mount.context or "", mount.source),)
        upper, work = (None, None) if mount.read_only else scratch.overlay()
        return Layers(
            lower=lower,
            target=mount.target,
            subpath=mount.source,
            readonly=mount.read_only,
            upper=upper,
            work=work,
        )

    def _secret(
        self, mount: graph.StepMount, scratch: "_Scratch", mounts: list[Mount], environment: list[str]
    ) -> None:
        value = self._secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise InvalidParameter(f"secret {mount.id}: not found")
            return
        if mount.env is not None:
            environment.append(f"{mount.env or mount.id}={value.decode('utf-8', 'surrogateescape')}")
            return
        mode = 0o400 if mount.mode is None else mount.mode
        path = scratch.file(secrets.token_hex(8), value, mode, mount.uid or 0, mount.gid or 0)
        mounts.append(Bind(source=path, target=mount.target, readonly=True, recursive=False))

    def _agent(self, mount: graph.StepMount, mounts: list[Mount], environment: list[str]) -> None:
        number = sum(name.startswith("SSH_AUTH_SOCK=") for name in environment)
        target = mount.target or f"/run/buildkit/ssh_agent.{number}"
        environment.append(f"SSH_AUTH_SOCK={target}")
        if socket := self._agents.get(mount.id):
            mounts.append(Bind(source=socket, target=target, recursive=False))
        elif mount.required:
            raise InvalidParameter(f"unset ssh forward key {mount.id}")


class _Scratch:
    """Files of one step, made when the first is wanted and removed with the stack."""

    def __init__(self, root: Path, remove_tree: Callable[[str], None], stack: AsyncExitStack) -> None:
        self._path = f"{root}/{secrets.token_hex(8)}"
        self._remove_tree = remove_tree
        self._stack = stack
        self._made = False

    def file(self, name: str, data: bytes, mode: int, uid: int, gid: int) -> str:
        """A file of its own."""
        path = f"{self._directory()}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
        except OSError as exc:
            raise System(f"{path}: {(exc.strerror or '').lower()}") from exc
        return path

    def overlay(self) -> tuple[str, str]:
        """(upper, work) directories of an overlay."""
        directory = f"{self._directory()}/{secrets.token_hex(8)}"
        try:
            os.makedirs(f"{directory}/fs", 0o755)
            os.mkdir(f"{directory}/work", 0o700)
        except OSError as exc:
            raise System(f"{exc.filename}: {(exc.strerror or '').lower()}") from exc
        return f"{directory}/fs", f"{directory}/work"

    def _directory(self) -> str:
        if not self._made:
            try:
                os.makedirs(self._path, 0o700)
            except OSError as exc:
                raise System(f"{exc.filename}: {(exc.strerror or '').lower()}") from exc
            self._made = True
            self._stack.callback(self._remove_tree, self._path)
        return self._path

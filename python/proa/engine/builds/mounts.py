"""`RUN --mount`: what each kind of mount of a step is on this host, and who else may use it meanwhile.

    bind      what counts of a context, or a stage's layers: read-only, or written into an upper that goes
    cache     a directory of <data_root>/builds/caches, by id; `locked` waits, `private` takes another
    tmpfs     a tmpfs
    secret    a file of the exec root that is gone with the step, or a variable
    ssh       the client's agent's socket

Sources are resolved beneath their root by the native core, where they are mounted.

Source: the Dockerfile reference, "RUN --mount"; security.md, build mounts.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path

import proa_native
from msgspec import Struct

from proa.build import graph
from proa.build.dockerfile.mounts import MountType
from proa.build.ports import Mounted
from proa.errors import InvalidParameter, System
from proa.schema.plan import Bind, Layers, Mount, Tmpfs


class Prepared(Struct, frozen=True):
    """Mounts for the plan, and variables for the command."""

    mounts: tuple[Mount, ...]
    environment: tuple[str, ...]


Seed = Callable[[Sequence[str], str, str], Awaitable[None]]
"""Fills a directory with what layers (top first) have at a path."""


class CacheDirectories:
    """The directories of cache mounts. One for the daemon."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: dict[str, int] = {}
        self._seeding = asyncio.Lock()

    @asynccontextmanager
    async def use(self, each: Mounted, seed: Seed) -> AsyncIterator[str]:
        """A directory for one step, as its sharing says; a new one of an image begins with its files."""
        mount = each.mount
        # What begins with other files is another cache.
        identity = "\0".join((mount.id, *each.lower[:1], mount.source if each.lower else ""))
        name = sha256(identity.rstrip("\0").encode()).hexdigest()[:32]
        if mount.sharing == "locked":
            async with self._locks.setdefault(name, asyncio.Lock()), self._counted(name):
                yield await self._ready(name, each, seed)
            return
        number = 0
        chosen = name
        while mount.sharing == "private" and self._used.get(chosen):
            number += 1
            chosen = f"{name}-{number}"
        async with self._counted(chosen):
            yield await self._ready(chosen, each, seed)

    @asynccontextmanager
    async def _counted(self, name: str) -> AsyncIterator[None]:
        self._used[name] = self._used.get(name, 0) + 1
        try:
            yield
        finally:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]

    async def _ready(self, name: str, each: Mounted, seed: Seed) -> str:
        path = f"{self._root}/{name}"
        async with self._seeding:
            if not _is_there(path):
                await self._make(path, each, seed)
        return path

    async def _make(self, path: str, each: Mounted, seed: Seed) -> None:
        mount, draft = each.mount, f"{path}.new"
        try:
            proa_native.remove_tree(draft)  # of a daemon that was killed
            os.makedirs(draft, 0o700)
            if each.lower:
                await seed(each.lower, mount.source, draft)
            os.chmod(draft, 0o755 if mount.mode is None else mount.mode)
            os.chown(draft, mount.uid or 0, mount.gid or 0)
            os.rename(draft, path)
        except OSError as exc:
            raise System(f"cache mount {mount.id}: {(exc.strerror or '').lower()}") from exc
        finally:
            proa_native.remove_tree(draft)

    def all(self) -> list[tuple[str, bool]]:
        """(directory, in use) of every one."""
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        return [(f"{self._root}/{name}", name in self._used) for name in names]


def _is_there(path: str) -> bool:
    return os.path.isdir(path)


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
            for each in mounted:
                await self._add(each, scratch, stack, mounts, environment)
            if step.script is not None:
                name, text = step.script
                path = scratch.file(name, text.encode(), 0o755, 0, 0)
                mounts.append(Bind(source=path, target=f"/dev/pipes/{name}", readonly=True, recursive=False))
            yield Prepared(tuple(mounts), tuple(environment))

    async def _add(
        self,
        each: Mounted,
        scratch: "_Scratch",
        stack: AsyncExitStack,
        mounts: list[Mount],
        environment: list[str],
    ) -> None:
        mount = each.mount
        match mount.type:
            case MountType.BIND:
                mounts.append(await self._bind(each, scratch))
            case MountType.CACHE:
                directory = await stack.enter_async_context(self._caches.use(each, self._seed))
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

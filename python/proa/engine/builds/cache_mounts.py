"""The directories of cache mounts, and who may use one while others do.

A cache has a directory by its id, <data_root>/builds/caches/<name>, and further ones, <name>-1 and so on,
where several want one for themselves:

    locked    the first directory, once nobody has it
    private   the first directory that nobody has
    shared    the first directory that nobody has for itself

A step takes its caches in the order of their names, so that two steps never wait for each other, and each
once, however often it mounts it.

Source: the Dockerfile reference, "RUN --mount=type=cache".
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import proa_native

from proa.build.calls import to_its_end
from proa.build.ports import Mounted
from proa.errors import System

Seed = Callable[[Sequence[str], str, str], Awaitable[None]]
"""Fills a directory with what layers (top first) have at a path."""

_DRAFT, _DOOMED = ".new", ".pruned"
"""How the names of what is no cache yet, or no more, end; a cache's has no dot. A start removes them."""


class Holds:
    """Who has which directory: several together, or one alone."""

    def __init__(self) -> None:
        self._together: dict[str, int] = {}
        self._alone: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def held(self, name: str) -> bool:
        """Whether anybody has it."""
        return name in self._together or name in self._alone

    @asynccontextmanager
    async def take(self, name: str, sharing: str) -> AsyncIterator[str]:
        """The directory for one more user; who waits is served in the order of asking."""
        if sharing == "locked":
            await self._wait(name)
            chosen = name
        elif sharing == "private":
            chosen = self._first(name, self.held)
        else:
            chosen = self._first(name, self._alone.__contains__)
        with self._hold(chosen, alone=sharing != "shared"):
            yield chosen

    @contextmanager
    def _hold(self, name: str, *, alone: bool) -> Iterator[None]:
        if alone:
            self._alone.add(name)
        else:
            self._together[name] = self._together.get(name, 0) + 1
        try:
            yield
        finally:
            if alone:
                self._alone.remove(name)
            elif self._together[name] > 1:
                self._together[name] -= 1
            else:
                del self._together[name]
            self._wake(name)

    async def _wait(self, name: str) -> None:
        while self.held(name):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue = self._waiting.setdefault(name, [])
            queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in queue:
                    queue.remove(turn)
                else:  # It was this one's turn: the next one's then.
                    self._wake(name)
                raise

    def _wake(self, name: str) -> None:
        """Let the one that has waited longest look again."""
        queue = self._waiting.get(name, [])
        if not self.held(name) and queue:
            turn = queue.pop(0)
            if not turn.done():
                turn.set_result(None)
        if not queue:
            self._waiting.pop(name, None)

    @staticmethod
    def _first(name: str, taken: Callable[[str], bool]) -> str:
        chosen, number = name, 0
        while taken(chosen):
            number += 1
            chosen = f"{name}-{number}"
        return chosen


class CacheDirectories:
    """The directories of cache mounts. One for the daemon."""

    def __init__(self, root: Path, executor: Executor | None) -> None:
        self._root = root
        self._executor = executor
        self._holds = Holds()
        self._seeding = asyncio.Lock()

    async def use(self, mounts: Sequence[Mounted], seed: Seed, stack: AsyncExitStack) -> dict[str, str]:
        """The directories of one step's cache mounts, by `cache_name`, until the stack ends.

        A new one of an image begins with its files. Raises System.
        """
        wanted: dict[str, Mounted] = {}
        for each in mounts:
            wanted.setdefault(cache_name(each), each)
        found = {}
        for name, each in sorted(wanted.items()):
            chosen = await stack.enter_async_context(self._holds.take(name, each.mount.sharing))
            found[name] = await self._ready(chosen, each, seed)
        return found

    async def _ready(self, name: str, each: Mounted, seed: Seed) -> str:
        path = f"{self._root}/{name}"
        async with self._seeding:
            if not _is_there(path):
                await self._make(path, each, seed)
        return path

    async def _make(self, path: str, each: Mounted, seed: Seed) -> None:
        mount, draft = each.mount, _beside(path, _DRAFT)
        try:
            os.makedirs(draft, 0o700)
            if each.lower:
                await seed(each.lower, mount.source, draft)
            os.chmod(draft, 0o755 if mount.mode is None else mount.mode)
            os.chown(draft, mount.uid or 0, mount.gid or 0)
            os.rename(draft, path)
        except OSError as exc:
            raise System(f"cache mount {mount.id}: {(exc.strerror or '').lower()}") from exc
        finally:
            loop = asyncio.get_running_loop()
            with suppress(OSError):
                await to_its_end(loop.run_in_executor(self._executor, proa_native.remove_tree, draft))

    def all(self) -> list[tuple[str, bool]]:
        """(directory, in use) of every one; not what is none yet, or no more."""
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        return [(f"{self._root}/{name}", self._holds.held(name)) for name in names if "." not in name]

    def doom(self, path: str) -> str | None:
        """Take one away from steps to come: where it is now, for its removal; None where one has it."""
        if self._holds.held(os.path.basename(path)):
            return None
        doomed = _beside(path, _DOOMED)
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise System(f"cache mount: {(exc.strerror or '').lower()}") from exc
        return doomed


def cache_name(each: Mounted) -> str:
    """What a cache's directory is called: what begins with other files is another cache."""
    mount = each.mount
    identity = "\0".join((mount.id, *each.lower[:1], mount.source if each.lower else ""))
    return sha256(identity.rstrip("\0").encode()).hexdigest()[:32]


def _beside(path: str, ending: str) -> str:
    """A name that nothing else has: of a draft, or of what goes while another is made in its place."""
    return f"{path}.{token_hex(4)}{ending}"


def _is_there(path: str) -> bool:
    return os.path.isdir(path)

"""The contexts of one build: each a directory of this host, however it came here, and what is ignored of it.

    a local directory    as it lies; nothing is copied
    a tar                unpacked by the native core into scratch
    git                  fetched into scratch (git.py)
    http(s)              a tar, or a Dockerfile alone: its first bytes tell

The empty name is the main one. What lies in scratch goes with the build.

Source: docker build's reference, "Build context".
"""

import asyncio
import os
import posixpath
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import proa_native

from proa.build.archives import is_archive
from proa.build.git import fetch_git
from proa.build.ports import Web
from proa.build.words import is_git
from proa.errors import InvalidParameter, NotFound, System
from proa.feeding import supply
from proa.ignore import read_ignore_file

_T = TypeVar("_T")

_HEAD: Final = 512
_LIMIT: Final = 1 << 20
"""Bytes of a Dockerfile or an ignore file."""


class Context:
    """One directory, and the patterns of what is ignored of it."""

    def __init__(self, root: str, ignore: Sequence[str], size: int = 0) -> None:
        """`size` is that of the file that says what is ignored, in bytes."""
        self.root = root
        self.ignore = tuple(ignore)
        self.size = size


class Contexts:
    """The contexts of one build; an async context manager around their scratch directory."""

    def __init__(
        self, scratch: Path, executor: Executor | None, receiving: Executor | None, web: Web
    ) -> None:
        """A directory of its own is made below `scratch`; `receiving` is for calls that wait for clients."""
        self.web = web
        self.agent = ""
        """The socket of the build's own ssh agent, for git."""
        self._scratch = scratch / secrets.token_hex(8)
        self._executor = executor
        self._receiving = receiving
        self._contexts: dict[str, Context] = {}
        self._holders = 0
        self._removing: asyncio.Future[Any] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._kept = AsyncExitStack()
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            self._scratch.mkdir(mode=0o700, parents=True)
        except OSError as exc:
            raise System(f"mkdir {self._scratch}: {(exc.strerror or '').lower()}") from exc
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if not self._holders:
            with suppress(OSError):
                await asyncio.shield(asyncio.ensure_future(self._remove()))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Everything stays while this lasts; what had to stay past the build's end goes with the last."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self._closed and not self._holders:
                self._removing = asyncio.ensure_future(self._remove())
                self._removing.add_done_callback(
                    lambda removing: removing.cancelled() or removing.exception()
                )

    def task(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Work of several steps at once, which no single one's end ends: it goes with the contexts."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    def keep(self, what: AsyncExitStack) -> None:
        """Something that these contexts stand on: it is let go of when they are."""
        self._kept = what

    async def _remove(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kept.aclose()
        await self._run(proa_native.remove_tree, str(self._scratch))

    # ---- where contexts come from -------------------------------------------------------------------

    def add_directory(self, name: str, path: str, ignore: Sequence[str] | None = None) -> None:
        """A directory as it lies; without `ignore`, its .dockerignore says. Raises InvalidParameter."""
        if not os.path.isdir(path):
            raise InvalidParameter(f"unable to prepare context: path {path!r} not found")
        text = None
        if ignore is None:
            text = _read_beneath(path, ".dockerignore")
            ignore = read_ignore_file(text) if text is not None else ()
        self._contexts[name] = Context(path, ignore, len((text or "").encode()))

    async def add_tar(self, name: str, body: AsyncIterator[bytes]) -> None:
        """A tar, compressed or not. Raises InvalidParameter for a malformed one."""
        target = self.scratch()
        await self._unpack(body, target)
        self.add_directory(name, target)

    async def add_remote(self, name: str, url: str) -> None:
        """A git repository, or what an http(s) URL leads to. Raises InvalidParameter, NotFound."""
        if is_git(url):
            target = self.scratch()
            self.add_directory(name, await self.fetch_git(url, target))
        elif url.startswith(("http://", "https://")):
            await self._add_url(name, url)
        else:
            raise InvalidParameter(f"unable to prepare context: unsupported URL {url!r}")

    async def fetch_git(self, url: str, target: str, *, commit: str = "", keep_git_dir: bool = False) -> str:
        """git.fetch_git with what is this build's."""
        return await fetch_git(
            url,
            target,
            executor=self._executor,
            agent=self.agent,
            commit=commit,
            keep_git_dir=keep_git_dir,
        )

    async def _add_url(self, name: str, url: str) -> None:
        async with self.web.open_url(url) as remote:
            start = b""
            while len(start) < _HEAD and (chunk := await anext(remote.chunks, b"")):
                start += chunk
            whole = _after(start, remote.chunks)
            # What a server calls its type is of no use: most call a Dockerfile octets.
            if is_archive(start):
                await self.add_tar(name, whole)
                return
            text = b"".join([chunk async for chunk in _limited(whole, _LIMIT)])
            target = self.scratch()
            await self._run(_write, f"{target}/Dockerfile", text)
            self.add_directory(name, target)

    async def remote_dockerfile(self, url: str) -> tuple[str, str]:
        """(text, name) of a Dockerfile that lies elsewhere. Raises InvalidParameter, Unavailable."""
        async with self.web.open_url(url) as remote:
            text = b"".join([chunk async for chunk in _limited(remote.chunks, _LIMIT)])
        return text.decode("utf-8", "replace"), posixpath.basename(urlsplit(url).path) or "Dockerfile"

    def scratch(self) -> str:
        """A new directory that goes with the build."""
        target = self._scratch / secrets.token_hex(4)
        target.mkdir(mode=0o755)
        return str(target)

    # ---- what is in them ------------------------------------------------------------------------------

    def root(self, name: str) -> str:
        """The directory of a context. Raises NotFound."""
        return self.find(name).root

    @property
    def ignored_bytes(self) -> int:
        """Of the main context's ignore file."""
        main = self._contexts.get("")
        return main.size if main else 0

    def find(self, name: str) -> Context:
        """Raises NotFound."""
        context = self._contexts.get(name)
        if context is None:
            raise NotFound(f"build context {name!r} not found" if name else "there is no build context")
        return context

    def dockerfile(self, path: str) -> tuple[str, str]:
        """(text, name) of the Dockerfile; its own ignore file, if there is one, counts from now on.

        A relative path is one of the main context, and stays beneath it; an absolute one is of this host.
        Raises InvalidParameter in Docker's words.
        """
        if path.startswith("/"):
            root, relative = os.path.split(path)
        else:
            root, relative = self.root(""), os.path.normpath(path)
        if relative.startswith("../"):
            raise InvalidParameter(f"the Dockerfile ({path}) must be within the build context")
        text = _read_beneath(root, relative)
        if text is None and path == "Dockerfile":
            text = _read_beneath(root, "dockerfile")
        if text is None:
            raise InvalidParameter(f"failed to read dockerfile: open {path}: no such file or directory")
        ignore = _read_beneath(root, f"{relative}.dockerignore")
        main = self._contexts.get("")
        if ignore is not None and main is not None:
            self._contexts[""] = Context(main.root, read_ignore_file(ignore), len(ignore.encode()))
        return text, os.path.basename(path)

    # ---- inside -----------------------------------------------------------------------------------

    async def _unpack(self, body: AsyncIterator[bytes], target: str) -> None:
        """Supply a body to the native core."""

        def start(call: Callable[..., None], source: proa_native.ByteFeed) -> "asyncio.Future[None]":
            return asyncio.get_running_loop().run_in_executor(self._receiving, call, source)

        await supply(body, lambda source: _unpack_into(source, target), start, self._run)

    def _run(self, call: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


async def _after(start: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in body:
        yield chunk


async def _limited(body: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    count = 0
    async for chunk in body:
        count += len(chunk)
        if count > limit:
            raise InvalidParameter("the remote Dockerfile is too large")
        yield chunk


def _unpack_into(source: proa_native.ByteFeed, target: str) -> None:
    try:
        proa_native.unpack_layer(source, target, overlay=False)
    except ValueError as exc:
        raise InvalidParameter(f"Error processing tar file: {exc}") from exc
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


def _read_beneath(root: str, path: str) -> str | None:
    """A file of a tree, symlinks resolved inside it; None where there is none. Raises InvalidParameter."""
    try:
        (data,) = proa_native.read_in_layers([root], [path], limit=_LIMIT)
    except OSError as exc:
        raise InvalidParameter(f"failed to read {path}: {(exc.strerror or '').lower()}") from exc
    return None if data is None else data.decode("utf-8", "replace")


def _write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)

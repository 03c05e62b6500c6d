"""COPY, ADD and WORKDIR, on the native core's trees and copies: half of proa.build.ports.Work.

A context is looked at once a build, whatever many steps take from it; a file that is as it was is not read.
"""

import asyncio
import os
import posixpath
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import proa_native

from proa.build import graph
from proa.build.archives import is_archive, unpack
from proa.build.calls import to_its_end
from proa.build.contexts import Context, Contexts
from proa.build.git import resolve_git
from proa.build.owners import owner_of
from proa.build.ports import Output
from proa.errors import InvalidParameter, NotFound, System
from proa.schema.plan import Overlay

_T = TypeVar("_T")

_HEAD = 512
_FETCHED_MODE = 0o600


class BuildFiles:
    """The files of one build's steps."""

    def __init__(
        self,
        contexts: Contexts,
        executor: Executor | None,
        digests: proa_native.FileDigests,
        epoch_ns: int | None,
        task: Callable[[str, str], AbstractContextManager[object]],
    ) -> None:
        """`task(name, title)` is around work that is to be shown as a step."""
        self._task = task
        self._contexts = contexts
        self._executor = executor
        self._digests = digests
        self._epoch = None if epoch_ns is None else epoch_ns // 10**9
        self._counted: dict[tuple[str, str], asyncio.Task[str]] = {}
        self._trees: dict[str, asyncio.Future[proa_native.FileTree]] = {}
        self._fetched: dict[str, asyncio.Task[tuple[Path, str, int]]] = {}
        self._commits: dict[str, asyncio.Task[str]] = {}

    # ---- identity ---------------------------------------------------------------------------------

    async def identify(self, operation: graph.Operation) -> tuple[str, ...]:
        """Digests of everything outside the graph that an operation reads. Raises NotFound."""
        match operation:
            case graph.Copy(sources=sources):
                return tuple([await self._identify(source, operation) for source in sources])
            case graph.Run(mounts=mounts):
                return tuple(
                    [
                        await self._digest(mount.context, (_literal(mount.source or "/"),))
                        for mount in mounts
                        if mount.context is not None
                    ]
                )
            case graph.ContextRoot(context=name):
                return (await self._digest(name, ("/",)),)
        return ()

    async def _identify(self, source: graph.CopySource, step: graph.Copy) -> str:
        match source:
            case graph.FromContext(context=name, paths=paths):
                return await self._digest(name, paths, step.exclude, parents=step.parents)
            case graph.FromUrl():
                _, digest, _ = await self._fetch(source)
                return digest
            case graph.FromGit():
                return await self._commit(source)
        return ""

    async def _digest(
        self, name: str, paths: Sequence[str], exclude: Sequence[str] = (), *, parents: bool = False
    ) -> str:
        tree = await self._tree(name)
        try:
            return await self._run(tree.digest, paths, exclude, parents, self._digests)
        except ValueError as exc:
            raise InvalidParameter(str(exc)) from exc
        except FileNotFoundError as exc:
            missing = str(exc).partition("lookup ")[2].partition(": ")[0]
            raise NotFound(f'failed to calculate checksum of ref: "{missing}": not found') from exc
        except OSError as exc:
            raise System(f"build context: {exc.strerror or exc}") from exc

    async def _tree(self, name: str) -> proa_native.FileTree:
        if name not in self._trees:
            context = self._contexts.find(name)
            title = f"[context {name}] load from client" if name else "[internal] load build context"
            self._trees[name] = self._contexts.task(self._load(name, title, context))
        return await asyncio.shield(self._trees[name])

    async def _load(self, name: str, title: str, context: Context) -> proa_native.FileTree:
        with self._task(f"context {name}", title):
            return await self._look(context.root, context.ignore)

    async def _look(self, root: str, ignore: Sequence[str]) -> proa_native.FileTree:
        try:
            return await self._run(proa_native.FileTree.context, root, list(ignore))
        except ValueError as exc:
            raise InvalidParameter(str(exc)) from exc
        except OSError as exc:
            raise System(f"build context: {exc.strerror or exc}") from exc

    # ---- work -------------------------------------------------------------------------------------

    async def copy(
        self, rootfs: Overlay, step: graph.Copy, inputs: Sequence[tuple[str, ...]], output: Output
    ) -> None:
        """Copy files. Raises NotFound, InvalidParameter, System."""
        owner = await self._owner(step.chown, rootfs)
        sources: list[tuple[proa_native.FileTree, list[str]]] = []
        inline: list[tuple[str, bytes, int, int]] = []
        archives: list[tuple[proa_native.FileTree, str]] = []
        now = int(time.time()) if self._epoch is None else self._epoch
        of_context = False
        for source in step.sources:
            match source:
                case graph.FromContext(context=name, paths=paths):
                    of_context = True
                    tree = await self._tree(name)
                    plain, packed = await self._sorted(tree, paths, unpack=step.unpack)
                    sources += [(tree, plain)] if plain else []
                    archives += packed
                case graph.FromInput(input=number, paths=paths):
                    sources.append((await self._layers(inputs[number]), list(paths)))
                case graph.Inline(name=name, text=text):
                    inline.append((name, text.encode("utf-8", "surrogateescape"), 0o644, now))
                case graph.FromUrl():
                    await self._add_url(source, step, rootfs, owner, inline, archives)
                case graph.FromGit():
                    root = await self._checkout(source)
                    sources.append((await self._look(root, ()), ["/"]))
        if owner is None and of_context:
            owner = (0, 0)
        if sources or inline:
            await self._copy(rootfs, step, step.target, sources, inline, owner)
        for tree, path in archives:
            await self._unpack(rootfs, step, tree, path, owner if step.chown else None)

    async def _copy(
        self,
        rootfs: Overlay,
        step: graph.Copy,
        target: str,
        sources: Sequence[tuple[proa_native.FileTree, Sequence[str]]],
        inline: Sequence[tuple[str, bytes, int, int]],
        owner: tuple[int, int] | None,
    ) -> None:
        copy = partial(
            proa_native.copy_files,
            _layer(rootfs),
            target,
            sources,
            inline=inline,
            owner=owner,
            mode=step.chmod,
            parents=step.parents,
            exclude=list(step.exclude),
            epoch=self._epoch,
        )

        def work() -> None:
            try:
                copy()
            except NotADirectoryError:
                raise InvalidParameter(f"cannot copy to non-directory: {target}") from None
            except IsADirectoryError:
                raise InvalidParameter(f"cannot replace to directory {target} with file") from None

        await self._checked(work)

    async def counted(self, name: str, source: str) -> str:
        """A directory that has what counts of one path of a context, at that path, root's; once a build.

        Raises NotFound, InvalidParameter, System.
        """
        if (name, source) not in self._counted:
            self._counted[name, source] = self._contexts.task(self._set_apart(name, source))
        return await asyncio.shield(self._counted[name, source])

    async def _set_apart(self, name: str, source: str) -> str:
        lower, upper, work = (self._contexts.scratch() for _ in range(3))
        whole = posixpath.normpath(f"/{source}").strip("/") == ""
        step = graph.Copy(sources=(), target="/", parents=not whole)
        path = "/" if whole else _literal(source)
        tree = await self._tree(name)
        rootfs = Overlay(lower=(lower,), upper=upper, work=work)
        await self._copy(rootfs, step, "/", [(tree, [path])], (), (0, 0))
        return upper

    async def seed(self, lower: Sequence[str], source: str, target: str) -> None:
        """Fill a directory with what layers have at a path. Raises NotFound, System."""
        below, work = self._contexts.scratch(), self._contexts.scratch()
        rootfs = Overlay(lower=(below,), upper=target, work=work)
        step = graph.Copy(sources=(), target="/")
        await self._copy(
            rootfs, step, "/", [(await self._layers(lower), [_literal(source or "/")])], (), None
        )

    async def make_directory(self, rootfs: Overlay, step: graph.Directory) -> None:
        """Make a directory."""
        owner = await self._owner(step.user, rootfs) or (0, 0)

        def work() -> None:
            try:
                proa_native.make_layer_directory(_layer(rootfs), step.path, owner)
            except NotADirectoryError:
                raise InvalidParameter(f"mkdir {step.path}: not a directory") from None

        await self._checked(work)

    async def fill(self, rootfs: Overlay, step: graph.ContextRoot) -> None:
        """Copy a whole context."""
        whole = graph.Copy(sources=(), target="/")
        tree = await self._tree(step.context)
        await self._copy(rootfs, whole, "/", [(tree, ["/"])], (), (0, 0))

    async def _layers(self, lower: Sequence[str]) -> proa_native.FileTree:
        def work() -> proa_native.FileTree:
            return proa_native.FileTree.layers(list(lower))

        return await self._checked(work)

    async def _owner(self, text: str, rootfs: Overlay) -> tuple[int, int] | None:
        """`user[:group]`, by name as the step's own files have it; None for nothing."""
        if not text:
            return None
        return await self._run(owner_of, text, rootfs.lower)

    # ---- ADD --------------------------------------------------------------------------------------

    async def _sorted(
        self, tree: proa_native.FileTree, paths: Sequence[str], *, unpack: bool
    ) -> tuple[list[str], list[tuple[proa_native.FileTree, str]]]:
        """(what is copied, what is unpacked)."""
        if not unpack:
            return list(paths), []
        plain: list[str] = []
        packed: list[tuple[proa_native.FileTree, str]] = []
        for path in paths:
            looked = await self._checked(partial(tree.heads, path, _HEAD))
            heads = [(os.fspath(name), head) for name, head in looked]
            found = [name for name, head in heads if is_archive(head)]
            packed += [(tree, name) for name in found]
            if not found:
                plain.append(path)
            else:
                plain += [_literal(name) for name, head in heads if not is_archive(head)]
        return plain, packed

    async def _unpack(
        self,
        rootfs: Overlay,
        step: graph.Copy,
        tree: proa_native.FileTree,
        path: str,
        owner: tuple[int, int] | None,
    ) -> None:
        """An archive's files: unpacked aside, then copied as any others. What is none is copied itself."""
        aside = self._contexts.scratch()

        def work() -> proa_native.FileTree | None:
            source = tree.open(path)
            try:
                is_one = unpack(source, aside)
            finally:
                os.close(source)
            return proa_native.FileTree.layers([aside]) if is_one else None

        unpacked = await self._checked(work)
        if unpacked is None:
            files = [(tree, [_literal(path)])]
            await self._copy(rootfs, step, step.target, files, (), owner or (0, 0))
            return
        target = step.target if step.target.endswith("/") else f"{step.target}/"
        # What is in an archive has its own modes, whatever the others get.
        step = graph.Copy(sources=(), target=target)
        await self._copy(rootfs, step, target, [(unpacked, ["/"])], (), owner)

    async def _add_url(
        self,
        source: graph.FromUrl,
        step: graph.Copy,
        rootfs: Overlay,
        owner: tuple[int, int] | None,
        inline: list[tuple[str, bytes, int, int]],
        archives: list[tuple[proa_native.FileTree, str]],
    ) -> None:
        path, _, modified = await self._fetch(source)
        os.utime(path, (modified, modified))
        if source.unpack:
            archives.append((await self._look(str(path.parent), ()), path.name))
            return
        tree = await self._look(str(path.parent), ())
        target = f"{step.target}{path.name}" if step.target.endswith("/") else step.target
        await self._copy(rootfs, step, target, [(tree, [_literal(path.name)])], (), owner or (0, 0))

    async def _fetch(self, source: graph.FromUrl) -> tuple[Path, str, int]:
        """(file, digest, seconds of Last-Modified) of a URL, once a build. Raises InvalidParameter."""
        if source.url not in self._fetched:
            self._fetched[source.url] = self._contexts.task(self._download(source.url))
        path, digest, modified = await asyncio.shield(self._fetched[source.url])
        if source.checksum and source.checksum != digest:
            raise InvalidParameter(f"digest mismatch {digest}: {source.checksum}")
        return path, digest, modified

    async def _download(self, url: str) -> tuple[Path, str, int]:
        name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
        if name in ("", ".", "..") or "\0" in name:
            name = "__unnamed__"
        path = Path(self._contexts.scratch()) / name
        hasher = sha256()
        async with self._contexts.web.open_url(url) as remote:
            with path.open("xb") as file:
                os.fchmod(file.fileno(), _FETCHED_MODE)
                async for chunk in remote.chunks:
                    hasher.update(chunk)
                    await self._run(file.write, chunk)
        modified = 0
        if remote.last_modified:
            try:
                modified = int(parsedate_to_datetime(remote.last_modified).timestamp())
            except (TypeError, ValueError):
                modified = 0
        return path, f"sha256:{hasher.hexdigest()}", modified

    async def _commit(self, source: graph.FromGit) -> str:
        if source.remote not in self._commits:
            resolving = resolve_git(source.remote, agent=self._contexts.agent)
            self._commits[source.remote] = self._contexts.task(resolving)
        commit = await asyncio.shield(self._commits[source.remote])
        if source.checksum and not commit.startswith(source.checksum):
            raise InvalidParameter(f"expected checksum to match {source.checksum}, got {commit}")
        return commit

    async def _checkout(self, source: graph.FromGit) -> str:
        target, commit = self._contexts.scratch(), await self._commit(source)
        return await self._contexts.fetch_git(
            source.remote, target, commit=commit, keep_git_dir=source.keep_git_dir
        )

    # ---- inside -----------------------------------------------------------------------------------

    async def _checked(self, work: Callable[[], _T]) -> _T:
        """A blocking call of the native core, its errors in the engine's words."""
        try:
            return await to_its_end(self._run(work))
        except ValueError as exc:
            raise InvalidParameter(str(exc)) from exc
        except FileNotFoundError as exc:
            missing = str(exc).partition("lookup ")[2].partition(": ")[0]
            raise NotFound(f'"{missing}": not found' if missing else str(exc)) from exc
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc

    def _run(self, call: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _layer(rootfs: Overlay) -> tuple[list[str], str, str]:
    return list(rootfs.lower), rootfs.upper, rootfs.work


def _literal(path: str) -> str:
    """A path as a pattern that means itself."""
    return "".join(f"\\{c}" if c in "*?[\\" else c for c in path)

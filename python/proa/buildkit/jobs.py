"""One build of a client's: its directories, secrets and credentials are fetched, then the engine builds.

Source: moby/buildkit frontend/dockerui for which directories are asked for, and what of them.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import msgspec
import proa_native
from msgspec.structs import replace

from proa.build.ports import Lent
from proa.buildkit import filesync, messages, wishes
from proa.buildkit.agents import forwarded
from proa.buildkit.arrivals import Arrivals
from proa.buildkit.content import ClientStore
from proa.buildkit.grpc import UNIMPLEMENTED, UNKNOWN, CallFailed, Calling
from proa.buildkit.layouts import Layouts
from proa.buildkit.outputs import Outputs
from proa.buildkit.sessions import Session
from proa.buildkit.status import RECEIVED, Status
from proa.errors import InvalidParameter, ProaError
from proa.ignore import read_ignore_file
from proa.schema.build import BuildCacheRecord, BuildOptions, BuildPruneReport, ProaBuild
from proa.schema.reference import parse_reference
from proa.schema.registry import Credentials


class Builds(Protocol):
    """The verbs that a build needs of the engine."""

    async def build(
        self,
        options: BuildOptions,
        body: AsyncIterator[bytes],
        credentials: Mapping[str, Credentials],
        lent: Lent | None = None,
    ) -> AsyncIterator[bytes]: ...

    async def prune(
        self, *, all: bool, keep_bytes: int, filters: Mapping[str, Sequence[str]]
    ) -> BuildPruneReport: ...

    def usage(self) -> list[BuildCacheRecord]: ...


class Place(Protocol):
    """Where a directory is kept."""

    path: Path
    size: int
    whole: bool


class Places(Protocol):
    """What was received of clients' directories, for their next builds."""

    def borrow(self, key: str, title: str) -> AbstractAsyncContextManager[Place]: ...


class Job:
    """One build of a client's, by its ref."""

    def __init__(self, asked: Any) -> None:
        """`asked` is the Control.Solve."""
        self.ref: str = asked.Ref
        self.asked = asked
        self.status = Status(self.ref)
        self.returned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The client has taken the build's result, or given it up."""
        self.told: dict[str, str] = {}
        """What its exporter says of the result."""

    def close(self) -> None:
        """Whoever follows it goes on."""
        self.status.close()
        if not self.returned.done():
            self.returned.cancel()
        elif not self.returned.cancelled():
            self.returned.exception()


class Builder:
    """Does the jobs."""

    def __init__(
        self,
        *,
        builds: Builds,
        outputs: Outputs,
        sessions: Arrivals[Session],
        places: Places,
        layouts: Layouts,
        scratch: Path,
        executor: Executor | None,
    ) -> None:
        """`scratch` is where small things of clients' are while their builds last."""
        self._builds = builds
        self._outputs = outputs
        self._sessions = sessions
        self._places = places
        self._layouts = layouts
        self._scratch = scratch
        self._executor = executor

    async def build(self, job: Job, frontend: str, options: dict[str, str], imports: Any) -> dict[str, bytes]:
        """Do it, and export the image: the result's metadata. Raises classes of proa.errors."""
        _check_wanted(frontend, options)
        exports = wishes.exports_of(job.asked)
        image = wishes.image_of(exports)
        session = await self._sessions.find(job.asked.Session)
        async with AsyncExitStack() as stack:
            scratch = await self._room(stack)
            client = _ClientSide(session, scratch, stack)
            stand = await stack.enter_async_context(AsyncExitStack())
            own = await self._receive(session, options, scratch, job, stand)
            layouts = await self._layouts.loaded(session, wishes.layouts_of(options), stack)
            own = replace(
                own, contexts={**own.contexts, **layouts}, entitlements=list(job.asked.Entitlements)
            )
            imports = [*job.asked.Cache.Imports, *imports]
            wished = wishes.options_of(options, image, own, imports, job.asked.Cache.Exports)
            await client.log_in([*options.values(), *image.names])
            stores = {
                store: ClientStore(session, store, digest)
                for store, digest in wishes.stores_of(imports, job.asked.Cache.Exports).items()
            }
            body = _uploaded(session, wishes.upload_of(options))
            await self._run(job, wished, body, client, Lent(stand, stores, client.fill))
            if wished.local.check:
                return {"result.json": job.status.lint_result(wished.dockerfile, client.text)}
            built = job.status.image
            job.told |= _told_of(built, image.names)
            if named := next((store.named for store in stores.values() if store.named), ""):
                job.told["cache.manifest"] = named
            images = {each["Platform"]: each["ID"] for each in built.get("Images") or ()}
            images = images or {"": built["ID"]}
            await self._outputs.deliver(exports, images, session, client.logins, scratch)
        return {}

    async def _run(
        self,
        job: Job,
        wished: BuildOptions,
        body: AsyncIterator[bytes],
        client: "_ClientSide",
        lent: Lent,
    ) -> None:
        """The engine's part."""
        try:
            told = await self._builds.build(wished, body, client.logins, lent)
            try:
                async for line in told:
                    for event in line.splitlines():
                        if event:
                            job.status.event(msgspec.json.decode(event))
            finally:
                await told.aclose()  # type: ignore[attr-defined]  # every stream of progress has it
        except CallFailed:
            raise
        except ProaError as exc:
            details = job.status.failure_details(UNKNOWN, str(exc), wished.dockerfile, client.text)
            raise CallFailed(UNKNOWN, str(exc), details) from exc

    # ---- the client's directories --------------------------------------------------------------------

    async def _room(self, stack: AsyncExitStack) -> Path:
        """An empty directory, for as long as the stack lasts."""
        place = self._scratch / token_hex(8)
        os.makedirs(place, 0o700)
        stack.push_async_callback(self._remove, place)
        return place

    async def _remove(self, place: Path) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await asyncio.shield(loop.run_in_executor(self._executor, proa_native.remove_tree, str(place)))

    async def _receive(
        self,
        session: Session,
        options: Mapping[str, str],
        scratch: Path,
        job: Job,
        stand: AsyncExitStack,
    ) -> ProaBuild:
        """The directories that the build needs; `stand` has what is borrowed."""
        wanted = wishes.directories_of(options)
        named = {
            name: str(await self._kept(session, directory, stand)) for name, directory in wanted.named.items()
        }
        if options.get("context") and not wanted.context:
            return ProaBuild(contexts=named)
        file, own_ignore_file = wanted.file, f"{wanted.file}.dockerignore"
        files = await self._few(session, wanted.dockerfile, scratch / "dockerfile", [file, own_ignore_file])
        text = _read(files, file)
        ignore = own_ignore = _read(files, own_ignore_file)
        if ignore is None:
            found = await self._few(session, wanted.context, scratch / "ignore", [".dockerignore"])
            ignore = _read(found, ".dockerignore")
        with _vertex(job, RECEIVED, "[internal] load build context") as tell:
            context = await self._kept(session, wanted.context, stand, read_ignore_file(ignore or ""))
            tell("transferring context")
        return ProaBuild(
            context=str(context),
            dockerfile_path="" if text is None else _written(scratch / "file", file, text, own_ignore),
            contexts=named,
        )

    async def _few(self, session: Session, name: str, place: Path, files: Sequence[str]) -> Path:
        """A few files of a directory, for the moment."""
        os.mkdir(place, 0o700)
        received = await filesync.receive(session, name, place, self._executor, follow=files)
        return received.path

    async def _kept(
        self, session: Session, name: str, stand: AsyncExitStack, exclude: Sequence[str] = ()
    ) -> Path:
        """A whole directory, kept for the next build of a client with its key; of one without, it goes."""
        key = _place_of(session.shared_key, name)
        place = await stand.enter_async_context(self._places.borrow(key, name))
        received = await filesync.receive(session, name, place.path, self._executor, exclude=exclude)
        place.size, place.whole = received.size, bool(session.shared_key)
        return received.path


def _place_of(shared_key: str, name: str) -> str:
    """The key that a directory is kept by: nobody else's, however either is called."""
    return f"{len(shared_key)} {shared_key} {name}" if shared_key else f"once {token_hex(16)}"


class _ClientSide:
    """What a Dockerfile asks its client for, once its text is known."""

    def __init__(self, session: Session, scratch: Path, stack: AsyncExitStack) -> None:
        """What is fetched lasts as long as the stack."""
        self._session = session
        self._scratch = scratch
        self._stack = stack
        self.text = ""
        self.logins: dict[str, Credentials] = {}

    async def log_in(self, texts: Sequence[str]) -> None:
        """Have the credentials of registries that are named somewhere."""
        hosts = [host for host in wishes.hosts_in(texts) if host not in self.logins]
        self.logins |= await self._session.logins(hosts)

    async def fill(self, local: ProaBuild, text: str) -> ProaBuild:
        """The same with the secrets and agents that a Dockerfile may mount."""
        if not text:
            raise InvalidParameter("the Dockerfile cannot be empty")
        self.text = text
        await self.log_in([text])
        # The default one is git's too.
        ids = dict.fromkeys(("default", *wishes.agents_in(text)))
        agents = forwarded(self._session, [*ids], self._scratch)
        return replace(
            local,
            ssh=await self._stack.enter_async_context(agents),
            secrets=await self._session.secrets(wishes.secrets_in(text)),
        )


class _vertex:
    """Work of this room's own, shown as a step."""

    def __init__(self, job: Job, number: str, title: str) -> None:
        self._job = job
        self._number = number
        job.status.event({"vertex": {"number": number, "title": title}})

    def __enter__(self) -> Callable[[str], None]:
        return lambda text: self._job.status.event({"status": {"number": self._number, "text": text}})

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        ended = {"done": True} if exc is None else {"error": str(exc)}
        self._job.status.event({"vertex": {"number": self._number, **ended}})


def _told_of(built: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """What an exporter says of an image."""
    told = {
        "containerimage.config.digest": built["ID"],
        "containerimage.digest": built.get("Digest") or built["ID"],
    }
    if names:
        tagged = [parse_reference(name).with_default_tag() for name in names]
        told["image.name"] = ",".join(name.canonical for name in tagged)
    return told


def _check_wanted(frontend: str, options: Mapping[str, str]) -> None:
    """Raises InvalidParameter, CallFailed for what is not a Dockerfile's build or check."""
    if frontend not in wishes.FRONTENDS:
        raise InvalidParameter(f"unknown frontend: {frontend}")
    request = options.get("requestid", "")
    if request not in ("", wishes.LINT):
        raise CallFailed(UNIMPLEMENTED, f"unknown request {request}")


def _read(directory: Path, name: str) -> str | None:
    """A small file of a received directory; what it links to only in there."""
    (data,) = proa_native.read_in_layers([str(directory)], [name], limit=1 << 20)
    return None if data is None else data.decode("utf-8", "replace")


def _written(place: Path, name: str, text: str, ignore: str | None) -> str:
    """The path of a Dockerfile, and an ignore file of its own, where no link of the client's leads."""
    os.mkdir(place, 0o700)
    path = place / os.path.basename(name)
    path.write_text(text)
    if ignore is not None:
        Path(f"{path}.dockerignore").write_text(ignore)
    return str(path)


async def _uploaded(session: Session, path: str) -> AsyncIterator[bytes]:
    """The context that the client has at this path; nothing where there is no path."""
    if path:
        metadata = [("urlpath", path), ("urlhost", "buildkit-session")]
        async with Calling(session.connection, "/moby.upload.v1.Upload/Pull", metadata) as calling:
            async for message in calling.messages():
                if data := messages.parsed(messages.BytesMessage, message).data:
                    yield data

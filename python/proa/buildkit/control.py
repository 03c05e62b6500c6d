"""The services on `/grpc`: builds by ref, their status, and the gateway through which buildx drives them.

    client                                              here
    Control.Solve(ref, session, exporters)              a job; waits for the gateway's Return
    Control.Status(ref)                                 what the job tells, as it comes
    LLBBridge.Ping, Solve(frontend, options)            the build itself, with the job's session
    LLBBridge.Return(result or error)                   ends the job: Control.Solve is answered

A Control.Solve that names the frontend itself (buildctl) is the whole build.

Source: moby/buildkit api/services/control, frontend/gateway/pb, client/solve.go; solver/errdefs for what a
failure carries.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import proa_native

from proa.buildkit import filesync, messages, wishes
from proa.buildkit.grpc import UNIMPLEMENTED, UNKNOWN, Call, CallFailed, Calling
from proa.buildkit.outputs import Outputs
from proa.buildkit.sessions import Session, Sessions
from proa.buildkit.status import RECEIVED, Status
from proa.errors import InvalidParameter, ProaError
from proa.ignore import read_ignore_file
from proa.schema.build import BuildCacheRecord, BuildOptions, BuildPruneReport, ProaBuild
from proa.schema.registry import Credentials

_BUILD_ID: Final = "buildkit-controlapi-buildid"
_KEPT: Final = 64
"""Jobs that are over and may still be asked about."""
_CAPABILITIES: Final = (
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "readfile",
    "return",
    "returnmap",
    "inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "proto.refarray",
    "reference.output",
    "importcaches",
    "gateway.evaluate.solve",
    "gateway.warnings",
)


class Builds(Protocol):
    """The verbs that a build needs of the engine."""

    async def build(
        self, options: BuildOptions, body: AsyncIterator[bytes], credentials: Mapping[str, Credentials]
    ) -> AsyncIterator[bytes]: ...

    async def prune(
        self, *, all: bool, keep_bytes: int, filters: Mapping[str, Sequence[str]]
    ) -> BuildPruneReport: ...

    def usage(self) -> list[BuildCacheRecord]: ...


class Job:
    """One build of a client's, by its ref."""

    def __init__(self, ref: str) -> None:
        loop = asyncio.get_running_loop()
        self.ref = ref
        self.status = Status(ref)
        self.asked: asyncio.Future[Any] = loop.create_future()
        """The Control.Solve."""
        self.returned: asyncio.Future[None] = loop.create_future()
        self.told: dict[str, str] = {}
        """What its exporter says of the result."""

    def close(self) -> None:
        """Whoever waits for it goes on."""
        self.status.close()
        for future in (self.asked, self.returned):
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()


class Control:
    """The methods, by path."""

    def __init__(
        self,
        *,
        builds: Builds,
        outputs: Outputs,
        sessions: Sessions,
        scratch: Path,
        executor: Executor | None,
        version: str,
    ) -> None:
        """`scratch` is where clients' directories are while their builds last."""
        self._builds = builds
        self._outputs = outputs
        self._sessions = sessions
        self._scratch = scratch
        self._executor = executor
        self._version = version
        self._jobs: dict[str, Job] = {}
        control, gateway = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
        self.methods: dict[str, Callable[[Call], Awaitable[None]]] = {
            f"{control}Info": self._info,
            f"{control}ListWorkers": self._workers,
            f"{control}Solve": self._solve,
            f"{control}Status": self._follow,
            f"{control}DiskUsage": self._usage,
            f"{control}Prune": self._prune,
            f"{gateway}Ping": self._ping,
            f"{gateway}Solve": self._gateway_solve,
            f"{gateway}Return": self._return,
            f"{gateway}Warn": self._nothing,
            "/grpc.health.v1.Health/Check": self._healthy,
        }

    def _job(self, ref: str) -> Job:
        job = self._jobs.get(ref)
        if job is None:
            while len(self._jobs) >= _KEPT and next(iter(self._jobs.values())).returned.done():
                del self._jobs[next(iter(self._jobs))]
            job = self._jobs[ref] = Job(ref)
        return job

    # ---- the daemon ----------------------------------------------------------------------------------

    async def _healthy(self, call: Call) -> None:
        await call.message()
        await call.send(b"\x08\x01")  # SERVING

    async def _nothing(self, call: Call) -> None:
        await call.message()
        await call.send(b"")

    async def _info(self, call: Call) -> None:
        await call.message()
        await _answer(call, messages.InfoResponse(buildkitVersion=self._build_version()))

    async def _workers(self, call: Call) -> None:
        await call.message()
        await _answer(call, messages.ListWorkersResponse(record=[self._worker()]))

    def _build_version(self) -> Any:
        return messages.BuildkitVersion(package="proa", version=f"v{self._version}")

    def _worker(self) -> Any:
        from proa.build.platforms import host_platform

        here = host_platform()
        platform = messages.Platform(OS=here.os, Architecture=here.architecture, Variant=here.variant)
        labels = {"org.mobyproject.buildkit.worker.executor": "proa"}
        return messages.WorkerRecord(
            ID="proa", Labels=labels, platforms=[platform], BuildkitVersion=self._build_version()
        )

    # ---- control -------------------------------------------------------------------------------------

    async def _solve(self, call: Call) -> None:
        asked = messages.ControlSolveRequest.FromString(await call.message())
        job = self._job(asked.Ref)
        if job.asked.done():
            raise InvalidParameter(f"job ID {asked.Ref} exists")
        job.asked.set_result(asked)
        try:
            if asked.Frontend:
                await self._build(job, asked.Frontend, dict(asked.FrontendAttrs), ())
                job.returned.set_result(None)
            elif asked.Definition.ByteSize():
                raise CallFailed(UNIMPLEMENTED, "building LLB is not supported: only Dockerfiles are")
            await job.returned
        finally:
            job.close()
        await _answer(call, messages.ControlSolveResponse(ExporterResponse=job.told))

    async def _follow(self, call: Call) -> None:
        asked = messages.StatusRequest.FromString(await call.message())
        async for told in self._job(asked.Ref).status.follow():
            await call.send(told)

    async def _usage(self, call: Call) -> None:
        await call.message()
        found = [_usage_of(record) for record in self._builds.usage()]
        await _answer(call, messages.DiskUsageResponse(record=found))

    async def _prune(self, call: Call) -> None:
        asked = messages.PruneRequest.FromString(await call.message())
        known = {record.id: record for record in self._builds.usage()}
        filters: dict[str, list[str]] = {}
        for text in filter(None, asked.filter):
            name, _, value = text.partition("==" if "==" in text else "=")
            filters.setdefault(name, []).append(value)
        if asked.keepDuration:
            filters["until"] = [f"{asked.keepDuration // 10**9}s"]
        report = await self._builds.prune(all=asked.all, keep_bytes=asked.reservedSpace, filters=filters)
        for id_ in report.caches_deleted or ():
            record = known.get(id_, BuildCacheRecord(id=id_))
            await _answer(call, _usage_of(record))

    # ---- the gateway ---------------------------------------------------------------------------------

    async def _ping(self, call: Call) -> None:
        await call.message()
        capabilities = [messages.APICap(ID=name, Enabled=True) for name in _CAPABILITIES]
        await _answer(call, messages.PongResponse(FrontendAPICaps=capabilities, Workers=[self._worker()]))

    async def _gateway_solve(self, call: Call) -> None:
        asked = messages.SolveRequest.FromString(await call.message())
        job = self._of(call)
        if asked.Definition.ByteSize() or not asked.Frontend:
            raise CallFailed(UNIMPLEMENTED, "building LLB is not supported: only Dockerfiles are")
        metadata = await self._build(job, asked.Frontend, dict(asked.FrontendOpt), asked.CacheImports)
        result = messages.Result(ref=messages.Ref(id=f"{job.ref}-result"), metadata=metadata)
        await _answer(call, messages.SolveResponse(result=result))

    async def _return(self, call: Call) -> None:
        asked = messages.ReturnRequest.FromString(await call.message())
        job = self._of(call)
        if not job.returned.done():
            if asked.error.code or asked.error.message:
                code = asked.error.code or UNKNOWN
                details = asked.error.SerializeToString()
                job.returned.set_exception(CallFailed(code, asked.error.message, details))
            else:
                job.returned.set_result(None)
        await call.send(b"")

    def _of(self, call: Call) -> Job:
        return self._job(next(iter(call.metadata(_BUILD_ID)), ""))

    # ---- the build -----------------------------------------------------------------------------------

    async def _build(
        self, job: Job, frontend: str, options: dict[str, str], imports: Any
    ) -> dict[str, bytes]:
        """Do it, and export the image: the result's metadata. Raises classes of proa.errors."""
        if frontend not in wishes.FRONTENDS:
            raise InvalidParameter(f"unknown frontend: {frontend}")
        request = options.get("requestid", "")
        if request not in ("", wishes.LINT):
            raise CallFailed(UNIMPLEMENTED, f"unknown request {request}")
        asked = await job.asked
        export = wishes.export_of(asked)
        session = await self._sessions.find(asked.Session)
        async with AsyncExitStack() as stack:
            scratch = await self._room(stack)
            own, text = await self._receive(session, options, scratch, job)
            own = msgspec.structs.replace(
                own,
                secrets=await session.secrets(wishes.secrets_in(text)),
                entitlements=list(asked.Entitlements),
            )
            wished = wishes.options_of(
                options, export, own, [*asked.Cache.Imports, *imports], asked.Cache.Exports
            )
            hosts = wishes.hosts_in([text, *options.values(), *export.names])
            logins = {host: await session.credentials(host) for host in hosts}
            known = {host: login for host, login in logins.items() if login}
            body = _uploaded(session, wishes.upload_of(options))
            await self._run(job, wished, body, known, text)
            if request == wishes.LINT:
                return {"result.json": job.status.lint_result(wished.dockerfile, text)}
            image = job.status.image
            job.told |= {
                "containerimage.config.digest": image["ID"],
                "containerimage.digest": image.get("Digest") or image["ID"],
            }
            if export.names:
                job.told["image.name"] = ",".join(image["Names"])
            await self._outputs.deliver(export, image["ID"], session, logins, scratch)
        return {}

    async def _run(
        self,
        job: Job,
        wished: BuildOptions,
        body: AsyncIterator[bytes],
        logins: Mapping[str, Credentials],
        text: str,
    ) -> None:
        try:
            told = await self._builds.build(wished, body, logins)
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
            details = job.status.failure_details(UNKNOWN, str(exc), wished.dockerfile, text)
            raise CallFailed(UNKNOWN, str(exc), details) from exc

    # ---- the client's directories --------------------------------------------------------------------

    async def _room(self, stack: AsyncExitStack) -> Path:
        """An empty directory, for as long as the stack lasts."""
        from secrets import token_hex

        place = self._scratch / token_hex(8)
        os.makedirs(place, 0o700)
        stack.push_async_callback(self._remove, place)
        return place

    async def _remove(self, place: Path) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await asyncio.shield(loop.run_in_executor(self._executor, proa_native.remove_tree, str(place)))

    async def _receive(
        self, session: Session, options: Mapping[str, str], scratch: Path, job: Job
    ) -> tuple[ProaBuild, str]:
        """The directories that the build needs, and the Dockerfile's text."""
        wanted = wishes.directories_of(options)
        if options.get("context") and not wanted.context:
            return ProaBuild(), ""
        files = await self._directory(
            session,
            wanted.dockerfile,
            scratch / "dockerfile",
            follow=[wanted.file, f"{wanted.file}.dockerignore"],
        )
        text = _read(files, wanted.file)
        ignore = _read(files, f"{wanted.file}.dockerignore")
        if ignore is None:
            found = await self._directory(
                session, wanted.context, scratch / "ignore", follow=[".dockerignore"]
            )
            ignore = _read(found, ".dockerignore")
        with _vertex(job, RECEIVED, "[internal] load build context") as tell:
            exclude = read_ignore_file(ignore or "")
            target = scratch / "context"
            context = await self._directory(session, wanted.context, target, exclude=exclude)
            tell("transferring context")
        contexts: dict[str, str] = {}
        for name, directory in wanted.named.items():
            contexts[name] = str(
                await self._directory(session, directory, scratch / f"named-{len(contexts)}")
            )
        own = ProaBuild(
            context=str(context),
            dockerfile_path=f"{files}/{wanted.file}" if text is not None else "",
            contexts=contexts,
        )
        return own, text or ""

    async def _directory(self, session: Session, name: str, target: Path, **wish: Any) -> Path:
        os.mkdir(target, 0o700)
        await filesync.receive(session, name, str(target), self._executor, **wish)
        return target


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


def _read(directory: Path, name: str) -> str | None:
    """A small file of a received directory; what it links to only in there."""
    (data,) = proa_native.read_in_layers([str(directory)], [name], limit=1 << 20)
    return None if data is None else data.decode("utf-8", "replace")


def _usage_of(record: BuildCacheRecord) -> Any:
    return messages.UsageRecord(
        ID=record.id,
        InUse=record.in_use,
        Size=record.size,
        CreatedAt=_timestamp(record.created_at),
        LastUsedAt=_timestamp(record.last_used_at or ""),
        UsageCount=record.usage_count,
        Description=record.description,
        RecordType=record.type,
        Shared=record.shared,
        Parents=record.parents or (),
    )


def _timestamp(text: str) -> Any:
    """Of RFC 3339; None where there is none."""
    if not text:
        return None
    return messages.Timestamp(seconds=int(datetime.fromisoformat(text).timestamp()))


async def _answer(call: Call, message: Any) -> None:
    await call.send(message.SerializeToString())


async def _uploaded(session: Session, path: str) -> AsyncIterator[bytes]:
    """The context that the client has at this path; nothing where there is no path."""
    if path:
        metadata = [("urlpath", path), ("urlhost", "buildkit-session")]
        async with Calling(session.connection, "/moby.upload.v1.Upload/Pull", metadata) as calling:
            async for message in calling.messages():
                if data := messages.BytesMessage.FromString(message).data:
                    yield data

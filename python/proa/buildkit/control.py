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

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from proa.build.platforms import host_platform
from proa.buildkit import messages
from proa.buildkit.arrivals import Arrivals
from proa.buildkit.grpc import UNIMPLEMENTED, UNKNOWN, Call, CallFailed
from proa.buildkit.jobs import Builder, Builds, Job
from proa.schema.build import BuildCacheRecord

_BUILD_ID: Final = "buildkit-controlapi-buildid"
_KEPT: Final = 256
"""Jobs, those among them that are over and may still be asked about."""
_CAPABILITIES: Final = (
    "solve.base",
    "solve.inlinereturn",
    "return",
    "returnmap",
    "frontend.caps",
    "gateway.solve.metadata",
    "proto.refarray",
    "importcaches",
    "gateway.evaluate.solve",
    "gateway.warnings",
)
"""Of the gateway. Files of a result, images' configurations and inputs of a frontend are LLB's."""
_ABILITIES: Final = (
    "exporter.multiple",
    "exporter.image.annotations",
    "exporter.sourcedateepoch",
    "gc.freespacefilter",
)
"""Of what is built; without `exporter.image.attestations` clients refuse what asks for any."""


class Control:
    """The methods, by path."""

    def __init__(
        self, builder: Builder, builds: Builds, version: str, gateway: Callable[[], Awaitable[str]]
    ) -> None:
        """`gateway` is what host-gateway means to containers; empty where there is no default network."""
        self._builder = builder
        self._builds = builds
        self._version = version
        self._gateway = gateway
        self._jobs: Arrivals[Job] = Arrivals("job", _KEPT)
        control, bridge = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
        self.methods: dict[str, Callable[[Call], Awaitable[None]]] = {
            f"{control}Info": self._info,
            f"{control}ListWorkers": self._workers,
            f"{control}Solve": self._solve,
            f"{control}Status": self._follow,
            f"{control}DiskUsage": self._usage,
            f"{control}Prune": self._prune,
            f"{bridge}Ping": self._ping,
            f"{bridge}Solve": self._gateway_solve,
            f"{bridge}Return": self._return,
            f"{bridge}Warn": self._nothing,
            "/grpc.health.v1.Health/Check": self._healthy,
        }

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
        await _answer(call, messages.ListWorkersResponse(record=[await self._worker()]))

    def _build_version(self) -> Any:
        return messages.BuildkitVersion(package="proa", version=f"v{self._version}")

    async def _worker(self) -> Any:
        here = host_platform()
        platform = messages.Platform(OS=here.os, Architecture=here.architecture, Variant=here.variant)
        # With a snapshotter, clients expect of the image store what containerd's can: images of several
        # platforms, caches and archives of a build.
        prefix = "org.mobyproject.buildkit.worker."
        labels = {f"{prefix}executor": "proa", f"{prefix}snapshotter": "overlayfs"}
        if gateway := await self._gateway():
            labels[f"{prefix}moby.host-gateway-ip"] = gateway
        return messages.WorkerRecord(
            ID="proa", Labels=labels, platforms=[platform], BuildkitVersion=self._build_version()
        )

    # ---- control -------------------------------------------------------------------------------------

    async def _solve(self, call: Call) -> None:
        asked = messages.parsed(messages.ControlSolveRequest, await call.message())
        if asked.SourcePolicy.ByteSize():
            raise CallFailed(UNIMPLEMENTED, "source policies are not supported")
        job = Job(asked)
        await self._jobs.add(asked.Ref, job)
        try:
            if asked.Frontend:
                await self._builder.build(job, asked.Frontend, dict(asked.FrontendAttrs), ())
                job.returned.set_result(None)
            elif asked.Definition.ByteSize() or asked.FrontendInputs:
                raise CallFailed(UNIMPLEMENTED, "building LLB is not supported: only Dockerfiles are")
            await job.returned
        finally:
            job.close()
        await _answer(call, messages.ControlSolveResponse(ExporterResponse=job.told))

    async def _follow(self, call: Call) -> None:
        asked = messages.parsed(messages.StatusRequest, await call.message())
        job = await self._jobs.find(asked.Ref)
        async with aclosing(job.status.follow()) as following:
            async for told in following:
                await call.send(told)

    async def _usage(self, call: Call) -> None:
        await call.message()
        found = [_usage_of(record) for record in self._builds.usage()]
        await _answer(call, messages.DiskUsageResponse(record=found))

    async def _prune(self, call: Call) -> None:
        asked = messages.parsed(messages.PruneRequest, await call.message())
        known = {record.id: record for record in self._builds.usage()}
        filters: dict[str, list[str]] = {}
        for text in filter(None, asked.filter):
            name, _, value = text.partition("==" if "==" in text else "=")
            filters.setdefault(name, []).append(value)
        if asked.keepDuration:
            filters["until"] = [f"{asked.keepDuration // 10**9}s"]
        if asked.minFreeSpace:
            raise CallFailed(UNIMPLEMENTED, "pruning until there is free space is not supported")
        keep_bytes = max(asked.reservedSpace, asked.maxUsedSpace)
        report = await self._builds.prune(all=asked.all, keep_bytes=keep_bytes, filters=filters)
        for id_ in report.caches_deleted or ():
            record = known.get(id_, BuildCacheRecord(id=id_))
            await _answer(call, _usage_of(record))

    # ---- the gateway ---------------------------------------------------------------------------------

    async def _ping(self, call: Call) -> None:
        await call.message()
        gateway, built = (
            [messages.APICap(ID=name, Enabled=True) for name in names]
            for names in (_CAPABILITIES, _ABILITIES)
        )
        pong = messages.PongResponse(FrontendAPICaps=gateway, LLBCaps=built, Workers=[await self._worker()])
        await _answer(call, pong)

    async def _gateway_solve(self, call: Call) -> None:
        asked = messages.parsed(messages.SolveRequest, await call.message())
        job = await self._of(call)
        if asked.Definition.ByteSize() or asked.FrontendInputs or not asked.Frontend:
            raise CallFailed(UNIMPLEMENTED, "building LLB is not supported: only Dockerfiles are")
        metadata = await self._builder.build(job, asked.Frontend, dict(asked.FrontendOpt), asked.CacheImports)
        result = messages.Result(ref=messages.Ref(id=f"{job.ref}-result"), metadata=metadata)
        await _answer(call, messages.SolveResponse(result=result))

    async def _return(self, call: Call) -> None:
        asked = messages.parsed(messages.ReturnRequest, await call.message())
        job = await self._of(call)
        if not job.returned.done():
            if asked.error.code or asked.error.message:
                code = asked.error.code or UNKNOWN
                details = asked.error.SerializeToString()
                job.returned.set_exception(CallFailed(code, asked.error.message, details))
            else:
                job.returned.set_result(None)
        await call.send(b"")

    async def _of(self, call: Call) -> Job:
        return await self._jobs.find(next(iter(call.metadata(_BUILD_ID)), ""))


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

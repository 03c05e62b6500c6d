"""The verbs of /build: build, and prune of the cache. Implements api.ports.Builds.

Puts one build together: its contexts, its plan, its steps, its image, and what its client is told.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
import proa_native
from msgspec.structs import replace

from proa.build import graph
from proa.build.cache import Cache
from proa.build.contexts import Contexts
from proa.build.dockerfile.parsing import Dockerfile, parse_dockerfile
from proa.build.dockerfile.source import DockerfileError, Location, excerpt
from proa.build.planning import BaseUnresolved, Request, plan
from proa.build.platforms import host_platform, parse_platform, shown
from proa.build.ports import Lent, StepFailed, StepNotStarted, VertexFailed
from proa.build.solver import Solution, Solver, first_failure
from proa.engine.builds.bases import BuildBases
from proa.engine.builds.caching import INLINE_ARGUMENT, Caches, wants_inline
from proa.engine.builds.checking import ARGUMENT, check
from proa.engine.builds.commands import Limits
from proa.engine.builds.images import BuiltImages, main_of
from proa.engine.builds.importing import CacheImports
from proa.engine.builds.lines import Lines, Reporter
from proa.engine.builds.outputs import ImageWish, wish_of
from proa.engine.builds.pruning import Pruner
from proa.engine.builds.reporting import Events, Send, Shifted
from proa.engine.builds.work import BuildWork, Workshop
from proa.engine.images import Images
from proa.engine.images.progress import streamed_lines
from proa.errors import InvalidParameter, ProaError
from proa.schema.build import BuildCacheRecord, BuildOptions, BuildPruneReport
from proa.schema.oci import Platform
from proa.schema.reference import Reference, parse_reference
from proa.schema.registry import Credentials

_OWN_ARGUMENTS = frozenset((ARGUMENT, INLINE_ARGUMENT, "SOURCE_DATE_EPOCH"))
"""Build arguments that speak to the builder, not to the Dockerfile."""

log = logging.getLogger(__name__)


class Builds:
    """Builds images. One for the daemon."""

    def __init__(
        self,
        *,
        images: Images,
        built: BuiltImages,
        solver: Solver,
        workshop: Workshop,
        cache: Cache,
        pruner: Pruner,
        digests: proa_native.FileDigests,
        executor: Executor | None,
        contexts: Callable[[], Contexts],
        caches: Caches,
    ) -> None:
        """`contexts` makes the contexts of one build."""
        self._images = images
        self._built = built
        self._solver = solver
        self._cache = cache
        self._pruner = pruner
        self._digests = digests
        self._executor = executor
        self._workshop = workshop
        self._contexts = contexts
        self._caches = caches

    async def build(
        self,
        options: BuildOptions,
        body: AsyncIterator[bytes],
        credentials: Mapping[str, Credentials],
        lent: Lent | None = None,
    ) -> AsyncIterator[bytes]:
        """Progress as a stream of JSON lines; the image id in an `aux` near the end.

        Raises classes of proa.errors, after some lines as well; closed early, it ends the build.
        """
        names = [_name(tag) for tag in options.tags]
        epoch = _epoch(options)

        async def work(send: Send) -> None:
            reporter = (
                Events(send, explain=options.local.explain_cache)
                if options.events
                else Lines(send, partial(self._built.id_of, created_ns=epoch), quiet=options.quiet)
            )
            await self._build(options, body, credentials, names, epoch, reporter, lent)

        return streamed_lines(work)

    async def _build(
        self,
        options: BuildOptions,
        body: AsyncIterator[bytes],
        credentials: Mapping[str, Credentials],
        names: Sequence[Reference],
        epoch: int | None,
        reporter: Reporter,
        lent: Lent | None,
    ) -> None:
        async with AsyncExitStack() as stack:
            # Nothing is collected meanwhile: a build relies on layers that it found.
            stack.enter_context(self._images.store.busy())
            contexts = await stack.enter_async_context(self._contexts())
            if lent is not None:
                contexts.keep(lent.stand.pop_all())
            contexts.agent = options.local.ssh.get("default", "")
            await _fill(contexts, options, body)
            asked = os.path.basename(options.local.dockerfile_path or options.dockerfile) or "Dockerfile"
            with reporter.task("definition", f"[internal] load build definition from {asked}") as tell:
                text, name = await _dockerfile(contexts, options)
                tell(f"transferring dockerfile: {_bytes(len(text.encode()))} done")
            if lent is not None:
                options = replace(options, local=await lent.fill(options.local, text))
                contexts.agent = options.local.ssh.get("default", "")
            stores = lent.stores if lent is not None else {}
            try:
                file = parse_dockerfile(text)
                looked = partial(self._check, file, name, text, contexts, options, reporter)
                if options.local.check:
                    looked(fatal=False)
                    return
                platforms = _platforms(options)
                wish = wish_of(options.local.output, [shown(platform) for platform in platforms])
                targets = self._caches.targets(options, credentials, stores)
                try:
                    plans = await self._plans(file, platforms, options, credentials, reporter)
                except ProaError:
                    looked(fatal=False)
                    raise
                with reporter.task("ignore", "[internal] load .dockerignore") as tell:
                    tell(f"transferring context: {_bytes(max(contexts.ignored_bytes, 2))} done")
                # The images that it stands on are here now.
                looked(fatal=True)
                imports = await self._caches.imports(options, plans, credentials, stores, reporter)
                await stack.enter_async_context(imports)
                work = self._workshop.for_build(contexts, _limits(options), options, epoch, reporter.task)
                for wanted in plans:
                    work.check(wanted)
                solutions = await self._solve(plans, work, reporter, imports, stack)
                built = await self._images_of(solutions, names, epoch, wish, options, reporter)
                await self._caches.export(targets, solutions, reporter)
            except (DockerfileError, VertexFailed) as exc:
                raise _shown(exc, name, text, reporter, classic=not options.events) from exc
        self._keep_digests()
        self._pruner.follow_rules_later()
        reporter.built(names=[each.familiar for each in names], **built)

    async def _solve(
        self,
        plans: Sequence[graph.Graph],
        work: BuildWork,
        reporter: Reporter,
        imports: CacheImports,
        stack: AsyncExitStack,
    ) -> list[Solution]:
        """Do what the plans ask for, all at once; their files stay as long as the stack."""

        async def one(wanted: graph.Graph, first: int) -> Solution:
            watcher = Shifted(reporter, first) if first else reporter
            return await stack.enter_async_context(self._solver.solve(wanted, work, watcher, imports))

        counts = [len(wanted.vertices) for wanted in plans]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(one(wanted, sum(counts[:number])))
                    for number, wanted in enumerate(plans)
                ]
        except BaseExceptionGroup as failures:
            failure = first_failure(failures)
            raise failure from failure.__cause__
        return [task.result() for task in tasks]

    async def _images_of(
        self,
        solutions: Sequence[Solution],
        names: Sequence[Reference],
        epoch: int | None,
        wish: ImageWish,
        options: BuildOptions,
        reporter: Reporter,
    ) -> dict[str, Any]:
        """Make the images, and the index of several; what the client is told of them."""
        several = len(solutions) > 1
        images = []
        with reporter.task("export", "exporting to image") as tell:
            for solution in solutions:
                record = await self._built.make(
                    solution,
                    [] if several else names,
                    options.labels,
                    epoch,
                    inline_cache=wants_inline(options),
                    wish=wish,
                )
                images.append((solution.graph.outcome.platform, record))
                tell("exporting layers done")
                tell(f"writing image {record.id} done")
                if not options.events:
                    await self._built.keep_steps(record, solution, epoch)
            for name in names:
                tell(f"naming to {name.canonical} done")
        if not several:
            digest = self._built.manifest_digest(images[0][1])
            return {"image_id": images[0][1].id, **({"Digest": digest} if digest else {})}
        digest = self._built.index(images, names, wish)
        listed = [{"Platform": shown(platform), "ID": record.id} for platform, record in images]
        return {"image_id": main_of(images).id, "Digest": digest, "Images": listed}

    def _keep_digests(self) -> None:
        """What was learnt of files, for the next process; not waited for."""
        saving = asyncio.get_running_loop().run_in_executor(self._executor, self._digests.save)
        saving.add_done_callback(_log_failure)

    async def _plans(
        self,
        file: Dockerfile,
        platforms: Sequence[Platform],
        options: BuildOptions,
        credentials: Mapping[str, Credentials],
        reporter: Reporter,
    ) -> list[graph.Graph]:
        """A plan for each platform, one after the other: the names of bases mean one image at a time."""
        local = options.local
        request = Request(
            target=options.target,
            arguments=options.arguments,
            contexts={name.lower(): value for name, value in local.contexts.items()},
            platform=platforms[0],
            build_platform=host_platform(),
            one_of_several=len(platforms) > 1,
            no_cache=options.no_cache,
            no_cache_stages=frozenset(local.no_cache_filter),
        )
        bases = BuildBases(
            self._images,
            lambda domain: credentials.get(domain),
            always_pull=options.pull,
            progress=lambda reference, line: reporter.pulling(reference, msgspec.json.decode(line)),
            task=reporter.task,
        )
        plans = [await plan(file, replace(request, platform=platform), bases) for platform in platforms]
        unused = [name for name in plans[0].unused_arguments if name not in _OWN_ARGUMENTS]
        if unused:
            reporter.warned(f"One or more build-args [{' '.join(unused)}] were not consumed")
        reporter.planned(plans)
        return plans

    def _check(
        self,
        file: Dockerfile,
        name: str,
        text: str,
        contexts: Contexts,
        options: BuildOptions,
        reporter: Reporter,
        *,
        fatal: bool,
    ) -> None:
        """The build checks; a build that only checks, or has failed, does not fail by what they find."""
        has_context = options.local.context or options.remote or options.local.dockerfile_text is None
        check(
            file,
            name,
            text,
            ignore=contexts.find("").ignore if has_context else (),
            argument=options.arguments.get(ARGUMENT, ""),
            reporter=reporter,
            fatal=fatal,
            environment=self._environment,
        )

    def _environment(self, image: str) -> list[str] | None:
        """Of an image that is here."""
        try:
            record = self._images.store.find(image)
        except InvalidParameter:
            return None
        return None if record is None else record.config.env or []

    async def prune(
        self,
        *,
        all: bool,
        filters: Mapping[str, Sequence[str]],
        keep_bytes: int = 0,
        max_used: int = 0,
        min_free: int = 0,
    ) -> BuildPruneReport:
        """Drop entries of the cache; without `all` only those whose layers no image has. See pruning.py."""
        return await self._pruner.prune(
            all=all, filters=filters, keep_bytes=keep_bytes, max_used=max_used, min_free=min_free
        )

    def usage(self) -> list[BuildCacheRecord]:
        """Every entry of the cache, for df."""
        return self._pruner.records()


def _log_failure(saving: "asyncio.Future[None]") -> None:
    if not saving.cancelled() and (failure := saving.exception()) is not None:
        log.warning("digests of files were not kept: %s", failure)


async def _fill(contexts: Contexts, options: BuildOptions, body: AsyncIterator[bytes]) -> None:
    """Every context of the build, the main one first."""
    local = options.local
    if local.context:
        contexts.add_directory("", local.context)
    elif options.remote:
        await contexts.add_remote("", options.remote)
    elif local.dockerfile_text is None:
        await contexts.add_tar("", body)
    for name, value in local.contexts.items():
        if value.startswith("docker-image://"):
            continue
        if value.startswith("/"):
            contexts.add_directory(name.lower(), value)
        else:
            await contexts.add_remote(name.lower(), value)


async def _dockerfile(contexts: Contexts, options: BuildOptions) -> tuple[str, str]:
    """(text, name) of the Dockerfile."""
    local = options.local
    if local.dockerfile_path.startswith(("http://", "https://")):
        return await contexts.remote_dockerfile(local.dockerfile_path)
    if local.dockerfile_text is not None:
        return local.dockerfile_text, options.dockerfile
    # Only proa's own client, which shares this host's files, names one outside of the context.
    return contexts.dockerfile(local.dockerfile_path or options.dockerfile.lstrip("/"))


def _name(tag: str) -> Reference:
    reference = parse_reference(tag)
    if reference.digest:
        raise InvalidParameter("invalid reference format: a build cannot be tagged with a digest")
    return reference.with_default_tag()


def _bytes(count: int) -> str:
    return (
        f"{count}B"
        if count < 1000
        else f"{count / 1000:.4g}kB"
        if count < 10**6
        else f"{count / 10**6:.4g}MB"
    )


def _platforms(options: BuildOptions) -> list[Platform]:
    """The platforms to build for, each once. Raises InvalidParameter."""
    texts = [text for text in options.platform.split(",") if text.strip()]
    found = [parse_platform(text) for text in texts] or [host_platform()]
    return list({shown(platform): platform for platform in found}.values())


def _limits(options: BuildOptions) -> Limits:
    return Limits(**{name: getattr(options, name) for name in Limits.__struct_fields__})


def _epoch(options: BuildOptions) -> int | None:
    """SOURCE_DATE_EPOCH in nanoseconds, from the client or as a build argument."""
    if options.local.source_date_epoch is not None:
        return options.local.source_date_epoch * 10**9
    text = options.arguments.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text) * 10**9


def _shown(
    error: DockerfileError | VertexFailed, name: str, text: str, reporter: Reporter, *, classic: bool
) -> ProaError:
    """The error as the client is to read it, its lines told before."""
    location: Location | None = error.location
    if location is not None:
        reporter.failed(excerpt(name, text, location), location)
    cause: BaseException | None = error
    while isinstance(cause, DockerfileError | VertexFailed | StepNotStarted):
        cause = cause.__cause__
    if classic and isinstance(cause, StepFailed):
        return StepFailedClassic(cause.command, cause.code)
    if isinstance(error, VertexFailed | BaseUnresolved) and isinstance(cause, ProaError) and classic:
        return cause
    return error


class StepFailedClassic(ProaError):
    """A failed command in the words of the classic builder."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(f"The command '{' '.join(command)}' returned a non-zero code: {code}")
        self.code = code

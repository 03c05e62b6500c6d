"""What steps do, for one build: commands by the keeper, files by the native core. Implements ports.Work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import proa_native

from proa.build import graph
from proa.build.calls import to_its_end
from proa.build.contexts import Contexts
from proa.build.files import BuildFiles
from proa.build.ports import Mounted, Output, StepFailed, StepNotStarted
from proa.build.times import clamp_times
from proa.engine.builds.cache_mounts import CacheDirectories
from proa.engine.builds.commands import Commands, Limits
from proa.engine.builds.mounts import StepMounts
from proa.engine.builds.stubs import missing_targets, remove_stubs
from proa.errors import Forbidden, ProaError
from proa.schema.build import BuildOptions
from proa.schema.plan import Overlay


class BuildWork:
    """The work of one build."""

    def __init__(
        self,
        *,
        commands: Commands,
        files: BuildFiles,
        mounts: StepMounts,
        limits: Limits,
        entitlements: frozenset[str],
        hold: Callable[[], AbstractContextManager[None]],
        clamp: Callable[[Overlay], Awaitable[None]] | None,
        reads: tuple[str, ...] = (),
    ) -> None:
        """`clamp` is done to every layer at its end; `reads` are of every step's identity."""
        self.hold = hold
        self._clamp = clamp
        self._reads = reads
        self._commands = commands
        self._files = files
        self._mounts = mounts
        self._limits = limits
        self._entitlements = entitlements

    async def run(
        self,
        rootfs: Overlay,
        step: graph.Run,
        mounts: Sequence[Mounted],
        proxy: Sequence[str],
        output: Output,
    ) -> None:
        """Run a command. Raises StepFailed, StepNotStarted, Forbidden without the entitlement it needs."""
        self._check_entitlements(step)
        async with self._mounts.of(step, mounts) as prepared:
            environment = (*proxy, *prepared.environment)
            targets = missing_targets(prepared.mounts, rootfs.lower)
            try:
                await self._commands.run(rootfs, step, prepared.mounts, environment, self._limits, output)
            except StepFailed:
                raise
            except ProaError as exc:
                raise StepNotStarted(step.arguments, exc) from exc
        remove_stubs(rootfs.upper, targets)
        await self._done(rootfs)

    async def _done(self, rootfs: Overlay) -> None:
        if self._clamp is not None:
            await self._clamp(rootfs)

    def check(self, wanted: graph.Graph) -> None:
        """What a build may not do, it may not have from the cache either. Raises Forbidden."""
        for vertex in wanted.vertices:
            if isinstance(vertex.operation, graph.Run):
                self._check_entitlements(vertex.operation)

    def _check_entitlements(self, step: graph.Run) -> None:
        """Again where the process is spawned (CVE-2024-23653)."""
        wanted = {"security.insecure"} if step.security == "insecure" else set()
        wanted |= {"network.host"} if step.network == "host" else set()
        for entitlement in sorted(wanted - self._entitlements):
            raise Forbidden(f"{entitlement} is not allowed: the build was not given --allow {entitlement}")

    async def copy(
        self, rootfs: Overlay, step: graph.Copy, inputs: Sequence[tuple[str, ...]], output: Output
    ) -> None:
        """Copy files."""
        await self._files.copy(rootfs, step, inputs, output)
        await self._done(rootfs)

    async def make_directory(self, rootfs: Overlay, step: graph.Directory) -> None:
        """Make a directory."""
        await self._files.make_directory(rootfs, step)
        await self._done(rootfs)

    async def fill(self, rootfs: Overlay, step: graph.ContextRoot) -> None:
        """Copy a whole context."""
        await self._files.fill(rootfs, step)
        await self._done(rootfs)

    async def identify(self, operation: graph.Operation) -> tuple[str, ...]:
        """Digests of what an operation reads from outside the graph."""
        return (*await self._files.identify(operation), *self._reads)


class Workshop:
    """What all builds' work is done with. One for the daemon."""

    def __init__(
        self,
        *,
        commands: Commands,
        caches: CacheDirectories,
        scratch: Path,
        digests: proa_native.FileDigests,
        remove_tree: Callable[[str], None],
        executor: Executor | None,
    ) -> None:
        """`scratch` is for secrets and the like."""
        self._commands = commands
        self._caches = caches
        self._scratch = scratch
        self._digests = digests
        self._remove_tree = remove_tree
        self._executor = executor

    def for_build(
        self,
        contexts: Contexts,
        limits: Limits,
        options: BuildOptions,
        epoch_ns: int | None,
        task: Callable[[str, str], AbstractContextManager[object]],
    ) -> BuildWork:
        """The work of one build; `epoch_ns` is SOURCE_DATE_EPOCH."""
        local = options.local
        rewriting = epoch_ns is not None and local.output.get("rewrite-timestamp") in ("true", "1")
        files = BuildFiles(contexts, self._executor, self._digests, epoch_ns, task)
        mounts = StepMounts(
            caches=self._caches,
            files=files.counted,
            seed=files.seed,
            secrets=local.secrets,
            agents=local.ssh,
            scratch=self._scratch,
            remove_tree=self._remove_tree,
        )
        return BuildWork(
            commands=self._commands,
            files=files,
            mounts=mounts,
            limits=limits,
            entitlements=frozenset(local.entitlements),
            hold=contexts.hold,
            clamp=partial(self._rewrite, epoch_ns) if epoch_ns is not None and rewriting else None,
            reads=(f"times until {epoch_ns}",) if rewriting else (),
        )

    async def _rewrite(self, epoch_ns: int, rootfs: Overlay) -> None:
        """No file of a layer is younger than the epoch."""
        loop = asyncio.get_running_loop()
        await to_its_end(loop.run_in_executor(self._executor, clamp_times, rootfs.upper, epoch_ns))

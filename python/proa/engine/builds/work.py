"""What steps do, for one build: commands by the keeper, files by the native core. Implements ports.Work."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import proa_native

from proa.build import graph
from proa.build.contexts import Contexts
from proa.build.files import BuildFiles
from proa.build.ports import Mounted, Output
from proa.engine.builds.commands import Commands, Limits
from proa.engine.builds.mounts import CacheDirectories, StepMounts
from proa.engine.builds.stubs import missing_targets, remove_stubs
from proa.errors import Forbidden
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
    ) -> None:
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
        """Run a command. Raises StepFailed, StartFailed, Forbidden without the entitlement it needs."""
        self._check_entitlements(step)
        async with self._mounts.of(step, mounts) as prepared:
            environment = (*proxy, *prepared.environment)
            targets = missing_targets(prepared.mounts, rootfs.lower)
            await self._commands.run(rootfs, step, prepared.mounts, environment, self._limits, output)
        remove_stubs(rootfs.upper, targets)

    def _check_entitlements(self, step: graph.Run) -> None:
        """Where the process is spawned, and nowhere before (CVE-2024-23653)."""
        wanted = {"security.insecure"} if step.security == "insecure" else set()
        wanted |= {"network.host"} if step.network == "host" else set()
        for entitlement in sorted(wanted - self._entitlements):
            raise Forbidden(f"{entitlement} is not allowed: the build was not given --allow {entitlement}")

    async def copy(
        self, rootfs: Overlay, step: graph.Copy, inputs: Sequence[tuple[str, ...]], output: Output
    ) -> None:
        """Copy files."""
        await self._files.copy(rootfs, step, inputs, output)

    async def make_directory(self, rootfs: Overlay, step: graph.Directory) -> None:
        """Make a directory."""
        await self._files.make_directory(rootfs, step)

    async def fill(self, rootfs: Overlay, step: graph.ContextRoot) -> None:
        """Copy a whole context."""
        await self._files.fill(rootfs, step)

    async def identify(self, operation: graph.Operation) -> tuple[str, ...]:
        """Digests of what an operation reads from outside the graph."""
        return await self._files.identify(operation)


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

    def for_build(self, contexts: Contexts, limits: Limits, options: BuildOptions) -> BuildWork:
        """The work of one build."""
        local = options.local
        epoch = local.source_date_epoch
        mounts = StepMounts(
            caches=self._caches,
            contexts=contexts,
            secrets=local.secrets,
            agents=local.ssh,
            scratch=self._scratch,
            remove_tree=self._remove_tree,
        )
        return BuildWork(
            commands=self._commands,
            files=BuildFiles(
                contexts,
                self._executor,
                self._digests,
                None if epoch is None else epoch * 10**9,
            ),
            mounts=mounts,
            limits=limits,
            entitlements=frozenset(local.entitlements),
        )

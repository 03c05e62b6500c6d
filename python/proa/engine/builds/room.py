"""Builds, put together when the first one is wanted: a daemon that never builds imports nothing of it.

What is always there: layers that the cache keeps are not collected, and what a killed daemon's builds left is
removed.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proa.engine.background import Background
from proa.engine.images import Images
from proa.engine.ports import ContainerNetworks, EventSink, KeeperClient
from proa.engine.resolve import Host
from proa.schema.config import DaemonConfig
from proa.schema.keeper import Exited

if TYPE_CHECKING:
    from proa_native import FileDigests

    from proa.build.cache import Cache
    from proa.build.contexts import Contexts
    from proa.build.solver import Solver
    from proa.engine.builds.blobs import LayerBlobs
    from proa.engine.builds.cache_mounts import CacheDirectories
    from proa.engine.builds.caching import Caches
    from proa.engine.builds.commands import Commands
    from proa.engine.builds.kept import KeptContexts
    from proa.engine.builds.pruning import Pruner
    from proa.engine.builds.verbs import Builds
    from proa.engine.builds.work import Workshop


class BuildRoom:
    """The builds of one daemon."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        host: Host,
        images: Images,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        events: EventSink,
        background: Background,
        native: Any,
        seccomp: Callable[[bytes | None, int], bytes],
        executor: Executor | None,
    ) -> None:
        """`native` is proa_native."""
        self._config = config
        self._host = host
        self._images = images
        self._keeper = keeper
        self._networks = networks
        self._events = events
        self._background = background
        self._native = native
        self._seccomp = seccomp
        self._executor = executor
        self._root = Path(config.data_root) / "builds"
        self._runtime = Path(config.exec_root) / "builds"
        self.contexts = self._root / "contexts"
        """What clients sent lies below it while their builds last."""
        self._commands: Commands | None = None
        self._kept: KeptContexts | None = None
        self._verbs: Builds | None = None
        store = images.store
        store.keep(lambda: _kept(store.database))

    def sweep(self) -> None:
        """Remove what a killed daemon's builds left; the trees go in their own time."""
        caches = self._root / "caches"
        for directory in (self._root / "steps", self._root / "kept", self.contexts, self._runtime, caches):
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                continue
            for name in names:
                if directory == caches and "." not in name:
                    continue  # a cache, and no draft of one, or one that was to go
                asyncio.get_running_loop().run_in_executor(
                    self._executor, self._native.remove_tree, f"{directory}/{name}"
                )

    @property
    def verbs(self) -> "Builds":
        """The verbs; made on first use."""
        if self._verbs is None:
            self._verbs = self._make()
        return self._verbs

    @property
    def kept(self) -> "KeptContexts":
        """Clients' directories from one build to the next; made on first use."""
        if self._kept is None:
            from proa.engine.builds.kept import KeptContexts

            self._kept = KeptContexts(self._root / "kept", self._executor)
        return self._kept

    def exited(self, exited: Exited) -> bool:
        """A process has ended; False where it was no command of a build."""
        return self._commands is not None and self._commands.exited(exited)

    def lost(self) -> None:
        """The keeper is gone, and with it every command."""
        if self._commands is not None:
            self._commands.lost()

    # ---- how they are put together ------------------------------------------------------------------

    def _make(self) -> "Builds":
        from proa.build.cache import Cache
        from proa.engine.builds.blobs import LayerBlobs
        from proa.engine.builds.cache_mounts import CacheDirectories
        from proa.engine.builds.images import BuiltImages
        from proa.engine.builds.verbs import Builds

        for directory in (self._root, self._runtime):
            directory.mkdir(mode=0o700, exist_ok=True)
        store = self._images.store
        cache = Cache(store.database)
        blobs = LayerBlobs(store, self._executor)
        directories = CacheDirectories(self._root / "caches", self._executor)
        digests = self._native.FileDigests(str(self._root / "digests"))
        return Builds(
            images=self._images,
            built=BuiltImages(store, self._events, blobs),
            solver=self._solver(cache),
            cache=cache,
            workshop=self._workshop(directories, digests),
            pruner=self._pruner(cache, directories),
            contexts=self._contexts,
            caches=self._caches(cache, blobs),
            digests=digests,
            executor=self._executor,
        )

    def _solver(self, cache: "Cache") -> "Solver":
        from proa.build.solver import Solver
        from proa.engine.builds.layers import BuildLayers

        store = self._images.store
        return Solver(
            layers=BuildLayers(store, self._executor),
            cache=cache,
            transactions=store.database,
            spawn=self._background.spawn,
        )

    def _workshop(self, caches: "CacheDirectories", digests: "FileDigests") -> "Workshop":
        from proa.engine.builds.commands import Commands
        from proa.engine.builds.work import Workshop

        self._commands = Commands(
            config=self._config,
            host=self._host,
            keeper=self._keeper,
            networks=self._networks,
            read_in_layers=self._native.read_in_layers,
            seccomp=self._seccomp,
            remove_tree=self._native.remove_tree,
            directory=self._root / "steps",
        )
        return Workshop(
            commands=self._commands,
            caches=caches,
            scratch=self._runtime,
            digests=digests,
            remove_tree=self._native.remove_tree,
            executor=self._executor,
        )

    def _pruner(self, cache: "Cache", caches: "CacheDirectories") -> "Pruner":
        from proa.engine.builds.pruning import Pruner
        from proa.schema.build_gc import gc_rules

        return Pruner(
            store=self._images.store,
            cache=cache,
            caches=caches,
            contexts=self.kept,
            collect=self._images.collect,
            executor=self._executor,
            rules=gc_rules(self._config.builder),
            spawn=self._background.spawn,
        )

    def _contexts(self) -> "Contexts":
        from proa.build.contexts import Contexts

        receiving = self._images.store.receiving
        return Contexts(self.contexts, self._executor, receiving, self._images.registry)

    def _caches(self, cache: "Cache", blobs: "LayerBlobs") -> "Caches":
        from proa.engine.builds.caching import Caches
        from proa.engine.builds.exporting import CacheExporter

        exporter = CacheExporter(self._images.store, cache, blobs, self._executor)
        return Caches(images=self._images, cache=cache, exporter=exporter, executor=self._executor)


def _kept(database: Any) -> Sequence[str]:
    return [chain for (chain,) in database.query("SELECT DISTINCT chain_id FROM build_cache")]

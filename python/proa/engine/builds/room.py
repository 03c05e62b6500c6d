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
    from proa.engine.builds.commands import Commands
    from proa.engine.builds.verbs import Builds


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
        self._commands: Commands | None = None
        self._verbs: Builds | None = None
        store = images.store
        store.keep(lambda: _kept(store.database))

    def sweep(self) -> None:
        """Remove what a killed daemon's builds left; the trees go in their own time."""
        for directory in (self._root / "steps", self._root / "contexts", self._runtime):
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                continue
            for name in names:
                asyncio.get_running_loop().run_in_executor(
                    self._executor, self._native.remove_tree, f"{directory}/{name}"
                )

    @property
    def verbs(self) -> "Builds":
        """The verbs; made on first use."""
        if self._verbs is None:
            self._verbs = self._make()
        return self._verbs

    def exited(self, exited: Exited) -> bool:
        """A process has ended; False where it was no command of a build."""
        return self._commands is not None and self._commands.exited(exited)

    def lost(self) -> None:
        """The keeper is gone, and with it every command."""
        if self._commands is not None:
            self._commands.lost()

    def _make(self) -> "Builds":
        from proa.build.cache import Cache
        from proa.build.contexts import Contexts
        from proa.build.solver import Solver
        from proa.engine.builds.blobs import LayerBlobs
        from proa.engine.builds.caching import Caches
        from proa.engine.builds.commands import Commands
        from proa.engine.builds.exporting import CacheExporter
        from proa.engine.builds.images import BuiltImages
        from proa.engine.builds.layers import BuildLayers
        from proa.engine.builds.mounts import CacheDirectories
        from proa.engine.builds.pruning import Pruner
        from proa.engine.builds.verbs import Builds
        from proa.engine.builds.work import Workshop

        store = self._images.store
        cache = Cache(store.database)
        caches = CacheDirectories(self._root / "caches")
        blobs = LayerBlobs(store, self._executor)
        for directory in (self._root, self._runtime):
            directory.mkdir(mode=0o700, exist_ok=True)
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
        digests = self._native.FileDigests(str(self._root / "digests"))
        return Builds(
            images=self._images,
            built=BuiltImages(store, self._events, blobs),
            solver=Solver(
                layers=BuildLayers(store, self._executor),
                cache=cache,
                transactions=store.database,
                spawn=self._background.spawn,
            ),
            cache=cache,
            workshop=Workshop(
                commands=self._commands,
                caches=caches,
                scratch=self._runtime,
                digests=digests,
                remove_tree=self._native.remove_tree,
                executor=self._executor,
            ),
            pruner=Pruner(
                store=store,
                cache=cache,
                caches=caches,
                collect=self._images.collect,
                executor=self._executor,
            ),
            contexts=lambda: Contexts(self._root / "contexts", self._executor, store.receiving),
            caches=Caches(
                images=self._images,
                cache=cache,
                exporter=CacheExporter(store, cache, blobs, self._executor),
                executor=self._executor,
            ),
            digests=digests,
            executor=self._executor,
        )


def _kept(database: Any) -> Sequence[str]:
    return [chain for (chain,) in database.query("SELECT DISTINCT chain_id FROM build_cache")]

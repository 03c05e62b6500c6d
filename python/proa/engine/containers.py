"""The verbs of /containers: who is meant, whether it can be, and which part of the engine does it.

Implements proa.api.ports.Containers. Every verb of several steps holds the container's lock.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from signal import SIGKILL

from msgspec.structs import replace

from proa import stdio
from proa.engine import inspection, links, listing, log_details
from proa.engine import state as states
from proa.engine import top as tops
from proa.engine.cgroups import Cgroups
from proa.engine.container import Container
from proa.engine.creation import Creation
from proa.engine.list_filter import ListFilter, PruneFilter
from proa.engine.notices import Notices
from proa.engine.ports import ContainerNetworks, ImageSource, KeeperClient, Snapshots
from proa.engine.registry import Registry
from proa.engine.removal import Removal
from proa.engine.resolve import Host, resolve_update, signal_number
from proa.engine.starting import Starting
from proa.engine.state import Status
from proa.engine.stats import Stats
from proa.engine.stopping import Stopping
from proa.engine.wait import Waiter, condition_of, settled
from proa.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    NotImplemented_,
    NotModified,
    ProaError,
    System,
)
from proa.schema.container import ContainerCreateRequest, ContainerUpdateRequest
from proa.schema.container_state import (
    ContainerCreateResponse,
    ContainerInspectResponse,
    ContainerSummary,
    ContainerTopResponse,
    ContainerUpdateResponse,
)
from proa.schema.keeper import Attach
from proa.schema.prune import ContainersPruneReport
from proa.schema.stats import ContainerStatsResponse
from proa.schema.stream import AttachOptions, LogsOptions, LogStream

Filters = Mapping[str, list[str]]
OpenLog = Callable[..., stdio.Reader]
"""proa_native.LogReader."""


class Containers:
    """The facade."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        images: ImageSource,
        snapshots: Snapshots,
        networks: ContainerNetworks,
        cgroups: Cgroups,
        creation: Creation,
        starting: Starting,
        stopping: Stopping,
        removal: Removal,
        stats: Stats,
        notices: Notices,
        host: Host,
        directory: Path,
        open_log: OpenLog,
        executor: Executor | None = None,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._images = images
        self._snapshots = snapshots
        self._networks = networks
        self._cgroups = cgroups
        self._creation = creation
        self._starting = starting
        self._stopping = stopping
        self._removal = removal
        self._stats = stats
        self._notices = notices
        self._host = host
        self._directory = directory
        self._open_log = open_log
        self._executor = executor
        self._pruning = False

    # ---- life ------------------------------------------------------------------------------------

    async def create(
        self, name: str | None, body: ContainerCreateRequest, platform: str | None
    ) -> ContainerCreateResponse:
        """Raises InvalidParameter, NotFound, Conflict; then nothing was created."""
        container = await self._creation.create(name, body, platform)
        warnings = container.record.resolved.warnings
        return ContainerCreateResponse(id=container.id, warnings=list(warnings))

    async def start(self, ref: str, detach_keys: str) -> None:
        """Raises NotModified where it runs, StartFailed."""
        container = self._registry.lookup(ref)
        _detach_keys(detach_keys)
        async with container.exclusive():
            if container.state.status in (Status.RUNNING, Status.RESTARTING):
                raise NotModified("Container already started")
            self._registry_by_hand(container)
            await self._start_or_remove(container)

    async def stop(self, ref: str, signal: str | None, timeout: int | None) -> None:
        """Raises NotModified where it does not run."""
        container = self._registry.lookup(ref)
        number = signal_number(signal) if signal else None
        async with container.exclusive():
            await self._stopping.stop(container, number, timeout)

    async def restart(self, ref: str, signal: str | None, timeout: int | None) -> None:
        """Stop it if it runs, and start it."""
        container = self._registry.lookup(ref)
        number = signal_number(signal) if signal else None
        async with container.exclusive():
            container.hold = True
            try:
                if container.state.running:
                    await self._stopping.stop(container, number, timeout)
                self._registry_by_hand(container)
                await self._start_or_remove(container)
            except System as exc:
                raise System(f"cannot restart container {ref}: {exc}") from exc
            finally:
                container.hold = False
        self._notices.tell(container, "restart")

    async def kill(self, ref: str, signal: str | None) -> None:
        """Raises Conflict where it does not run, InvalidParameter for no signal."""
        container = self._registry.lookup(ref)
        await self._stopping.kill(container, signal_number(signal) if signal else int(SIGKILL))

    async def pause(self, ref: str) -> None:
        """Raises Conflict."""
        container = self._registry.lookup(ref)
        async with container.exclusive():
            await self._stopping.pause(container)

    async def unpause(self, ref: str) -> None:
        """Raises Conflict."""
        container = self._registry.lookup(ref)
        async with container.exclusive():
            await self._stopping.unpause(container)

    async def rename(self, ref: str, name: str) -> None:
        """Raises InvalidParameter, Conflict for a name that is taken."""
        container = self._registry.lookup(ref)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        async with container.exclusive():
            old = container.record.name
            if name.removeprefix("/") == old:
                raise InvalidParameter("Renaming a container with the same name as its current name")
            try:
                self._registry.rename(container, name)
            except (InvalidParameter, Conflict) as exc:
                raise type(exc)(f"Error when allocating new name: {exc}") from exc
            await self._rename_on_networks(container)
        self._notices.tell(container, "rename", oldName=f"/{old}")

    async def wait(self, ref: str, condition: str) -> Waiter:
        """Registered when this returns."""
        wanted = condition_of(condition)
        try:
            container = self._registry.lookup(ref)
        except NotFound:
            told = None if wanted == "next-exit" else self._registry.departed.find(ref)
            if told is None:
                raise
            return settled(told)
        return container.waiters.register(wanted, container.state)

    async def remove(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None:
        """Raises Conflict where it runs and `force` is not given."""
        if link:
            return await links.unlink(ref, self._registry)
        container = self._registry.lookup(ref)
        await self._removal.remove(container, force=force, volumes=volumes)

    async def update(self, ref: str, body: ContainerUpdateRequest) -> ContainerUpdateResponse:
        """Change limits and restart policy, of a running one at once."""
        container = self._registry.lookup(ref)
        async with container.exclusive():
            if container.state.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(
                    f"Cannot update container {container.id}: "
                    'Container is marked for removal and cannot be "update".'
                )
            try:
                warnings = await self._update(container, body)
            except ProaError as exc:
                raise type(exc)(f"Cannot update container {container.id}: {exc}") from exc
        self._notices.tell(container, "update")
        return ContainerUpdateResponse(warnings=list(warnings))

    async def prune(self, filters: Filters) -> ContainersPruneReport:
        """Remove every container that does not run; space in bytes."""
        wanted = PruneFilter(filters, time.time_ns())
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            return await self._prune(wanted)
        finally:
            self._pruning = False

    # ---- reads -----------------------------------------------------------------------------------

    async def list(
        self, *, all: bool, limit: int, size: bool, filters: Filters
    ) -> Sequence[ContainerSummary]:
        """Newest first."""
        wanted = ListFilter(filters, self._registry.lookup, self._image_ids)
        found = listing.select(self._registry, wanted, all_=all, limit=limit)
        sizes = [await self._size(container) if size else None for container in found]
        return [
            listing.summary(container, self._image_name, size_)
            for container, size_ in zip(found, sizes, strict=True)
        ]

    async def inspect(self, ref: str, *, size: bool) -> ContainerInspectResponse:
        """Everything there is to say."""
        container = self._registry.lookup(ref)
        rootfs = self._snapshots.prepare(container.id, container.record.image_layers)
        sizes = await self._size(container) if size else None
        networks = listing.settings_of(container) or self._networks.stopped_settings(
            container.record.resolved.network
        )
        linked = links.shown(container, self._registry)
        return inspection.inspect(container, self._directory, rootfs, networks, linked, sizes)

    async def logs(self, ref: str, options: LogsOptions) -> LogStream:
        """Raises NotImplemented_ where there is no log to read."""
        container = self._registry.lookup(ref)
        resolved = container.record.resolved
        if resolved.plan.stdio.log is None:
            raise NotImplemented_("configured logging driver does not support reading")
        tty = resolved.config.tty
        return LogStream(tty=tty, chunks=self._log(container, options, multiplexed=not tty))

    async def top(self, ref: str, ps_args: str) -> ContainerTopResponse:
        """Raises Conflict where it does not run."""
        container = self._registry.lookup(ref)
        states.check_alive(container.id, container.state)
        pids = await self._cgroups.pids(container.record.resolved.plan.cgroup.path)
        found = await tops.top(pids, ps_args)
        self._notices.tell(container, "top")
        return found

    async def stats(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[ContainerStatsResponse]:
        """Raises InvalidParameter for a contradiction."""
        if stream and one_shot:
            raise InvalidParameter("cannot have stream=true and one-shot=true")
        return await self._stats.stream(self._registry.lookup(ref), stream=stream, one_shot=one_shot)

    # ---- streams ---------------------------------------------------------------------------------

    async def attach(self, ref: str, options: AttachOptions, connection: stdio.Connection) -> None:
        """Hand the client over to the keeper; before a start it waits there for it."""
        container = self._registry.lookup(ref)
        keys = _detach_keys(options.detach_keys)
        if container.state.status is Status.PAUSED:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if container.state.status is Status.RESTARTING:
            raise Conflict(f"Container {ref} is restarting, wait until the container is running")
        config = container.record.resolved.config
        self._notices.tell(container, "attach")
        if options.logs and not container.state.alive and container.state.started_ns:
            await self._replay(container, options, connection)
            return
        wish = Attach(
            seq=0,
            id=container.id,
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            logs=options.logs,
            stream=options.stream,
            multiplexed=not config.tty,
            # Without a terminal nobody types: what looks like the keys is data.
            detach_keys=keys if config.tty else b"",
        )
        container.awaited = container.awaited or not container.state.alive
        await stdio.hand_over(connection, self._keeper.attach, wish)

    async def resize(self, ref: str, rows: int, columns: int) -> None:
        """Raises Conflict where it does not run."""
        container = self._registry.lookup(ref)
        states.check_alive(container.id, container.state)
        await self._keeper.resize(container.id, rows, columns)
        self._notices.tell(container, "resize", height=str(rows), width=str(columns))

    # ---- parts -----------------------------------------------------------------------------------

    async def _rename_on_networks(self, container: Container) -> None:
        wish = container.record.resolved.network
        sandbox = await self._networks.renamed(container.id, wish, container.record.name)
        if sandbox is not None and container.state.alive:
            self._registry.set_state(container, states.connected(container.state, sandbox))

    def _registry_by_hand(self, container: Container) -> None:
        """The policy counts anew from a start by hand; stored with the start's own states."""
        states.check_can_start(container.state)
        container.state = states.started_by_hand(container.state)

    async def _start_or_remove(self, container: Container) -> None:
        try:
            await self._starting.start(container)
        except ProaError:
            if container.auto_remove and not container.state.running:
                await self._removal.remove_stopped(container, volumes=True)
            raise

    async def _update(self, container: Container, body: ContainerUpdateRequest) -> Sequence[str]:
        resolved = container.record.resolved
        updated = resolve_update(body, resolved, self._host)
        if container.state.alive:
            await self._cgroups.update(resolved.plan.cgroup.path, updated.resources)
        changed = replace(resolved, host_config=updated.host_config, plan=updated.plan)
        self._registry.set_record(container, replace(container.record, resolved=changed))
        return updated.warnings

    async def _prune(self, wanted: PruneFilter) -> ContainersPruneReport:
        deleted: list[str] = []
        space = 0
        for container in self._registry:
            if container.state.running or not wanted(container):
                continue
            size = await self._snapshots.usage(container.id)
            try:
                await self._removal.remove(container, force=False, volumes=False)
            except (Conflict, NotFound):
                continue  # it was started or removed meanwhile
            deleted.append(container.id)
            space += size
        self._notices.pruned("container", space)
        return ContainersPruneReport(containers_deleted=deleted, space_reclaimed=space)

    def _log(self, container: Container, options: LogsOptions, *, multiplexed: bool) -> AsyncIterator[bytes]:
        log = container.record.resolved.plan.stdio.log
        assert log is not None
        follow = options.follow and container.state.running
        details = log_details.details(container.record) if options.details else ""
        ended = container.waiters.register("next-exit", container.state) if follow else None

        def open_reader() -> stdio.Reader:
            return self._open_log(
                log.path,
                stdout=options.stdout,
                stderr=options.stderr,
                since_ns=options.since_ns,
                until_ns=options.until_ns,
                tail=options.tail,
                timestamps=options.timestamps,
                details=details,
                multiplexed=multiplexed,
                follow=follow,
            )

        return stdio.read_log(open_reader, ended, options.until_ns, self._executor)

    async def _replay(
        self, container: Container, options: AttachOptions, connection: stdio.Connection
    ) -> None:
        """An attach to a container that does not run: what its log has, and the end."""
        if container.record.resolved.plan.stdio.log is None:
            raise NotImplemented_("configured logging driver does not support reading")
        multiplexed = not container.record.resolved.config.tty
        wish = LogsOptions(stdout=options.stdout, stderr=options.stderr)
        await stdio.serve(
            connection, self._log(container, wish, multiplexed=multiplexed), multiplexed=multiplexed
        )

    async def _size(self, container: Container) -> tuple[int, int]:
        """(bytes written, bytes in all)."""
        written = await self._snapshots.usage(container.id)
        image = self._images.by_id(container.record.image_id)
        return written, written + (image.size if image is not None else 0)

    def _image_name(self, container: Container) -> str:
        """As asked for; the id where the name belongs to another image by now."""
        name, id_ = container.record.resolved.config.image, container.record.image_id
        try:
            return name if not id_ or self._images.resolve(name).id == id_ else id_
        except ProaError:
            return name if name.startswith(id_) else id_

    def _image_ids(self, ref: str) -> frozenset[str]:
        """The image of an ancestor filter and those made from it; none for one that is not there."""
        try:
            image_id = self._images.resolve(ref).id
            return frozenset((image_id, *self._images.made_from(image_id)))
        except ProaError:
            return frozenset()


def _detach_keys(text: str) -> bytes:
    try:
        return stdio.detach_keys(text)
    except ValueError as exc:
        raise InvalidParameter(f"Invalid detach keys ({text}) provided") from exc

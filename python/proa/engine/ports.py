"""What the engine's container verbs need of the rooms beside and below, as narrow Protocols.

The database convention: a room that stores something has a module constant

    SCHEMA: tuple[str, ...]      one SQL script per schema version, oldest first, never edited once landed

and takes a `Database`. proa.metadata brings every room's tables up to its newest version when it opens.
All database calls are made in the loop thread; one costs tens of microseconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Any, Protocol

from proa.engine.resolve import VolumeWish
from proa.network import EndpointWish, NetworkWish, Sandbox
from proa.schema.image import ImageConfig
from proa.schema.keeper import Attach, Started
from proa.schema.network import NetworkSettings
from proa.schema.plan import Overlay, Plan, Process, Stdio
from proa.schema.shipping import Shipping


class Database(Protocol):
    """The metadata store as a room sees it (proa.metadata.Metadata)."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        ...

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement and commit it, unless inside `transaction()`; returns the rows changed."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing for what is executed inside; must not await inside. Nests."""
        ...


class ContainerImage(Protocol):
    """An image as the engine's container verbs see it."""

    @property
    def id(self) -> str:
        """`sha256:<hex>` of the config blob."""
        ...

    @property
    def config(self) -> ImageConfig: ...
    @property
    def os(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def layers(self) -> tuple[str, ...]:
        """Absolute directories of the unpacked layers, top first (the plan's `lower`)."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the unpacked layers."""
        ...


class ImageSource(Protocol):
    """Images by what the user typed (engine/images.py)."""

    def resolve(self, ref: str) -> ContainerImage:
        """By name, name:tag, digest, id or prefix of one. Raises NotFound `No such image: x`."""
        ...

    def by_id(self, image_id: str) -> ContainerImage | None:
        """By full id."""
        ...

    def made_from(self, image_id: str) -> AbstractSet[str]:
        """Ids of the images that are known to be made from it, in any number of steps."""
        ...

    def lent(self, image_ids: Iterable[str]) -> AbstractContextManager[None]:
        """Somebody relies on these between two looks: they are not evicted meanwhile."""
        ...

    def hold(self, image_id: str, container_id: str) -> None:
        """A container stands on the image's layers until `release`. Idempotent. Raises NotFound."""
        ...

    def release(self, container_id: str) -> None:
        """The container is gone. Unknown: nothing to do."""
        ...


class Snapshots(Protocol):
    """Writable layers by key, the container's id (proa.snapshots)."""

    def prepare(
        self,
        key: str,
        lower: Sequence[str],
        *,
        volatile: bool = False,
        size: int = 0,
        tmpfs: bool = False,
    ) -> Overlay:
        """Make the directories `fs` and `work` of a new active snapshot: a few direct system calls.

        Idempotent: an existing one is given back as it is. `size`: bytes that it may hold, 0 for no limit.
        Raises InvalidParameter where the file system has no project quota, System.
        """
        ...

    async def remove(self, key: str) -> None:
        """Remove it; the tree is deleted off the loop. Missing: nothing to do."""
        ...

    def remove_now(self, key: str) -> None:
        """The same, blocking: for a thread that removes many."""
        ...

    async def usage(self, key: str) -> int:
        """Bytes of the writable layer."""
        ...

    async def sweep(self, known: Sequence[str]) -> None:
        """Remove every active snapshot whose key is not known: half-created or half-removed ones."""
        ...


class ContainerNetworks(Protocol):
    """What start and exit need of the network room (proa.network.Networking)."""

    async def connect(self, container_id: str, wish: NetworkWish, name: str = "") -> Sandbox: ...
    async def disconnect(self, container_id: str) -> None: ...
    def adopt(self, container_id: str, sandbox: Sandbox) -> None: ...
    def faults(self, wish: EndpointWish) -> Sequence[str]:
        """What the network cannot give of a wish; nothing where there is no such network."""
        ...

    async def keeper_changed(self, prepared: Sequence[int]) -> None: ...
    def make_files(self, directory: str, wish: NetworkWish) -> None:
        """The files that `write_files` fills, empty: a start is not to wait for that. Raises System."""
        ...

    def write_files(self, directory: str, wish: NetworkWish, sandbox: Sandbox) -> None:
        """hostname, hosts and resolv.conf into the container's directory. Raises System."""
        ...

    async def renamed(self, container_id: str, wish: NetworkWish, name: str) -> Sandbox | None:
        """A running container has a new name; its sandbox, if that changes it."""
        ...

    def stopped_settings(self, wish: NetworkWish) -> NetworkSettings:
        """What inspect shows of a container that does not run."""
        ...


class ContainerVolumes(Protocol):
    """What the container verbs need of the volumes (engine/volumes.py)."""

    def path(self, name: str) -> str:
        """Where a volume of this name has its data, existing or not."""
        ...

    async def provide(self, container_id: str, wishes: Sequence[VolumeWish], layers: Sequence[str]) -> None:
        """Create what is missing, copy up from the image's layers, and hold each for the container."""
        ...

    def release(self, container_id: str) -> None:
        """The container is gone; unknown ones are no error."""
        ...

    async def mount(self, container_id: str, wishes: Sequence[VolumeWish]) -> Mapping[str, str]:
        """Mount those volumes that have to be; where each of these is, by name."""
        ...

    async def unmount(self, container_id: str) -> None:
        """The container does not run any more, or was not started."""
        ...

    async def settle(self, alive: Callable[[str], bool]) -> None:
        """At daemon start: unmount what no running container has any more."""
        ...

    async def remove_anonymous(self, name: str, container_id: str) -> None:
        """Remove a volume made for this container alone, unless another uses it by now."""
        ...


class ContainersOfImages(Protocol):
    """What image removal and prune need of the containers (given by this engine, engine/registry.py)."""

    def using_image(self, image_id: str) -> Sequence[tuple[str, bool]]:
        """(container id, running) of every container made from the image."""
        ...


class EventSink(Protocol):
    """Where image, network and volume verbs tell what they did (engine/events.py)."""

    def emit(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """One event, now: `emit("image", "tag", "sha256:...", {"name": "busybox:latest"})`."""
        ...


class KeeperClient(Protocol):
    """The keeper as the verbs see it (proa.runtime.Keeper); raises classes of proa.errors only."""

    async def start(
        self,
        plan: Plan,
        started: Callable[[Started], None],
        ship: Shipping | None = None,
        fds: tuple[int, ...] = (),
    ) -> None: ...
    async def exec(
        self,
        id_: str,
        exec_id: str,
        process: Process,
        stdio: Stdio,
        started: Callable[[Started], None],
        timeout_ns: int = 0,
    ) -> None: ...
    async def attach(self, fd: int, attach: Attach) -> None: ...
    async def signal(self, id_: str, signal: int, exec_id: str | None = None) -> None: ...
    async def resize(self, id_: str, rows: int, columns: int, exec_id: str | None = None) -> None: ...
    async def catch_up(self) -> None:
        """Return once every exit that has happened until now is handled."""
        ...

    def forget(self, id_: str, exec_id: str | None = None) -> None: ...
    def acknowledge(self, id_: str, exec_id: str | None = None) -> None: ...


class NativeCgroups(Protocol):
    """The calls of proa_native on control groups; they block, and fail with OSError."""

    def cgroup_update(self, path: str, resources: bytes) -> None: ...
    def cgroup_freeze(self, path: str, frozen: bool) -> None: ...
    def cgroup_pids(self, path: str) -> list[int]: ...
    def cgroup_kill(self, path: str) -> None: ...
    def cgroup_remove(self, path: str) -> None: ...
    def cgroup_list(self, parent: str) -> list[str]: ...
    def cgroup_stats(self, path: str) -> dict[str, object]: ...
    def network_stats(self, pid: int) -> dict[str, dict[str, int]]: ...

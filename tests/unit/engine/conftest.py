"""A whole engine over fakes: no native module, no namespaces, no network; the metadata store is real."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proa.engine.engine import Engine, Rooms
from proa.engine.events import Events
from proa.engine.record import SCHEMA, ContainerTable
from proa.engine.registries import Registries
from proa.engine.registry import Registry
from proa.engine.resolve import Host, VolumeWish
from proa.errors import NotFound, ProaError
from proa.metadata import Metadata
from proa.network import Endpoint, EndpointWish, NetworkWish, Sandbox
from proa.registry import Registry as RegistryClient
from proa.registry import RegistrySettings
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerCreateRequest, HostConfig
from proa.schema.image import ImageConfig
from proa.schema.keeper import Attach, Exited, Started, Welcome
from proa.schema.network import NetworkSettings
from proa.schema.plan import NoNetwork, Overlay, Plan, Process, Stdio
from proa.schema.shipping import Shipping

HOST = Host(
    hostname="host",
    cpus=2,
    memory=8 << 30,
    capabilities=(1 << 41) - 1,
    rlimits={},
    may_raise_rlimits=True,
    oom_score_adj=0,
    cgroup_version="2",
    controllers=frozenset(("memory", "cpu", "cpuset", "pids", "io")),
    swap_accounting=True,
    cpuset_cpus="0-1",
    cpuset_mems="0",
)


class FakeKeeper:
    """Starts what it is told, and lets the test end it."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.shipped: list[tuple[Shipping | None, int]] = []
        """Where each started one's log lines go, and how many descriptors came along."""
        self.running: dict[str, int] = {}
        self.signals: list[tuple[str, int]] = []
        self.signalled = asyncio.Event()
        self.attached: list[Attach] = []
        self.acknowledged: list[str] = []
        self.timeouts: dict[str, int] = {}
        self.fail: ProaError | None = None
        self.exit_at_once: int | None = None
        self.deaf = False
        self.welcome = Welcome(seq=1, version=1, pid=1, processes=(), prepared=())
        self.listener: Any = None
        self._pid = 1 << 22  # past every real one

    async def connect(self, listener: Any) -> Welcome:
        self.listener = listener
        return self.welcome

    def close(self) -> None:
        self.listener = None

    connected = True
    outdated = False

    async def hand_over(self, listener: Any) -> Welcome:
        self.handed_over = True
        return self.welcome

    async def start(
        self,
        plan: Plan,
        started: Callable[[Started], None],
        ship: Shipping | None = None,
        fds: tuple[int, ...] = (),
    ) -> None:
        self.shipped.append((ship, len(fds)))
        if self.fail is not None:
            raise self.fail
        self.plans.append(plan)
        self._begin(plan.id, started)
        if self.exit_at_once is not None:
            self.end(plan.id, self.exit_at_once)

    async def exec(
        self,
        id_: str,
        exec_id: str,
        process: Process,
        stdio: Stdio,
        started: Callable[[Started], None],
        timeout_ns: int = 0,
    ) -> None:
        if self.fail is not None:
            raise self.fail
        self.timeouts[exec_id] = timeout_ns
        self._begin(exec_id, started)

    async def attach(self, fd: int, attach: Attach) -> None:
        self.attached.append(attach)

    async def signal(self, id_: str, signal: int, exec_id: str | None = None) -> None:
        if (exec_id or id_) not in self.running:
            raise NotFound(f"No such container: {id_}")
        self.signals.append((id_, signal))
        self.signalled.set()
        if signal == 9 or (signal == 15 and not self.deaf):
            self.end(id_, 128 + signal, "signal", exec_id)

    async def resize(self, id_: str, rows: int, columns: int, exec_id: str | None = None) -> None:
        self.signals.append((id_, -rows))

    async def catch_up(self) -> None:
        pass

    def forget(self, id_: str, exec_id: str | None = None) -> None:
        pass

    def acknowledge(self, id_: str, exec_id: str | None = None) -> None:
        self.acknowledged.append(exec_id or id_)

    def end(self, id_: str, code: int, reason: str = "exit", exec_id: str | None = None) -> None:
        """The process ends."""
        self.running.pop(exec_id or id_, None)
        self.listener.exited(
            Exited(
                id=id_, exec_id=exec_id, code=code, reason=reason, oom=False, finished_at_ns=time.time_ns()
            )
        )

    def _begin(self, id_: str, started: Callable[[Started], None]) -> None:
        self._pid += 1
        self.running[id_] = self._pid
        started(Started(seq=1, pid=self._pid, started_at_ns=time.time_ns(), warnings=()))


class FakeNetworks:
    """One address for everybody, and a list of who is connected."""

    def __init__(self) -> None:
        self.connected: dict[str, Sandbox] = {}

    def faults(self, wish: EndpointWish) -> Sequence[str]:
        return ()

    async def connect(self, container_id: str, wish: NetworkWish, name: str = "") -> Sandbox:
        endpoint = Endpoint(id="e" * 64, network_id="n" * 64, network_name="bridge", address="10.0.0.2")
        sandbox = Sandbox(id="s", mode=wish.mode, plan_network=NoNetwork(), endpoints=(endpoint,))
        self.connected[container_id] = sandbox
        return sandbox

    async def disconnect(self, container_id: str) -> None:
        self.connected.pop(container_id, None)

    async def renamed(self, container_id: str, wish: NetworkWish, name: str) -> Sandbox | None:
        return None

    def adopt(self, container_id: str, sandbox: Sandbox) -> None:
        self.connected[container_id] = sandbox

    async def keeper_changed(self, prepared: Sequence[int]) -> None:
        pass

    def make_files(self, directory: str, wish: NetworkWish) -> None:
        (Path(directory) / "hosts").touch()

    def write_files(self, directory: str, wish: NetworkWish, sandbox: Sandbox) -> None:
        (Path(directory) / "hosts").write_text(sandbox.address)

    def stopped_settings(self, wish: NetworkWish) -> NetworkSettings:
        return NetworkSettings(ports={}, networks={})


class FakeSnapshots:
    """Keys that exist."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def prepare(
        self,
        key: str,
        lower: Sequence[str],
        *,
        volatile: bool = False,
        size: int = 0,
        tmpfs: bool = False,
    ) -> Overlay:
        self.keys.add(key)
        return Overlay(lower=tuple(lower), upper=f"/s/{key}/fs", work=f"/s/{key}/work", volatile=volatile)

    async def remove(self, key: str) -> None:
        self.keys.discard(key)

    def remove_now(self, key: str) -> None:
        self.keys.discard(key)

    async def usage(self, key: str) -> int:
        return 1000

    async def sweep(self, known: Sequence[str]) -> None:
        self.keys &= set(known)


class FakeImages:
    """One image, busybox."""

    def __init__(self) -> None:
        self.image = SimpleNamespace(
            id="sha256:" + "b" * 64,
            config=ImageConfig(cmd=["sh"], env=["PATH=/bin"]),
            os="linux",
            architecture="amd64",
            variant="",
            layers=("/layers/busybox",),
            size=5000,
        )
        self.holders: dict[str, str] = {}

    def resolve(self, ref: str) -> Any:
        if ref.split(":")[0] != "busybox":
            raise NotFound(f"No such image: {ref}:latest")
        return self.image

    def by_id(self, image_id: str) -> Any:
        return self.image if image_id == self.image.id else None

    def made_from(self, image_id: str) -> set[str]:
        return set()

    def lent(self, image_ids: Iterable[str]) -> AbstractContextManager[None]:
        return nullcontext()

    def hold(self, image_id: str, container_id: str) -> None:
        self.holders[container_id] = image_id

    def release(self, container_id: str) -> None:
        self.holders.pop(container_id, None)


class FakeVolumes:
    """Volumes by name."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def path(self, name: str) -> str:
        return f"/volumes/{name}/_data"

    async def provide(self, container_id: str, wishes: Sequence[VolumeWish], layers: Sequence[str]) -> None:
        self.names.update(wish.name for wish in wishes)

    def release(self, container_id: str) -> None:
        pass

    async def mount(self, container_id: str, wishes: Sequence[VolumeWish]) -> Mapping[str, str]:
        return {}

    async def unmount(self, container_id: str) -> None:
        pass

    async def settle(self, alive: Callable[[str], bool]) -> None:
        pass

    async def remove_anonymous(self, name: str, container_id: str) -> None:
        self.names.discard(name)


class FakeProbes:
    """Who is watched and how, and what the test lets them find."""

    def __init__(self) -> None:
        self.watched: dict[int, dict[str, Any]] = {}
        self.found: dict[int, list[tuple[int, int, int, str]]] = {}
        self.asked = asyncio.Event()
        self._reader, self._writer = os.pipe()
        self._last = 0

    def watch(self, pid: int, addresses: Sequence[str], request: bytes, **times: Any) -> int:
        self._last += 1
        self.watched[self._last] = {"pid": pid, "addresses": addresses, "request": request, **times}
        self.found[self._last] = []
        return self._last

    def unwatch(self, number: int) -> None:
        del self.watched[number], self.found[number]

    def take(self, number: int) -> list[tuple[int, int, int, str]]:
        taken, self.found[number] = self.found[number], []
        return taken

    async def tell(self) -> None:
        """There is news of everybody; once it is asked for."""
        self.asked.clear()
        os.write(self._writer, b"x")
        await self.asked.wait()

    def news(self) -> list[int]:
        os.read(self._reader, 64)
        self.asked.set()
        return list(self.watched)

    def fileno(self) -> int:
        return self._reader

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class FakeNative:
    """Control groups that are written down, and an image without files."""

    LogReader = None
    ContainerFiles = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.groups: list[str] = []
        self.probes: Any = None

    def Probes(self) -> FakeProbes:
        self.probes = FakeProbes()
        return self.probes

    def cgroup_update(self, path: str, resources: bytes) -> None:
        self.calls.append(("update", path))

    def cgroup_freeze(self, path: str, frozen: bool) -> None:
        self.calls.append(("freeze" if frozen else "thaw", path))

    def disk_usage(self, directory: str) -> tuple[int, int]:
        return (7, 1)

    def changes(self, upper: str, lower: tuple[str, ...]) -> list[tuple[int, bytes]]:
        return [(0, b"/etc"), (1, b"/etc/new")]

    def cgroup_pids(self, path: str) -> list[int]:
        return []

    def cgroup_kill(self, path: str) -> None:
        self.calls.append(("kill", path))

    def cgroup_remove(self, path: str) -> None:
        self.calls.append(("remove", path))

    def cgroup_list(self, parent: str) -> list[str]:
        return self.groups

    def cgroup_stats(self, path: str) -> dict[str, object]:
        return {"cpu_stats": {"cpu_usage": {"total_usage": 7}}, "pids_stats": {"current": 1}}

    def network_stats(self, pid: int) -> dict[str, dict[str, int]]:
        return {"lo": {}, "eth0": {"rx_bytes": 3}}

    def read_in_layers(self, layers: Sequence[str], paths: Sequence[str]) -> list[bytes | None]:
        return [None for _ in paths]

    def read_in_process_root(self, pid: int, paths: Sequence[str]) -> list[bytes | None]:
        return [None for _ in paths]

    def remove_tree(self, directory: str) -> None:
        shutil.rmtree(directory, ignore_errors=True)


class NoStore:
    """The store that builds ask to keep their layers."""

    database = None

    def keep(self, chain_ids: object) -> None:
        """Nothing is collected here."""


class World:
    """The engine and its fakes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "containers").mkdir(exist_ok=True)
        self.config = DaemonConfig(data_root=str(root), exec_root=str(root / "run"))
        self.keeper = FakeKeeper()
        self.networks = FakeNetworks()
        self.snapshots = FakeSnapshots()
        self.images = FakeImages()
        self.volumes = FakeVolumes()
        self.native = FakeNative()
        self.boot()

    def boot(self) -> None:
        """A daemon that has just been started over what is in the metadata store."""
        self.metadata = Metadata(self.root / "db", {"containers": SCHEMA})
        self.registry = Registry(ContainerTable(self.metadata))
        self.registry.load()
        self.events = Events(self.root)
        self.engine = Engine(
            Rooms(
                config=self.config,
                host=HOST,
                version="0",
                native=self.native,
                keeper=self.keeper,
                database=self.metadata,
                registry=self.registry,
                events=self.events,
                networking=self.networks,
                snapshots=self.snapshots,
                image_source=self.images,
                container_volumes=self.volumes,
                count_images=lambda: 1,
                images=SimpleNamespace(packing=None, store=NoStore()),
                networks=None,
                volumes=None,
                registries=Registries(RegistryClient(RegistrySettings())),
                seccomp=lambda profile, capabilities: b"",
            )
        )

    async def restart(self) -> None:
        """The daemon dies without a word and another one starts."""
        await self.settle()
        for container in self.registry:
            container.cancel_restart()
            container.stop_monitor()
        self.engine._health.close()
        self.events.close()
        self.boot()
        await self.engine.start()

    async def create(self, name: str | None = None, **config: Any) -> str:
        """A container of busybox; keywords of HostConfig go where they belong."""
        host = {key: config.pop(key) for key in tuple(config) if key in HostConfig.__struct_fields__}
        body = ContainerCreateRequest(
            **{"image": "busybox", "cmd": ["sleep", "1"], "host_config": HostConfig(**host), **config}
        )
        return (await self.engine.containers.create(name, body, None)).id

    async def run(self, name: str | None = None, **config: Any) -> str:
        """A container, started."""
        id_ = await self.create(name, **config)
        await self.engine.containers.start(id_, "")
        return id_

    async def settle(self) -> None:
        """Everything that goes on in the background has come to its end."""
        await self.engine._background.settle()
        await self.engine._deletions.settle()

    def actions(self, type_: str = "container") -> list[str]:
        """What happened."""
        return [m.action for _, m in self.events._recent if m.type == type_]


@pytest.fixture
async def world(tmp_path: Path):
    world = World(tmp_path)
    await world.engine.start()
    yield world
    for container in world.registry:
        container.cancel_restart()
        container.stop_monitor()
    await asyncio.wait_for(world.settle(), 30)
    await world.engine.close()
    await world.metadata.close()

"""proad: the composition root. Builds the rooms, hands them to the engine, serves the API, and ends in order.

Owns the process: its directories (0700), lock, pid file, signals and log. Containers keep running
when it ends, however it ends; the keeper holds them.
"""

import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from proa.errors import InvalidParameter, ProaError, System
from proa.schema.config import DaemonConfig
from proa.settings import Invocation, invocation, load

if TYPE_CHECKING:
    from proa import registry
    from proa.engine.engine import Engine
    from proa.engine.events import Events
    from proa.engine.images import Images
    from proa.engine.networks import NetworkVerbs
    from proa.engine.registry import Registry
    from proa.engine.volumes import VolumeVerbs
    from proa.metadata import Metadata
    from proa.network import Networking
    from proa.snapshots import Snapshots

log = logging.getLogger("proad")

WORKERS = 8
"""Threads of the one executor for what blocks."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run proad; the exit status is 0 after SIGTERM, 1 where it could not start."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except ProaError as exc:
        sys.exit(f"proad: {exc}")
    sys.exit(0)


def _run(arguments: Sequence[str]) -> None:
    import proa_native

    called = invocation(arguments, proa_native.__version__)
    if called.validate:
        print("configuration OK")
        return
    if os.geteuid() != 0:
        raise InvalidParameter(
            "proad needs to be started with root privileges; rootless mode is not there yet"
        )
    if called.detach and os.getsid(0) != os.getpid():
        _detach(arguments)
        return
    _set_up_log(called.config)
    with ExitStack() as stack:
        _take_roots(called.config, stack)
        if called.tear_down:
            from proa.teardown import tear_down

            asyncio.run(tear_down(called.config))
            return
        _write_pidfile(called.config, stack)
        _loop_runner()(_serve(called))


def _loop_runner() -> Callable[[Any], None]:
    import uvloop

    return uvloop.run


async def _serve(called: Invocation) -> None:
    from proa.api.server import serve

    async with AsyncExitStack() as stack:
        engine = await _build(called.config, stack)
        await engine.start()
        stack.push_async_callback(engine.close)
        await engine.networks.resume()
        server = await serve(engine, called.config)
        stack.push_async_callback(server.close)
        stop = asyncio.Event()
        _handle_signals(stop, called, engine)
        # What is loaded now lives as long as the process: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
        log.info("API listen on %s", ", ".join(server.addresses))
        _tell_ready(called.ready_fd)
        await stop.wait()
        log.info("shutting down; containers keep running")


async def _build(config: DaemonConfig, stack: AsyncExitStack) -> "Engine[Images, NetworkVerbs, VolumeVerbs]":
    """Every room, and the engine over them."""
    import proa_native

    from proa.runtime import Keeper

    keeper = Keeper(Path(config.exec_root))
    keeper.start_early()  # it comes up while the rest is imported
    from proa.engine.engine import Engine, Rooms
    from proa.engine.registries import Registries
    from proa.engine.resolve.host import read_host
    from proa.engine.resolve.logs import check_log_defaults
    from proa.engine.resolve.seccomp import SeccompCache
    from proa.network import Networking

    check_log_defaults(config)
    base = _base(config, stack)
    registry_client = _registry_room(config, stack)
    snapshots, images = _image_rooms(config, base, registry_client)
    volumes = _volume_room(base, config, stack)
    networking = Networking(config, base.metadata, keeper, executor=base.executor)
    stack.push_async_callback(networking.close)
    engine = Engine(
        Rooms(
            config=config,
            host=read_host(),
            version=proa_native.__version__,
            native=proa_native,
            keeper=keeper,
            database=base.metadata,
            registry=base.containers,
            events=base.events,
            networking=networking,
            snapshots=snapshots,
            image_source=images,
            count_images=images.count,
            container_volumes=volumes,
            images=images,
            networks=_network_verbs(base, networking),
            volumes=volumes,
            registries=Registries(registry_client),
            seccomp=SeccompCache(),
            executor=base.executor,
        )
    )
    # Not before the engine is there: what no image needs is removed, and builds say what they keep.
    await images.start()
    return engine


@dataclass(frozen=True, slots=True)
class _Base:
    """What every room stands on."""

    root: Path
    executor: ThreadPoolExecutor
    metadata: "Metadata"
    events: "Events"
    containers: "Registry"


def _base(config: DaemonConfig, stack: AsyncExitStack) -> _Base:
    """The executor, the database with every room's tables, and what it knows of containers and events."""
    from proa import content, network, snapshots, volumes
    from proa.build import tables
    from proa.engine import images, record
    from proa.engine.events import Events
    from proa.engine.registry import Registry
    from proa.metadata import Metadata

    root = Path(config.data_root)
    executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="proad")
    stack.callback(executor.shutdown, wait=False, cancel_futures=True)
    asyncio.get_running_loop().set_default_executor(executor)
    schemas = {
        "containers": record.SCHEMA,
        "networks": network.SCHEMA,
        "volumes": volumes.SCHEMA,
        "content": content.SCHEMA,
        "snapshots": snapshots.SCHEMA,
        "images": images.SCHEMA,
        "build": tables.SCHEMA,
    }
    metadata = Metadata(root / "metadata.db", schemas, executor)
    stack.push_async_callback(metadata.close)
    events = Events(root)
    containers = Registry(record.ContainerTable(metadata))
    containers.load()
    return _Base(root, executor, metadata, events, containers)


def _registry_room(config: DaemonConfig, stack: AsyncExitStack) -> "registry.Registry":
    """Registries as a client; it opens and imports next to nothing before the first one is asked."""
    from proa.registry import Registry, RegistrySettings

    room = Registry(RegistrySettings.of(config))
    stack.push_async_callback(room.close)
    return room


def _image_rooms(
    config: DaemonConfig, base: _Base, registries: "registry.Registry"
) -> "tuple[Snapshots, Images]":
    from proa.content import Content
    from proa.engine.images import Images
    from proa.snapshots import Snapshots, boot_id

    boot = boot_id()
    snapshots = Snapshots(base.root / "snapshots", base.metadata, base.executor, boot=boot)
    images = Images(
        database=base.metadata,
        content=Content(base.root / "content", base.metadata, boot=boot),
        snapshots=snapshots,
        events=base.events,
        containers=base.containers,
        registry=registries,
        config=config,
        executor=base.executor,
    )
    return snapshots, images


def _network_verbs(base: _Base, networking: "Networking") -> "NetworkVerbs":
    from proa.engine.connections import Connections
    from proa.engine.networks import NetworkVerbs
    from proa.engine.notices import Notices

    connections = Connections(
        registry=base.containers,
        networking=networking,
        notices=Notices(base.events),
        directory=str(base.root / "containers"),
    )
    return NetworkVerbs(networking, base.events, connections)


def _volume_room(base: _Base, config: DaemonConfig, stack: AsyncExitStack) -> "VolumeVerbs":
    import proa_native

    from proa.engine.volumes import VolumeVerbs
    from proa.volumes import LocalMounts, Plugins, VolumeStore
    from proa.volumes.plugins import SOCKETS

    store = VolumeStore(base.metadata, str(base.root / "volumes"))
    for garbage in store.sweep():
        base.executor.submit(proa_native.remove_tree, garbage)
    local = LocalMounts(proa_native)
    stack.callback(local.close)
    return VolumeVerbs(
        store,
        base.events,
        local=local,
        plugins=Plugins(sockets=(*SOCKETS, f"{config.exec_root}/plugins")),
        using_volume=base.containers.using_volume,
        remove_tree=proa_native.remove_tree,
        disk_usage=proa_native.disk_usage,
        executor=base.executor,
    )


def _handle_signals(stop: asyncio.Event, called: Invocation, engine: Any) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, called, engine)


def _reload(called: Invocation, engine: Any) -> None:
    from proa.engine.resolve.logs import check_log_defaults

    try:
        config = load(called.config_file, called.flags)
        check_log_defaults(config)
        engine.reload(config)
        engine.images.reload(config)
    except ProaError as exc:
        log.error("configuration is not reloaded: %s", exc)
        return
    _set_up_log(config)
    log.info("configuration reloaded")


def _set_up_log(config: DaemonConfig) -> None:
    level = logging.DEBUG if config.debug else _LEVELS.get(config.log_level, logging.CRITICAL)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=level, force=True)
    if not config.debug:
        logging.getLogger("asyncio").setLevel(logging.WARNING)


def _take_roots(config: DaemonConfig, stack: ExitStack) -> None:
    """Make the directories, closed to others from the start, and hold the lock while we run."""
    os.umask(0o022)
    try:
        for directory in (config.data_root, config.exec_root, f"{config.data_root}/containers"):
            os.makedirs(directory, 0o700, exist_ok=True)
        for directory in (config.data_root, config.exec_root):
            os.chmod(directory, 0o700)
        lock = os.open(f"{config.exec_root}/proad.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise System(f"{exc.filename}: {(exc.strerror or '').lower()}") from exc
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise System(f"another proad is running with the exec root {config.exec_root}") from None


def _write_pidfile(config: DaemonConfig, stack: ExitStack) -> None:
    path = Path(config.pidfile or f"{config.exec_root}/proad.pid")
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError as exc:
        raise System(f"failed to start daemon: {path}: {(exc.strerror or '').lower()}") from exc
    stack.callback(_remove_file, path)


def _remove_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _tell_ready(fd: int) -> None:
    if fd < 0:
        return
    with suppress(OSError):
        os.write(fd, b"\n")
        os.close(fd)


def _detach(arguments: Sequence[str]) -> None:
    """Start the daemon in a session of its own, without a fork of this process; wait until it serves."""
    ready, told = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, ready)
        os.set_inheritable(told, True)
        command = [sys.executable, "-P", "-m", "proa.daemon", *arguments, "--ready-fd", str(told)]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)],
            setsid=True,
        )
        os.close(told)
        if not os.read(ready, 1):
            raise System("the daemon did not start")


if __name__ == "__main__":
    main()

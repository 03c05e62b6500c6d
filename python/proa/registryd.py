"""`proa registry`: the composition root of the registry server and of its collection.

Owns <root>: its directories (0700), the lock of the one server, and the process's signals and log.

    <root>/metadata.db    repositories, manifests, tags, uploads, what blobs there are
    <root>/content/       the blobs, as every content store has them
    <root>/uploads/       blobs on their way in
"""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from proa.errors import Conflict, InvalidParameter, ProaError, System

if TYPE_CHECKING:
    from proa.content import Content
    from proa.distribution.cache import Cache
    from proa.distribution.repositories import Repositories
    from proa.distribution.store import Store
    from proa.distribution.uploads import Uploads
    from proa.metadata import Metadata
    from proa.schema.registry import Credentials

log = logging.getLogger("proa.registry")

ADDRESS = "127.0.0.1:5000"
ROOT = "/var/lib/proa-registry"
WORKERS = 16
"""Threads for what blocks: disk, hashes, sendfile."""
TIDY_SECONDS = 3600.0
MAX_BLOB = 64 << 30
HUB = frozenset(("registry-1.docker.io", "index.docker.io", "docker.io"))


def parser() -> argparse.ArgumentParser:
    """The command line; `proa registry` hands it over as it is."""
    top = argparse.ArgumentParser(prog="proa registry")
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--addr", default=ADDRESS)
    serve.add_argument("--htpasswd", default="")
    serve.add_argument("--max-blob-size", type=int, default=MAX_BLOB)
    serve.add_argument("--read-only", action="store_true")
    serve.add_argument("--ready-fd", type=int, default=-1)
    serve.add_argument("--tls-ca", default="")
    serve.add_argument("--tls-cert", default="")
    serve.add_argument("--tls-key", default="")
    serve.add_argument("--upstream", default="")
    serve.add_argument("--upstream-password-file", default="")
    serve.add_argument("--upstream-ttl", type=float, default=60.0)
    serve.add_argument("--upstream-username", default="")
    gc = commands.add_parser("gc")
    gc.add_argument("--delete-untagged", action="store_true")
    gc.add_argument("--grace", type=float, default=24 * 3600.0)
    for command in (serve, gc):
        command.add_argument("--root", default=ROOT)
    return top


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `serve` until SIGTERM, or `gc`; the exit status is 1 where it failed."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        if options.command == "gc":
            collect_garbage(options)
        else:
            import uvloop

            uvloop.run(serve(options))
    except ProaError as exc:
        sys.exit(f"proa registry: {exc}")
    sys.exit(0)


class Rooms:
    """The rooms below the server, over one root."""

    metadata: "Metadata"
    content: "Content"
    repositories: "Repositories"
    uploads: "Uploads"
    store: "Store"

    def __init__(self, root: Path, executor: ThreadPoolExecutor, max_blob: int = MAX_BLOB) -> None:
        from proa import content
        from proa.distribution import repositories, store, uploads
        from proa.metadata import Metadata

        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise System(f"{root}: {exc.strerror}") from exc
        schemas = {
            "content": content.SCHEMA,
            "repositories": repositories.SCHEMA,
            "uploads": uploads.SCHEMA,
        }
        self.metadata = Metadata(root / "metadata.db", schemas, executor)
        self.content = content.Content(root / "content", self.metadata)
        self.repositories = repositories.Repositories(self.metadata)
        self.uploads = uploads.Uploads(root / "uploads", self.metadata, executor, max_blob)
        self.store = store.Store(self.metadata, self.content, self.repositories, self.uploads)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        addresses = await start(options, stack)
        log.info("registry listens on %s", ", ".join(addresses))
        if options.ready_fd >= 0:
            os.write(options.ready_fd, f"{addresses[0]}\n".encode())
            os.close(options.ready_fd)
        await stop.wait()
        log.info("shutting down")


async def start(options: argparse.Namespace, stack: AsyncExitStack) -> list[str]:
    """Build and listen; returns the addresses. Everything is undone by `stack`."""
    from proa.content import remove_all
    from proa.distribution.access import Htpasswd
    from proa.distribution.pulls import Own, Pulls, Source
    from proa.distribution.pushes import Pushes
    from proa.distribution.service import Policy, Service
    from proa.http.server import Server
    from proa.http.tls import server_context

    root = Path(options.root)
    executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="registry")
    stack.callback(executor.shutdown, wait=False, cancel_futures=True)
    asyncio.get_running_loop().set_default_executor(executor)
    rooms = Rooms(root, executor, options.max_blob_size)
    stack.push_async_callback(rooms.metadata.close)
    lock_root(root, stack)
    executor.submit(remove_all, rooms.content.sweep())
    tls = None
    if options.tls_cert or options.tls_key or options.tls_ca:
        if not (options.tls_cert and options.tls_key):
            raise InvalidParameter("--tls-cert and --tls-key belong together")
        tls = server_context(
            options.tls_cert, options.tls_key, verify=bool(options.tls_ca), authorities=options.tls_ca
        )
    source: Source = Own(rooms.repositories)
    reason = "this registry is read-only" if options.read_only else ""
    if options.upstream:
        source = await upstream_cache(options, rooms, executor, stack)
        reason = "this registry is a cache: push to its upstream"
    access = None
    if options.htpasswd:
        access = Htpasswd(Path(options.htpasswd))
        stack.callback(access.close)
        if tls is None:
            log.warning("passwords go over the wire in the clear: --tls-cert and --tls-key keep them private")
    service = Service(Pulls(rooms.store, source, executor), Pushes(rooms.store), Policy(reason, access))
    server = Server(service)
    stack.push_async_callback(server.close)
    await server.listen(f"tcp://{options.addr}", "", tls)
    tidy_now_and_then(rooms, executor, stack)
    return server.addresses


async def upstream_cache(
    options: argparse.Namespace, rooms: Rooms, executor: ThreadPoolExecutor, stack: AsyncExitStack
) -> "Cache":
    """The source in front of an upstream."""
    from proa.distribution.cache import Cache
    from proa.distribution.downloads import Downloads
    from proa.registry import Registry, RegistrySettings

    parts = urlsplit(options.upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InvalidParameter(f"--upstream {options.upstream}: use http://HOST:PORT or https://HOST")
    domain = "docker.io" if parts.hostname in HUB else parts.netloc
    credentials = upstream_credentials(options, domain)
    insecure = (parts.netloc,) if parts.scheme == "http" else ()
    registry = Registry(RegistrySettings(insecure=insecure))
    stack.push_async_callback(registry.close)
    downloads = Downloads(
        registry, credentials, rooms.store, rooms.content, rooms.metadata.transaction, executor
    )
    stack.push_async_callback(downloads.close)
    return Cache(registry, domain, credentials, rooms.store, downloads, ttl=options.upstream_ttl)


def upstream_credentials(options: argparse.Namespace, domain: str) -> "Credentials | None":
    """Who the cache is to its upstream."""
    from proa.schema.registry import Credentials

    if not options.upstream_username:
        return None
    try:
        password = Path(options.upstream_password_file).read_text().rstrip("\n")
    except OSError as exc:
        raise InvalidParameter(f"{options.upstream_password_file}: {exc.strerror}") from exc
    return Credentials(username=options.upstream_username, password=password, server_address=domain)


def tidy_now_and_then(rooms: Rooms, executor: ThreadPoolExecutor, stack: AsyncExitStack) -> None:
    """Remove what uploads and downloads left that nobody went on with, now and every hour."""
    from proa.content import remove_all

    loop = asyncio.get_running_loop()

    def tidy() -> None:
        timers[:] = [loop.call_later(TIDY_SECONDS, tidy)]
        executor.submit(remove_all, [*rooms.uploads.expire(), *rooms.content.expired()])

    timers: list[asyncio.TimerHandle] = []
    tidy()
    stack.callback(lambda: timers[0].cancel())


def lock_root(root: Path, stack: "ExitStack | AsyncExitStack") -> None:
    """One server a root. Raises Conflict."""
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another registry is serving {root}") from None


def collect_garbage(options: argparse.Namespace) -> None:
    """Take away what nothing needs; a server may be running on the same root."""
    from proa.content import remove_all
    from proa.distribution.collection import collect

    root = Path(options.root)
    if not (root / "metadata.db").exists():
        raise InvalidParameter(f"{root} is not a registry's root")
    with ThreadPoolExecutor(1) as executor:
        rooms = Rooms(root, executor)
        gone = collect(
            rooms.metadata,
            rooms.content,
            time.time(),
            grace=options.grace,
            untagged=options.delete_untagged,
        )
        remove_all(gone.aside)
        asyncio.run(rooms.metadata.close())
    print(f"{gone.manifests} manifests, {gone.links} links and {gone.blobs} blobs deleted")
    print(f"{gone.size} bytes reclaimed")


if __name__ == "__main__":
    main()

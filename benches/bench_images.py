"""How fast do images move: cold pull, pull of what is there, load, push; and what does a pull hold in memory?

    python benches/bench_images.py [--rounds N] [--json FILE] [--no-peers] [--no-loop]

Beside dockerd and podman, from Debian's docker-registry on 127.0.0.1, with one image (see big_image.py: built
once, kept in PROA_BENCH_CACHE, /var/cache/proa-bench). `tar xzf` of its big layer is measured in the same
run, and proa's own registry beside docker-registry. Every round has engines with fresh roots, on a file
system that is made for the bench (a loop device): ext4 without a journal passes over inodes that were freed a
moment ago, one by one, so that whoever unpacks after a removal would pay for it (5 s became 30). Needs root,
skopeo and 12 GB of disk a round, all given back.

Where proa's processor time goes, in seconds (two cores, perf and /proc/PID/task; nothing of it waits for the
disk: one sync in the background does, after the answer):

    thread         pull                                    load (1.3 GB of plain layers)
    proad          0.6  sockets, one copy to the feed      0.2  what comes before the socket is lent
    proa-inflate   1.9  inflate 1.3, sha256 0.3, crc 0.1   0.9  reading the client's socket 0.2, sha256 0.65
    proa-hash      0.8  sha256 of 1.3 GB (SHA-NI)          none: digest and diff_id are one
    proa-layer     2.3  the kernel: write 0.8 (page cache  2.0  the same, and the recipe instead of
                        and copy), create 0.5, mkdir 0.25,      a second copy of all files
                        utimens 0.15, open and close

On a virtual machine whose host has to find each page that was not touched for a while, the same load takes
2.7 to 6 s: the time is in the kernel's copies into the page cache, whoever writes.

A pull writes 1.7 GB (330 MB of it the blobs), a load 1.3 GB. The rest of a pull is the registry's 0.7 s and
the client's own.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import big_image
import peers
import registries
from peers import Engine
from registries import Registry

IMAGE = "bench"
LOOP_BYTES = 40 << 30
SAMPLE_SECONDS = 0.05

Samples = dict[str, list[float]]


@dataclass
class Mover:
    """An engine as this bench drives it: by HTTP where it serves, else by its command line."""

    name: str
    pull: Callable[[str], None]
    load: Callable[[Path], None]
    push: Callable[[str, str], None]
    engine: Engine | None = None


def over_http(engine: Engine) -> Mover:
    """proa and dockerd: the same requests."""

    def stream(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> None:
        with contextlib.closing(engine.connection()) as connection:
            connection.request(method, "/v1.41" + path, body, headers or {})
            response = connection.getresponse()
            text = response.read()
        if response.status >= 300 or b'"error"' in text:
            raise RuntimeError(f"{engine.name}: {method} {path}: {response.status} {text[-300:]!r}")

    def load(archive: Path) -> None:
        head = "POST /v1.41/images/load?quiet=1 HTTP/1.1\r\nHost: localhost\r\n"
        head += "Content-Type: application/x-tar\r\n"
        with contextlib.closing(engine.connection()) as connection, archive.open("rb") as body:
            connection.connect()
            connection.sock.sendall(f"{head}Content-Length: {archive.stat().st_size}\r\n\r\n".encode())
            connection.sock.sendfile(body)
            status, text = connection.answer()
        if status >= 300 or b'"error"' in text:
            raise RuntimeError(f"{engine.name}: load: {status} {text[-300:]!r}")

    def push(source: str, target: str) -> None:
        stream("POST", f"/images/{source}:latest/tag?repo={target}&tag=latest")
        stream("POST", f"/images/{target}/push?tag=latest", None, {"X-Registry-Auth": "e30="})

    return Mover(
        name=engine.name,
        pull=lambda name: stream("POST", f"/images/create?fromImage={name}&tag=latest"),
        load=load,
        push=push,
        engine=engine,
    )


@contextlib.contextmanager
def podman(root: Path) -> Iterator[Mover]:
    """Debian's podman, which has no daemon."""

    # It takes no longer path than 50 characters for this one.
    runroot = tempfile.mkdtemp(prefix="proa-b-", dir="/tmp")

    def run(*arguments: str) -> None:
        command = ["podman", "--root", f"{root}/data", "--runroot", runroot, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"podman {arguments[0]}: {done.stderr[-300:]}")

    root.mkdir(parents=True)
    try:
        yield Mover(
            name="podman",
            pull=lambda name: run("pull", "-q", "--tls-verify=false", f"docker://{name}:latest"),
            load=lambda archive: run("load", "-q", "-i", str(archive)),
            push=lambda source, target: run(
                "push", "-q", "--tls-verify=false", f"{source}:latest", f"docker://{target}:latest"
            ),
        )
    finally:
        subprocess.run(["umount", f"{root}/data/overlay"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(runroot)


@contextlib.contextmanager
def mover(name: str, root: Path) -> Iterator[Mover]:
    """A fresh engine by name."""
    if name == "podman":
        with podman(root) as found:
            yield found
        return
    start = peers.proad if name == "proa" else peers.dockerd
    with start(root) as engine:
        yield over_http(engine)


class Memory:
    """The peak of an engine's PSS while the block runs, over what it was before, MiB."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._over = threading.Event()
        self.idle = self.peak = 0.0

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._engine.pss_kib() / 1024)

    def __enter__(self) -> "Memory":
        self.idle = self.peak = self._engine.pss_kib() / 1024
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def timed(call: Callable[[], None]) -> float:
    """Wall seconds."""
    os.sync()
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def in_memory(file: Path) -> None:
    """Read a file, so that nobody pays for the disk it comes from."""
    with file.open("rb", buffering=0) as source:
        while source.read(1 << 22):
            pass


def one_round(name: str, root: Path, registry: Registry, empty: Registry, samples: Samples) -> None:
    """Cold pull, pull again and push by one fresh engine; load by another."""

    def note(what: str, value: float) -> None:
        samples.setdefault(f"{name}_{what}", []).append(value)
        print(f"{name:>8} {what:<16} {value:8.2f}", file=sys.stderr)

    source = f"{registry.address}/{IMAGE}"
    with mover(name, root / "pull") as engine:
        if engine.engine is not None:
            time.sleep(1)
            before = cpu_seconds(engine.engine)
            with Memory(engine.engine) as memory:
                note("pull_s", timed(lambda: engine.pull(source)))
            note("pull_cpu_s", cpu_seconds(engine.engine) - before)
            note("pull_memory_mib", memory.peak - memory.idle)
        else:
            note("pull_s", timed(lambda: engine.pull(source)))
        seen = registry.requests()
        note("again_ms", timed(lambda: engine.pull(source)) * 1e3)
        note("again_requests", registry.requests() - seen)
        note("push_s", timed(lambda: engine.push(source, f"{empty.address}/{IMAGE}")))
    with mover(name, root / "load") as engine:
        in_memory(big_image.archive())
        note("load_s", timed(lambda: engine.load(big_image.archive())))


def cpu_seconds(engine: Engine) -> float:
    """Processor seconds of all processes of an engine so far."""
    ticks = 0
    for pid in engine.pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def tar_seconds(root: Path) -> float:
    """GNU tar and gzip on the big layer alone."""
    root.mkdir()
    return timed(
        lambda: subprocess.run(["tar", "xzf", big_image.big_layer(), "-C", root], check=True) and None
    )


def registry_ratio(root: Path, samples: Samples) -> None:
    """Throughput of both registries, in turn, to one plain client."""
    with (
        registries.docker_registry(root / "theirs") as theirs,
        registries.proa_registry(root / "ours") as ours,
    ):
        for registry in (theirs, ours):
            registry.seed(IMAGE)
        for _ in range(5):
            for registry, key in ((theirs, "docker_registry_mbs"), (ours, "proa_registry_mbs")):
                total, elapsed = registry.download(IMAGE)
                samples.setdefault(key, []).append(total / elapsed / 1e6)


@contextlib.contextmanager
def room(loop: bool) -> Iterator[Path]:
    """An empty directory on a file system of its own; all of it goes in the end."""
    big_image.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=big_image.CACHE) as directory:
        place = Path(directory, "room")
        place.mkdir()
        if not loop:
            yield place
            return
        image = Path(directory, "ext4")
        with image.open("wb") as file:
            file.truncate(LOOP_BYTES)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def report(samples: Samples) -> dict[str, float]:
    """Medians, printed with their ratios to proa's."""
    table = {key: statistics.median(values) for key, values in samples.items()}
    rows = (
        ("pull_s", "cold pull", "s", {"dockerd": 3.0, "podman": 2.0}),
        ("push_s", "push", "s", {"dockerd": 3.0}),
        ("load_s", "load", "s", {"dockerd": 3.0}),
        ("again_ms", "pull, all there", "ms", {}),
        ("again_requests", "  its requests", "", {}),
        ("pull_cpu_s", "  cpu of a cold pull", "s", {}),
        ("pull_memory_mib", "  memory over idle", "MiB", {}),
    )
    for key, title, unit, targets in rows:
        ours = table.get(f"proa_{key}")
        if ours is None:
            continue
        line = f"{title:<22} proa {ours:8.2f} {unit}"
        for peer in ("dockerd", "podman"):
            theirs = table.get(f"{peer}_{key}")
            if theirs is not None:
                target = f" (target {targets[peer]:g})" if peer in targets else ""
                line += f"   {peer} {theirs:8.2f}"
                line += f" = {theirs / ours:.2f} x{target}" if ours else ""
        print(line)
    print(f"tar xzf of the big layer alone: {table['tar_s']:.2f} s")
    print("targets: at most 3 requests and 20 ms when all is there, 100 MB over idle")
    if "proa_registry_mbs" in table:
        ours, theirs = table["proa_registry_mbs"], table["docker_registry_mbs"]
        ratio = f"{ours / theirs:.2f} x (target 1)"
        print(f"registry: proa {ours:.0f} MB/s, docker-registry {theirs:.0f} MB/s = {ratio}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-loop", action="store_true", help="on the cache's own file system")
    options = parser.parse_args()
    names = ["proa"]
    if not options.no_peers:
        names += [peer for peer in ("dockerd", "podman") if shutil.which(peer)]
    samples: Samples = {}
    # What was mounted and started goes, also where the bench is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench_images.py: stopped"))
    big_image.archive()
    with room(not options.no_loop) as root:
        with registries.docker_registry(root / "registry") as registry:
            registry.seed(IMAGE)
            for number in range(options.rounds):
                samples.setdefault("tar_s", []).append(tar_seconds(root / f"tar-{number}"))
                for name in names:
                    place = root / f"{name}-{number}"
                    with registries.docker_registry(place / "empty") as empty:
                        one_round(name, place, registry, empty, samples)
        registry_ratio(root, samples)
    table = report(samples)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_images.py: needs root")
    main()

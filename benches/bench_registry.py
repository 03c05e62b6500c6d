"""How fast is `proa registry serve` beside Debian's docker-registry: bytes pulled and pushed a second?

    python benches/bench_registry.py [--blobs N] [--size MB] [--rounds N] [--json FILE]

One plain client, threads that read into a buffer or send one, N blobs at a time, over 127.0.0.1; both
registries in turn, in the same run, on the same file system. Peak memory is the servers' own. Run it with
`proa` installed in the interpreter's environment.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peers

MB = 1_000_000
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: 127.0.0.1:{port}, secret: bench}}
log: {{level: error, accesslog: {{disabled: true}}}}
"""


@contextmanager
def proa_registry(root: Path) -> "Iterator[tuple[str, int]]":
    """(address, pid)."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    command = [sys.executable, "-P", "-m", "proa.registryd", "serve", "--root", str(root)]
    command += ["--addr", "127.0.0.1:0", "--ready-fd", str(writer)]
    process = subprocess.Popen(command, close_fds=False, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            yield ready.readline().strip().removeprefix("tcp://"), process.pid
    finally:
        peers.end(process)


@contextmanager
def docker_registry(root: Path) -> "Iterator[tuple[str, int]]":
    """(address, pid)."""
    root.mkdir()
    port = peers.free_port()
    config = root / "config.yml"
    config.write_text(CONFIG.format(root=root, port=port))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        peers.wait_for_port(port, process)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        peers.end(process)


def push(address: str, data: bytes, digest: str) -> None:
    """One blob: POST, PUT."""
    connection = http.client.HTTPConnection(address, blocksize=1 << 20)
    connection.request("POST", "/v2/bench/blobs/uploads/")
    response = connection.getresponse()
    response.read()
    location = response.getheader("Location", "").removeprefix(f"http://{address}")
    join = "&" if "?" in location else "?"
    connection.request(
        "PUT", f"{location}{join}digest={digest}", data, {"Content-Type": "application/octet-stream"}
    )
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 201:
        raise RuntimeError(f"push: {response.status}")


def pull(address: str, size: int, digest: str) -> None:
    """One blob, into a buffer."""
    connection = http.client.HTTPConnection(address)
    connection.request("GET", f"/v2/bench/blobs/{digest}")
    response = connection.getresponse()
    buffer, total = memoryview(bytearray(1 << 20)), 0
    while count := response.readinto(buffer):
        total += count
    connection.close()
    if (response.status, total) != (200, size):
        raise RuntimeError(f"pull: {response.status}, {total} bytes")


def rate(work: Callable[..., None], address: str, blobs: list[tuple[Any, str]]) -> float:
    """Megabytes a second of wall clock, all blobs at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(len(blobs)) as pool:
        for done in [pool.submit(work, address, data, digest) for data, digest in blobs]:
            done.result()
    size = sum(data if isinstance(data, int) else len(data) for data, _ in blobs)
    return size / MB / (time.perf_counter() - started)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most resident memory that it had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(addresses: dict[str, tuple[str, int]], count: int, size: int, rounds: int) -> dict[str, Any]:
    """Per registry: medians of MB/s, CPU seconds a GB, peak memory."""
    samples: dict[str, dict[str, list[float]]] = {
        name: {"push": [], "push cpu": [], "pull": [], "pull cpu": []} for name in addresses
    }
    gigabytes = count * size / 1e9
    for _ in range(rounds):
        blobs = [
            (data, f"sha256:{hashlib.sha256(data).hexdigest()}") for data in map(os.urandom, [size] * count)
        ]
        sizes = [(size, digest) for _, digest in blobs]
        for name, (address, pid) in addresses.items():
            for what, work, load in (("push", push, blobs), ("pull", pull, sizes), ("pull", pull, sizes)):
                before = cpu_seconds(pid)
                samples[name][what].append(rate(work, address, load))
                samples[name][f"{what} cpu"].append((cpu_seconds(pid) - before) / gigabytes)
    return {
        name: {what: statistics.median(values) for what, values in found.items()}
        | {"peak MiB": peak_mib(addresses[name][1])}
        for name, found in samples.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--blobs", type=int, default=4)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not shutil.which("docker-registry"):
        sys.exit("needs Debian's docker-registry")
    root = Path(tempfile.mkdtemp(prefix="proa-bench-registry-"))
    try:
        with proa_registry(root / "proa") as ours, docker_registry(root / "docker") as theirs:
            found = measure(
                {"proa": ours, "docker-registry": theirs}, options.blobs, options.size * MB, options.rounds
            )
    finally:
        shutil.rmtree(root)
    print(f"{options.blobs} blobs of {options.size} MB at a time, medians of {options.rounds} rounds")
    for what, unit in (
        ("pull", "MB/s"),
        ("push", "MB/s"),
        ("pull cpu", "s/GB"),
        ("push cpu", "s/GB"),
        ("peak MiB", "MiB"),
    ):
        one, other = found["proa"][what], found["docker-registry"][what]
        print(
            f"{what:9} proa {one:8.2f} {unit}   docker-registry {other:8.2f} {unit}   ratio {one / other:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

"""What does the engine itself cost: memory per container, memory idle, the daemon's cold start, the CLI's?

    python benches/bench_footprint.py [--containers N] [--json FILE] [--no-peers]

Memory is PSS of all engine processes. Run it as root with `proa` installed in the interpreter's
environment.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import peers
from bench_start import SLEEP, create
from peers import Engine


def memory_per_container(engine: Engine, count: int) -> tuple[float, float]:
    """(idle MiB, MiB per sleeping container over idle)."""
    connection = engine.connection()
    warm = create(connection, SLEEP)
    connection.call("POST", f"/containers/{warm}/start")
    connection.call("DELETE", f"/containers/{warm}?force=1")
    time.sleep(2)
    idle = engine.pss_kib()
    containers = [create(connection, SLEEP) for _ in range(count)]
    for container in containers:
        connection.call("POST", f"/containers/{container}/start")
    time.sleep(2)
    full = engine.pss_kib()
    for container in containers:
        connection.call("DELETE", f"/containers/{container}?force=1")
    return idle / 1024, (full - idle) / 1024 / count


def cold_start(root: Path, count: int) -> list[float]:
    """Seconds from exec of proad to its first answered ping, each on fresh roots."""
    samples = []
    for number in range(count):
        process, engine, seconds = peers.start_proad(root / f"cold-{number}")
        samples.append(seconds)
        peers.end(process)
        peers.remove_traces(engine)
    return samples


def command_ratio(command: list[str], reference: list[str], count: int) -> tuple[float, float]:
    """Medians in seconds of two commands run in turn."""
    first, second = [], []
    for _ in range(count):
        first.append(peers.timed_command(command, {}))
        second.append(peers.timed_command(reference, {}))
    return statistics.median(first), statistics.median(second)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    table: dict[str, float] = {}
    version, bare = command_ratio(
        [peers.script("proa"), "--version"], [sys.executable, "-I", "-c", "pass"], 40
    )
    table |= {"version_ms": version * 1e3, "python_ms": bare * 1e3, "version_ratio": version / bare}
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        table["cold_start_ms"] = statistics.median(cold_start(root, 5)) * 1e3
        archive = peers.busybox_archive(peers.busybox_tree(root / "tree"))
        engines = [stack.enter_context(peers.proad(root / "proa"))]
        if shutil.which("dockerd") and not options.no_peers:
            engines.append(stack.enter_context(peers.dockerd(root / "dockerd")))
        for engine in engines:
            peers.load(engine, archive)
            idle, each = memory_per_container(engine, options.containers)
            table |= {f"{engine.name}_idle_mib": idle, f"{engine.name}_per_container_mib": each}
    print(f"proa --version {version * 1e3:.1f} ms, {version / bare:.2f} x `python -I -c pass` (target 1.5)")
    print(f"daemon cold start {table['cold_start_ms']:.0f} ms (target 400)")
    for engine in ("proa", "dockerd"):
        if f"{engine}_idle_mib" in table:
            idle, each = table[f"{engine}_idle_mib"], table[f"{engine}_per_container_mib"]
            print(f"{engine}: idle {idle:.1f} MiB, {each:.3f} MiB per sleeping container")
    print("targets: idle 70 MB, 0.1 MB per container")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_footprint.py: needs root")
    main()

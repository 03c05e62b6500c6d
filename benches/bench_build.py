"""How long do builds take: many small commands, nothing to do, many files?

    python benches/bench_build.py [--rounds N] [--files N] [--json FILE] [--no-peers]

Both daemons are driven by the same docker CLI with the classic builder (DOCKER_BUILDKIT=0), which sends the
context; proa's own client, on the same host, does not: that is the row `proa build`. Ratios are of medians
taken in turn in one run. Run it as root with `proa` installed in the interpreter's environment.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peers
from peers import Engine

COMMANDS = 20
STEPS = 30
CONTEXT_FILES = 20_000


def many_files(directory: Path, count: int) -> None:
    """`count` small files, a hundred a directory."""
    for number in range(count):
        parent = directory / f"d{number // 100}"
        if not number % 100:
            parent.mkdir(parents=True)
        (parent / f"f{number}").write_text(f"{number}\n" * 20)


def contexts(root: Path, files: int) -> dict[str, Path]:
    """The contexts of the rows, by name."""
    commands = root / "commands"
    commands.mkdir(parents=True)
    (commands / "Dockerfile").write_text("FROM busybox\n" + "RUN true\n" * COMMANDS)
    steps = root / "steps"
    many_files(steps / "files", CONTEXT_FILES)
    lines = ["FROM busybox", "COPY files /files", *(f"RUN echo {n} > /n{n}" for n in range(STEPS - 2))]
    (steps / "Dockerfile").write_text("\n".join(lines) + "\n")
    copy = root / "copy"
    many_files(copy / "files", files)
    (copy / "Dockerfile").write_text("FROM busybox\nCOPY files /files\n")
    return {"commands": commands, "steps": steps, "copy": copy}


class Client:
    """Builds with one CLI at one daemon."""

    def __init__(self, name: str, engine: Engine, root: Path) -> None:
        self.name = name
        own = name == "proa build"
        self._command = [peers.script("proa") if own else "docker", "build", "-q", "-t", "bench"]
        environment = {**os.environ, **engine.environment}
        if not own:
            environment |= peers.docker_cli_environment(engine, root) | {"DOCKER_BUILDKIT": "0"}
        self._environment = environment

    def build(self, context: Path, *, cold: bool) -> float:
        """Seconds of one build, without the cache where `cold`."""
        more = ["--no-cache"] if cold else []
        begun = time.monotonic()
        subprocess.run(
            [*self._command, *more, str(context)],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.monotonic() - begun


def measure(clients: list[Client], found: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by row and client, medians of rounds in which the clients take turns."""
    rows: dict[str, tuple[Callable[[Client], float], int]] = {
        f"{COMMANDS} x RUN true": (lambda client: client.build(found["commands"], cold=True), rounds),
        f"nothing to do, {STEPS} steps": (lambda client: client.build(found["steps"], cold=False), rounds),
        "COPY of many files": (lambda client: client.build(found["copy"], cold=True), max(1, rounds // 2)),
    }
    for client in clients:
        client.build(found["steps"], cold=False)
    table: dict[str, dict[str, float]] = {}
    for row, (once, count) in rows.items():
        samples: dict[str, list[float]] = {client.name: [] for client in clients}
        for _ in range(count):
            for client in clients:
                samples[client.name].append(once(client))
        table[row] = {name: statistics.median(values) for name, values in samples.items()}
    return table


def show(table: dict[str, dict[str, float]]) -> None:
    """The rows, with ratios against the peer."""
    for row, found in table.items():
        peer = found.get("dockerd")
        cells = []
        for name, seconds in found.items():
            ratio = f" ({peer / seconds:.1f} x)" if peer and name != "dockerd" else ""
            cells.append(f"{name} {seconds * 1e3:.0f} ms{ratio}")
        print(f"{row}: {', '.join(cells)}")
    print("targets: 10 x the classic builder; 150 ms and 5 x; 3 x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        archive = peers.busybox_archive(peers.busybox_tree(root / "tree"))
        proa = stack.enter_context(peers.proad(root / "proa"))
        peers.load(proa, archive)
        clients = [Client("proa build", proa, root), Client("docker at proad", proa, root)]
        if shutil.which("dockerd") and not options.no_peers:
            docker = stack.enter_context(peers.dockerd(root / "dockerd"))
            peers.load(docker, archive)
            clients.append(Client("dockerd", docker, root))
        table = measure(clients, contexts(root / "contexts", options.files), options.rounds)
    show(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_build.py: needs root")
    main()

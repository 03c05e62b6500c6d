"""How long does a container take to start, beside Docker, podman, bare runc and the kernel's own floor?

    python benches/bench_start.py [--rounds N] [--only ROW,...] [--json FILE] [--no-peers]

Every engine is measured in the same run, in alternating rounds, and the floor in each of them, since a shared
machine's speed changes from one second to the next; the table gives medians and ratios. Run it as root with
`proa` installed in the interpreter's environment. The floor is native/examples/floor.rs.
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
from peers import Engine, UnixConnection, spawn, timed_command

ROOT = Path(__file__).resolve().parent.parent
SLEEP = {"Image": "busybox", "Cmd": ["sleep", "300"]}
TRUE = {"Image": "busybox", "Cmd": ["true"]}
FLOOR_COUNT = 40
Samples = dict[str, list[float]]


def floor_program() -> str:
    """Path of the program that measures the kernel's own price."""
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "native/target"))
    command = ["cargo", "build", "--release", "--quiet", "--example", "floor"]
    subprocess.run(command, cwd=ROOT / "native", check=True)
    return f"{target}/release/examples/floor"


def floor_seconds(program: str, tree: Path) -> float:
    """The kernel's own price with a network namespace, now: a median, in seconds."""
    command = [program, str(tree), str(FLOOR_COUNT), "/bin/true"]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(output.stdout)["with_net"]["p50_us"]) / 1e6


def create(connection: UnixConnection, body: object) -> str:
    return str(connection.call("POST", "/containers/create", body)["Id"])


def start_latency(engine: Engine, count: int) -> list[float]:
    """Seconds of POST /containers/{id}/start, default bridge, to the executed process."""
    connection = engine.connection()
    samples = []
    for _ in range(count):
        container = create(connection, SLEEP)
        begun = time.perf_counter()
        connection.call("POST", f"/containers/{container}/start")
        samples.append(time.perf_counter() - begun)
        connection.call("DELETE", f"/containers/{container}?force=1")
    return samples


def cycle_latency(engine: Engine, count: int) -> list[float]:
    """Seconds of create + start + wait + delete of `true` over one connection, default bridge."""
    connection = engine.connection()
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        container = create(connection, TRUE)
        connection.call("POST", f"/containers/{container}/start")
        connection.call("POST", f"/containers/{container}/wait")
        connection.call("DELETE", f"/containers/{container}")
        samples.append(time.perf_counter() - begun)
    return samples


def run_latency(command: list[str], environment: dict[str, str], count: int) -> list[float]:
    """Seconds of a whole command."""
    return [timed_command(command, environment) for _ in range(count)]


def run_rate(command: list[str], environment: dict[str, str], count: int, parallel: int) -> list[float]:
    """Seconds per container of `count` whole commands, `parallel` at a time."""
    begun = time.perf_counter()
    running: set[int] = set()
    left = count
    while left or running:
        while left and len(running) < parallel:
            running.add(spawn(command, environment))
            left -= 1
        pid, status = os.wait()
        running.discard(pid)
        if status:
            raise RuntimeError(f"{' '.join(command)}: exit {os.waitstatus_to_exitcode(status)}")
    return [(time.perf_counter() - begun) / count]


@contextlib.contextmanager
def sleeper(engine: Engine):
    """A running container to exec into; yields its id."""
    connection = engine.connection()
    container = create(connection, SLEEP)
    connection.call("POST", f"/containers/{container}/start")
    try:
        yield container
    finally:
        connection.call("DELETE", f"/containers/{container}?force=1")


class Field:
    """The engines of one run and the row functions over them."""

    def __init__(self, root: Path, proa: Engine, docker: Engine | None, tree: Path) -> None:
        self.proa, self.docker, self.root, self.tree = proa, docker, root, tree
        self.floor_program = floor_program()
        self.docker_cli = peers.docker_cli_environment(proa, root)

    def engines(self) -> list[Engine]:
        return [self.proa] + ([self.docker] if self.docker else [])

    def start(self, count: int) -> Samples:
        return {engine.name: start_latency(engine, count) for engine in self.engines()}

    def cycle(self, count: int) -> Samples:
        return {engine.name: cycle_latency(engine, count) for engine in self.engines()}

    def run(self, count: int) -> Samples:
        words = ["run", "--rm", "busybox", "true"]
        samples = {
            engine.name: run_latency([*engine.cli, *words], engine.environment, count)
            for engine in self.engines()
        }
        if shutil.which("runc"):
            bundle = self.root / "bundle"
            if not bundle.exists():
                peers.runc_bundle(self.root, self.tree, ["/bin/true"])
            samples["runc run"] = [
                timed_command(["runc", "run", "-b", str(bundle), f"bench-{os.getpid()}-{i}"], {})
                for i in range(count)
            ]
        if shutil.which("podman"):
            podman = ["podman", "run", "--rm", "--log-driver=k8s-file", "--rootfs", str(self.tree), "true"]
            with contextlib.suppress(RuntimeError):
                samples["podman"] = run_latency(podman, {}, max(2, count // 3))
        return samples

    def docker_run(self, count: int) -> Samples:
        command = ["docker", "run", "--rm", "busybox", "true"]
        samples = {"proa": run_latency(command, self.docker_cli, count)}
        if self.docker:
            samples["dockerd"] = run_latency(command, self.docker.environment, count)
        return samples

    def parallel(self, count: int) -> Samples:
        words = ["run", "--rm", "busybox", "true"]
        return {e.name: run_rate([*e.cli, *words], e.environment, 60, 4) for e in self.engines()}

    def exec(self, count: int) -> Samples:
        samples = {}
        for engine in self.engines():
            with sleeper(engine) as container:
                samples[engine.name] = run_latency(
                    [*engine.cli, "exec", container, "true"], engine.environment, count
                )
        return samples


ROWS: dict[str, tuple[str, str]] = {
    "start": ("API start to exec'd process, default bridge", "p50 at most 2.5 x floor"),
    "cycle": ("create + start + wait + delete, one connection", "at most 4 x floor, 25 x faster than Docker"),
    "run": ("`run --rm busybox true`, whole command", "15 x faster than Docker, faster than runc run"),
    "docker_run": ("the unmodified docker CLI's `run --rm`", "7 x faster than against dockerd"),
    "parallel": ("60 x `run --rm`, 4 at a time (per container)", "15 x Docker's rate"),
    "exec": ("`exec true` through the CLI", "4 x faster than Docker"),
}


def measure(field: Field, rows: list[str], rounds: int, count: int) -> dict[str, Samples]:
    """Every row's samples by engine, and the floor's, in alternating rounds."""
    results: dict[str, Samples] = {row: {} for row in rows}
    for row in rows:
        method: Callable[[int], Samples] = getattr(field, row)
        for _ in range(rounds):
            results[row].setdefault("floor", []).append(floor_seconds(field.floor_program, field.tree))
            for name, samples in method(count).items():
                results[row].setdefault(name, []).extend(samples)
    return results


def report(results: dict[str, Samples]) -> dict[str, object]:
    """Print the table; the same as JSON-able data, milliseconds."""
    print("| what | proa | floor | peers | proa / floor | faster than Docker | target |")
    print("|---|---|---|---|---|---|---|")
    table: dict[str, object] = {}
    for row, samples in results.items():
        medians = {name: statistics.median(values) * 1e3 for name, values in samples.items() if values}
        proa, floor = medians.pop("proa"), medians.pop("floor")
        others = ", ".join(f"{name} {value:.1f} ms" for name, value in medians.items())
        faster = f"{medians['dockerd'] / proa:.1f} x" if "dockerd" in medians else "-"
        what, target = ROWS[row]
        ratio = f"{proa / floor:.2f}"
        print(f"| {what} | {proa:.2f} ms | {floor:.2f} ms | {others} | {ratio} | {faster} | {target} |")
        table[row] = {
            "proa_ms": proa,
            "floor_ms": floor,
            "p95_ms": sorted(samples["proa"])[int(len(samples["proa"]) * 0.95)] * 1e3,
            **medians,
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10, help="samples a round and engine")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        tree = peers.busybox_tree(root / "tree")
        proa = stack.enter_context(peers.proad(root / "proa"))
        with_docker = shutil.which("dockerd") and not options.no_peers
        docker = stack.enter_context(peers.dockerd(root / "dockerd")) if with_docker else None
        archive = peers.busybox_archive(tree)
        for engine in [proa] + ([docker] if docker else []):
            peers.load(engine, archive)
        results = measure(
            Field(root, proa, docker, tree), options.only.split(","), options.rounds, options.count
        )
        table = report(results)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_start.py: needs root")
    main()

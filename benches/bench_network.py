"""What do networks cost, beside Docker: starts, ports, connects, throughput, and very many on one network?

    python benches/bench_network.py [--count N] [--rounds N] [--only ROW,...] [--members N] [--no-peers]

Every engine is measured in the same run, in alternating rounds; the table gives medians and ratios. Run it as
root with `proa` installed in the interpreter's environment, on a machine that may have bridges made on it.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import peers
import traffic
from peers import Engine, UnixConnection

SLEEP = {"Image": "busybox", "Cmd": ["sleep", "300"]}
FIRST_PORT = 21000
THROUGHPUT_S = 2.0
Samples = dict[str, list[float]]


def on_network(network: str, ports: int) -> dict[str, object]:
    """A create body on a network with so many published ports."""
    bindings = {f"{n}/tcp": [{"HostPort": str(FIRST_PORT + n)}] for n in range(1, ports + 1)}
    host_config: dict[str, object] = {"PortBindings": bindings}
    if network:
        host_config["NetworkMode"] = network
    return {**SLEEP, "ExposedPorts": {port: {} for port in bindings}, "HostConfig": host_config}


@contextlib.contextmanager
def network(connection: UnixConnection, name: str, **fields: object) -> Iterator[str]:
    connection.call("POST", "/networks/create", {"Name": name, **fields})
    try:
        yield name
    finally:
        connection.call("DELETE", f"/networks/{name}")


@contextlib.contextmanager
def container(connection: UnixConnection, body: dict[str, object]) -> Iterator[str]:
    """One that runs."""
    made = str(connection.call("POST", "/containers/create", body)["Id"])
    try:
        connection.call("POST", f"/containers/{made}/start")
        yield made
    finally:
        connection.call("DELETE", f"/containers/{made}?force=1")


def start_seconds(connection: UnixConnection, body: dict[str, object]) -> float:
    made = connection.call("POST", "/containers/create", body)["Id"]
    begun = time.perf_counter()
    connection.call("POST", f"/containers/{made}/start")
    elapsed = time.perf_counter() - begun
    connection.call("DELETE", f"/containers/{made}?force=1")
    return elapsed


def starts(engine: Engine, bodies: dict[str, dict[str, object]], count: int) -> Samples:
    """Seconds of a start for each body, in turn, so that they meet the same load."""
    connection = engine.connection()
    samples: Samples = {name: [] for name in bodies}
    with network(connection, "bench"):
        start_seconds(connection, list(bodies.values())[-1])  # what the first use of a network makes
        for _ in range(count):
            for name, body in bodies.items():
                samples[name].append(start_seconds(connection, body))
    return samples


def three_ports(engine: Engine, count: int) -> Samples:
    return starts(engine, {"plain": SLEEP, "": on_network("bench", 3)}, count)


def many_ports(engine: Engine, count: int) -> Samples:
    """dockerd needs many seconds to start 200 ports and more to take them back: once a round is enough."""
    bodies = {"": on_network("", 200), "one": on_network("", 1)}
    return starts(engine, bodies, max(2, count // 5) if engine.name == "proa" else 1)


def connect(engine: Engine, count: int) -> Samples:
    """Seconds of a connect and a disconnect of a running container."""
    connection = engine.connection()
    samples = []
    with network(connection, "bench"), container(connection, SLEEP) as running:
        for _ in range(count):
            begun = time.perf_counter()
            connection.call("POST", "/networks/bench/connect", {"Container": running})
            connection.call("POST", "/networks/bench/disconnect", {"Container": running})
            samples.append(time.perf_counter() - begun)
    return {"": samples}


def throughput(at: str) -> Callable[[Engine, int], Samples]:
    """Seconds per GiB into a published port at an address of this host; without one, from another machine."""

    def measure(engine: Engine, count: int) -> Samples:
        connection = engine.connection()
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(container(connection, on_network("", 1)))
            pid = connection.call("GET", f"/containers/{running}/json")["State"]["Pid"]
            stack.enter_context(traffic.program("sink", str(pid), "1"))
            port = FIRST_PORT + 1
            if at:
                send = partial(traffic.send, at, port, THROUGHPUT_S)
            else:
                machine = stack.enter_context(traffic.outside_machine())
                send = partial(machine.send, port, THROUGHPUT_S)
            return {"": [send() for _ in range(max(1, count // 10))]}

    return measure


def members(engine: Engine, count: int) -> float:
    """Seconds until so many containers run on one network; each then reaches the first and the last one."""
    connection = engine.connection()
    serve = {**SLEEP, "Cmd": ["sleep", "3000"], "HostConfig": {"NetworkMode": "bench"}}
    made: list[str] = []
    with network(connection, "bench", IPAM={"Config": [{"Subnet": "10.210.0.0/16"}]}):
        try:
            begun = time.perf_counter()
            for number in range(count):
                made.append(
                    str(connection.call("POST", f"/containers/create?name=member{number}", serve)["Id"])
                )
                connection.call("POST", f"/containers/{made[-1]}/start")
            elapsed = time.perf_counter() - begun
            check_members(connection, count)
        finally:
            threads = [threading.Thread(target=remove, args=(engine, made[n::4])) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return elapsed


def check_members(connection: UnixConnection, count: int) -> None:
    """Raises RuntimeError where one cannot reach the first or the last by name; says what failed."""
    failed: dict[str, list[str]] = {}
    for number in range(count):
        for target in ("member0", f"member{count - 1}"):
            why = failure(connection, f"member{number}", target)
            if why:
                failed.setdefault(why, []).append(f"member{number} -> {target}")
    if failed:
        told = "; ".join(f"{why}: {len(pairs)}, such as {pairs[:4]}" for why, pairs in failed.items())
        raise RuntimeError(f"of {2 * count} checks failed {told}")


def failure(connection: UnixConnection, source: str, target: str) -> str:
    """Why one container cannot ping another by name: empty, `no name`, `no answer`, or what ping says."""
    command = {
        "Cmd": ["busybox", "ping", "-c1", "-W5", target],
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": True,
    }
    started = connection.call("POST", f"/containers/{source}/exec", command)["Id"]
    said = connection.stream("POST", f"/exec/{started}/start", {"Detach": False, "Tty": True}).decode()
    if connection.call("GET", f"/exec/{started}/json")["ExitCode"] == 0:
        return ""
    if "bad address" in said:
        return "no name"
    return "no answer" if "100% packet loss" in said else said.strip() or "no word"


def remove(engine: Engine, containers: list[str]) -> None:
    connection = engine.connection()
    for made in containers:
        connection.call("DELETE", f"/containers/{made}?force=1")


Measure = Callable[[Engine, int], Samples]
ROWS: dict[str, tuple[str, Measure, str]] = {
    "three_ports": (
        "start on a user-defined bridge with 3 published ports",
        three_ports,
        "at most 1.5 x the start without network options; 25 x faster than Docker",
    ),
    "many_ports": ("start with 200 published ports", many_ports, "at most 3 x the start with one"),
    "connect": ("connect and disconnect of a running container", connect, "10 x faster than Docker"),
    "outside": ("1 GiB into a published port, from outside", throughput(""), "at least Docker's (iptables)"),
    "localhost": ("the same from 127.0.0.1", throughput("127.0.0.1"), "far above docker-proxy's"),
    "localhost6": ("the same from ::1", throughput("::1"), "at least docker-proxy's"),
}


def measure(engines: list[Engine], rows: list[str], rounds: int, count: int) -> dict[str, dict[str, Samples]]:
    """Samples by row, engine and variant."""
    results: dict[str, dict[str, Samples]] = {row: {e.name: {} for e in engines} for row in rows}
    for row in rows:
        for _ in range(rounds):
            for engine in engines:
                for variant, samples in ROWS[row][1](engine, count).items():
                    results[row][engine.name].setdefault(variant, []).extend(samples)
    return results


def report(results: dict[str, dict[str, Samples]]) -> dict[str, object]:
    """Print the table; the same as JSON-able data, milliseconds."""
    print("| what | proa | Docker | faster than Docker | beside proa's own | target |")
    print("|---|---|---|---|---|---|")
    table: dict[str, object] = {}
    for row, engines in results.items():
        medians = {
            name: {variant: statistics.median(values) * 1e3 for variant, values in samples.items()}
            for name, samples in engines.items()
        }
        proa, docker = medians["proa"], medians.get("dockerd")
        shown = f"{docker['']:.1f} ms" if docker else "-"
        faster = f"{docker[''] / proa['']:.1f} x" if docker else "-"
        own = ", ".join(f"{proa[''] / value:.2f} x {name}" for name, value in proa.items() if name)
        what, _, target = ROWS[row]
        print(f"| {what} | {proa['']:.2f} ms | {shown} | {faster} | {own or '-'} | {target} |")
        table[row] = medians
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20, help="samples a round and engine")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument(
        "--members", type=int, default=0, help="so many containers on one network, proa alone"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        tree = peers.busybox_tree(root / "tree")
        proa = stack.enter_context(peers.proad(root / "proa"))
        with_docker = shutil.which("dockerd") and not options.no_peers
        docker = stack.enter_context(peers.dockerd(root / "dockerd")) if with_docker else None
        engines = [proa] + ([docker] if docker else [])
        for engine in engines:
            peers.load(engine, peers.busybox_archive(tree))
        rows = [row for row in options.only.split(",") if row]
        table = report(measure(engines, rows, options.rounds, options.count))
        if options.members:
            table["members_s"] = members(proa, options.members)
            print(f"\n{options.members} containers on one network: {table['members_s']:.1f} s, all reachable")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_network.py: needs root")
    main()

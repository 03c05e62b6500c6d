"""How many questions does the resolver of a user-defined network answer in a second, beside Docker's?

    python benches/bench_dns.py [--rounds N] [--seconds S] [--window W] [--json FILE] [--no-peers]

A container's name, a name of the servers' that comes again, and one that is new each time, asked over UDP
from within a container by native/examples/dns_load.rs. The server behind is the same program on the
network's gateway. Beside it the engine's own processor time an answer, which says more on a busy machine.
Every engine is measured in the same run, in alternating rounds. Run it as root with `proa` installed in the
interpreter's environment.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
from peers import Engine

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"container's name": "web", "cached": "cached.example", "forwarded": "n#.example"}


def load_program() -> str:
    """Path of the built load generator."""
    command = ["cargo", "build", "--release", "--quiet", "--example", "dns_load"]
    subprocess.run(command, cwd=ROOT / "native", check=True)
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "native/target"))
    return f"{target}/release/examples/dns_load"


class Asker:
    """A container on a network of its own, whose server is ours, and one with a name beside it."""

    def __init__(self, engine: Engine, program: str, subnet: str) -> None:
        self._engine = engine
        self._api = engine.connection()
        self._program = program
        gateway = subnet.replace("0/24", "1")
        ipam = {"Config": [{"Subnet": subnet, "Gateway": gateway}]}
        self._network = self._api.call("POST", "/networks/create", {"Name": "bench", "IPAM": ipam})["Id"]
        self._containers = [self._start(name, gateway) for name in ("web", "asker")]
        state = self._api.call("GET", f"/containers/{self._containers[1]}/json")["State"]
        self._pid = str(state["Pid"])
        self._server = subprocess.Popen([program, "serve", f"{gateway}:53"], stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        self._server.stdout.readline()

    def rate(self, name: str, window: int, seconds: float) -> tuple[float, float]:
        """(answers in a second, processor microseconds an answer), `window` questions at a time.

        Raises RuntimeError where a question fails.
        """
        command = [self._program, "ask", self._pid, str(window), str(seconds), name]
        before = self._processor_seconds()
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        spent = self._processor_seconds() - before
        figures = json.loads(output.stdout)
        if figures["failures"] or not figures["answers"]:
            raise RuntimeError(f"{name}: {figures}")
        return figures["answers"] / figures["seconds"], 1e6 * spent / figures["answers"]

    def _processor_seconds(self) -> float:
        """Of all the engine's processes: 14th and 15th field of proc(5)'s stat."""
        ticks = 0
        for pid in self._engine.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        for container in self._containers:
            self._api.call("DELETE", f"/containers/{container}?force=1")
        self._api.call("DELETE", f"/networks/{self._network}")
        self._api.close()

    def _start(self, name: str, server: str) -> str:
        host = {"NetworkMode": "bench", "Dns": [server]}
        body = {"Image": "busybox", "Cmd": ["sleep", "3000"], "HostConfig": host}
        container = str(self._api.call("POST", f"/containers/create?name={name}", body)["Id"])
        self._api.call("POST", f"/containers/{container}/start")
        return container


@contextlib.contextmanager
def askers(root: Path, program: str, *, with_peers: bool) -> Iterator[dict[str, Asker]]:
    """By engine; each with a network of its own."""
    archive = peers.busybox_archive(peers.busybox_tree(root / "tree"))
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(peers.proad(root / "proa"))]
        if with_peers and shutil.which("dockerd"):
            engines.append(stack.enter_context(peers.dockerd(root / "docker")))
        found = {}
        for number, engine in enumerate(engines):
            peers.load(engine, archive)
            asker = Asker(engine, program, f"172.29.{248 + number}.0/24")
            stack.callback(asker.close)
            found[engine.name] = asker
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    program = load_program()
    root = Path(tempfile.mkdtemp(prefix="proa-bench-dns-"))
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {row: {} for row in ROWS}
    try:
        with askers(root, program, with_peers=not options.no_peers) as found:
            for _ in range(options.rounds):
                for row, name in ROWS.items():
                    for engine, asker in found.items():
                        rate = asker.rate(name, options.window, options.seconds)
                        samples[row].setdefault(engine, []).append(rate)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    table = {row: {name: medians(of) for name, of in engines.items()} for row, engines in samples.items()}
    print("| | proa/s | dockerd/s | ratio | proa us | dockerd us | ratio |\n|---|---|---|---|---|---|---|")
    for row, figures in table.items():
        (ours, our_time), (theirs, their_time) = figures["proa"], figures.get("dockerd", (0.0, 0.0))
        ratios = (ours / theirs, their_time / our_time) if theirs else (0.0, 0.0)
        print(f"| {row} | {ours:,.0f} | {theirs:,.0f} | {ratios[0]:.1f} ", end="")
        print(f"| {our_time:.1f} | {their_time:.1f} | {ratios[1]:.1f} |")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def medians(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Of each figure by itself."""
    rates, times = zip(*samples, strict=True)
    return statistics.median(rates), statistics.median(times)


if __name__ == "__main__":
    main()

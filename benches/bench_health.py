"""What does a healthcheck cost, as a command and as a native probe, beside Docker's command?

    python benches/bench_health.py [--containers N] [--seconds S] [--rounds N] [--json FILE] [--no-peers]

Containers that stay healthy are checked ten times a second, and the engine's processor time in that time is
divided by the number of checks: the daemon, its supervisors, and what they have started and reaped (runc, the
commands); not what the containers' own server does. What the engine costs without checks is taken off. Every
engine is measured in the same run. Run it as root with `proa` installed in the interpreter's environment.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import peers
from peers import Engine, UnixConnection

INTERVAL = 0.1
SERVER = ["sh", "-c", "mkdir /w; touch /w/up; exec busybox httpd -f -p 80 -h /w"]
CHECKS: dict[str, list[str]] = {
    "command": ["CMD", "test", "-e", "/w/up"],
    "http": ["HTTP", "/up"],
    "tcp": ["TCP", "80"],
}
TICK = 1 / os.sysconf("SC_CLK_TCK")


def processor_seconds(engine: Engine) -> float:
    """What the engine's processes have used, and their children that are reaped."""
    used = 0.0
    for pid in engine.pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[13]) + int(fields[14])) * TICK
            tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
            used += sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    return used


class Checked:
    """Containers of one engine with one kind of check, all healthy."""

    def __init__(self, engine: Engine, count: int, test: list[str]) -> None:
        self._engine = engine
        self._api = engine.connection()
        check = {"Test": test, "Interval": int(INTERVAL * 1e9)}
        body = {"Image": "busybox", "Cmd": SERVER, "Healthcheck": check if test else {"Test": ["NONE"]}}
        self._ids = [start(self._api, body) for _ in range(count)]
        while test and not all(self._log(id_) for id_ in self._ids):
            time.sleep(INTERVAL)

    def cost(self, seconds: float) -> tuple[float, float]:
        """(processor seconds, checks) of the next so many seconds."""
        before = processor_seconds(self._engine)
        begun = time.monotonic()
        time.sleep(seconds)
        used, passed = processor_seconds(self._engine) - before, time.monotonic() - begun
        checks = sum(passed / (INTERVAL + self._duration(id_)) for id_ in self._ids if self._log(id_))
        return used * seconds / passed, checks

    def end(self) -> None:
        for id_ in self._ids:
            self._api.call("DELETE", f"/containers/{id_}?force=1")

    def _log(self, id_: str) -> list[dict[str, str]]:
        """The results since the first success; none before."""
        health = self._api.call("GET", f"/containers/{id_}/json")["State"].get("Health")
        return health["Log"] if health and health["Status"] == "healthy" else []

    def _duration(self, id_: str) -> float:
        return statistics.fmean(moment(one["End"]) - moment(one["Start"]) for one in self._log(id_))


def start(api: UnixConnection, body: object) -> str:
    """A running container's id."""
    id_ = str(api.call("POST", "/containers/create", body)["Id"])
    api.call("POST", f"/containers/{id_}/start")
    return id_


def moment(text: str) -> float:
    """Seconds of a time with nanoseconds and any zone."""
    body, zone = (text[:-1], "+00:00") if text.endswith("Z") else (text[:-6], text[-6:])
    whole, _, fraction = body.partition(".")
    return datetime.datetime.fromisoformat(whole + zone).timestamp() + float(f"0.{fraction or 0}")


def measure(engine: Engine, checks: dict[str, list[str]], count: int, seconds: float) -> dict[str, float]:
    """Processor microseconds a check, by kind."""
    found = {}
    idle = Checked(engine, count, [])
    base, _ = idle.cost(seconds)
    idle.end()
    for kind, test in checks.items():
        checked = Checked(engine, count, test)
        used, number = checked.cost(seconds)
        checked.end()
        found[kind] = max(used - base, 0.0) / number * 1e6
    return found


def healthchecks(engines: list[Engine], options: argparse.Namespace) -> dict[str, float]:
    """Medians over the rounds by `engine kind`."""
    samples: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for engine in engines:
            checks = CHECKS if engine.name == "proa" else {"command": CHECKS["command"]}
            for kind, value in measure(engine, checks, options.containers, options.seconds).items():
                samples.setdefault(f"{engine.name} {kind}", []).append(value)
    return {name: statistics.median(values) for name, values in samples.items()}


def report(medians: dict[str, float]) -> None:
    """Print the table."""
    command, docker = medians["proa command"], medians.get("dockerd command")
    print("| check | processor time each | beside proa's command | beside dockerd's |")
    print("|---|---|---|---|")
    for name, value in medians.items():
        beside = f"{docker / value:.1f} x less" if docker else "-"
        print(f"| {name} | {value:.0f} us | {command / value:.1f} x less | {beside} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--containers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        engines = [stack.enter_context(peers.proad(root / "proa"))]
        if shutil.which("dockerd") and not options.no_peers:
            engines.append(stack.enter_context(peers.dockerd(root / "dockerd")))
        archive = peers.busybox_archive(peers.busybox_tree(root / "tree"))
        for engine in engines:
            peers.load(engine, archive)
        medians = healthchecks(engines, options)
        report(medians)
    if options.json:
        options.json.write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_health.py: needs root")
    main()

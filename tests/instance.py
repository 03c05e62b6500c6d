"""A real proad on roots of its own, for tests: started, killed, started again, and counted for leaks."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
import proa_native
import pytest
from peers import Engine, UnixConnection

from proa.schema.config import DaemonConfig


def require_root() -> None:
    """Skip the test where it cannot have real namespaces."""
    if os.geteuid():
        pytest.skip("needs root for real namespaces")
    if not peers.BUSYBOX:
        pytest.skip("needs Debian's busybox-static")


class PassingConnection(UnixConnection):
    """One that is closed when nobody has it any more: a test run makes thousands."""

    def __del__(self) -> None:
        self.close()


@dataclass
class Instance:
    """One daemon: `engine` says how to reach it."""

    root: Path
    arguments: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    engine: Engine | None = None

    def start(self) -> Engine:
        self.process, self.engine, _ = peers.start_proad(self.root, *self.arguments)
        return self.engine

    @property
    def config(self) -> DaemonConfig:
        return DaemonConfig(data_root=f"{self.root}/lib", exec_root=f"{self.root}/run")

    @property
    def api(self) -> UnixConnection:
        """A new connection."""
        assert self.engine is not None
        return PassingConnection(self.engine.socket)

    def kill_daemon(self) -> None:
        """SIGKILL proad alone; the keeper and its containers stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def keeper_pid(self) -> int:
        """Raises LookupError while there is none. A child that it starts looks like it until it executes."""
        parents: dict[int, int] = {}
        for pid in self.engine.pids():
            with contextlib.suppress(OSError):
                if b"keeper_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found = [pid for pid, parent in parents.items() if parent not in parents]
        if not found:
            raise LookupError("there is no keeper")
        return found[0]

    def run(self, *words: str, cli: str = "docker", **options: object) -> "subprocess.CompletedProcess[str]":
        """One command of `docker` or `proa` against this daemon; stdin closed unless `input` is given."""
        assert self.engine is not None
        environment = {**os.environ, **self.engine.environment}
        if cli == "docker":
            environment |= peers.docker_cli_environment(self.engine, self.root)
        command = [cli if cli == "docker" else self.engine.cli[0], *words]
        options.setdefault("timeout", 60)
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, **options
        )

    def stop(self) -> None:
        """End proad, the keeper and every container."""
        if self.process is not None:
            with contextlib.suppress(OSError, RuntimeError):
                for container in self.api.call("GET", "/containers/json?all=1"):
                    self.api.call("DELETE", f"/containers/{container['Id']}?force=1")
            peers.end(self.process)
        if self.engine is not None:
            peers.remove_traces(self.engine)

    def leftovers(self) -> list[str]:
        """What a container may leave on the host and must not: cgroups, mounts, snapshots, directories."""
        config = self.config
        cgroups = Path("/sys/fs/cgroup")
        groups = [*cgroups.glob(f"*{config.cgroup_root}/*"), *cgroups.glob(f".{config.cgroup_root}/*")]
        found = [str(path) for path in groups if path.is_dir()]
        found += [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.root) in line
        ]
        found += [str(p) for p in Path(config.data_root, "containers").glob("*")]
        return found


def eventually(condition: "callable[[], bool]", seconds: float = 30) -> bool:
    """Whether `condition` becomes true: for what the engine does behind the answer (teardown)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def instance(root: Path, *arguments: str) -> Iterator[Instance]:
    """A started daemon with busybox loaded, removed whole afterwards."""
    require_root()
    daemon = Instance(root, arguments)
    try:
        engine = daemon.start()
        peers.load(engine, peers.busybox_archive(peers.busybox_tree(root / "tree")))
        yield daemon
    finally:
        daemon.stop()
        with contextlib.suppress(OSError):
            proa_native.remove_tree(str(root))  # as deep as an image may have made it

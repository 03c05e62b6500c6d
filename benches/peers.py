"""The engines the benches compare: proad and its peers, each started with roots of its own and ended by pid.

A peer that is not installed is left out, and the bench says so. Nothing here touches an engine that the
host runs already.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if Path(p).exists()), "")
APPLETS = (
    "sh",
    "true",
    "false",
    "sleep",
    "echo",
    "cat",
    "ls",
    "id",
    "dd",
    "head",
    "tr",
    "wc",
    "stat",
    "ps",
    "touch",
    "test",
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket, kept alive: the same client for every engine."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """One request; the decoded JSON, empty for no body. Raises RuntimeError on an error status.

        Past http.client, which takes longer over an answer than some are on their way.
        """
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        kind = "Content-Type: application/json\r\n" if data else ""
        if self.sock is None:
            self.connect()
        self.sock.sendall(f"{head}{kind}\r\n".encode() + data)
        status, text = self.answer()
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {text[:300]!r}")
        return json.loads(text) if text.strip() else {}

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head, rest = self._until(b"", b"\r\n\r\n")
        status, fields = int(head[9:12]), head.lower()
        text = b""
        if b"\r\ntransfer-encoding: chunked" in fields:
            while True:
                size, rest = self._until(rest, b"\r\n")
                chunk, rest = self._exactly(rest, int(size, 16) + 2)
                if len(chunk) == 2:
                    break
                text += chunk[:-2]
        elif b"\r\ncontent-length: " in fields and status not in (204, 304):
            length = int(fields.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            text, _ = self._exactly(rest, length)
        if b"\r\nconnection: close" in fields:
            self.close()
        return status, text

    def _until(self, data: bytes, end: bytes) -> tuple[bytes, bytes]:
        while end not in data:
            data += self._some()
        found, _, rest = data.partition(end)
        return found, rest

    def _exactly(self, data: bytes, length: int) -> tuple[bytes, bytes]:
        while len(data) < length:
            data += self._some()
        return data[:length], data[length:]

    def _some(self) -> bytes:
        data: bytes = self.sock.recv(1 << 16)
        if not data:
            raise RuntimeError("the engine has closed the connection")
        return data

    def stream(self, method: str, path: str, body: object) -> bytes:
        """What comes until the engine closes the connection. Raises RuntimeError on an error status."""
        self.request(method, "/v1.41" + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with self.getresponse() as response:
            text = response.read()
        self.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
        return text


@dataclass
class Engine:
    """A running daemon: its name in tables, its socket, its CLI, and how to find its processes."""

    name: str
    socket: str
    cli: list[str]
    pid: int
    exec_root: str
    environment: dict[str, str] = field(default_factory=dict)

    def connection(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def pids(self) -> list[int]:
        """Every process of the engine: the daemon, and what names its exec root on its command line."""
        found = {self.pid} - {0}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    if any(self.exec_root.encode() in part for part in arguments[:12]):
                        found.add(int(entry.name))
        return sorted(found - {os.getpid()})

    def pss_kib(self) -> int:
        """Proportional set size of all engine processes, KiB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total


def busybox_tree(directory: Path) -> Path:
    """A root directory with a static busybox and its usual applets as symlinks."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy2(BUSYBOX, directory / "bin/busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp", "root"):
        (directory / name).mkdir()
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    return directory


def busybox_archive(tree: Path) -> bytes:
    """A docker archive of a busybox tree, tagged busybox:latest, for `load` of any engine."""
    layer = BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(tree, arcname=".")
    layer_bytes = layer.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer_bytes).hexdigest()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "busybox"}],
    }
    config_bytes = json.dumps(config).encode()
    name = hashlib.sha256(config_bytes).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}]
    members = (
        (name, config_bytes),
        ("layer.tar", layer_bytes),
        ("manifest.json", json.dumps(manifest).encode()),
    )
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return out.getvalue()


def wait_for_ping(path: str, process: subprocess.Popen[bytes], seconds: float = 60) -> float:
    """Seconds until `GET /_ping` answered. Raises RuntimeError when the daemon ends first."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if process.poll() is not None:
            raise RuntimeError(f"daemon ended with {process.returncode}")
        unready = contextlib.suppress(OSError, http.client.HTTPException)
        with unready, contextlib.closing(UnixConnection(path)) as connection:
            connection.request("GET", "/_ping")
            if connection.getresponse().status == 200:
                return time.perf_counter() - begun
        time.sleep(0.002)
    raise RuntimeError("daemon does not answer")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on port {port}")


def load(engine: Engine, archive: bytes) -> None:
    """Load a docker archive through the API."""
    with contextlib.closing(engine.connection()) as connection:
        connection.request(
            "POST", "/v1.41/images/load?quiet=1", archive, {"Content-Type": "application/x-tar"}
        )
        response = connection.getresponse()
        text = response.read()
    if response.status != 200 or b'"error"' in text:
        raise RuntimeError(f"load: {response.status} {text[:300]!r}")


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL where that takes more than half a minute."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def dockerd(root: Path) -> Iterator[Engine]:
    """Debian's dockerd (with its containerd and runc) on roots below `root` and a bridge of its own."""
    root.mkdir(parents=True)
    socket_path = f"{root}/docker.sock"
    exec_root = f"{root}/exec"
    command = ["dockerd", "--data-root", f"{root}/data", "--exec-root", exec_root, "--pidfile", f"{root}/pid"]
    bridge = f"dk{os.getpid()}"
    command += ["-H", f"unix://{socket_path}", "--bridge", bridge]
    for words in (f"link add {bridge} type bridge", f"addr add {free_gateway()} dev {bridge}"):
        subprocess.run(["ip", *words.split()], check=True)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for_ping(socket_path, process)
        environment = {"DOCKER_HOST": f"unix://{socket_path}", "DOCKER_CONFIG": f"{root}/config"}
        yield Engine("dockerd", socket_path, ["docker"], process.pid, exec_root, environment)
    finally:
        end(process)
        subprocess.run(["ip", "link", "del", bridge], check=False)


def free_gateway() -> str:
    """An address for a bridge, in a range that no other has: the bridge of a run that was killed, or of one
    beside this, would get its packets.
    """
    from proa.network.ipam import choose_subnet, to_text
    from proa.network.link import used_subnets

    subnet = choose_subnet([("172.29.192.0/18", 24)], used_subnets())
    return f"{to_text(subnet.first + 1)}/24"


def script(name: str) -> str:
    """Path of a script installed in this interpreter's environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def start_proad(root: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Engine, float]:
    """proad on roots below `root`: process, engine, seconds until it answered ping."""
    root.mkdir(parents=True, exist_ok=True)
    exec_root = f"{root}/run"
    command = [script("proad"), "--data-root", f"{root}/lib", "--exec-root", exec_root, *arguments]
    with (root / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    socket_path = f"{exec_root}/proad.sock"
    seconds = wait_for_ping(socket_path, process)
    environment = {"PROA_EXEC_ROOT": exec_root, "PROA_DATA_ROOT": f"{root}/lib"}
    return (
        process,
        Engine("proa", socket_path, [script("proa")], process.pid, exec_root, environment),
        seconds,
    )


@contextlib.contextmanager
def proad(root: Path, *arguments: str) -> Iterator[Engine]:
    """proad of this interpreter's environment; its keeper is ended with it."""
    process, engine, _ = start_proad(root, *arguments)
    try:
        yield engine
    finally:
        end(process)
        remove_traces(engine)


def remove_traces(engine: Engine) -> None:
    """End the keeper with its containers, and remove what an instance keeps on the host between daemons."""
    import proa_native

    from proa.network import tear_down
    from proa.schema.config import DaemonConfig

    for pid in engine.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    config = DaemonConfig(exec_root=engine.exec_root)
    tear_down(config)
    proa_native.cgroup_kill(config.cgroup_root)
    proa_native.cgroup_remove(config.cgroup_root)


def docker_cli_environment(engine: Engine, root: Path) -> dict[str, str]:
    """Environment that points the unmodified docker CLI at an engine."""
    return {"DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_CONFIG": f"{root}/docker-config"}


def spawn(arguments: list[str], environment: dict[str, str]) -> int:
    """Start a command with stdin and stdout at /dev/null; its pid."""
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    path = shutil.which(arguments[0]) or arguments[0]
    return os.posix_spawn(path, arguments, {**os.environ, **environment}, file_actions=null)


def timed_command(arguments: list[str], environment: dict[str, str]) -> float:
    """Wall seconds of one command. Raises RuntimeError when it fails."""
    begun = time.perf_counter()
    _, status = os.waitpid(spawn(arguments, environment), 0)
    elapsed = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{' '.join(arguments)}: exit {os.waitstatus_to_exitcode(status)}")
    return elapsed


def runc_bundle(root: Path, tree: Path, arguments: list[str]) -> Path:
    """A bundle for bare `runc run`, its root the busybox tree."""
    bundle = root / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"].update(terminal=False, args=arguments)
    spec["process"].pop("rlimits", None)
    spec["root"] = {"path": str(tree), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(spec))
    return bundle

"""A real keeper on an exec root of its own, and a bare client of its protocol, for tests."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import peers
import proa_native

from proa.schema import keeper as protocol
from proa.schema import plan as plans

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import proa_native; "
    "proa_native.keeper_main(sys.argv[2], ready_fd=int(sys.argv[3]))"
)
NATIVE = Path(proa_native.__file__).parent
"""Directory of the module; a package's own directory is the one above."""

CAPABILITIES = 0xA80425FB
"""Docker's default set."""

MOUNTS = (plans.Proc(), plans.Dev(), plans.Sysfs(), plans.Mqueue())


class Wire:
    """One connection to the keeper; the newest replaces the ones before it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.events: list[protocol.Exited | protocol.Oom] = []
        self._answers: dict[int, protocol.Reply] = {}
        self._numbers = itertools.count(1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(protocol.Reply).decode

    def send(self, build: Callable[[int], object], *fds: int) -> int:
        """Ask without waiting; the request's number."""
        seq = next(self._numbers)
        socket.send_fds(self.socket, [self._encode(build(seq))], list(fds))
        return seq

    def ask(self, build: Callable[[int], object], *fds: int) -> protocol.Reply:
        return self.answer(self.send(build, *fds))

    def answer(self, seq: int) -> protocol.Reply:
        while seq not in self._answers:
            self._receive()
        return self._answers.pop(seq)

    def exit_of(self, id_: str, exec_id: str | None = None) -> protocol.Exited:
        """Wait for the exit of a process, other events kept."""
        while True:
            for event in self.events:
                if isinstance(event, protocol.Exited) and (event.id, event.exec_id) == (id_, exec_id):
                    self.events.remove(event)
                    return event
            self._receive()

    def _receive(self) -> None:
        packet = self.socket.recv(4 << 20)
        if not packet:
            raise ConnectionError("the keeper has closed the connection")
        reply = self._decode(packet)
        if isinstance(reply, protocol.Exited | protocol.Oom):
            self.events.append(reply)
        else:
            self._answers[reply.seq] = reply

    def hello(self) -> protocol.Welcome:
        welcome = self.ask(lambda seq: protocol.Hello(seq=seq))
        assert isinstance(welcome, protocol.Welcome)
        return welcome


class Rig:
    """A keeper, its roots, and plans of busybox containers for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.exec_root = root / "run"
        self.exec_root.mkdir(mode=0o700)
        self.tree = peers.busybox_tree(root / "tree")
        self.cgroups = f"/proa-test-{uuid.uuid4().hex[:8]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.wire: Wire
        self._sockets: list[socket.socket] = []

    def command(self, ready_fd: int = -1) -> tuple[str, ...]:
        return (sys.executable, "-I", "-S", "-c", BOOT, str(NATIVE), str(self.exec_root), str(ready_fd))

    def start(self) -> Wire:
        """Start the keeper and connect."""
        ready, told = os.pipe()
        with open(self.root / "keeper.log", "ab") as log:
            self.process = subprocess.Popen(self.command(told), pass_fds=(told,), stderr=log)
        os.close(told)
        with os.fdopen(ready, "rb") as waiting:
            assert waiting.read(1) == b"1", self.complaints()
        return self.connect()

    def connect(self) -> Wire:
        self.wire = Wire(self.exec_root / "keeper.sock")
        self._sockets.append(self.wire.socket)
        return self.wire

    def complaints(self) -> str:
        return (self.root / "keeper.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the keeper and everything that it has made."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.connect().ask(lambda seq: protocol.Shutdown(seq=seq, kill=True))
                self.process.wait(30)
            except (OSError, subprocess.TimeoutExpired):
                self.kill()
        for end in self._sockets:
            end.close()
        # The containers of a keeper that was killed are on their way out.
        proa_native.cgroup_kill(self.cgroups)
        proa_native.cgroup_remove(self.cgroups)
        shutil.rmtree(self.root, ignore_errors=True)

    def process_of(self, script: str, *, tty: bool = False) -> plans.Process:
        """A shell script as root with Docker's capabilities."""
        full = CAPABILITIES
        return plans.Process(
            args=("/bin/sh", "-c", script),
            env=("PATH=/bin", "HOME=/root", "TERM=xterm"),
            cwd="/",
            uid=0,
            gid=0,
            groups=(0,),
            capabilities=plans.Capabilities(bounding=full, effective=full, permitted=full),
            tty=tty,
        )

    def plan(
        self,
        script: str,
        *,
        tty: bool = False,
        stdin: bool = False,
        timeout_ns: int = 0,
        resources: plans.Resources | None = None,
        network: plans.Network | None = None,
    ) -> plans.Plan:
        """A container of busybox with a log."""
        id_ = uuid.uuid4().hex * 2
        directory = self.root / id_[:12]
        for name in ("fs", "work"):
            (directory / name).mkdir(parents=True)
        log = plans.Log(path=str(directory / "log"), max_size=20 << 20, max_files=5)
        return plans.Plan(
            id=id_,
            hostname="box",
            rootfs=plans.Overlay(
                lower=(str(self.tree),), upper=str(directory / "fs"), work=str(directory / "work")
            ),
            namespaces=plans.Namespaces(net=network or plans.NoNetwork()),
            mounts=MOUNTS,
            cgroup=plans.Cgroup(path=f"{self.cgroups}/{id_}", resources=resources or plans.Resources()),
            process=self.process_of(script, tty=tty),
            stdio=plans.Stdio(open_stdin=stdin, stdin_once=stdin, log=log),
            timeout_ns=timeout_ns,
        )

    def run(self, plan: plans.Plan) -> protocol.Started:
        """Start a container that must start."""
        answer = self.wire.ask(lambda seq: protocol.Start(seq=seq, plan=plan))
        assert isinstance(answer, protocol.Started), (answer, self.complaints())
        return answer

    def attach(self, id_: str, exec_id: str | None = None, **options: object) -> socket.socket:
        """Attach a client to everything, raw, and answer its end."""
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        self._sockets.append(ours)
        options = {"stdin": True, "stdout": True, "stderr": True, "multiplexed": False, **options}
        request = protocol.Attach(seq=0, id=id_, exec_id=exec_id, **options)
        with theirs:
            answer = self.wire.ask(lambda seq: msgspec.structs.replace(request, seq=seq), theirs.fileno())
        assert isinstance(answer, protocol.Done), answer
        return ours

    def log(self, plan: plans.Plan, stream: str = "stdout") -> bytes:
        """All of a stream that is in the log now."""
        assert plan.stdio.log is not None
        streams = {name: name == stream for name in ("stdout", "stderr")}
        reader = proa_native.LogReader(plan.stdio.log.path, **streams, multiplexed=False)
        return b"".join(iter(reader.read, b""))

    def cgroups_left(self) -> list[str]:
        """Containers' groups that still exist in some hierarchy."""
        children = [child for parent in self._cgroup_parents() for child in parent.iterdir()]
        return [str(child) for child in children if child.is_dir()]

    def _cgroup_parents(self) -> list[Path]:
        mount = Path("/sys/fs/cgroup")
        return [
            path
            for path in (*mount.glob(f"*{self.cgroups}"), Path(f"{mount}{self.cgroups}"))
            if path.is_dir()
        ]


def read_all(client: socket.socket) -> bytes:
    """All until the server's end."""
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    """All up to and with `wanted`."""
    seen = b""
    while wanted not in seen:
        chunk = client.recv(1 << 16)
        assert chunk, seen
        seen += chunk
    return seen


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

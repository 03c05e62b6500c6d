"""The keeper's client: its requests as methods, and the start of a keeper where none runs.

Owns the connection (wire.py) and the words for failures (failures.py); must not know containers' states or
policy. `connect` may be called again whenever the listener was told `lost`.

Source: native/src/keeper/protocol.rs.
"""

import asyncio
import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import proa_native

from proa.errors import NotFound, Unavailable
from proa.runtime.failures import exec_failure, failure, port_failure, start_failure
from proa.runtime.wire import Listener, Wire
from proa.schema.keeper import (
    VERSION,
    Acknowledge,
    Attach,
    CloseStdin,
    DefaultRoute,
    DnsDrop,
    DnsSandbox,
    DnsSet,
    Exec,
    Forget,
    HandOver,
    HeldPort,
    Hello,
    KeeperEndpoint,
    NetAttach,
    NetDetach,
    NetPrepare,
    NetReady,
    NetRelease,
    PortsHold,
    Resize,
    Shutdown,
    Signal,
    Start,
    Started,
    Welcome,
)
from proa.schema.plan import Plan, Process, Stdio
from proa.schema.shipping import Shipping

__all__ = ["Keeper", "Listener"]

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 20.0
"""Seconds a new keeper may take until it listens, and any keeper until it welcomes."""

_TRIES = 3
"""How many keepers in a row may go away before they have welcomed us."""

_BOOT = (
    "import sys, posix; sys.path.insert(0, sys.argv[1]); import proa_native; "
    "[posix.close(int(fd)) for fd in sys.argv[4:]]; "
    "proa_native.keeper_main(sys.argv[2], ready_fd=int(sys.argv[3]))"
)


class Keeper:
    """The one keeper of an exec root."""

    def __init__(self, exec_root: Path) -> None:
        self._exec_root = exec_root
        self._wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_fd = -1
        """Of a keeper that was started and is not waited for yet."""
        self.pid = 0
        """Of the keeper that welcomed us last; 0 before."""

    @property
    def connected(self) -> bool:
        return self._wire is not None and self._wire.open

    def start_early(self) -> None:
        """Start a keeper where none listens, without waiting: `connect` does. For the daemon's own start.

        Raises Unavailable.
        """
        connection = _connect(self._socket_path)
        if connection is None:
            self._start_process()
        else:
            connection.close()

    async def connect(self, listener: Listener) -> Welcome:
        """Connect to the keeper, starting one where none listens, and learn what it holds.

        `listener` is told of exits from now on, and of the loss of this connection.
        Raises Unavailable when it cannot be started or speaks another version of the protocol.
        """
        self.close()
        for _ in range(_TRIES):
            welcome = await self._meet(listener)
            if welcome is not None:
                self.pid = welcome.pid
                return welcome
        raise Unavailable(f"keeper {self._socket_path}: goes away as soon as it is there")

    async def start(
        self,
        plan: Plan,
        started: Callable[[Started], None],
        ship: Shipping | None = None,
        fds: tuple[int, ...] = (),
    ) -> None:
        """Start a container; `started` is called when its process was executed, before any later event.

        `ship`: where its log lines go, too; `fds`: the connection, if there is one, which stays the caller's.

        Raises StartFailed, NotFound (a peer), Conflict: then nothing is left behind. Unavailable: who knows.
        """

        def arrived(answer: object) -> None:
            assert isinstance(answer, Started)
            started(answer)

        await self._connected.request(
            lambda seq: Start(seq=seq, plan=plan, ship=ship), start_failure, arrived, fds
        )

    async def exec(
        self,
        id_: str,
        exec_id: str,
        process: Process,
        stdio: Stdio,
        started: Callable[[Started], None],
        timeout_ns: int = 0,
    ) -> None:
        """Run a process in a running container; as `start`. It is killed after `timeout_ns`, 0 for never."""

        def arrived(answer: object) -> None:
            assert isinstance(answer, Started)
            started(answer)

        await self._connected.request(
            lambda seq: Exec(
                seq=seq, id=id_, exec_id=exec_id, process=process, stdio=stdio, timeout_ns=timeout_ns
            ),
            exec_failure,
            arrived,
        )

    async def attach(self, fd: int, attach: Attach) -> None:
        """Let the keeper serve the client on `fd`, which stays the caller's (the keeper has a copy)."""
        await self._connected.request(
            lambda seq: msgspec.structs.replace(attach, seq=seq), failure, fds=(fd,)
        )

    async def signal(self, id_: str, signal: int, exec_id: str | None = None) -> None:
        """Raises NotFound where the process is gone already."""
        await self._connected.request(
            lambda seq: Signal(seq=seq, id=id_, exec_id=exec_id, signal=signal), failure
        )

    async def resize(self, id_: str, rows: int, columns: int, exec_id: str | None = None) -> None:
        """Set the size of a process's tty."""
        await self._connected.request(
            lambda seq: Resize(seq=seq, id=id_, exec_id=exec_id, rows=rows, columns=columns), failure
        )

    async def close_stdin(self, id_: str, exec_id: str | None = None) -> None:
        """Let a process read end-of-file once it has read what is buffered."""
        await self._connected.request(lambda seq: CloseStdin(seq=seq, id=id_, exec_id=exec_id), failure)

    def forget(self, id_: str, exec_id: str | None = None) -> None:
        """Drop clients that wait for a start that will not come; not waited for."""
        if self._wire is not None:
            self._wire.tell(lambda seq: Forget(seq=seq, id=id_, exec_id=exec_id))

    def acknowledge(self, id_: str, exec_id: str | None = None) -> None:
        """This exit is stored; not waited for, since an exit told twice is stored once."""
        if self._wire is not None:
            self._wire.tell(lambda seq: Acknowledge(seq=seq, id=id_, exec_id=exec_id))

    async def catch_up(self) -> None:
        """Return once everything that the keeper has told until now is handled: its answers come in order."""
        await self._connected.request(lambda seq: Acknowledge(seq=seq, id=""), failure)

    async def prepare(self, key: int, endpoint: KeeperEndpoint, *more: KeeperEndpoint) -> str:
        """Make a network namespace ready under `key`; returns the host's interface of the first endpoint."""
        ready = await self._connected.request(
            lambda seq: NetPrepare(seq=seq, key=key, endpoint=endpoint, more=more), failure
        )
        assert isinstance(ready, NetReady)
        return ready.host_interface

    async def attach_network(
        self, id_: str, endpoint: KeeperEndpoint, routes: tuple[DefaultRoute, ...]
    ) -> str:
        """One more interface for a running container, whose default routes are `routes` from now on.

        Returns the host's interface. Raises NotFound where it does not run.
        """
        ready = await self._connected.request(
            lambda seq: NetAttach(seq=seq, id=id_, endpoint=endpoint, routes=routes), failure
        )
        assert isinstance(ready, NetReady)
        return ready.host_interface

    async def detach_network(self, id_: str, interface: str, routes: tuple[DefaultRoute, ...]) -> None:
        """Take an interface (its name inside) from a running container. Raises as `attach_network`."""
        await self._connected.request(
            lambda seq: NetDetach(seq=seq, id=id_, interface=interface, routes=routes), failure
        )

    async def release(self, key: int) -> None:
        """Drop a namespace that no start has taken; an unknown key is no error."""
        try:
            await self._connected.request(lambda seq: NetRelease(seq=seq, key=key), failure)
        except NotFound:
            log.debug("namespace %d was gone already", key)

    async def hold_ports(self, id_: str, ports: tuple[HeldPort, ...]) -> None:
        """From now on a container holds these ports of the host, and no others; not one on failure.

        Raises PortTaken where a program of the host has one.
        """
        await self._connected.request(lambda seq: PortsHold(seq=seq, id=id_, ports=ports), port_failure)

    async def serve_names(self, sandbox: DnsSandbox) -> None:
        """Serve a container at 127.0.0.11, and let others on its networks find it. Idempotent.

        Replaces all that was known of it. Raises NotFound where it neither runs nor its namespace is there.
        """
        await self._connected.request(lambda seq: DnsSet(seq=seq, sandbox=sandbox), failure)

    async def forget_names(self, id_: str) -> None:
        """Undo `serve_names`; an unknown container is no error. Its exit does the same."""
        await self._connected.request(lambda seq: DnsDrop(seq=seq, id=id_), failure)

    @property
    def outdated(self) -> bool:
        """The keeper runs another build of the native module than the one that is installed now."""
        try:
            mapped = Path(f"/proc/{self.pid}/maps").read_text()
            installed = os.stat(_native_module())
        except OSError:
            return False
        inodes = {line.split()[4] for line in mapped.splitlines() if "proa_native" in line}
        return bool(inodes) and str(installed.st_ino) not in inodes

    async def hand_over(self, listener: Listener) -> Welcome:
        """Have the keeper re-execute this proad's native module in its place; containers do not notice."""
        wire = self._connected

        def arrived(_: object) -> None:
            wire.close()  # as the keeper does next, which is no loss

        await wire.request(lambda seq: HandOver(seq=seq, argv=self._command(-1)), failure, arrived)
        return await self.connect(listener)

    async def shutdown(self, *, kill: bool) -> None:
        """End the keeper; with `kill` every container first. Raises Conflict while one runs."""
        await self._connected.request(lambda seq: Shutdown(seq=seq, kill=kill), failure)
        self.close()

    def close(self) -> None:
        """Leave the keeper and its containers alone; the listener is not told."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    @property
    def _connected(self) -> Wire:
        if self._wire is None:
            raise Unavailable("the keeper is not there")
        return self._wire

    @property
    def _socket_path(self) -> str:
        return str(self._exec_root / "keeper.sock")

    async def _meet(self, listener: Listener) -> Welcome | None:
        """One try; None where the keeper went away before it welcomed us: one that is being killed takes
        connections until the kernel comes to its socket.
        """
        connection = _connect(self._socket_path)
        if connection is None:
            await self._boot()
            connection = _connect(self._socket_path)
        else:
            self._forget_ready()
        if connection is None:
            raise Unavailable(f"keeper {self._socket_path}: started and does not listen")
        with ExitStack() as undo:
            self._wire = Wire(connection, listener)
            undo.callback(self.close)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    welcome = await self._wire.request(lambda seq: Hello(seq=seq), failure)
            except TimeoutError as exc:
                raise Unavailable(f"keeper {self._socket_path}: does not answer") from exc
            except Unavailable:
                return None
            assert isinstance(welcome, Welcome)
            if welcome.version != VERSION:
                raise Unavailable(
                    f"keeper {self._socket_path}: protocol {welcome.version}, this proad speaks {VERSION}"
                )
            undo.pop_all()
        return welcome

    async def _boot(self) -> None:
        """Start a keeper, unless that was done early, and wait until it listens."""
        if self._ready_fd < 0:
            await asyncio.get_running_loop().run_in_executor(None, self._reap)
            self._start_process()
        ready, self._ready_fd = self._ready_fd, -1
        try:
            if not await _first_byte(ready):
                raise Unavailable(f"the keeper did not start; see {self._exec_root}/keeper.log")
        finally:
            os.close(ready)

    def _forget_ready(self) -> None:
        """The keeper listens already: what it tells is not of a later one."""
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1

    def _start_process(self) -> None:
        """Start a keeper in a session of its own, ready to tell when it listens."""
        with ExitStack() as undo:
            ready, told = os.pipe()
            undo.callback(os.close, ready)
            with os.fdopen(told, "wb"):
                try:
                    self._process = self._spawn(told)
                except OSError as exc:
                    raise Unavailable(f"the keeper cannot be started: {exc}") from exc
            undo.pop_all()
        self._ready_fd = ready

    def _spawn(self, ready_fd: int) -> "subprocess.Popen[bytes]":
        """A container may look at the keeper's program before its own is executed, and must not change it."""
        with ExitStack() as stack:
            output = stack.enter_context(open(self._exec_root / "keeper.log", "ab", opener=_private))
            program = proa_native.sealed_program(sys.executable)
            stack.callback(os.close, program)
            return subprocess.Popen(
                (*self._command(ready_fd), str(program)),
                executable=f"/proc/self/fd/{program}",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ready_fd, program),
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
            )

    def _command(self, ready_fd: int) -> tuple[str, ...]:
        return (
            sys.executable,
            "-I",
            "-S",
            "-c",
            _BOOT,
            _native_directory(),
            str(self._exec_root),
            str(ready_fd),
        )

    def _reap(self) -> None:
        """Collect a keeper of ours whose socket has closed: it is dead or about to be."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=ANSWER_TIMEOUT)
        except subprocess.TimeoutExpired:
            log.warning("keeper %d has closed its socket and lives on; it is killed", self._process.pid)
            self._process.kill()
            self._process.wait()
        self._process = None


def _connect(path: str) -> socket.socket | None:
    """A connection to whoever listens at `path`, or None."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with ExitStack() as undo:
        undo.callback(connection.close)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as exc:
            raise Unavailable(f"keeper {path}: {exc.strerror}") from exc
        connection.setblocking(False)
        undo.pop_all()
    return connection


def _native_module() -> str:
    """The file of proa_native itself, the shared object."""
    spec = importlib.util.find_spec("proa_native")
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec("proa_native.proa_native")
    if spec is None or spec.origin is None:
        raise Unavailable("the native module proa_native is not installed")
    return spec.origin


def _native_directory() -> str:
    """The sys.path entry that holds proa_native: a bare interpreter has no site-packages."""
    spec = importlib.util.find_spec("proa_native")
    if spec is None or spec.origin is None:
        raise Unavailable("the native module proa_native is not installed")
    origin = Path(spec.origin)
    return str(origin.parent.parent if spec.submodule_search_locations else origin.parent)


async def _first_byte(fd: int) -> bool:
    """Whether a byte came before the end of the pipe and the timeout."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _settle, readable)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await readable
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return bool(os.read(fd, 1))


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

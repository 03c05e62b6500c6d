"""Execs: created, started once, told of when they end; in memory, for as long as clients may ask.

Source: moby daemon/exec.go. An exec that cannot be started has answered its client already (the
connection is hijacked by then), so the reason goes down the stream and the code into inspect.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from signal import SIGKILL

import msgspec

from proa import stdio
from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.ports import KeeperClient
from proa.engine.registry import Registry
from proa.engine.resolve import Host, Running, resolve_exec
from proa.engine.state import Status
from proa.errors import Conflict, InvalidParameter, NotFound, ProaError, StartFailed, Unavailable
from proa.schema.exec import (
    ExecCreateRequest,
    ExecInspectResponse,
    ExecProcessConfig,
    ExecStartRequest,
)
from proa.schema.keeper import Attach, Exit, Exited, ProcessState, Started
from proa.schema.plan import Process, Stdio
from proa.schema.system import IDResponse

NOT_INVOCABLE = 126
KILLED = 128 + SIGKILL
KEPT_SECONDS = 600.0
"""How long an exec that has ended can be inspected."""
PROBE_OUTPUT = 4096
"""Bytes of a probe's output that are kept."""

ReadInRoot = Callable[[int, Sequence[str]], Sequence[bytes | None]]
"""proa_native.read_in_process_root."""


class Exec:
    """One exec."""

    __slots__ = ("container", "ended", "exit_code", "id", "late", "pid", "request", "running", "started")

    def __init__(self, container: Container, request: ExecCreateRequest, id_: str = "") -> None:
        self.id = id_ or secrets.token_hex(32)
        self.container = container
        self.request = request
        self.started = False
        self.running = False
        self.pid = 0
        self.exit_code: int | None = None
        self.late = False
        """It was killed for taking too long."""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def command(self) -> str:
        """As events show it: in Docker's, a space follows the program, with arguments or without."""
        program, *arguments = self.request.cmd or ("",)
        return f"{program} {' '.join(arguments)}"


class Execs:
    """The execs of all containers."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        notices: Notices,
        host: Host,
        read_in_root: ReadInRoot,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._notices = notices
        self._host = host
        self._read_in_root = read_in_root
        self._execs: dict[str, Exec] = {}

    async def create(self, ref: str, body: ExecCreateRequest) -> IDResponse:
        """Raises NotFound, Conflict where the container cannot take one, InvalidParameter."""
        container = self._registry.lookup(ref)
        _check_takes_exec(container)
        if not body.cmd:
            raise InvalidParameter("No exec command specified")
        _detach_keys(body.detach_keys)
        created = Exec(container, body)
        self._execs[created.id] = created
        container.exec_ids.add(created.id)
        self._tell(created, f"exec_create: {created.command}")
        return IDResponse(id=created.id)

    async def start(self, exec_id: str, body: ExecStartRequest, connection: stdio.Connection | None) -> None:
        """Start it; with a connection its streams go there, and so does the reason of a failure."""
        exec_ = self._get(exec_id)
        if exec_.started:
            verb = "is already running" if exec_.running else "has already run"
            raise Conflict(f"Error: Exec command {exec_id} {verb}")
        if self._registry.get(exec_.container.id) is None:
            raise NotFound(f"No such container: {exec_.container.id}")
        _check_takes_exec(exec_.container)
        exec_.started = True
        if body.console_size:
            exec_.request = msgspec.structs.replace(exec_.request, console_size=body.console_size)
        if connection is None or body.detach:
            await self._run(exec_)
        else:
            await self._run_attached(exec_, connection)

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Raises NotFound, Conflict where it does not run."""
        exec_ = self._get(exec_id)
        if not exec_.running:
            raise Conflict(f"Exec command {exec_id} is not running")
        await self._keeper.resize(exec_.container.id, rows, columns, exec_id)

    async def inspect(self, exec_id: str, *, wait: bool = False) -> ExecInspectResponse:
        """What it is, or was; with `wait` not before it has ended. Raises NotFound."""
        exec_ = self._get(exec_id)
        if wait:
            await asyncio.wait((exec_.ended,))
            exec_ = self._get(exec_id)
        elif exec_.running:
            # Clients ask for the exit code when their stream ends, which is not told through us.
            await self._catch_up()
        request = exec_.request
        program, *arguments = request.cmd or [""]
        return ExecInspectResponse(
            id=exec_.id,
            running=exec_.running,
            exit_code=exec_.exit_code,
            process_config=ExecProcessConfig(
                privileged=request.privileged,
                user=request.user,
                tty=request.tty,
                entrypoint=program,
                arguments=arguments,
            ),
            open_stdin=request.attach_stdin,
            open_stderr=request.attach_stderr,
            open_stdout=request.attach_stdout,
            can_remove=exec_.exit_code is not None,
            container_id=exec_.container.id,
            detach_keys=request.detach_keys,
            pid=exec_.pid,
        )

    async def _catch_up(self) -> None:
        with suppress(Unavailable):
            await self._keeper.catch_up()

    def exited(self, exited: Exited | Exit) -> None:
        """The keeper's word that one has ended, its output delivered."""
        assert exited.exec_id is not None
        self._keeper.acknowledge(exited.id, exited.exec_id)
        exec_ = self._execs.get(exited.exec_id)
        if exec_ is not None and exec_.exit_code is None:
            exec_.late = exited.reason == "timeout"
            self._ended(exec_, exited.code)
            self._tell(exec_, "exec_die", exitCode=str(exited.code))

    def adopt(self, process: ProcessState) -> None:
        """One that a daemon before this started: its client may still ask for the exit code."""
        container = self._registry.get(process.id)
        assert process.exec_id is not None
        if container is None or process.exec_id in self._execs:
            return
        exec_ = Exec(container, ExecCreateRequest(), process.exec_id)
        exec_.started = exec_.running = True
        exec_.pid = process.pid
        self._execs[exec_.id] = exec_
        container.exec_ids.add(exec_.id)

    def settle(self, known: frozenset[str]) -> None:
        """After a connection to the keeper: those that ran and that it does not know died with one before."""
        for exec_ in tuple(self._execs.values()):
            if exec_.running and exec_.id not in known:
                self._ended(exec_, KILLED)
                self._tell(exec_, "exec_die", exitCode=str(KILLED))

    def container_ended(self, container: Container) -> None:
        """Those that never started cannot any more; those that ran are told of one by one."""
        for exec_id in tuple(container.exec_ids):
            exec_ = self._execs.get(exec_id)
            if exec_ is not None and not exec_.started:
                self._forget(exec_id)

    async def probe(
        self, container: Container, request: ExecCreateRequest, timeout_ns: int
    ) -> tuple[int | None, str]:
        """Run a command and keep its output: (exit code, or None where it took too long; output).

        One that takes too long is killed by the keeper, which needs nobody for that.
        """
        exec_ = Exec(container, request)
        exec_.started = True
        self._execs[exec_.id] = exec_
        self._tell(exec_, f"exec_create: {exec_.command}")
        try:
            return await self._probe(exec_, timeout_ns)
        finally:
            self._forget(exec_.id)

    async def _probe(self, exec_: Exec, timeout_ns: int) -> tuple[int | None, str]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as stack:
            stack.callback(ours.close)
            ours.setblocking(False)
            with theirs:
                wish = _wish(exec_, multiplexed=False)
                await self._keeper.attach(theirs.fileno(), wish)
            output = asyncio.ensure_future(_read_all(ours))
            stack.callback(output.cancel)
            await self._run(exec_, timeout_ns)
            code = await asyncio.shield(exec_.ended)
            return None if exec_.late else code, (await output).decode(errors="replace")

    async def _run(self, exec_: Exec, timeout_ns: int = 0) -> None:
        """Raises StartFailed or what resolving the user told; inspect has the code."""
        try:
            process = self._process(exec_)
            input_ = exec_.request.attach_stdin
            await self._keeper.exec(
                exec_.container.id,
                exec_.id,
                process,
                Stdio(open_stdin=input_, stdin_once=input_),
                lambda started: self._started(exec_, started),
                timeout_ns,
            )
        except Exception as exc:  # whatever it was: the client that was handed over is not left waiting
            self._ended(exec_, exc.code if isinstance(exc, StartFailed) else NOT_INVOCABLE)
            self._keeper.forget(exec_.container.id, exec_.id)
            raise

    async def _run_attached(self, exec_: Exec, connection: stdio.Connection) -> None:
        """Hand the client over first, so that no output is missed; keep a copy to tell of a failure."""
        multiplexed = not exec_.request.tty
        head = connection.raw_stream_head(multiplexed=multiplexed)
        with ExitStack() as stack:
            fd, read_already = stdio.detach(connection)
            stack.callback(os.close, fd)
            wish = msgspec.structs.replace(
                _wish(exec_, multiplexed=multiplexed), preface=head, initial_input=read_already
            )
            await self._keeper.attach(fd, wish)
            try:
                await self._run(exec_)
            except ProaError as exc:
                await stdio.last_words(fd, f"{exc}\r\n".encode(), multiplexed=multiplexed)

    def _process(self, exec_: Exec) -> Process:
        container = exec_.container
        return resolve_exec(
            exec_.request,
            Running(
                resolved=container.record.resolved,
                read=lambda paths: self._read_in_root(container.state.pid, paths),
                host=self._host,
            ),
        )

    def _started(self, exec_: Exec, started: Started) -> None:
        exec_.running = True
        exec_.pid = started.pid
        self._tell(exec_, f"exec_start: {exec_.command}")

    def _ended(self, exec_: Exec, code: int) -> None:
        exec_.running = False
        exec_.pid = 0
        exec_.exit_code = code
        if not exec_.ended.done():
            exec_.ended.set_result(code)
        exec_.container.exec_ids.discard(exec_.id)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, exec_.id)

    def _forget(self, exec_id: str) -> None:
        exec_ = self._execs.pop(exec_id, None)
        if exec_ is not None:
            exec_.container.exec_ids.discard(exec_id)
            exec_.ended.cancel()  # who waits for it is told that it is gone

    def _get(self, exec_id: str) -> Exec:
        exec_ = self._execs.get(exec_id)
        if exec_ is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return exec_

    def _tell(self, exec_: Exec, action: str, **attributes: str) -> None:
        self._notices.tell(exec_.container, action, execID=exec_.id, **attributes)


def _check_takes_exec(container: Container) -> None:
    status = container.state.status
    if status is Status.PAUSED:
        raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
    if status is Status.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if not container.state.alive:
        raise Conflict(f"container {container.id} is not running")


def _detach_keys(text: str) -> bytes:
    try:
        return stdio.detach_keys(text)
    except ValueError as exc:
        raise InvalidParameter(f"Invalid detach keys ({text}) provided") from exc


def _wish(exec_: Exec, *, multiplexed: bool) -> Attach:
    request = exec_.request
    return Attach(
        seq=0,
        id=exec_.container.id,
        exec_id=exec_.id,
        stdin=request.attach_stdin,
        stdout=request.attach_stdout,
        stderr=request.attach_stderr,
        multiplexed=multiplexed,
        detach_keys=_detach_keys(request.detach_keys) if request.tty else b"",
    )


async def _read_all(client: socket.socket) -> bytes:
    """Everything until the end, of which the first PROBE_OUTPUT bytes are kept, and dots for the rest."""
    loop, kept = asyncio.get_running_loop(), b""
    while chunk := await loop.sock_recv(client, 1 << 14):
        if len(kept) <= PROBE_OUTPUT:
            kept = (kept + chunk)[: PROBE_OUTPUT + 1]
    return kept if len(kept) <= PROBE_OUTPUT else kept[:PROBE_OUTPUT] + b"..."

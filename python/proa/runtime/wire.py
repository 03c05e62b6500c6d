"""One seqpacket connection to a keeper: packets out with fds, answers matched by number, events passed on.

Handlers run synchronously in the order of the packets. Once the connection is lost every request that
waits fails with Unavailable, and `lost` is called once, if the keeper had welcomed us: before, it is the
one who connects that learns of it.

Source: unix(7) on SOCK_SEQPACKET and SCM_RIGHTS; native/src/keeper/protocol.rs.
"""

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from proa.errors import InvalidParameter, ProaError, Unavailable
from proa.schema.keeper import Done, Exited, Failed, Failure, NetReady, Oom, Reply, Request, Started, Welcome

log = logging.getLogger(__name__)

PACKET_LIMIT = 4 << 20
"""Bytes of the largest packet either side sends: a welcome with thousands of processes."""
PACKETS_AT_ONCE = 64
"""Packets handled before the loop's other work has its turn."""
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # socket(7); the socket module does not name them

Answer = Welcome | Started | NetReady | Done
Translate = Callable[[Failure], ProaError]
Arrived = Callable[[Answer], None]


class Listener(Protocol):
    """Who is told of what happens by itself, in the order of the packets; must not block."""

    def exited(self, exited: Exited) -> None: ...
    def oom(self, container_id: str) -> None: ...
    def lost(self) -> None: ...


class _Pending(msgspec.Struct):
    future: "asyncio.Future[Answer]"
    translate: Translate
    arrived: Arrived | None


class Wire:
    """The open connection; owns its socket."""

    def __init__(self, connection: socket.socket, listener: Listener) -> None:
        self._socket: socket.socket | None = connection
        self._listener = listener
        self._pending: dict[int, _Pending] = {}
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._seq = 0
        self.welcomed = False
        self._buffer = memoryview(bytearray(PACKET_LIMIT))
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Reply).decode
        self._loop = asyncio.get_running_loop()
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            _enlarge(connection, option)
        self._loop.add_reader(connection.fileno(), self._readable)

    @property
    def open(self) -> bool:
        return self._socket is not None

    async def request(
        self,
        build: Callable[[int], Request],
        translate: Translate,
        arrived: Arrived | None = None,
        fds: tuple[int, ...] = (),
    ) -> Answer:
        """Send what `build` makes of a number and wait for its answer; `arrived` sees the answer first.

        Cancelled, the answer is still handled by `arrived`. Raises what `translate` makes of a failure.
        """
        self._seq += 1
        pending = _Pending(self._loop.create_future(), translate, arrived)
        self._pending[self._seq] = pending
        try:
            self._send(self._encode(build(self._seq)), fds)
        except BaseException:
            del self._pending[self._seq]
            raise
        return await pending.future

    def tell(self, build: Callable[[int], Request]) -> None:
        """Send a request whose answer nobody waits for; with the keeper lost, nothing happens."""
        if self._socket is None:
            return
        self._seq += 1
        self._send(self._encode(build(self._seq)), ())

    def close(self) -> None:
        """Close without telling the listener; what waits fails with Unavailable."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        while self._unsent:
            _close_all(self._unsent.popleft()[1])
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            if not waiting.future.done():
                waiting.future.set_exception(Unavailable("the keeper went away"))
                waiting.future.exception()  # one whose caller was cancelled is nobody's to retrieve

    def _send(self, packet: bytes, fds: tuple[int, ...]) -> None:
        if self._socket is None:
            raise Unavailable("the keeper is not there")
        if self._unsent or not self._send_now(packet, fds):
            self._queue(packet, fds)

    def _send_now(self, packet: bytes, fds: tuple[int, ...]) -> bool:
        assert self._socket is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as exc:
            if len(packet) > PACKET_LIMIT // 2:
                raise InvalidParameter(
                    f"container configuration of {len(packet)} bytes is too large"
                ) from exc
            raise Unavailable(f"the keeper went away: {exc.strerror}") from exc
        return True

    def _queue(self, packet: bytes, fds: tuple[int, ...]) -> None:
        """Keep a packet, with copies of its fds, until the keeper reads again."""
        assert self._socket is not None
        self._unsent.append((packet, tuple(os.dup(fd) for fd in fds)))
        self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        assert self._socket is not None
        try:
            while self._unsent and self._send_now(*self._unsent[0]):
                _close_all(self._unsent.popleft()[1])
        except ProaError as exc:
            log.warning("keeper: %s", exc)
            self._lose()
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if self._socket is None:
                return
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as exc:
                log.warning("keeper: %s", exc)
                size = 0
            if not size:
                self._lose()
                return
            self._packet(self._buffer[:size])

    def _packet(self, packet: memoryview) -> None:
        try:
            reply = self._decode(packet)
        except msgspec.MsgspecError:
            log.exception("keeper: packet of %d bytes is not understood", len(packet))
            return
        try:
            self._dispatch(reply)
        except Exception:
            log.exception("keeper: handling %s", reply)

    def _dispatch(self, reply: Reply) -> None:
        if isinstance(reply, Exited):
            self._listener.exited(reply)
            return
        if isinstance(reply, Oom):
            self._listener.oom(reply.id)
            return
        pending = self._pending.pop(reply.seq, None)
        if pending is None:
            if isinstance(reply, Failed):
                log.debug("keeper: %s", reply.error)
            return
        if isinstance(reply, Failed):
            if not pending.future.done():
                pending.future.set_exception(pending.translate(reply.error))
            return
        self.welcomed = self.welcomed or isinstance(reply, Welcome)
        try:
            if pending.arrived is not None:
                pending.arrived(reply)
        except Exception as exc:
            # Whoever asked is told, and does not wait for ever.
            if pending.future.done():
                raise
            pending.future.set_exception(exc)
        else:
            if not pending.future.done():
                pending.future.set_result(reply)

    def _lose(self) -> None:
        self.close()
        if self.welcomed:
            self._listener.lost()


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)


def _enlarge(connection: socket.socket, option: int) -> None:
    """Room for the largest packet; without CAP_NET_ADMIN wmem_max bounds it, which is enough for most."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, option, PACKET_LIMIT)
    except PermissionError:
        log.debug("the keeper socket keeps the kernel's buffer size")

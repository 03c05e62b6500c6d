"""TLS below the HTTP connection, with half-close both ways.

asyncio's own TLS ends a connection at the client's close_notify; a client of attach half-closes its input
that way and still wants the output. So the records are handled here, over memory BIOs, and the connection
above sees an ordinary transport. A hijacked connection gets a socketpair whose other end is pumped here.

    client <--TLS records--> TlsTransport <--transport/protocol--> Connection
                                          <--socketpair--> the new owner, once hijacked

Source: RFC 8446 section 6.1 (close_notify ends one direction only).
"""

import asyncio
import contextlib
import logging
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from proa.errors import InvalidParameter

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024

PLAIN_REQUEST = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""What Go's server says where a record should begin and a request does. Source: Go src/net/http/server.go."""


def server_context(certificate: str, key: str, *, verify: bool, authorities: str) -> ssl.SSLContext:
    """The TLS settings of a tcp listener, from PEM files; `verify` asks clients for certificates.

    Raises InvalidParameter.
    """
    if not (certificate and key):
        raise InvalidParameter("tls needs tlscert and tlskey")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key)
        if verify:
            if not authorities:
                raise InvalidParameter("tlsverify needs tlscacert")
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as exc:  # ssl.SSLError is one
        raise InvalidParameter(f"could not load the TLS certificate and key: {exc}") from exc
    return context


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of a tcp connection, and the transport of the protocol above it."""

    def __init__(
        self,
        context: ssl.SSLContext,
        above: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._above = above
        self._timeout = timeout
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw: asyncio.Transport
        self._established = False
        self._paused = False
        self._input_ended = False
        self._closing = False
        self._hijacked: asyncio.Protocol | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._handshake_timer: asyncio.TimerHandle | None = None

    # --- protocol of the tcp connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = transport  # type: ignore[assignment]  # a stream's transport reads and writes
        self._handshake_timer = self._loop.call_later(self._timeout, self._raw.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._established or self._shake_hands():
            self._deliver()

    def eof_received(self) -> bool:
        self._incoming.write_eof()
        if not self._established:
            return False
        return self._end_input()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        if self._established:
            self._above.connection_lost(exc)
        if self._hijacked is not None:
            self._hijacked.connection_lost(exc)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as exc:
            log.info("TLS handshake failed: %s", exc.reason)
            if exc.reason == "HTTP_REQUEST":
                self._raw.write(PLAIN_REQUEST)
            else:
                self._flush()  # the alert
            self._raw.close()
            return False
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        self._flush()
        self._established = True
        self._above.connection_made(self)
        return True

    def _deliver(self) -> None:
        """Hand what is decrypted to the protocol above, as long as it takes it."""
        while not (self._paused or self._input_ended or self._closing):
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError:
                self.abort()
                return
            if not data:
                self._end_input()
                return
            self._above.data_received(data)
        self._flush()

    def _end_input(self) -> bool:
        """The client sends no more; whether the output goes on."""
        if not self._input_ended:
            self._input_ended = True
            if not self._above.eof_received():
                self.close()
        return not self._closing

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    # --- transport of the protocol above ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        if self._closing or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
            return
        self._flush()

    def writelines(self, list_of_data: "Iterable[bytes | bytearray | memoryview[Any]]") -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send close_notify: no more output, input goes on."""
        with contextlib.suppress(ssl.SSLError, OSError):  # it would wait for the client's close_notify
            self._tls.unwrap()
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.write_eof()
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def pause_reading(self) -> None:
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._raw.resume_reading()
            self._loop.call_soon(self._deliver)

    # --- hijack ---

    def splice(self) -> int:
        """Put a socketpair in the place of the protocol above; the caller owns the (non-blocking) fd.

        The protocol that was above hears of connection_lost and nothing else.
        """
        self.pause_reading()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._hijacked, self._above = self._above, _ToOwner()
        self._connecting = self._loop.create_task(self._connect_owner(self._above, ours))
        return theirs.detach()

    async def _connect_owner(self, to_owner: "_ToOwner", ours: socket.socket) -> None:
        """Reading goes on once there is where to write to."""
        try:
            to_owner.owner, _ = await self._loop.create_unix_connection(lambda: _FromOwner(self), sock=ours)
        except BaseException:
            ours.close()
            self.abort()
            raise
        self.resume_reading()


class _ToOwner(asyncio.Protocol):
    """Above a hijacked connection: what the client sends goes to the socketpair."""

    owner: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        if self.owner is not None:
            self.owner.write(data)

    def eof_received(self) -> bool:
        if self.owner is not None and self.owner.can_write_eof():
            self.owner.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self.owner is not None:
            self.owner.close()

    def pause_writing(self) -> None:
        """The client is slow: leave the output with its owner."""
        if self.owner is not None:
            self.owner.pause_reading()

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.resume_reading()


class _FromOwner(asyncio.Protocol):
    """On the server's end of the socketpair: what the owner sends goes to the client."""

    def __init__(self, client: TlsTransport) -> None:
        self._client = client
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def eof_received(self) -> bool:
        """A half-close goes on as one; an owner that closed for good ends the client's connection."""
        self._client.write_eof()
        if self._transport is not None and hung_up(self._transport.get_extra_info("socket").fileno()):
            self._client.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()


def hung_up(fd: int) -> bool:
    """Whether the other end of a socketpair is closed, not only shut down for writing (unix(7): POLLHUP)."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))

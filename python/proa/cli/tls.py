"""TLS to a remote daemon, with the half-close that a hijacked stream needs.

The record layer works on memory buffers, so that close_notify can be sent while data still comes in:
ssl.SSLSocket cannot do that. Source: RFC 8446, section 6.1.
"""

import contextlib
import os
import ssl

from proa.cli.failure import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from proa.cli.endpoint import TlsFiles

CHUNK = 65536


def context_for(files: "TlsFiles") -> ssl.SSLContext:
    """The client's TLS settings. Raises ConnectionFailed for certificates that cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    start = "Failed to initialize: unable to resolve docker endpoint"
    own = os.path.exists(files.cert) or os.path.exists(files.key)
    # The ssl module does not say which file is missing.
    for path in (files.ca,) * files.verify + (files.cert, files.key) * own:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as exc:
            raise ConnectionFailed(f"{start}: open {path}: {(exc.strerror or '').lower()}") from exc
    try:
        if files.verify:
            context.load_verify_locations(files.ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if own:
            context.load_cert_chain(files.cert, files.key)
    except OSError as exc:
        raise ConnectionFailed(f"{start}: {files.ca}, {files.cert}, {files.key}: {exc}") from exc
    return context


class TlsSocket:
    """What the transport needs of a socket, over TLS."""

    def __init__(self, sock: "socket.socket", name: str, shown: str, files: "TlsFiles") -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            context = context_for(files)
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
            self._handshake()
        except OSError as exc:
            sock.close()
            raise ConnectionFailed(f"error during connect: {shown}: {exc}") from exc
        except ConnectionFailed:
            sock.close()
            raise

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._write_out()
                if not self._read_in():
                    raise ConnectionFailed("error during connect: EOF in the TLS handshake") from None
            else:
                self._write_out()
                return

    def _read_in(self) -> bool:
        data = self._sock.recv(CHUNK)
        if data:
            self._incoming.write(data)
        return bool(data)

    def _write_out(self) -> None:
        data = self._outgoing.read()
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                _wait_writable(self._sock.fileno())

    def recv(self, limit: int) -> bytes:
        """Between one and `limit` bytes, none at the end. Raises BlockingIOError when set so."""
        while True:
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                if not self._read_in():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send(self, data: bytes) -> int:
        """Send it all."""
        self._tls.write(data)
        self._write_out()
        return len(data)

    sendall = send

    def shutdown(self, how: int) -> None:
        """Send close_notify; what the other side says can still be read."""
        # The answer to the close comes later or never: reading goes on either way.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._write_out()

    def pending(self) -> int:
        """Bytes that are here already, which poll(2) knows nothing of."""
        return self._tls.pending()

    def fileno(self) -> int:
        """The socket's."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """For reading; a write always completes."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _wait_writable(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()

"""A TCP proxy in front of a registry that stalls, or cuts the line, after so many bytes of answers."""

import contextlib
import socket
import threading


class FaultyProxy:
    """Listens on `host`; what it does to answers can be changed while it runs."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: int | None = None
        """Bytes of answers after which each connection is cut."""
        self.passed = 0
        """Bytes of answers so far."""
        self.stalled = threading.Event()
        self._stall_at: int | None = None
        self._go_on = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def stall_at(self, count: int) -> None:
        """From `count` bytes on, of all connections together, nothing comes until `go_on`."""
        with self._lock:
            self.passed, self._stall_at = 0, count
        self.stalled.clear()
        self._go_on.clear()

    def go_on(self) -> None:
        """No more stalling."""
        with self._lock:
            self._stall_at, self.passed = None, 0
        self._go_on.set()

    def close(self) -> None:
        """End it; every thread is gone afterwards."""
        self._go_on.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += client, server
                self._spawn(self._requests, client, server)
                self._spawn(self._answers, server, client)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := server.recv(16384):
                if self.cut_after is not None and sent + len(data) > self.cut_after:
                    client.sendall(data[: self.cut_after - sent])
                    break
                self._wait_for_room(len(data))
                client.sendall(data)
                sent += len(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _wait_for_room(self, count: int) -> None:
        with self._lock:
            full = self._stall_at is not None and self.passed + count > self._stall_at
            if not full:
                self.passed += count
        if full:
            self.stalled.set()
            self._go_on.wait(60)

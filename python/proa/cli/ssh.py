"""`ssh://[user@]host[:port][/path]`: a daemon on another host, through ssh(1) and a `proa` there.

What ssh runs is `proa system dial-stdio`, which passes bytes between its standard streams and the socket of
the daemon there. Docker's CLI runs `docker system dial-stdio`: a link of that name to `proa` serves it, too.
Logins are by keys or an agent: this ssh has no terminal to ask at.
Source: the observed behaviour of docker 28; ssh(1).
"""

import os
import socket
from urllib.parse import unquote, urlsplit

from proa.cli.failure import ConnectionFailed, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.transport import client

CHUNK = 65536


def command_for(host: str) -> list[str]:
    """The command line of ssh. Raises Failure for what is no address."""
    start = f"Failed to initialize: unable to resolve docker endpoint: invalid SSH URL {host}"
    try:
        url = urlsplit(host)
        port = url.port
    except ValueError as exc:
        raise Failure(f"{start}: {exc}") from None
    # `hostname` is in small letters, and ssh's own names of hosts need not be.
    name = url.netloc.rpartition("@")[2]
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if not name:
        raise Failure(f"{start}: no host specified")
    if url.password is not None:
        raise Failure(f"{start}: plain-text password is not supported")
    if url.query or url.fragment:
        raise Failure(f"{start}: neither a query nor a fragment is supported")
    command = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if url.username:
        command += ["-l", unquote(url.username)]
    if port:
        command += ["-p", str(port)]
    command += ["--", name, "proa"]
    path = unquote(url.path).rstrip("/")
    if path:
        command += ["--host", _quoted(f"unix://{path}")]
    return [*command, "system", "dial-stdio"]


def _quoted(word: str) -> str:
    """One word for the shell on the other side."""
    from shlex import quote

    return quote(word)


def connect(host: str) -> socket.socket:
    """The standard streams of an ssh that reaches the daemon. Raises Failure."""
    command = command_for(host)
    ours, theirs = socket.socketpair()
    try:
        os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
            ],
            # The terminal's signals are the container's.
            setsid=True,
        )
    except OSError as exc:
        ours.close()
        raise ConnectionFailed(f"error during connect: ssh: {(exc.strerror or '').lower()}") from exc
    finally:
        theirs.close()
    return ours


def dial_stdio(parsed: Parsed) -> int:
    """`proa system dial-stdio`: standard input to the daemon, what it answers to standard output."""
    from threading import Thread

    api = client(parsed.options)
    if not api.host.startswith("unix://"):
        raise Failure(f"dial-stdio reaches a daemon on this host, not {api.host}")
    sock = api.connection()[0].sock
    Thread(target=_send_input, args=(sock,), daemon=True).start()
    while data := sock.recv(CHUNK):
        while data:
            data = data[os.write(1, data) :]
    return 0


def _send_input(sock: "socket.socket") -> None:
    """Standard input until its end, and then the half-close."""
    try:
        while data := os.read(0, CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The daemon has closed; the other direction ends by itself.
        return


COMMANDS = {
    "system dial-stdio": Command(
        "system dial-stdio",
        "",
        "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
        dial_stdio,
        maximum=0,
    ),
}

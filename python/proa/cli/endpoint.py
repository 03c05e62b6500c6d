"""Where the daemon is when it is not the local one: -H, PROA_HOST, DOCKER_HOST, contexts, TLS, ssh.

Source: the observed behaviour of docker 28.
"""

import os

from proa.cli.environment import CA, CERT, KEY, config_directory
from proa.cli.failure import ConnectionFailed, Failure
from proa.cli.transport import Client, default_socket, unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals

PORT = "2375"
TLS_PORT = "2376"


class TlsFiles:
    """Which certificates to use; `verify` asks for the daemon's identity to be proven."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, verify: bool, ca: str, cert: str, key: str) -> None:
        self.verify = verify
        self.ca = ca
        self.cert = cert
        self.key = key


def client_for(options: "Globals") -> Client:
    """The client of the endpoint that was asked for. Raises Failure."""
    env = os.environ
    if len(options.hosts) > 1:
        raise Failure("Specify only one -H")
    if options.context and options.hosts:
        raise Failure("conflicting options: cannot specify both --host and --context")
    tls = _tls_files(options)
    host = options.hosts[0] if options.hosts else env.get("PROA_HOST") or env.get("DOCKER_HOST") or ""
    if options.context or not host:
        host, tls = _from_context(options, tls)
    return _client(host, tls)


def _client(host: str, tls: TlsFiles | None) -> Client:
    if not host:
        path = default_socket()
        return Client(f"unix://{path}", lambda: _unix(path))
    scheme, found, address = host.strip().partition("://")
    if not found:
        scheme, address = "tcp", scheme
    if scheme == "unix":
        path = address or default_socket()
        return Client(f"unix://{path}", lambda: _unix(path))
    if scheme == "ssh":
        from proa.cli.ssh import command_for, connect

        command_for(host)
        return Client(host, lambda: connect(host))
    if scheme != "tcp":
        raise Failure(
            f"Failed to initialize: unable to resolve docker endpoint: invalid bind address format: {host}"
        )
    name, port = _split(address.partition("/")[0], TLS_PORT if tls else PORT)
    shown = f"tcp://{f'[{name}]' if ':' in name else name}:{port}"
    return Client(shown, lambda: _tcp(shown, name, port, tls))


def _split(address: str, default_port: str) -> tuple[str, str]:
    """(host, port) of `host:port`, `[::1]:port` or either alone."""
    if address.startswith("["):
        name, _, rest = address[1:].partition("]")
        return name, rest.lstrip(":") or default_port
    name, colon, port = address.rpartition(":")
    if not colon:
        name, port = address, ""
    return name or "localhost", port or default_port


def unreachable(host: str, exc: OSError) -> Failure:
    """The one line for a daemon that does not answer."""
    if isinstance(exc, PermissionError):
        text = f"permission denied while trying to connect to the Docker daemon socket at {host}"
        if os.geteuid() != 0:
            text += ": only root may use it (rootless mode is not available yet)"
        return ConnectionFailed(text)
    return ConnectionFailed(f"Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")


def _unix(path: str) -> "Any":
    try:
        return unix_socket(path)
    except OSError as exc:
        raise unreachable(f"unix://{path}", exc) from exc


def _tcp(shown: str, name: str, port: str, tls: TlsFiles | None) -> "Any":
    import socket

    try:
        sock = socket.create_connection((name, int(port)))
    except (OSError, ValueError) as exc:
        raise unreachable(shown, exc if isinstance(exc, OSError) else OSError(str(exc))) from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return sock
    from proa.cli.tls import TlsSocket

    return TlsSocket(sock, name, shown, tls)


def _tls_files(options: "Globals") -> TlsFiles | None:
    env = os.environ
    verify = options.tlsverify or bool(env.get("DOCKER_TLS_VERIFY"))
    explicit = (options.tlscacert, options.tlscert, options.tlskey)
    if not (verify or options.tls or env.get("DOCKER_TLS") or any(explicit)):
        return None
    folder = env.get("DOCKER_CERT_PATH") or config_directory(options)
    ca, cert, key = (
        given or os.path.join(folder, name) for given, name in zip(explicit, (CA, CERT, KEY), strict=True)
    )
    return TlsFiles(verify, ca, cert, key)


def _from_context(options: "Globals", tls: TlsFiles | None) -> tuple[str, TlsFiles | None]:
    """(host, certificates) of the context in use. Raises Failure."""
    from proa.cli.context_store import DEFAULT, ContextStore, current

    name = current(options)
    if name == DEFAULT:
        return "", tls
    store = ContextStore(options)
    try:
        context = store.load(name)
    except Failure as exc:
        raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {exc}") from None
    if tls is None and context.tls.get("docker"):
        ca, cert, private = (f"{store.folders(name)[1]}/docker/{file}" for file in (CA, CERT, KEY))
        tls = TlsFiles(not context.endpoint.get("SkipTLSVerify"), ca, cert, private)
    return context.host, tls

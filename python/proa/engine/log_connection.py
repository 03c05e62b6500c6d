"""The first connection of a log driver, made before its container starts: a start fails where Docker's fails.

The keeper gets the connected socket, and makes all further connections itself.

Source: Go's net (Dial, the texts of its errors); moby's drivers; srslog's srslog_unix.go for the host's own.
"""

import asyncio
import os
import socket

from msgspec.structs import replace

from proa.engine.log_details import log_options
from proa.engine.record import Record
from proa.engine.resolve.log_remotes import boolean
from proa.engine.resolve.logs import SHIPPING_DRIVERS
from proa.engine.shipping import LOCAL_SYSLOG, shipping_of
from proa.errors import ProaError, System
from proa.schema.shipping import Gelf, Journald, Remote, Shipping, Syslog, Tcp, Unix, Unixgram

TIMEOUT = 10.0
"""Seconds. Docker waits for as long as the kernel tries, two minutes and more."""
FLUENTD_TIMEOUT = 3.0

LOCAL_PATHS = ("/dev/log", "/var/run/syslog", "/var/run/log")


class LogConnection:
    """Where lines are shipped, and the socket if there is one; nothing for the drivers that write files."""

    def __init__(self, shipping: Shipping | None = None, connected: socket.socket | None = None) -> None:
        self.shipping = shipping
        self._socket = connected

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._socket.fileno(),) if self._socket is not None else ()

    def close(self) -> None:
        """The keeper has a copy."""
        if self._socket is not None:
            self._socket.close()


FILE = LogConnection()


def is_shipped(record: Record) -> bool:
    """Its lines go elsewhere, too."""
    log_config = record.resolved.host_config.log_config
    return log_config is not None and log_config.type in SHIPPING_DRIVERS


async def connect(record: Record) -> LogConnection:
    """The caller closes it. Raises System where there is no connection to be had."""
    try:
        shipping = shipping_of(record)
        if boolean(log_options(record), "fluentd-async"):
            return LogConnection(shipping)
        if shipping.to == LOCAL_SYSLOG:
            return await _local_syslog(shipping)
        return LogConnection(shipping, await _dial_driver(shipping))
    except ProaError as exc:
        raise System(
            f"failed to create task for container: failed to initialize logging driver: {exc}"
        ) from exc


async def _dial_driver(shipping: Shipping) -> socket.socket:
    """Dial, in the driver's own words where it fails."""
    timeout = TIMEOUT if isinstance(shipping.format, Syslog | Journald | Gelf) else FLUENTD_TIMEOUT
    try:
        return await dial(shipping.to, timeout)
    except System as exc:
        match shipping:
            case Shipping(format=Journald()):
                raise System("journald is not enabled on this host") from exc
            case Shipping(format=Gelf(), to=Tcp(host=host, port=port)):
                address = _joined(host, port)
                raise System(f"gelf: cannot connect to GELF endpoint: {address} {exc}") from exc
        raise


async def _local_syslog(shipping: Shipping) -> LogConnection:
    for kind in (Unixgram, Unix):
        for path in LOCAL_PATHS:
            try:
                return LogConnection(replace(shipping, to=kind(path)), await dial(kind(path), TIMEOUT))
            except System:
                continue
    raise System("Unix syslog delivery error")


async def dial(to: Remote, timeout: float) -> socket.socket:
    """A connected socket that does not block. Raises System in the words of Go's Dial."""
    if isinstance(to, Unix | Unixgram):
        kind = socket.SOCK_STREAM if isinstance(to, Unix) else socket.SOCK_DGRAM
        network = "unix" if isinstance(to, Unix) else "unixgram"
        return await _try(network, to.path, (socket.AF_UNIX, kind, to.path), timeout)
    kind = socket.SOCK_STREAM if isinstance(to, Tcp) else socket.SOCK_DGRAM
    network = "tcp" if isinstance(to, Tcp) else "udp"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(to.host, to.port, type=kind)
    except OSError as exc:
        raise System(f"dial {network}: lookup {to.host}: no such host") from exc
    error = System(f"dial {network}: lookup {to.host}: no such host")
    for family, _, _, _, address in found:
        try:
            shown = _joined(str(address[0]), to.port)
            return await _try(network, shown, (family, kind, address), timeout)
        except System as exc:
            error = exc
    raise error


async def _try(
    network: str, shown: str, to: tuple[int, int, str | tuple[object, ...]], timeout: float
) -> socket.socket:
    family, kind, address = to
    connecting = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(connecting, address)
    except TimeoutError as exc:
        connecting.close()
        raise System(f"dial {network} {shown}: i/o timeout") from exc
    except OSError as exc:
        connecting.close()
        reason = os.strerror(exc.errno).lower() if exc.errno else str(exc)
        raise System(f"dial {network} {shown}: connect: {reason}") from exc
    except BaseException:
        connecting.close()
        raise
    return connecting


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""Through a proxy to a registry: CONNECT of HTTP, and SOCKS5 with or without a name and password.

The name of the registry goes to the proxy, which looks it up: for socks5 as for socks5h, as in Go.

    client  5 n method...                  server  5 method           0 nothing, 2 name and password
    client  1 n name n password            server  1 0
    client  5 1 0 kind address port        server  5 reply 0 kind address port

Source: RFC 9110, section 9.3.6; RFC 1928; RFC 1929.
"""

from base64 import b64encode
from ipaddress import ip_address
from typing import Final

from proa.registry.connection import Broken, Connection
from proa.registry.origin import Origin
from proa.registry.proxies import Proxy
from proa.registry.response import receive

_NOTHING: Final = 0
_PASSWORD: Final = 2
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_REPLIES: Final = (
    "succeeded",
    "general SOCKS server failure",
    "connection not allowed by ruleset",
    "network unreachable",
    "host unreachable",
    "connection refused",
    "TTL expired",
    "command not supported",
    "address type not supported",
)


async def through_http(connection: Connection, proxy: Proxy, target: Origin) -> None:
    """Ask an HTTP proxy for a line to the target. Raises Broken."""
    host = target.host_port
    head = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{authorization(proxy)}\r\n"
    await connection.send(head.encode("latin-1"))
    answer = await receive(connection, bodiless=True)
    if not 200 <= answer.status < 300:
        raise Broken(answer.line)


async def through_socks(connection: Connection, proxy: Proxy, target: Origin) -> None:
    """Ask a SOCKS5 server for a line to the target. Raises Broken."""
    methods = bytes((_NOTHING, _PASSWORD)) if proxy.userinfo else bytes((_NOTHING,))
    await connection.send(bytes((5, len(methods))) + methods)
    version, method = await connection.exactly(2)
    if version != 5:
        raise Broken(f"unexpected protocol version {version}")
    if method not in methods:
        raise Broken("no acceptable authentication methods")
    if method == _PASSWORD:
        await _log_in(connection, proxy)
    await connection.send(bytes((5, 1, 0)) + _place(target))
    version, reply, _, kind = await connection.exactly(4)
    if version != 5:
        raise Broken(f"unexpected protocol version {version}")
    if reply:
        known = _REPLIES[reply] if reply < len(_REPLIES) else f"unknown code: {reply}"
        raise Broken(f"unknown error {known}")
    length = {_IPV4: 4, _IPV6: 16}.get(kind)
    if length is None:
        (length,) = await connection.exactly(1)
    await connection.exactly(length + 2)


def authorization(proxy: Proxy) -> str:
    """The header line that an HTTP proxy is shown, empty for none."""
    if not proxy.userinfo:
        return ""
    return f"Proxy-Authorization: Basic {b64encode(proxy.userinfo.encode()).decode()}\r\n"


async def _log_in(connection: Connection, proxy: Proxy) -> None:
    name, _, password = (part.encode() for part in proxy.userinfo.partition(":"))
    if not 0 < len(name) < 256 or not len(password) < 256:
        raise Broken("invalid username/password")
    await connection.send(b"\x01%c%s%c%s" % (len(name), name, len(password), password))
    _, status = await connection.exactly(2)
    if status:
        raise Broken("username/password authentication failed")


def _place(target: Origin) -> bytes:
    port = target.port.to_bytes(2, "big")
    try:
        address = ip_address(target.host)
    except ValueError:
        name = target.host.encode("idna" if not target.host.isascii() else "ascii")
        if len(name) > 255:
            raise Broken("FQDN too long") from None
        return bytes((_NAME, len(name))) + name + port
    return bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed + port

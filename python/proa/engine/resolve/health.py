"""Healthchecks: what a request may ask for, and whom a probe asks.

    ["CMD", ...]  ["CMD-SHELL", "..."]   a command, as Docker has it
    ["NONE"]                             none, whatever the image says
    ["TCP", "80"]                        a connection; also ":80", "localhost:80", "10.0.0.2:80", "[::1]:80"
    ["HTTP", "/healthz"]                 an answer from 200 to 399; also "8080/healthz", "http://localhost:8080/"

The last two are proa's own: dockerd starts a container with them and checks nothing. Compose and
`docker build` refuse them, and pass these on, which are the same here: ["CMD", "TCP", "80"] and
["CMD-SHELL", "TCP 80"]. No image has programs of these names; at dockerd, which looks for them, the container
is unhealthy.

They ask from within the container's network namespace. A name is not looked up, so that no other program has
a part in the answer: `localhost` is 127.0.0.1, then ::1.

Source: moby's daemon/container.go (validateHealthCheck), daemon/health.go.
"""

import ipaddress
from collections.abc import Sequence

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig

COMMANDS = ("CMD", "CMD-SHELL")
PROBES = ("TCP", "HTTP")
_MILLISECOND = 1_000_000
_LOCALHOST = ("127.0.0.1", "[::1]")
_LONGEST = 4096
_DIGITS = 5
"""Of a port."""
"""Characters of a URL."""


class Target(Struct, frozen=True, kw_only=True):
    """Whom a probe asks what."""

    addresses: tuple[str, ...]
    """`127.0.0.1:80`, `[::1]:80`: tried in this order."""
    request: bytes = b""
    """Empty where a connection is enough."""


def check_health(health: HealthConfig | None) -> None:
    """Refuse times that no timer keeps, and what is no test."""
    if health is None:
        return
    times = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, nanoseconds in times.items():
        if nanoseconds != 0 and nanoseconds < _MILLISECOND:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("", "NONE", *COMMANDS, *PROBES):
        raise InvalidParameter(f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')")
    probe_target(health.test or ())


def probe_target(test: Sequence[str]) -> Target | None:
    """Whom a test asks; None for one that is not asked over the network. Raises InvalidParameter."""
    words = tuple(test)
    if words[:1] == ("CMD",) and len(words) == 3:
        words = words[1:]
    elif words[:1] == ("CMD-SHELL",) and len(words) == 2:
        shell = tuple(words[1].split())
        words = shell if len(shell) == 2 else ()
    if not words or words[0] not in PROBES:
        return None
    return _target(*words)


def _target(kind: str, *arguments: str) -> Target:
    if len(arguments) != 1:
        raise InvalidParameter(f"{kind} in Healthcheck takes one argument, not {len(arguments)}")
    text = arguments[0]
    try:
        return Target(addresses=_addresses(text, "")) if kind == "TCP" else _http(text)
    except ValueError as exc:
        raise InvalidParameter(f"invalid address '{text}' for {kind} in Healthcheck: {exc}") from None


def _http(text: str) -> Target:
    if len(text) > _LONGEST or not all("!" <= letter <= "~" for letter in text) or "#" in text:
        raise ValueError("not a URL or path")
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme:
        rest = text
    elif scheme.lower() == "https":
        raise ValueError("HTTPS is not supported, use HTTP or a command")
    elif scheme.lower() != "http":
        raise ValueError(f"unsupported scheme '{scheme}'")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    host, port = _split(authority, "80")
    shown = (host or "localhost") + ("" if port == "80" else f":{port}")
    request = (
        f"GET {path if path.startswith('/') else '/' + path} HTTP/1.1\r\n"
        f"Host: {shown}\r\nUser-Agent: proa-healthcheck\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    return Target(addresses=_addresses(authority, "80"), request=request.encode())


def _addresses(authority: str, default_port: str) -> tuple[str, ...]:
    host, port = _split(authority, default_port)
    if not (port.isascii() and port.isdigit() and len(port) <= _DIGITS and 0 < int(port) < 1 << 16):
        raise ValueError(f"invalid port '{port}'" if port else "a port is missing")
    hosts = _LOCALHOST if host in ("", "localhost") else (_literal(host),)
    return tuple(f"{host}:{int(port)}" for host in hosts)


def _split(authority: str, default_port: str) -> tuple[str, str]:
    """(host, port) of `80`, `:80`, `host:80`, `[::1]:80` or, with a default, of a host."""
    if authority.isascii() and authority.isdigit():
        return "", authority
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host += bracket
    else:
        host, colon, port = authority.partition(":")
        rest = colon + port
    if rest and not rest.startswith(":"):
        raise ValueError(f"'{rest}' after the address")
    return host, rest[1:] if rest else default_port


def _literal(host: str) -> str:
    """An IPv4 address, or an IPv6 one in brackets."""
    address = host.removeprefix("[").removesuffix("]")
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"'{host}' is neither localhost nor an IP address") from None
    if (found.version == 6) != host.startswith("[") or "%" in address:
        raise ValueError(f"'{host}' is neither localhost nor an IP address (IPv6 ones stand in brackets)")
    return f"[{found}]" if found.version == 6 else str(found)

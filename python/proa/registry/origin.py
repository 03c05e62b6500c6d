"""Where a URL points: the scheme, host and port that credentials are bound to. Pure.

Source: RFC 6454 (origin), RFC 3986.
"""

from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from proa.errors import InvalidParameter

_PORTS = {"http": 80, "https": 443}


class Origin(Struct, frozen=True):
    """Scheme, host (no brackets, lower case) and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host` or `host:port`, as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def host_port(self) -> str:
        """Always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Target(Struct, frozen=True):
    """An absolute URL: the origin, and the path with its query."""

    origin: Origin
    path: str

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"

    def joined(self, location: str) -> "Target":
        """A Location or Link header's value, relative to this URL. Raises InvalidParameter."""
        try:
            return parse_url(urljoin(str(self), location))
        except ValueError as exc:
            raise InvalidParameter(f"invalid URL {location!r}: {exc}") from None


def parse_url(url: str) -> Target:
    """An http or https URL without user information. Raises InvalidParameter."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError as exc:
        raise InvalidParameter(f"invalid URL {url!r}: {exc}") from None
    if (
        scheme not in _PORTS
        or not _is_host(host)
        or not url.isascii()
        or any(ord(c) <= 32 or ord(c) == 127 for c in url)
    ):
        raise InvalidParameter(f"invalid URL {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidParameter("invalid URL: user information is not allowed in it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(Origin(scheme, host, port or _PORTS[scheme]), path)


def _is_host(host: str) -> bool:
    """Whether it can be looked up: an address, or a name of labels of 1 to 63 characters."""
    return ":" in host or all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))

"""Which proxy a registry is reached through: daemon.json's `proxies`, else the environment. Pure.

A proxy is spoken to in plain HTTP (http), over TLS (https) or in SOCKS5 (socks5, socks5h).

Source: the rules of Go's golang.org/x/net/http/httpproxy, which dockerd follows.
"""

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.registry.noproxy import Rule, is_direct, read_rules
from proa.registry.origin import Origin

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class Proxy(Struct, frozen=True):
    """`userinfo` is `user:password`, decoded, or empty."""

    origin: Origin
    """https for one over TLS."""
    userinfo: str = ""
    socks: bool = False


class Proxies(Struct, frozen=True, kw_only=True):
    """For http, for https, and the hosts that are reached without."""

    http: Proxy | None = None
    https: Proxy | None = None
    no_proxy: tuple[Rule, ...] = ()

    def of(self, origin: Origin) -> Proxy | None:
        """The proxy for an origin, None to connect directly; loopback never has one."""
        proxy = self.https if origin.scheme == "https" else self.http
        return None if proxy is None or is_direct(self.no_proxy, origin) else proxy


def read_proxies(told: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Proxies:
    """daemon.json's `proxies` over the environment. Raises InvalidParameter."""

    def setting(key: str, *names: str) -> str:
        return told.get(key) or next((environment[name] for name in names if environment.get(name)), "")

    return Proxies(
        http=_proxy(setting("http-proxy", "HTTP_PROXY", "http_proxy")),
        https=_proxy(setting("https-proxy", "HTTPS_PROXY", "https_proxy")),
        no_proxy=read_rules(setting("no-proxy", "NO_PROXY", "no_proxy")),
    )


def _proxy(url: str) -> Proxy | None:
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in _PORTS or not host:
        shown = f"{parts.scheme}://{host}"
        raise InvalidParameter(f"invalid proxy {shown}: it must be http, https or socks5")
    userinfo = ""
    if parts.username is not None:
        userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    scheme = "https" if parts.scheme == "https" else "http"
    origin = Origin(scheme, host, port or _PORTS[parts.scheme])
    return Proxy(origin, userinfo, socks=parts.scheme.startswith("socks5"))

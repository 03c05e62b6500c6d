"""Which proxy a registry is reached through: daemon.json's `proxies`, else the environment. Pure.

Source: the rules of Go's golang.org/x/net/http/httpproxy, which dockerd follows.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.registry.origin import Origin


class Proxy(Struct, frozen=True):
    """An HTTP proxy; `userinfo` is `user:password`, decoded, or empty."""

    origin: Origin
    userinfo: str = ""


class Proxies(Struct, frozen=True, kw_only=True):
    """For http, for https, and the hosts that are reached without."""

    http: Proxy | None = None
    https: Proxy | None = None
    no_proxy: tuple[str, ...] = ()

    def of(self, origin: Origin) -> Proxy | None:
        """The proxy for an origin, None to connect directly; loopback never has one."""
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or self._direct(origin):
            return None
        return proxy

    def _direct(self, origin: Origin) -> bool:
        host = origin.host.rstrip(".")
        try:
            address = ip_address(host)
        except ValueError:
            address = None
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(rule, host, origin.port, address) for rule in self.no_proxy)


def read_proxies(told: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Proxies:
    """daemon.json's `proxies` over the environment. Raises InvalidParameter."""

    def setting(key: str, *names: str) -> str:
        return told.get(key) or next((environment[name] for name in names if environment.get(name)), "")

    return Proxies(
        http=_proxy(setting("http-proxy", "HTTP_PROXY", "http_proxy")),
        https=_proxy(setting("https-proxy", "HTTPS_PROXY", "https_proxy")),
        no_proxy=tuple(
            rule.strip().lower()
            for rule in setting("no-proxy", "NO_PROXY", "no_proxy").split(",")
            if rule.strip()
        ),
    )


def _proxy(url: str) -> Proxy | None:
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme != "http" or not host:
        shown = f"{parts.scheme}://{host}"
        raise InvalidParameter(f"invalid proxy {shown}: only http:// proxies are supported")
    userinfo = ""
    if parts.username is not None:
        userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(Origin("http", host, port or 80), userinfo)


def _matches(rule: str, host: str, port: int, address: object) -> bool:
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, digits = rule.rpartition(":")
    if colon and digits.isdecimal() and (":" not in name or name.endswith("]")):
        if int(digits) != port:
            return False
        rule = name
    rule = rule.strip("[]").removeprefix("*")
    if rule.startswith("."):
        return host.endswith(rule)
    return host == rule or (address is None and host.endswith(f".{rule}"))

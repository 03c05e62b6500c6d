"""Which hosts are asked for a domain's images, in which order, and how: mirrors, certs.d, hosts.toml.

    docker.io        registry-mirrors, then registry-1.docker.io
    host:port        <certs_dir>/host:port/hosts.toml: its [host] tables in order, then its server
    any other        the domain itself

hosts.toml holds over registry-mirrors. Credentials are only ever for the registry itself (the `server` that
hosts.toml names is it); a mirror that wants some has them in its hosts.toml headers.

Source: Docker's documentation of certs.d and registry-mirrors; containerd docs/hosts.md.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.registry.origin import Origin, parse_url
from proa.registry.settings import RegistrySettings
from proa.registry.tls import TLSSettings
from proa.schema.reference import DEFAULT_DOMAIN

HUB: Final = "registry-1.docker.io"
PULL: Final = "pull"
RESOLVE: Final = "resolve"
PUSH: Final = "push"
_ALL: Final = frozenset((PULL, RESOLVE, PUSH))


class Host(Struct, frozen=True, kw_only=True):
    """One host that may have a domain's images."""

    origin: Origin
    prefix: str = "/v2"
    """The path that repositories are below."""
    tls: TLSSettings = TLSSettings()
    plain_http: bool = False
    """An https origin that may be talked to in plain HTTP where it speaks no TLS."""
    capabilities: frozenset[str] = _ALL
    headers: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    """The domain, told to a mirror of several as `?ns=`."""
    is_mirror: bool = False


def registry_host(domain: str) -> str:
    """`host[:port]` where a domain's registry is."""
    return HUB if domain == DEFAULT_DOMAIN else domain


def hosts_of(domain: str, settings: RegistrySettings, *, insecure: bool = False) -> list[Host]:
    """Mirrors first, the registry itself last. Raises InvalidParameter for a bad hosts.toml.

    `insecure` treats the registry as one of insecure-registries. Reads small files: blocks for microseconds.
    """
    authority = registry_host(domain)
    file, told = _hosts_file(settings, domain, authority)
    itself = _registry(authority, settings, insecure=insecure)
    if told is None:
        mirrors = settings.mirrors if domain == DEFAULT_DOMAIN else ()
        return [*(_plain_mirror(url, settings) for url in mirrors), itself]
    folder = os.path.dirname(file)
    tables = told.get("host") or {}
    mirrors_told = [_from_table(url, table, folder, domain) for url, table in tables.items()]
    return [*mirrors_told, _server(told, folder, itself)]


def _registry(authority: str, settings: RegistrySettings, *, insecure: bool = False) -> Host:
    origin = parse_url(f"https://{authority}").origin
    insecure = insecure or settings.is_insecure(origin.authority, origin.host)
    return Host(origin=origin, tls=_tls(origin, settings, verify=not insecure), plain_http=insecure)


def _plain_mirror(url: str, settings: RegistrySettings) -> Host:
    target = parse_url(url)
    origin = target.origin
    insecure = settings.is_insecure(origin.authority, origin.host)
    return Host(
        origin=origin,
        prefix=f"{target.path.rstrip('/')}/v2",
        tls=_tls(origin, settings, verify=not insecure),
        plain_http=insecure,
        capabilities=frozenset((PULL, RESOLVE)),
        is_mirror=True,
    )


def _tls(origin: Origin, settings: RegistrySettings, *, verify: bool) -> TLSSettings:
    """What certs.d has for a host: every *.crt is trusted, every *.cert with its *.key is shown."""
    if origin.scheme != "https":
        return TLSSettings()
    folder = _certs_dir(settings, origin.authority, origin.host_port)
    if not folder:
        return TLSSettings(verify=verify)
    names = sorted(os.listdir(folder))
    clients = []
    for name in names:
        if name.endswith(".cert"):
            key = f"{name[:-5]}.key"
            if key not in names:
                raise InvalidParameter(
                    f"missing key {key} for client certificate {name}. "
                    "CA certificates must use the extension .crt"
                )
            clients.append((f"{folder}/{name}", f"{folder}/{key}"))
        elif name.endswith(".key") and f"{name[:-4]}.cert" not in names:
            raise InvalidParameter(f"missing client certificate {name[:-4]}.cert for key {name}")
    return TLSSettings(
        verify=verify,
        authorities=tuple(f"{folder}/{name}" for name in names if name.endswith(".crt")),
        clients=tuple(clients),
    )


def _certs_dir(settings: RegistrySettings, *names: str) -> str:
    for root in settings.certs_dirs:
        for name in names:
            if os.path.isdir(folder := f"{root}/{name}"):
                return folder
    return ""


def _hosts_file(settings: RegistrySettings, *authorities: str) -> tuple[str, dict[str, Any] | None]:
    """(path, content) of the hosts.toml that holds."""
    for root in settings.certs_dirs:
        for name in (*dict.fromkeys(authorities), *(_underscored(name) for name in authorities), "_default"):
            path = f"{root}/{name}/hosts.toml"
            try:
                with open(path, "rb") as file:
                    import tomllib

                    return path, tomllib.load(file)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as exc:
                raise InvalidParameter(f"{path}: {exc}") from exc
    return "", None


def _underscored(authority: str) -> str:
    """containerd's name of a folder for a host with a port, where a colon cannot be."""
    host, colon, port = authority.rpartition(":")
    return f"{host}_{port}_" if colon else authority


def _server(told: Mapping[str, Any], folder: str, itself: Host) -> Host:
    """The registry behind the mirrors: `server`, else the domain's own."""
    url = told.get("server")
    if url is None:
        table = {key: value for key, value in told.items() if key not in ("host", "server")}
        if not table.keys() & {"ca", "client", "skip_verify", "header"}:
            return itself
        url = str(itself.origin)
    found = _from_table(url, told, folder, "", capabilities=_ALL)
    return Host(
        origin=found.origin,
        prefix=found.prefix,
        tls=found.tls,
        plain_http=itself.plain_http and found.origin == itself.origin,
        headers=found.headers,
    )


def _from_table(
    url: str,
    table: Mapping[str, Any],
    folder: str,
    domain: str,
    *,
    capabilities: frozenset[str] | None = None,
) -> Host:
    try:
        target = parse_url(url if "://" in url else f"https://{url}")
        told = frozenset(table.get("capabilities") or _ALL) if capabilities is None else capabilities
        path = target.path.rstrip("/")
        return Host(
            origin=target.origin,
            prefix=path if table.get("override_path") else path if path.endswith("/v2") else f"{path}/v2",
            tls=TLSSettings(
                verify=not table.get("skip_verify", False),
                authorities=tuple(_absolute(folder, name) for name in _texts(table.get("ca"))),
                clients=tuple(_clients(folder, table.get("client"))),
            ),
            capabilities=told,
            headers=tuple(
                (_token(name), _value(value))
                for name, values in (table.get("header") or {}).items()
                for value in _texts(values)
            ),
            namespace=domain,
            is_mirror=True,
        )
    except (TypeError, AttributeError, ValueError) as exc:
        raise InvalidParameter(f"{folder}/hosts.toml: {url}: {exc}") from exc


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise TypeError("expected a string or an array of strings")
    return values


def _clients(folder: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    pairs = []
    for item in value if isinstance(value, list) else [value]:
        certificate, key = (item, "") if isinstance(item, str) else (*item, "")[:2]
        pairs.append((_absolute(folder, certificate), _absolute(folder, key) if key else ""))
    return pairs


def _absolute(folder: str, name: str) -> str:
    return os.path.join(folder, name)


def _token(name: str) -> str:
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"invalid header name {name!r}")
    return name


def _value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("invalid header value")
    return value

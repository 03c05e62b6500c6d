"""Links of the default network, which has no names: lines in the hosts file and variables in the environment.

Settled anew at each start, since addresses change. On networks that have names a link is one more of them
(network/naming.py). Source: moby daemon/links.go, daemon/links/links.go.
"""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.registry import Registry
from proa.errors import Conflict, InvalidParameter, NotFound

_NOT_PASSED_ON = ("HOME", "PATH", "HOSTNAME")


class Linked(Struct, frozen=True, kw_only=True):
    """What links give a container."""

    hosts: tuple[str, ...] = ()
    """`names:address`, as extra hosts are written."""
    env: tuple[str, ...] = ()


NOTHING = Linked()


def linked(container: Container, registry: Registry) -> Linked:
    """What the links of a container give it now. Raises Conflict, InvalidParameter in Docker's words."""
    host_config = container.record.resolved.host_config
    if not host_config.links or host_config.network_mode != "bridge":
        return NOTHING
    hosts: list[str] = []
    env: list[str] = []
    for link in host_config.links:
        name, _, alias = link.partition(":")
        alias = alias or name.removeprefix("/")
        try:
            child = registry.lookup(name)
        except NotFound as exc:
            raise InvalidParameter(f"could not get container for {name}: {exc}") from exc
        if not child.state.running:
            raise Conflict(
                f"Cannot link to a non running container: /{child.record.name} AS "
                f"/{container.record.name}/{alias}"
            )
        address = _address(child)
        names = dict.fromkeys((alias, child.record.resolved.config.hostname, child.record.name))
        hosts.append(f"{' '.join(filter(None, names))}:{address}")
        env += _environment(f"/{container.record.name}/{alias}", alias, address, child)
    return Linked(hosts=tuple(hosts), env=tuple(env))


def shown(container: Container, registry: Registry) -> list[str] | None:
    """Links as inspect has them: `/child:/container/alias`; on networks with names they are aliases there."""
    host_config = container.record.resolved.host_config
    if not host_config.links or host_config.network_mode != "bridge":
        return None
    found = []
    for link in host_config.links:
        name, _, alias = link.partition(":")
        try:
            child = registry.lookup(name).record.name
        except NotFound:
            continue  # its link went with it
        found.append(f"/{child}:/{container.record.name}/{alias or name.removeprefix('/')}")
    return found or None


async def unlink(name: str, registry: Registry) -> None:
    """Take away the link `/container/alias` from the next start on. Raises NotFound, Conflict."""
    parent, _, alias = name.strip("/").rpartition("/")
    container = registry.lookup(parent or alias)
    if not parent:
        raise Conflict("Conflict, cannot remove the default link name of the container")
    async with container.exclusive():
        resolved = container.record.resolved
        links = resolved.host_config.links or []
        left = [link for link in links if _alias(link) != alias]
        if len(left) == len(links):
            raise NotFound(f"No such container: {name.strip('/')}")
        host_config = replace(resolved.host_config, links=left or None)
        record = replace(container.record, resolved=replace(resolved, host_config=host_config))
        registry.set_record(container, record)


def _alias(link: str) -> str:
    name, _, alias = link.partition(":")
    return alias or name.removeprefix("/")


def _address(child: Container) -> str:
    sandbox = child.state.sandbox
    for endpoint in sandbox.endpoints if sandbox is not None else ():
        if endpoint.network_name == "bridge":
            return endpoint.address
    raise InvalidParameter(
        f"Cannot link to /{child.record.name}, as it does not belong to the default network"
    )


def _environment(name: str, alias: str, address: str, child: Container) -> Iterator[str]:
    prefix = alias.upper().replace("-", "_")
    config = child.record.resolved.config
    ports = sorted(_port(port) for port in config.exposed_ports or {})
    if ports:
        number, protocol = ports[0]
        yield f"{prefix}_PORT={protocol}://{address}:{number}"
    for number, protocol in ports:
        stem = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{stem}={protocol}://{address}:{number}"
        yield f"{stem}_ADDR={address}"
        yield f"{stem}_PORT={number}"
        yield f"{stem}_PROTO={protocol}"
    yield f"{prefix}_NAME={name}"
    for entry in config.env or ():
        key, equals, value = entry.partition("=")
        if equals and key not in _NOT_PASSED_ON:
            yield f"{prefix}_ENV_{key}={value}"


def _port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number.partition("-")[0]), protocol or "tcp"

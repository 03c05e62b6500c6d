"""The `network` group: ls, create, connect, disconnect, rm.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

from proa.cli import human
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import FORMAT_HELP, configured, filters
from proa.cli.table import Format, labels, render, show
from proa.cli.transport import client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TABLE = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"

_HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}

_LIST_FLAGS = (
    ("filter", "f", "filter", "", 'Provide filter values (e.g. "driver=bridge")'),
    ("format", "", "string", "", FORMAT_HELP),
    ("no-trunc", "", "bool", "", "Do not truncate the output"),
    ("quiet", "q", "bool", "", "Only display network IDs"),
)

_CREATE_FLAGS = (
    ("attachable", "", "bool", "", "Enable manual container attachment"),
    ("aux-address", "", "map", "map[]", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
    ("config-from", "", "string", "", "The network from which to copy the configuration"),
    ("config-only", "", "bool", "", "Create a configuration only network"),
    ("driver", "d", "string", '"bridge"', "Driver to manage the Network"),
    ("gateway", "", "strings", "", "IPv4 or IPv6 Gateway for the master subnet"),
    ("ingress", "", "bool", "", "Create swarm routing-mesh network"),
    ("internal", "", "bool", "", "Restrict external access to the network"),
    ("ip-range", "", "strings", "", "Allocate container ip from a sub-range"),
    ("ipam-driver", "", "string", '"default"', "IP Address Management Driver"),
    ("ipam-opt", "", "map", "map[]", "Set IPAM driver specific options"),
    ("ipv4", "", "bool", "true", "Enable or disable IPv4 address assignment"),
    ("ipv6", "", "bool", "", "Enable or disable IPv6 address assignment"),
    ("label", "", "list:label", "", "Set metadata on a network"),
    ("opt", "o", "map", "map[]", "Set driver specific options"),
    ("scope", "", "string", "", "Control the network's scope"),
    ("subnet", "", "strings", "", "Subnet in CIDR format that represents a network segment"),
)

_CONNECT_FLAGS = (
    ("alias", "", "strings", "", "Add network-scoped alias for the container"),
    ("driver-opt", "", "strings", "", "driver options for the network"),
    (
        "gw-priority",
        "",
        "int",
        "",
        "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
    ),
    ("ip", "", "string", "", 'IPv4 address (e.g., "172.30.100.104")'),
    ("ip6", "", "string", "", 'IPv6 address (e.g., "2001:db8::33")'),
    ("link", "", "list:link", "", "Add link to another container"),
    ("link-local-ip", "", "strings", "", "Add a link-local address for the container"),
)


_RAW = "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"


def list_networks(parsed: Parsed) -> int:
    """`proa network ls`."""
    source = parsed.get("format")
    quiet = parsed.flag("quiet")
    if not source and not quiet:
        source = configured(parsed.options, "networksFormat")
    raw = "network_id: {{.ID}}" if quiet else _RAW
    form = Format("{{.ID}}", "") if quiet and source in ("", "table") else Format(source, _TABLE, raw)
    short = not parsed.flag("no-trunc")

    def yes(name: str) -> "Any":
        return lambda row: "true" if row.get(name) else "false"

    columns = {
        "ID": lambda row: human.short_id(row["Id"]) if short else row["Id"],
        "Name": lambda row: row["Name"],
        "Driver": lambda row: row.get("Driver", ""),
        "Scope": lambda row: row.get("Scope", ""),
        "IPv4": yes("EnableIPv4"),
        "IPv6": yes("EnableIPv6"),
        "Internal": yes("Internal"),
        "Labels": lambda row: labels(row.get("Labels")),
        "CreatedAt": lambda row: human.go_time(row.get("Created", "")),
    }
    found = client(parsed.options).call("GET", f"/networks{query(filters=filters(parsed))}") or []
    found.sort(key=lambda network: network["Name"])
    calls = {"Label": lambda row, name: (row.get("Labels") or {}).get(name, "")}
    show(render(found, form, columns, _HEADERS, calls, "*formatter.networkContext"))
    return 0


def create(parsed: Parsed) -> int:
    """`proa network create`."""
    body: dict[str, Any] = {
        "Name": parsed.args[0],
        "Driver": parsed.get("driver", "bridge"),
        "Options": parsed.get("opt", {}),
        "IPAM": {
            "Driver": parsed.get("ipam-driver", "default"),
            "Options": parsed.get("ipam-opt", {}),
            "Config": _pools(parsed),
        },
        "Labels": dict(text.partition("=")[::2] for text in parsed.get("label", ())),
    }
    for name, key in (
        ("attachable", "Attachable"),
        ("config-only", "ConfigOnly"),
        ("ingress", "Ingress"),
        ("internal", "Internal"),
        ("scope", "Scope"),
        ("ipv4", "EnableIPv4"),
        ("ipv6", "EnableIPv6"),
    ):
        if name in parsed.values:
            body[key] = parsed.values[name]
    if parsed.get("config-from"):
        body["ConfigFrom"] = {"Network": parsed.get("config-from")}
    created = client(parsed.options).call("POST", "/networks/create", body)
    if created.get("Warning"):
        import os

        os.write(2, f"WARNING: {created['Warning']}\n".encode())
    show(created["Id"] + "\n")
    return 0


_WORDS = {"IPRange": "range", "Gateway": "gateway", "AuxiliaryAddresses": "aux-address"}


def _pools(parsed: Parsed) -> "list[dict[str, Any]]":
    """One entry a subnet, with the range, gateway and auxiliary addresses that lie in it. Raises Failure."""
    import contextlib
    import ipaddress

    subnets, ranges, gateways = (parsed.get(name, []) for name in ("subnet", "ip-range", "gateway"))
    auxiliary = parsed.get("aux-address", {})
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise Failure("every ip-range or gateway must have a corresponding subnet")
    networks = []
    for subnet in subnets:
        with contextlib.suppress(ValueError):  # the daemon has the words for what is none
            networks.append(ipaddress.ip_network(subnet, strict=False))
    if len(networks) < len(subnets):
        return [{"Subnet": subnet} for subnet in subnets]
    for number, network in enumerate(networks):
        if any(network.overlaps(other) for other in networks[:number]):
            raise Failure("multiple overlapping subnet configuration is not supported")
    pools: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in subnets]
    wanted = [("IPRange", text, text) for text in ranges] + [("Gateway", text, text) for text in gateways]
    wanted += [("AuxiliaryAddresses", name, address) for name, address in auxiliary.items()]
    for key, name, text in wanted:
        try:
            address = ipaddress.ip_interface(text).ip
        except ValueError as exc:
            raise Failure(f"invalid address: {exc}") from None
        index = next((i for i, network in enumerate(networks) if address in network), None)
        if index is None:
            raise Failure(f"no matching subnet for {_WORDS[key]} {text}")
        if key == "AuxiliaryAddresses":
            pools[index].setdefault(key, {})[name] = text
        elif key in pools[index]:
            what = {"IPRange": "ranges", "Gateway": "gateways"}[key]
            where = "on the same subnet" if key == "IPRange" else "for the same subnet"
            pair = f"({text}, {pools[index][key]}) {where} ({subnets[index]})"
            raise Failure(f"cannot configure multiple {what} {pair}")
        else:
            pools[index][key] = text
    return pools


def connect(parsed: Parsed) -> int:
    """`proa network connect`."""
    settings: dict[str, Any] = {}
    for name, key in (("alias", "Aliases"), ("link", "Links"), ("gw-priority", "GwPriority")):
        if parsed.get(name):
            settings[key] = parsed.get(name)
    if parsed.get("driver-opt"):
        settings["DriverOpts"] = dict(text.partition("=")[::2] for text in parsed.get("driver-opt"))
    addresses = (("ip", "IPv4Address"), ("ip6", "IPv6Address"), ("link-local-ip", "LinkLocalIPs"))
    ipam = {key: parsed.get(name) for name, key in addresses if parsed.get(name)}
    if ipam:
        settings["IPAMConfig"] = ipam
    body = {"Container": parsed.args[1], "EndpointConfig": settings}
    client(parsed.options).call("POST", f"/networks/{quote(parsed.args[0])}/connect", body)
    return 0


def disconnect(parsed: Parsed) -> int:
    """`proa network disconnect`."""
    body = {"Container": parsed.args[1], "Force": parsed.flag("force")}
    client(parsed.options).call("POST", f"/networks/{quote(parsed.args[0])}/disconnect", body)
    return 0


def remove(parsed: Parsed) -> int:
    """`proa network rm`."""
    from proa.cli.containers import for_each

    paths = [(name, f"/networks/{quote(name)}") for name in parsed.args]
    return for_each(parsed, "DELETE", paths, forgive_missing=parsed.flag("force"))


COMMANDS = {
    "network ls": Command(
        "network ls",
        "[OPTIONS]",
        "List networks",
        list_networks,
        _LIST_FLAGS,
        maximum=0,
        aliases="network ls, network list",
    ),
    "network create": Command(
        "network create", "[OPTIONS] NETWORK", "Create a network", create, _CREATE_FLAGS, minimum=1, maximum=1
    ),
    "network connect": Command(
        "network connect",
        "[OPTIONS] NETWORK CONTAINER",
        "Connect a container to a network",
        connect,
        _CONNECT_FLAGS,
        minimum=2,
        maximum=2,
    ),
    "network disconnect": Command(
        "network disconnect",
        "[OPTIONS] NETWORK CONTAINER",
        "Disconnect a container from a network",
        disconnect,
        (("force", "f", "bool", "", "Force the container to disconnect from a network"),),
        minimum=2,
        maximum=2,
    ),
    "network rm": Command(
        "network rm",
        "NETWORK [NETWORK...]",
        "Remove one or more networks",
        remove,
        (("force", "f", "bool", "", "Do not error if the network does not exist"),),
        minimum=1,
        aliases="network rm, network remove",
    ),
}

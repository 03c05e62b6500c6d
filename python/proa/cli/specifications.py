"""The flags with a grammar of their own: --mount, --network, --gpus, and the short syntaxes of -v and -p.

Source: the observed behaviour of docker 28.
"""

from itertools import pairwise

from proa.cli.environment import absolute
from proa.cli.failure import BadFlag, Failure
from proa.cli.values import csv_fields, go_quote, integer, ip_address, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOUNT_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")

_RECURSIVE = {
    "disabled": "NonRecursive",
    "writable": "ReadOnlyNonRecursive",
    "readonly": "ReadOnlyForceRecursive",
}

_MOUNT_GROUPS = {
    "BindOptions": ("bind", "bind-*"),
    "VolumeOptions": ("volume", "volume-*"),
    "ImageOptions": ("image", "image-*"),
    "TmpfsOptions": ("tmpfs", "tmpfs-*"),
}


def mount(text: str) -> "dict[str, Any]":
    """The Mount of `type=bind,src=/a,dst=/b,readonly`. Raises BadFlag."""
    if not text:
        raise BadFlag("EOF")
    result: dict[str, Any] = {"Type": "volume"}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals and key not in _MOUNT_SWITCHES:
            raise BadFlag(f"invalid field '{field}' must be a key=value pair")
        _mount_option(result, key, value, bool(equals), field)
    _check_mount(result)
    return result


def _mount_option(result: "dict[str, Any]", key: str, value: str, has_value: bool, field: str) -> None:
    if key == "type":
        result["Type"] = value.lower()
    elif key in ("source", "src"):
        result["Source"] = absolute(value) if value.startswith(".") else value
    elif key in ("target", "dst", "destination"):
        result["Target"] = value
    elif key in ("readonly", "ro"):
        result["ReadOnly"] = _switch(key, value, has_value)
    elif key == "consistency":
        result["Consistency"] = value.lower()
    elif key.startswith("bind-"):
        _bind_option(result.setdefault("BindOptions", {}), key, value, has_value, field)
    elif key.startswith("volume-"):
        _volume_option(result.setdefault("VolumeOptions", {}), key, value, has_value, field)
    elif key == "image-subpath":
        result.setdefault("ImageOptions", {})["Subpath"] = value
    elif key == "tmpfs-size":
        try:
            result.setdefault("TmpfsOptions", {})["SizeBytes"] = size(value)
        except BadFlag:
            raise BadFlag(f"invalid value for {key}: {value}") from None
    elif key == "tmpfs-mode":
        if not value or not set(value) <= set("01234567"):
            raise BadFlag(f"invalid value for {key}: {value}")
        result.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    else:
        raise BadFlag(f"unexpected key '{key}' in '{field}'")


def _bind_option(options: "dict[str, Any]", key: str, value: str, has_value: bool, field: str) -> None:
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _switch(key, value, has_value)
    elif key == "bind-create-src":
        options["CreateMountpoint"] = _switch(key, value, has_value)
    elif key == "bind-recursive":
        if value in _RECURSIVE:
            options[_RECURSIVE[value]] = True
        elif value != "enabled":
            raise BadFlag(
                f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )
    else:
        raise BadFlag(f"unexpected key '{key}' in '{field}'")


def _volume_option(options: "dict[str, Any]", key: str, value: str, has_value: bool, field: str) -> None:
    if key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-nocopy":
        options["NoCopy"] = _switch(key, value, has_value)
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif key in ("volume-label", "volume-opt"):
        name, _, setting = value.partition("=")
        if not name:
            return
        if key == "volume-label":
            options.setdefault("Labels", {})[name] = setting
        else:
            options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = setting
    else:
        raise BadFlag(f"unexpected key '{key}' in '{field}'")


def _switch(key: str, value: str, has_value: bool) -> bool:
    if not has_value or value in ("1", "true"):
        return True
    if value in ("0", "false"):
        return False
    raise BadFlag(f"invalid value for {key}: {value}")


def _check_mount(result: "dict[str, Any]") -> None:
    kind = result["Type"]
    if not kind:
        raise BadFlag("type is required")
    if not result.get("Target"):
        raise BadFlag("target is required")
    for group, (owner, options) in _MOUNT_GROUPS.items():
        if group in result and kind != owner:
            raise BadFlag(f"cannot mix '{options}' options with mount type '{kind}'")
    bind = result.get("BindOptions", {})
    needs = "to be specified in conjunction"
    if bind.get("ReadOnlyNonRecursive") and not result.get("ReadOnly"):
        raise BadFlag(f"option 'bind-recursive=writable' requires 'readonly' {needs}")
    if bind.get("ReadOnlyForceRecursive"):
        if not result.get("ReadOnly"):
            raise BadFlag(f"option 'bind-recursive=readonly' requires 'readonly' {needs}")
        if bind.get("Propagation") != "rprivate":
            raise BadFlag(f"option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' {needs}")


def network(text: str) -> "dict[str, Any]":
    """A network to join: its name alone, or `name=net,alias=web,ip=10.0.0.2`. Raises BadFlag.

    The keys are this module's own: create_body.py makes the endpoint's settings of them.
    """
    if not _has_assignment(text):
        return {"Target": text}
    result: dict[str, Any] = {"Target": ""}
    for field in csv_fields(text):
        key, equals, value = field.lower().partition("=")
        if not equals or not key:
            raise BadFlag(f"invalid field {field}")
        _network_option(result, key.strip(), value.strip())
    if not result["Target"]:
        raise BadFlag("network name/id is not specified")
    return result


def _has_assignment(text: str) -> bool:
    """Whether a `=` has a word on both its sides."""
    return any(_in_word(left[-1:]) and _in_word(right[:1]) for left, right in pairwise(text.split("=")))


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _network_option(result: "dict[str, Any]", key: str, value: str) -> None:
    if key == "name":
        result["Target"] = value
    elif key == "alias":
        result.setdefault("Aliases", []).append(value)
    elif key in ("ip", "ip6"):
        result["IPv4Address" if key == "ip" else "IPv6Address"] = value
    elif key == "mac-address":
        result["MacAddress"] = value
    elif key == "link-local-ip":
        result.setdefault("LinkLocalIPs", []).append(value)
    elif key == "driver-opt":
        name, equals, setting = value.partition("=")
        if not equals or not name:
            raise BadFlag("invalid key value pair format in driver options")
        result.setdefault("DriverOpts", {})[name.strip()] = setting.strip()
    elif key == "gw-priority":
        try:
            result["GwPriority"] = integer(value)
        except BadFlag as exc:
            raise BadFlag(f"invalid gw-priority ({value}): {str(exc).rpartition(': ')[2]}") from None
    else:
        raise BadFlag(f"invalid field key {key}")


def gpus(text: str) -> "dict[str, Any]":
    """The device request of `all`, `2` or `device=0,capabilities=utility`. Raises BadFlag."""
    request: dict[str, Any] = {}
    seen = set()
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if key in seen:
            raise BadFlag(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not equals or key == "count":
            seen.add("count")
            request["Count"] = _gpu_count(value if equals else key)
        elif key == "driver":
            request["Driver"] = value
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(option.partition("=")[::2] for option in csv_fields(value))
        else:
            raise BadFlag(f"unexpected key '{key}' in '{field}'")
    if "count" not in seen and "DeviceIDs" not in request:
        request["Count"] = 1
    request.setdefault("Capabilities", [["gpu"]])
    return request


def _gpu_count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return integer(text)
    except BadFlag as exc:
        reason = str(exc).rpartition(": ")[2]
        raise BadFlag(f'invalid count ({text}): value must be either "all" or an integer: {reason}') from None


PARSERS = {"mount": mount, "network": network, "gpu-request": gpus}


def volume(text: str) -> str | None:
    """The bind of `-v`, its host path made absolute; None for an anonymous volume. Raises Failure.

    What is neither goes to the daemon as it is: it knows the words for that.
    """
    if not text:
        raise Failure("invalid empty volume spec")
    parts = text.split(":")
    if len(text) <= 2 or len(parts) == 1:
        return None
    _check_sections(text, parts)
    if parts[0].startswith("."):
        parts[0] = absolute(parts[0])
    return ":".join(parts)


def _check_sections(text: str, parts: list[str]) -> None:
    """Raises Failure. A letter alone is a drive of Windows: it is one section with what follows it."""
    sections: list[str] = []
    for part in parts:
        if sections and len(sections[-1]) == 1 and sections[-1].isalpha():
            sections[-1] += f":{part}"
        elif len(sections) == 3:
            raise Failure(f"invalid spec: {text}: too many colons")
        elif not part:
            raise Failure(f"invalid spec: {text}: empty section between colons")
        else:
            sections.append(part)


def ports(
    published: list[str], exposed: list[str]
) -> tuple[dict[str, list[dict[str, str]]], dict[str, dict[str, object]]]:
    """(PortBindings, ExposedPorts) of -p and --expose. Raises Failure."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in published:
        for port, binding in _port_spec(_short_notation(text)):
            bindings.setdefault(port, []).append(binding)
    open_ports: dict[str, dict[str, object]] = {port: {} for port in bindings}
    for text in exposed:
        span, _, proto = text.partition("/")
        try:
            start, end = _port_range(span)
        except ValueError:
            reason = f"strconv.ParseUint: parsing {go_quote(span.partition('-')[0])}: invalid syntax"
            raise Failure(f"invalid range format for --expose: {span}, error: {reason}") from None
        for number in range(start, end + 1):
            open_ports.setdefault(f"{number}/{proto.lower() or 'tcp'}", {})
    return bindings, open_ports


def _short_notation(text: str) -> str:
    if "=" not in text:
        return text
    fields = {"protocol": "tcp", "published": "", "target": ""}
    for field in text.split(","):
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise Failure(f"invalid publish opts format (should be name=value but got '{field}')")
        fields[name] = value
    return f"{fields['published']}:{fields['target']}/{fields['protocol']}"


def _port_spec(text: str) -> list[tuple[str, dict[str, str]]]:
    rest, _, container = text.rpartition(":")
    address, _, host = rest.rpartition(":")
    container, _, proto = container.partition("/")
    proto = proto.lower() or "tcp"
    if not container:
        raise Failure(f"no port specified: {text}<empty>")
    if proto not in ("tcp", "udp", "sctp"):
        raise Failure(f"invalid proto: {proto}")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address:
        try:
            ip_address(address)
        except BadFlag:
            raise Failure(f"invalid IP address: {address}") from None
    first, last = _checked_range(container, "containerPort")
    if not host:
        return [(f"{port}/{proto}", {"HostIp": address, "HostPort": ""}) for port in range(first, last + 1)]
    low, high = _checked_range(host, "hostPort")
    if last - first != high - low and last != first:
        raise Failure(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if first == last and low != high:
        return [(f"{first}/{proto}", {"HostIp": address, "HostPort": f"{low}-{high}"})]
    return [
        (f"{port}/{proto}", {"HostIp": address, "HostPort": str(low + port - first)})
        for port in range(first, last + 1)
    ]


def _checked_range(text: str, what: str) -> tuple[int, int]:
    try:
        return _port_range(text)
    except ValueError:
        raise Failure(f"invalid {what}: {text}") from None


def _port_range(text: str) -> tuple[int, int]:
    """Raises ValueError."""
    if not text:
        raise ValueError("empty string specified for ports")
    first, dash, last = text.partition("-")
    start = _port_number(first, "start")
    end = _port_number(last, "end") if dash else start
    if end < start:
        raise ValueError(f"invalid port range: {text}")
    return start, end


def _port_number(text: str, which: str) -> int:
    if not text.isdigit():
        raise ValueError(
            f"invalid {which} port '{text}': {'value is empty' if not text else 'invalid syntax'}"
        )
    number = int(text)
    if number > 65535:
        raise ValueError(f"invalid {which} port '{text}': value out of range (0\u201365535)")
    return number

"""The body of POST /containers/create for the flags of `run` and `create`.

It holds what Docker's CLI would send, less the fields at their zero value, which the daemon supplies.
The work is proportional to the flags given. Source: the Docker Engine API, v1.51, ContainerCreate; the
observed bodies of docker 28.
"""

from proa.cli.environment import absolute
from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from proa.cli.flags import Parsed

_CONFIG = {
    "domainname": "Domainname",
    "hostname": "Hostname",
    "interactive": "OpenStdin",
    "stop-signal": "StopSignal",
    "tty": "Tty",
    "user": "User",
    "workdir": "WorkingDir",
}

_HOST = {
    "add-host": "ExtraHosts",
    "annotation": "Annotations",
    "blkio-weight": "BlkioWeight",
    "blkio-weight-device": "BlkioWeightDevice",
    "cgroup-parent": "CgroupParent",
    "cidfile": "ContainerIDFile",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "device-cgroup-rule": "DeviceCgroupRules",
    "device-read-bps": "BlkioDeviceReadBps",
    "device-read-iops": "BlkioDeviceReadIOps",
    "device-write-bps": "BlkioDeviceWriteBps",
    "device-write-iops": "BlkioDeviceWriteIOps",
    "dns": "Dns",
    "dns-search": "DnsSearch",
    "group-add": "GroupAdd",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "link": "Links",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "mount": "Mounts",
    "oom-kill-disable": "OomKillDisable",
    "oom-score-adj": "OomScoreAdj",
    "pids-limit": "PidsLimit",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
    "runtime": "Runtime",
    "shm-size": "ShmSize",
    "sysctl": "Sysctls",
    "timeout": "ProaTimeout",
    "volume-driver": "VolumeDriver",
    "volumes-from": "VolumesFrom",
}


def create_body(parsed: "Parsed") -> "dict[str, Any]":
    """The whole body; a name, a platform and what the CLI does itself are not part of it.

    Raises Failure in the words that Docker's CLI has for a combination that cannot be.
    """
    values = parsed.values
    body: dict[str, Any] = {}
    host: dict[str, Any] = {}
    rootfs = values.get("rootfs", "")
    command = parsed.args if rootfs else parsed.args[1:]
    if rootfs:
        host["ProaRootfs"] = absolute(rootfs)
    else:
        body["Image"] = parsed.args[0]
    if command:
        body["Cmd"] = command
    special: list[str] = []
    for name, value in values.items():
        if name in _HOST:
            if value:
                host[_HOST[name]] = value
        elif name in _CONFIG:
            if value:
                body[_CONFIG[name]] = value
        elif name in _SPECIAL:
            special.append(name)
    _attach(values, body)
    done: set[Callable[..., None]] = set()
    for name in special:
        function = _SPECIAL[name]
        if function not in done:
            done.add(function)
            function(values, body, host)
    _conflicts(values, host)
    if host:
        body["HostConfig"] = host
    return body


def _attach(values: "dict[str, Any]", body: "dict[str, Any]") -> None:
    streams = values.get("attach", ())
    if "stdin" in streams or values.get("interactive"):
        body["AttachStdin"] = True
    if not streams or "stdout" in streams:
        body["AttachStdout"] = True
    if not streams or "stderr" in streams:
        body["AttachStderr"] = True
    if body.get("OpenStdin") and body.get("AttachStdin"):
        body["StdinOnce"] = True


def _conflicts(values: "dict[str, Any]", host: "dict[str, Any]") -> None:
    if values.get("rm") and host.get("RestartPolicy", {}).get("Name", "no") not in ("no", ""):
        raise Failure("conflicting options: cannot specify both --restart and --rm")


def _entrypoint(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    body["Entrypoint"] = [values["entrypoint"]]


def _capabilities(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    for flag, key in (("cap-add", "CapAdd"), ("cap-drop", "CapDrop")):
        names = {name.strip().upper() for name in values.get(flag, ())}
        if names:
            host[key] = sorted(
                name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in names
            )


def _windows(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    name = next(name for name in _WINDOWS if name in values)
    raise Failure(
        f'"--{name}" is only supported on a Docker daemon running on windows, '
        "but the Docker daemon is running on linux"
    )


_WINDOWS = ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops")


def _modes(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    for flag, (key, words, allowed) in _MODES.items():
        mode = values.get(flag, "")
        of_container = flag == "pid" and mode.startswith("container:") and mode != "container:"
        if mode not in allowed and not of_container:
            raise Failure(f"--{flag}: invalid {words} mode")
        if mode:
            host[key] = mode


_MODES = {
    "pid": ("PidMode", "PID", ("", "host")),
    "uts": ("UTSMode", "UTS", ("", "host")),
    "userns": ("UsernsMode", "USER", ("", "host")),
    "cgroupns": ("CgroupnsMode", "CGROUP", ("", "host", "private")),
}


def _init(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    host["Init"] = values["init"]


def _stop_timeout(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    body["StopTimeout"] = values["stop-timeout"]


def _swappiness(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    swappiness = values["memory-swappiness"]
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise Failure(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    host["MemorySwappiness"] = swappiness


def _ulimits(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    limits = values["ulimit"]
    host["Ulimits"] = [limits[name] for name in sorted(limits)]


def _dns_options(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    host["DnsOptions"] = values.get("dns-option", []) + values.get("dns-opt", [])


def _volumes(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    from proa.cli.specifications import volume

    for text in dict.fromkeys(values["volume"]):
        bind = volume(text)
        if bind is None:
            body.setdefault("Volumes", {})[text] = {}
        else:
            host.setdefault("Binds", []).append(bind)


def _tmpfs(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    host["Tmpfs"] = dict(text.partition(":")[::2] for text in values["tmpfs"])


def _ports(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    from proa.cli.specifications import ports

    bindings, exposed = ports(values.get("publish", []), values.get("expose", []))
    if bindings:
        host["PortBindings"] = bindings
    if exposed:
        body["ExposedPorts"] = exposed


def _devices(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    from proa.cli.devices import device_mapping, is_cdi_name

    mappings = [device_mapping(text) for text in values.get("device", ()) if not is_cdi_name(text)]
    cdi = [text for text in values.get("device", ()) if is_cdi_name(text)]
    if mappings:
        host["Devices"] = mappings
    requests = list(values.get("gpus", ()))
    if cdi:
        requests.append({"Driver": "cdi", "DeviceIDs": cdi})
    if requests:
        host["DeviceRequests"] = requests


def environment(files: list[str], given: list[str]) -> list[str]:
    """The variables of --env-file, then those of -e. Raises Failure."""
    found: list[str] = []
    if files:
        from os import environ

        for path in files:
            found += _key_values(path, "env", dict(environ))
    return found + given


def _env(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    given = {text.partition("=")[0]: text for text in values.get("env", ())}
    variables = environment(values.get("env-file", []), list(given.values()))
    if variables:
        body["Env"] = variables


def _labels(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    lines: list[str] = []
    for path in values.get("label-file", ()):
        lines += _key_values(path, "env", None)
    labels = dict(line.partition("=")[::2] for line in lines + values.get("label", []))
    if labels:
        body["Labels"] = labels


def _key_values(path: str, what: str, inherited: dict[str, str] | None) -> list[str]:
    """The lines of a key=value file; a bare key takes its value from `inherited` or is left out."""
    try:
        with open(path, "rb") as file:
            lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as exc:
        raise Failure(f"open {path}: {(exc.strerror or '').lower()}") from None
    found = []
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise Failure(
                f"invalid {what} file ({path}): invalid utf8 bytes at line {number}: {list(raw)}"
            ) from None
        if not line or line[0] == "#":
            continue
        key, equals, _ = line.partition("=")
        if not key:
            raise Failure(f"invalid {what} file ({path}): no variable name on line '{line}'")
        if " " in key or "\t" in key:
            raise Failure(f"invalid {what} file ({path}): variable '{key}' contains whitespaces")
        if equals:
            found.append(line)
        elif inherited is not None and line in inherited:
            found.append(f"{key}={inherited[line]}")
    return found


def _health(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    settings = {name: values[name] for name in _HEALTH if values.get(name)}
    if values.get("no-healthcheck"):
        if settings:
            raise Failure("--no-healthcheck conflicts with --health-* options")
        body["Healthcheck"] = {"Test": ["NONE"]}
        return
    if not settings:
        return
    if sum(name in _TESTS for name in settings) > 1:
        raise Failure("--health-cmd, --health-http and --health-tcp exclude each other")
    check: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _TESTS:
            check["Test"] = [_TESTS[name], value]
        elif value < 0:
            raise Failure(f"--{name} cannot be negative")
        else:
            check[_HEALTH[name]] = value
    body["Healthcheck"] = check


_TESTS = {"health-cmd": "CMD-SHELL", "health-http": "HTTP", "health-tcp": "TCP"}
_HEALTH = {
    **dict.fromkeys(_TESTS, "Test"),
    "health-interval": "Interval",
    "health-timeout": "Timeout",
    "health-retries": "Retries",
    "health-start-period": "StartPeriod",
    "health-start-interval": "StartInterval",
}


def restart_policy(text: str) -> "dict[str, Any]":
    """The RestartPolicy of `on-failure:3`. Raises Failure."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise Failure("invalid restart policy format: no policy provided before colon")
    if count and not count.lstrip("+-").isdigit():
        raise Failure("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or "0")} if text else {}


def _restart(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    policy = restart_policy(values["restart"])
    if policy:
        host["RestartPolicy"] = policy


def _logging(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    driver = values.get("log-driver", "")
    options = dict(text.partition("=")[::2] for text in values.get("log-opt", ()))
    if driver == "none" and options:
        raise Failure(f"invalid logging opts for driver {driver}")
    host["LogConfig"] = {"Type": driver, "Config": options}


def _storage(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    if any("=" not in text for text in values["storage-opt"]):
        raise Failure("invalid storage option")
    host["StorageOpt"] = dict(text.partition("=")[::2] for text in values["storage-opt"])


def _security(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    from proa.cli.security import security_options

    options, unconfined = security_options(values["security-opt"])
    if options:
        host["SecurityOpt"] = options
    if unconfined:
        host["MaskedPaths"] = host["ReadonlyPaths"] = []


def _networks(values: "dict[str, Any]", body: "dict[str, Any]", host: "dict[str, Any]") -> None:
    from proa.cli.endpoints import network_settings

    mode, endpoints = network_settings(values)
    if mode != "default":
        host["NetworkMode"] = mode
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}


_SPECIAL: "dict[str, Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]]" = {
    **dict.fromkeys(_WINDOWS, _windows),
    **dict.fromkeys(_MODES, _modes),
    "cap-add": _capabilities,
    "cap-drop": _capabilities,
    "device": _devices,
    "dns-opt": _dns_options,
    "dns-option": _dns_options,
    "entrypoint": _entrypoint,
    "env": _env,
    "env-file": _env,
    "expose": _ports,
    "gpus": _devices,
    **dict.fromkeys(_HEALTH, _health),
    "init": _init,
    "ip": _networks,
    "ip6": _networks,
    "label": _labels,
    "label-file": _labels,
    "link": _networks,
    "link-local-ip": _networks,
    "log-driver": _logging,
    "log-opt": _logging,
    "mac-address": _networks,
    "memory-swappiness": _swappiness,
    "net": _networks,
    "net-alias": _networks,
    "network": _networks,
    "network-alias": _networks,
    "no-healthcheck": _health,
    "publish": _ports,
    "restart": _restart,
    "security-opt": _security,
    "stop-timeout": _stop_timeout,
    "storage-opt": _storage,
    "tmpfs": _tmpfs,
    "ulimit": _ulimits,
    "volume": _volumes,
}

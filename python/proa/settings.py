"""The daemon's command line and daemon.json: dockerd's flags and keys, merged to one DaemonConfig.

A setting given both ways is refused, as dockerd does it: nobody shall wonder which one holds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from proa.errors import InvalidParameter
from proa.schema.build_gc import gc_rules
from proa.schema.config import CONFIG_FILE, DaemonConfig
from proa.schema.watermarks import Watermarks

_LISTS = {
    "hosts",
    "dns",
    "dns-opts",
    "dns-search",
    "labels",
    "registry-mirrors",
    "insecure-registries",
    "image-gc-keep",
}
_MAPS = {"log-opts", "default-ulimits", "default-network-opts"}
_PROXIES = ("http-proxy", "https-proxy", "no-proxy")
_MERGED = _LISTS | _MAPS | {"default-address-pools"}
_KEYS = {field.encode_name for field in msgspec.structs.fields(DaemonConfig)}
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One start of proad."""

    config: DaemonConfig
    config_file: str
    flags: dict[str, Any]
    """What the command line said: holds over the file when that is read again."""
    ready_fd: int
    detach: bool
    tear_down: bool
    validate: bool


def invocation(arguments: Sequence[str], version: str) -> Invocation:
    """Read the command line and the file. Raises InvalidParameter; --help and --version exit."""
    parsed = vars(_parser(version).parse_args(arguments))
    ready_fd, detach, tear_down = parsed.pop("ready_fd"), parsed.pop("detach"), parsed.pop("tear_down")
    validate, file = parsed.pop("validate"), parsed.pop("config_file")
    flags = {key.replace("_", "-"): value for key, value in parsed.items() if value is not None}
    _gather_proxies(flags)
    for name in _MAPS & flags.keys():
        flags[name] = _mapping(name, flags[name])
    return Invocation(
        config=load(file or CONFIG_FILE, flags, must_exist=bool(file)),
        config_file=file or CONFIG_FILE,
        flags=flags,
        ready_fd=ready_fd,
        detach=detach,
        tear_down=tear_down,
        validate=validate,
    )


def load(path: str, flags: dict[str, Any], *, must_exist: bool = False) -> DaemonConfig:
    """The file with the flags over it. Raises InvalidParameter in dockerd's words."""
    told = _read(Path(path), must_exist=must_exist)
    unknown = sorted(told.keys() - _KEYS)
    if unknown:
        raise InvalidParameter(
            f"unable to configure the Docker daemon with file {path}: the following directives don't match "
            f"any configuration option: {', '.join(unknown)}"
        )
    twice = sorted((told.keys() & flags.keys()) - _MERGED)
    if twice:
        shown = ", ".join(f"{key}: (from flag: {flags[key]}, from file: {told[key]})" for key in twice)
        raise InvalidParameter(
            f"unable to configure the Docker daemon with file {path}: the following directives are "
            f"specified both as a flag and in the configuration file: {shown}"
        )
    return _checked(path, {**told, **_merged(told, flags)})


def _gather_proxies(flags: dict[str, Any]) -> None:
    """--http-proxy and its kin are members of the key `proxies`."""
    proxies = {name: flags.pop(name) for name in _PROXIES if name in flags}
    if proxies:
        flags["proxies"] = proxies


def _checked(path: str, told: dict[str, Any]) -> DaemonConfig:
    try:
        config = msgspec.convert(told, DaemonConfig)
    except msgspec.ValidationError as exc:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {exc}") from exc
    if config.log_level not in _LOG_LEVELS:
        raise InvalidParameter(f"invalid logging level: {config.log_level}")
    for name, value in (
        ("max concurrent downloads", config.max_concurrent_downloads),
        ("max concurrent uploads", config.max_concurrent_uploads),
        ("max download attempts", config.max_download_attempts),
    ):
        if value < 1:
            raise InvalidParameter(f"invalid {name}: {value}")
    Watermarks.of(config)
    gc_rules(config.builder)
    for root in (config.data_root, config.exec_root):
        if not root.startswith("/"):
            raise InvalidParameter(f"{root} is not an absolute path")
    return config


def _merged(told: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, after what the file says where a setting is a collection."""
    merged = dict(flags)
    for key in flags.keys() & told.keys():
        merged[key] = {**told[key], **flags[key]} if key in _MAPS else [*told[key], *flags[key]]
    return merged


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if must_exist:
            raise InvalidParameter(
                f"unable to configure the Docker daemon with file {path}: "
                f"open {path}: no such file or directory"
            ) from None
        return {}
    except OSError as exc:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {exc}") from exc
    try:
        return msgspec.json.decode(data, type=dict[str, Any]) if data.strip() else {}
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {exc}") from exc


def _mapping(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise InvalidParameter(f'invalid argument "{pair}" for "--{name}" flag: must be key=value')
        if name == "default-network-opts":
            option, separator, value = value.partition("=")
            if not separator:
                told = f'invalid argument "{pair}" for "--{name}" flag: must be driver=key=value'
                raise InvalidParameter(told)
            found.setdefault(key, {})[option] = value
        else:
            found[key] = _ulimit(key, value) if name == "default-ulimits" else value
    return found


def _ulimit(name: str, text: str) -> dict[str, int | str]:
    soft, _, hard = text.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise InvalidParameter(f"invalid ulimit type: {name}={text}") from None


def _parser(version: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proad", description="A self-sufficient runtime for containers.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--version", "-v", action="version", version=f"proa version {version}")
    add("--config-file", default="", help=f"daemon configuration file (default {CONFIG_FILE})")
    add("--ready-fd", type=int, default=-1, help="write a byte to this descriptor once the API is served")
    add("--detach", action="store_true", help="go on in the background, in a session of its own")
    add(
        "--tear-down",
        action="store_true",
        help="end every container, leave nothing on the host but the data root",
    )
    add("--validate", action="store_true", help="validate the configuration and exit")
    add("-H", "--host", dest="hosts", action="append", metavar="URL", help="unix:///path or tcp://host:port")
    for name, text in _TEXT_FLAGS.items():
        add(f"--{name}", help=text)
    for name, (plural, text) in _LIST_FLAGS.items():
        add(f"--{name}", dest=plural, action="append", help=text)
    for name, text in _NUMBER_FLAGS.items():
        add(f"--{name}", type=int, help=text)
    for name, text in _SWITCHES.items():
        add(f"--{name}", type=_boolean, nargs="?", const=True, metavar="BOOL", help=text)
    add("--debug", "-D", type=_boolean, nargs="?", const=True, metavar="BOOL", help="enable debug mode")
    return parser


def _boolean(text: str) -> bool:
    """As pflag reads it. Raises ValueError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"invalid boolean {text!r}")


_TEXT_FLAGS = {
    "data-root": "root directory of persistent state",
    "exec-root": "root directory of runtime state",
    "pidfile": "path of the daemon's PID file",
    "group": "group of the unix socket",
    "tlscacert": "trust only certificates signed by this CA",
    "tlscert": "path of the TLS certificate",
    "tlskey": "path of the TLS key",
    "log-level": "debug, info, warn, error or fatal",
    "log-driver": "default driver of container logs",
    "bridge": "bridge that containers are attached to; `none` for no bridge",
    "bip": "address and prefix of the default bridge",
    "ip": "host address of ports that are published without one",
    "fixed-cidr": "part of the default bridge's subnet that containers' addresses come from",
    "fixed-cidr-v6": "IPv6 subnet of the default bridge",
    "cgroup-parent": "parent cgroup of all containers",
    "default-cgroupns-mode": "private or host",
    "default-ipc-mode": "private or shareable",
    "default-runtime": "default OCI runtime",
    "default-shm-size": "size of /dev/shm",
    "seccomp-profile": "path of a seccomp profile, or unconfined",
    "storage-driver": "storage driver; overlay2 is the one there is",
    "userns-remap": "user namespace remapping",
    "certs-dir": "directory of registries' certificates and hosts.toml, instead of those in /etc",
    "image-gc-high": "size of images past which those used longest ago are removed; never without it",
    "image-gc-low": "size of images that such a removal leaves; four fifths of the above by default",
    "image-gc-min-age": "how long an image is kept after its last use, whatever the size (default 2m)",
    "http-proxy": "HTTP proxy URL for what the daemon fetches",
    "https-proxy": "HTTPS proxy URL for what the daemon fetches",
    "no-proxy": "comma-separated hosts that are reached without a proxy",
}
_LIST_FLAGS = {
    "dns": ("dns", "DNS server"),
    "dns-opt": ("dns-opts", "DNS option"),
    "dns-search": ("dns-search", "DNS search domain"),
    "label": ("labels", "key=value label of the daemon"),
    "log-opt": ("log-opts", "option of the default log driver"),
    "default-ulimit": ("default-ulimits", "default ulimit of containers, name=soft[:hard]"),
    "default-network-opt": ("default-network-opts", "driver=key=value, default option of networks"),
    "registry-mirror": ("registry-mirrors", "preferred registry mirror"),
    "image-gc-keep": ("image-gc-keep", "pattern of names whose images are never removed for their size"),
    "insecure-registry": ("insecure-registries", "registry without verified TLS"),
}
_NUMBER_FLAGS = {
    "mtu": "MTU of the default bridge",
    "shutdown-timeout": "seconds that a shutdown may take",
    "max-concurrent-downloads": "layers downloaded at a time, from one registry",
    "max-concurrent-uploads": "layers uploaded at a time, of one push",
    "max-download-attempts": "attempts in a row at a layer that do not get a byte",
    "network-pool-size": "network namespaces held ready",
}
_SWITCHES = {
    "tls": "use TLS",
    "tlsverify": "use TLS and verify the client",
    "icc": "containers on the default bridge reach each other",
    "ipv6": "IPv6 on the default bridge",
    "iptables": "write firewall rules (nftables)",
    "ip-forward": "enable IPv4 forwarding",
    "ip-masq": "enable masquerading",
    "init": "run an init in containers",
    "live-restore": "containers keep running while the daemon is away",
    "no-new-privileges": "set no-new-privileges by default",
}

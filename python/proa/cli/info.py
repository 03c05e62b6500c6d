"""The text of `info`.

Source: the observed output of docker 28.
"""

from proa.cli import human

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def info_text(found: "dict[str, Any]") -> str:
    """The server's part."""
    lines = [
        f"Containers: {found.get('Containers', 0)}",
        f" Running: {found.get('ContainersRunning', 0)}",
        f" Paused: {found.get('ContainersPaused', 0)}",
        f" Stopped: {found.get('ContainersStopped', 0)}",
        f"Images: {found.get('Images', 0)}",
        *_set(found, ("Server Version", "ServerVersion"), ("Storage Driver", "Driver")),
        *(f" {name}: {value}" for name, value in found.get("DriverStatus") or ()),
        *_set(
            found,
            ("Logging Driver", "LoggingDriver"),
            ("Cgroup Driver", "CgroupDriver"),
            ("Cgroup Version", "CgroupVersion"),
        ),
        *_plugins(found.get("Plugins") or {}),
        *_list("CDI spec directories", found.get("CDISpecDirs")),
        f"Swarm: {(found.get('Swarm') or {}).get('LocalNodeState', 'inactive')}",
        *_runtimes(found),
        *_security(found.get("SecurityOptions") or ()),
        *_set(
            found,
            ("Kernel Version", "KernelVersion"),
            ("Operating System", "OperatingSystem"),
            ("OSType", "OSType"),
            ("Architecture", "Architecture"),
        ),
        f"CPUs: {found.get('NCPU', 0)}",
        f"Total Memory: {human.binary_size(found.get('MemTotal', 0))}",
        *_set(found, ("Name", "Name"), ("ID", "ID")),
        f"Docker Root Dir: {found.get('DockerRootDir', '')}",
        f"Debug Mode: {_bool(found.get('Debug'))}",
        *_set(found, ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")),
        *_list("Labels", found.get("Labels")),
        f"Experimental: {_bool(found.get('ExperimentalBuild'))}",
        *_registries(found.get("RegistryConfig") or {}),
        f"Live Restore Enabled: {_bool(found.get('LiveRestoreEnabled'))}",
        *_pools(found.get("DefaultAddressPools") or ()),
    ]
    return "".join(f" {line}\n" for line in lines) + "\n"


def _bool(value: object) -> str:
    return "true" if value else "false"


def _set(found: "dict[str, Any]", *wanted: tuple[str, str]) -> list[str]:
    return [f"{label}: {found[key]}" for label, key in wanted if found.get(key)]


def _list(label: str, values: "list[str] | None") -> list[str]:
    return [f"{label}:", *(f" {value}" for value in values)] if values else []


def _plugins(plugins: "dict[str, Any]") -> list[str]:
    lines = ["Plugins:"]
    for label in ("Volume", "Network", "Authorization", "Log"):
        values = plugins.get(label) or []
        if values or label != "Authorization":
            lines.append(f" {label}: {' '.join(values)}")
    return lines


def _runtimes(found: "dict[str, Any]") -> list[str]:
    runtimes = found.get("Runtimes") or {}
    lines = []
    if runtimes:
        lines = [f"Runtimes: {' '.join(runtimes)}", f"Default Runtime: {found.get('DefaultRuntime', '')}"]
    lines.append(f"Init Binary: {found.get('InitBinary', '')}")
    for label, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        lines.append(f"{label} version: {(found.get(key) or {}).get('ID', '')}")
    return lines


def _security(options: "list[str] | tuple[()]") -> list[str]:
    lines = []
    for option in options:
        fields = dict(field.partition("=")[::2] for field in option.split(","))
        lines.append(f" {fields.get('name', option)}")
        if "profile" in fields:
            lines.append(f"  Profile: {fields['profile']}")
    return ["Security Options:", *lines] if lines else []


def _registries(config: "dict[str, Any]") -> list[str]:
    insecure = [
        item.get("Name", "") for item in (config.get("IndexConfigs") or {}).values() if not item.get("Secure")
    ]
    insecure += config.get("InsecureRegistryCIDRs") or []
    lines = ["Insecure Registries:", *(f" {name}" for name in insecure)] if insecure else []
    return lines + _list("Registry Mirrors", config.get("Mirrors"))


def _pools(pools: "Any") -> list[str]:
    lines = [f"  Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools]
    return ["Default Address Pools:", *lines] if lines else []

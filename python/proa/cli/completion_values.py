"""What the arguments and the flags of commands can be: constants, files, and what the daemon has."""

from proa.cli.flags import Command, Flag, Globals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_SPACE = 2
NO_FILES = 4
DIRECTORIES = 16


class Candidates:
    """Names with what they are, and what the shell makes of them."""

    __slots__ = ("directive", "rows")

    def __init__(self, rows: tuple[tuple[str, str], ...], directive: int) -> None:
        self.rows = rows
        self.directive = directive


# What a command's arguments name, in their order; `*`: any number of the last.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "attach": ("running",),
    "build": ("directory",),
    "commit": ("container",),
    "completion": ("shell",),
    "container inspect": ("container*",),
    "context export": ("context", "file"),
    "context import": ("nothing", "file"),
    "context inspect": ("context*",),
    "context rm": ("context*",),
    "context update": ("context",),
    "context use": ("context",),
    "cp": ("place", "place"),
    "create": ("image",),
    "diff": ("container",),
    "exec": ("running",),
    "export": ("container",),
    "history": ("image",),
    "image inspect": ("image*",),
    "import": ("file",),
    "inspect": ("anything*",),
    "kill": ("running*",),
    "logs": ("container",),
    "manifest inspect": ("image",),
    "network connect": ("network", "container"),
    "network disconnect": ("network", "container"),
    "network inspect": ("network*",),
    "network rm": ("network*",),
    "pause": ("running*",),
    "port": ("container",),
    "push": ("image",),
    "rename": ("container",),
    "restart": ("container*",),
    "rm": ("container*",),
    "rmi": ("image*",),
    "run": ("image",),
    "save": ("image*",),
    "start": ("stopped*",),
    "stats": ("running*",),
    "stop": ("running*",),
    "tag": ("image", "image"),
    "top": ("running",),
    "unpause": ("paused*",),
    "update": ("container*",),
    "volume inspect": ("volume*",),
    "volume rm": ("volume*",),
    "wait": ("running*",),
}

_FILES = frozenset(
    (
        "cidfile",
        "env-file",
        "file",
        "htpasswd",
        "iidfile",
        "input",
        "label-file",
        "metadata-file",
        "output",
        "tls-ca",
        "tls-cert",
        "tls-key",
        "tlscacert",
        "tlscert",
        "tlskey",
    )
)
_DIRECTORIES = frozenset(("config", "root", "rootfs"))
_PLACES = frozenset(("volumes-from", "link"))

_CAPABILITIES = (
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE "
    "MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG "
    "SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM"
)
_SIGNALS = "HUP INT QUIT ABRT KILL USR1 USR2 TERM CONT STOP TSTP WINCH"
_PLATFORMS = "linux/amd64 linux/arm64 linux/arm/v7 linux/386 linux/ppc64le linux/riscv64 linux/s390x"

_CONSTANTS = {
    "cap-add": _CAPABILITIES,
    "cap-drop": _CAPABILITIES,
    "cgroupns": "host private",
    "format": "json table",
    "host": "unix:// tcp:// ssh://",
    "ipc": "container: host none private shareable",
    "log-driver": "fluentd gelf journald json-file local none syslog",
    "log-level": "debug info warn error fatal",
    "log-opt": "max-file= max-size=",
    "mount": "type=bind type=image type=tmpfs type=volume",
    "pid": "container: host",
    "platform": _PLATFORMS,
    "progress": "auto plain quiet rawjson tty",
    "pull": "always missing never",
    "restart": "no always on-failure unless-stopped",
    "rmi": "all local",
    "security-opt": "label= no-new-privileges seccomp= systempaths=unconfined",
    "signal": _SIGNALS,
    "stop-signal": _SIGNALS,
    "storage-opt": "size= backing=tmpfs",
    "userns": "host",
    "uts": "host",
    "volume-driver": "local",
}
_OF_COMMANDS = {
    "build network": "default host none",
    "inspect type": "container image network volume",
    "network create driver": "bridge ipvlan macvlan",
    "volume create driver": "local",
    "events filter": "container= daemon= event= image= label= network= type= volume=",
    "images filter": "before= dangling= label= reference= since= until=",
    "network ls filter": "dangling= driver= id= label= name= scope= type=",
    "ps filter": (
        "ancestor= before= exited= expose= health= id= label= name= network= publish= since= status= volume="
    ),
    "search filter": "is-official= stars=",
    "volume ls filter": "dangling= driver= label= name=",
}
_PRUNE_FILTERS = "label= label!= until="


def flag_values(command: Command, flag: Flag, current: str, options: Globals) -> Candidates:
    """What may be the value of a flag."""
    name = flag[0]
    of_command = _OF_COMMANDS.get(f"{command.path} {name}")
    if of_command is None and name == "filter" and command.path.endswith("prune"):
        of_command = _PRUNE_FILTERS
    if of_command is None and name in ("network", "net"):
        return argument_values("network", current, options)
    if name in ("context", "from") and command.path.split(" ", 1)[0] in ("context", ""):
        return argument_values("context", current, options)
    if name in _PLACES:
        return argument_values("container", current, options)
    if name == "volume":
        return argument_values("source", current, options)
    if name in ("env", "build-arg"):
        import os

        return _matching(current, sorted(os.environ), NO_FILES)
    if name in _FILES:
        return Candidates((), 0)
    if name in _DIRECTORIES:
        return Candidates((), DIRECTORIES)
    return _matching(current, (of_command or _CONSTANTS.get(name, "")).split(), NO_FILES)


def argument_values(
    kind: str, current: str, options: Globals, taken: "frozenset[str] | set[str]" = frozenset()
) -> Candidates:
    """What may be named by a word of that kind. Raises Failure where the daemon does not answer."""
    if kind == "directory":
        return Candidates((), DIRECTORIES)
    if kind == "file":
        return Candidates((), 0)
    if kind == "shell":
        return _matching(current, ["bash", "fish", "zsh"], NO_FILES)
    if kind == "nothing":
        return Candidates((), NO_FILES)
    if kind in ("place", "source"):
        # What looks like a path is one, and needs no daemon.
        if current[:1] in ("/", ".", "~"):
            return Candidates((), 0)
        names = [
            f"{name}:" for name in _names("container" if kind == "place" else "volume", current, options)
        ]
        return _matching(current, names, 0)
    names = [name for name in _names(kind, current, options) if name not in taken]
    return _matching(current, names, NO_FILES)


def _matching(current: str, names: "list[str]", directive: int) -> Candidates:
    rows = tuple((name, "") for name in names if name.startswith(current))
    if rows and all(name[-1] in "=:/" for name, _ in rows):
        directive |= NO_SPACE
    return Candidates(rows, directive)


def _names(kind: str, current: str, options: Globals) -> list[str]:
    """What the daemon has of a kind, or the contexts, sorted."""
    if kind == "context":
        from proa.cli.context_store import DEFAULT, ContextStore

        return sorted({DEFAULT, *ContextStore(options).names()})
    from proa.cli.endpoint import client_for

    api = client_for(options)
    found: list[str] = []
    if kind in ("container", "running", "stopped", "paused", "anything"):
        found += _containers(api, kind)
    if kind in ("image", "anything"):
        found += _images(api, current)
    if kind in ("network", "anything"):
        found += [network["Name"] for network in api.call("GET", "/networks")]
    if kind in ("volume", "anything"):
        found += [volume["Name"] for volume in api.call("GET", "/volumes")["Volumes"] or ()]
    return sorted(set(found))


_STATES = {
    "running": ("running",),
    "paused": ("paused",),
    "stopped": ("created", "exited"),
}


def _containers(api: "Any", kind: str) -> list[str]:
    states = _STATES.get(kind)
    listed = api.call("GET", "/containers/json?all=1")
    return [
        name.lstrip("/")
        for container in listed
        if states is None or container["State"] in states
        for name in container["Names"]
        if "/" not in name[1:]  # not a link's
    ]


def _images(api: "Any", current: str) -> list[str]:
    """Names of images; `:latest` only where a tag is begun."""
    names = [
        name
        for image in api.call("GET", "/images/json")
        for name in image["RepoTags"] or ()
        if name != "<none>:<none>"
    ]
    return names if ":" in current else [name.removesuffix(":latest") for name in names]

"""The process: command, environment, working directory; image and request merged as Docker does.

Source: moby's daemon/commit.go (merge), container/env.go and daemon/oci_linux.go.
"""

import posixpath
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from proa.errors import InvalidParameter
from proa.schema.container import ContainerConfig, HealthConfig
from proa.schema.image import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_V = TypeVar("_V")


def merge(request: ContainerConfig, image: ImageConfig | None) -> ContainerConfig:
    """The container's configuration: the request's word first, then the image's."""
    if image is None:
        return msgspec.structs.replace(request, **_command(request, ImageConfig()))
    return msgspec.structs.replace(
        request,
        user=request.user or image.user,
        env=_merged_env(request.env or [], image.env or []),
        working_dir=request.working_dir or image.working_dir,
        labels={**(image.labels or {}), **(request.labels or {})},
        exposed_ports=_union(image.exposed_ports, request.exposed_ports),
        volumes=_union(image.volumes, request.volumes),
        stop_signal=request.stop_signal or image.stop_signal,
        healthcheck=_merged_health(request.healthcheck, image.healthcheck),
        shell=request.shell or image.shell,
        on_build=request.on_build,
        **_command(request, image),
    )


def arguments(config: ContainerConfig) -> tuple[str, ...]:
    """The command line that is executed."""
    args = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not args:
        raise InvalidParameter("no command specified")
    return args


def environment(
    config: ContainerConfig, home: str, extra: Sequence[str] = (), *, tty: bool
) -> tuple[str, ...]:
    """The complete environment: defaults, then the configuration's, then `extra`.

    An entry without `=` takes the variable away.
    """
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": config.hostname}
    if tty:
        values["TERM"] = "xterm"
    for entry in (*(config.env or ()), *extra):
        name, equals, value = entry.partition("=")
        if equals:
            values[name] = value
        else:
            values.pop(name, None)
    if not values.get("HOME"):
        values["HOME"] = home
    return tuple(f"{name}={value}" for name, value in values.items())


def check_environment(env: Iterable[str] | None) -> None:
    """Refuse what no process can have in its environment."""
    for entry in env or ():
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
        refuse_nul("environment variable", entry)


def working_directory(path: str) -> str:
    """The cleaned working directory; empty stays empty. Raises InvalidParameter unless absolute."""
    if not path:
        return ""
    if not path.startswith("/"):
        raise InvalidParameter(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    refuse_nul("working directory", path)
    return clean_path(path)


def clean_path(path: str) -> str:
    """Lexically cleaned, as Go's path.Clean has it (normpath alone keeps two leading slashes)."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def refuse_nul(what: str, text: str) -> None:
    """No string that goes to the kernel holds a NUL byte."""
    if "\0" in text:
        raise InvalidParameter(f"invalid {what}: contains a nul character")


def _command(request: ContainerConfig, image: ImageConfig) -> dict[str, list[str] | None]:
    entrypoint, cmd = request.entrypoint, request.cmd
    if not entrypoint:
        if not cmd:
            cmd = image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    # docker's `--entrypoint ""` comes as one empty string: it takes the image's entrypoint away.
    if entrypoint == [""]:
        entrypoint = None
    return {"entrypoint": entrypoint, "cmd": cmd}


def _merged_env(own: Sequence[str], image: Sequence[str]) -> list[str]:
    known = {entry.partition("=")[0] for entry in own}
    return [*own, *(entry for entry in image if entry.partition("=")[0] not in known)]


def _union(
    first: dict[str, _V] | dict[str, _V | None] | None, second: dict[str, _V | None] | None
) -> dict[str, _V | None] | None:
    if not first and not second:
        return second
    return {**(first or {}), **(second or {})}


def _merged_health(own: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    if own is None or image is None:
        return own or image
    return HealthConfig(
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        retries=own.retries or image.retries,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
    )

"""`--change` instructions of import and commit: the Dockerfile instructions that only touch the config. Pure.

Source: docker import's reference, "--change"; Dockerfile reference, the instructions of the same names.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from proa.durations import parse_duration
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig
from proa.schema.image import ImageConfig

_strings = msgspec.json.Decoder(list[str])
_SHELL: Final = ["/bin/sh", "-c"]


def apply_changes(config: ImageConfig, changes: Sequence[str]) -> ImageConfig:
    """The config with each instruction applied in order. Raises InvalidParameter in Docker's words."""
    command_given = False
    for change in changes:
        for line in change.splitlines():
            text = line.strip()
            if text and not text.startswith("#"):
                config = _apply(config, text)
                keyword = text.partition(" ")[0].upper()
                command_given = command_given or keyword == "CMD"
                if keyword == "ENTRYPOINT" and not command_given:
                    config = replace(config, cmd=None)  # it was for another entrypoint
    return config


def _apply(config: ImageConfig, text: str) -> ImageConfig:
    keyword, _, rest = text.partition(" ")
    instruction = _INSTRUCTIONS.get(keyword.upper())
    if instruction is None:
        raise InvalidParameter(f"{keyword.lower()} is not a valid change command")
    rest = rest.strip()
    if not rest:
        raise InvalidParameter(f"{keyword.upper()} requires at least one argument")
    return instruction(config, rest)


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        return _strings.decode(text.encode())
    except msgspec.DecodeError:
        return None


def _command(config: ImageConfig, text: str) -> list[str]:
    exec_form = _json_list(text)
    return exec_form if exec_form is not None else [*(config.shell or _SHELL), text]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise InvalidParameter(f"{text!r}: {exc}") from exc


def _pairs(keyword: str, text: str) -> list[tuple[str, str]]:
    """`K=V K2="V 2"`, or the old form `K the rest`."""
    key, _, value = text.partition(" ")
    if "=" not in key and not text.startswith(('"', "'")):
        if not value.strip():
            raise InvalidParameter(f"{keyword} must have two arguments")
        return [(key, value.strip())]
    pairs = []
    for word in _words(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(
                f"Syntax error - can't find = in {word!r}. Must be of the form: name=value"
            )
        if not key:
            raise InvalidParameter(f"{keyword} names can not be blank")
        pairs.append((key, value))
    return pairs


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, cmd=_command(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, entrypoint=_command(config, text))


def _env(config: ImageConfig, text: str) -> ImageConfig:
    pairs = _pairs("ENV", text)
    names = {key for key, _ in pairs}
    kept = [entry for entry in config.env or () if entry.partition("=")[0] not in names]
    return replace(config, env=[*kept, *(f"{key}={value}" for key, value in dict(pairs).items())])


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, labels={**(config.labels or {}), **dict(_pairs("LABEL", text))})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict(config.exposed_ports or {})
    for word in _words(text):
        numbers, _, protocol = word.partition("/")
        protocol = protocol.lower() or "tcp"
        first, _, last = numbers.partition("-")
        valid = first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit()))
        low, high = (int(first), int(last or first)) if valid else (0, 0)
        if not 0 < low <= high <= 65535 or protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid containerPort: {word}")
        ports.update({f"{port}/{protocol}": {} for port in range(low, high + 1)})
    return replace(config, exposed_ports=ports)


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    listed = _json_list(text)
    paths = listed if listed is not None else _words(text)
    if not all(paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return replace(config, volumes={**(config.volumes or {}), **{path: {} for path in paths}})


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, user=text)


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    path = text if text.startswith("/") else f"{config.working_dir or '/'}/{text}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return replace(config, working_dir="/" + "/".join(parts))


def _onbuild(config: ImageConfig, text: str) -> ImageConfig:
    keyword = text.partition(" ")[0].upper()
    if keyword == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{keyword} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=[*(config.on_build or ()), text])


def _stopsignal(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, stop_signal=text)


def _shell(config: ImageConfig, text: str) -> ImageConfig:
    shell = _json_list(text)
    if not shell:
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")
    return replace(config, shell=shell)


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    values: dict[str, int] = {}
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        name, _, value = flag[2:].partition("=")
        if name not in ("interval", "timeout", "start-period", "start-interval", "retries"):
            raise InvalidParameter(f"unknown flag: {name}")
        values[name] = _count(value) if name == "retries" else parse_duration(value)
        text = text.strip()
    kind, _, rest = text.partition(" ")
    kind, rest = kind.upper(), rest.strip()
    if kind == "NONE":
        return replace(config, healthcheck=HealthConfig(test=["NONE"]))
    if kind != "CMD" or not rest:
        raise InvalidParameter(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    exec_form = _json_list(rest)
    test = ["CMD", *exec_form] if exec_form is not None else ["CMD-SHELL", rest]
    return replace(
        config,
        healthcheck=HealthConfig(
            test=test,
            interval=values.get("interval", 0),
            timeout=values.get("timeout", 0),
            start_period=values.get("start-period", 0),
            start_interval=values.get("start-interval", 0),
            retries=values.get("retries", 0),
        ),
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


_INSTRUCTIONS: Final[dict[str, Callable[[ImageConfig, str], ImageConfig]]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

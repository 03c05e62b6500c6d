"""Nodes to typed instructions, and instructions to stages: what each instruction demands of its arguments.

Source: the Dockerfile reference; error texts as BuildKit has them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from proa.build.dockerfile import instructions as it
from proa.build.dockerfile.lines import Lines, Node, heredoc_named, node_of, read_lines
from proa.build.dockerfile.mounts import check_mount
from proa.build.dockerfile.options import Kind, Options, read_options
from proa.build.dockerfile.source import DockerfileError, Location, parse_error
from proa.build.words import meant
from proa.durations import parse_duration
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_ONBUILD = re.compile(r"^\s*ONBUILD\s*", re.IGNORECASE)
_MILLISECOND = 1_000_000


class Stage(Struct, frozen=True, kw_only=True):
    """FROM and what follows it, up to the next one."""

    start: it.From
    instructions: tuple[it.Instruction, ...]


class Dockerfile(Struct, frozen=True, kw_only=True):
    """A whole file: the ARGs before the first FROM, and its stages in order."""

    arguments: tuple[it.Arg, ...]
    stages: tuple[Stage, ...]
    lines: Lines


def parse_dockerfile(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises DockerfileError, with the place."""
    lines = read_lines(text)
    arguments: list[it.Arg] = []
    stages: list[tuple[it.From, list[it.Instruction]]] = []
    for node in lines.nodes:
        instruction = parse_node(node)
        if isinstance(instruction, it.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, it.Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", node.location)
    if not stages:
        raise DockerfileError("no build stage in current context", lines.nodes[-1].location)
    return Dockerfile(
        arguments=tuple(arguments),
        stages=tuple(Stage(start=start, instructions=tuple(found)) for start, found in stages),
        lines=lines,
    )


def parse_trigger(expression: str, location: Location) -> it.Instruction:
    """An ONBUILD instruction of a base image, heredocs and all. Raises DockerfileError."""
    nodes = read_lines(expression).nodes
    if len(nodes) != 1:
        raise parse_error(f"invalid ONBUILD trigger: {expression}", location)
    node = node_of(nodes[0].original, "\\", location)
    try:
        return _parsed(_placed(node, nodes[0], location))
    except InvalidParameter as exc:
        raise DockerfileError(str(exc), location) from exc


def _placed(node: Node, read: Node, location: Location) -> Node:
    return Node(
        keyword=node.keyword,
        original=node.original,
        location=location,
        flags=node.flags,
        arguments=node.arguments,
        is_json=node.is_json,
        heredocs=read.heredocs,
        trigger=node.trigger,
    )


def parse_node(node: Node) -> it.Instruction:
    """One instruction. Raises DockerfileError."""
    try:
        return _parsed(node)
    except DockerfileError:
        raise
    except InvalidParameter as exc:
        raise parse_error(str(exc), node.location) from exc


def _parsed(node: Node) -> it.Instruction:
    parse = _PARSERS.get(node.keyword.lower())
    if parse is None:
        raise InvalidParameter(f"unknown instruction: {node.keyword}{meant(node.keyword, _PARSERS)}")
    return parse(node)


def _base(node: Node) -> dict[str, Any]:
    return {"location": node.location, "original": node.original.strip()}


def _no_options(node: Node) -> None:
    read_options(node.flags, {})


def _one(node: Node) -> str:
    _no_options(node)
    if len(node.arguments) != 1:
        raise InvalidParameter(f"{node.keyword.upper()} requires exactly one argument")
    return node.arguments[0]


def _some(node: Node) -> tuple[str, ...]:
    if not node.arguments:
        raise InvalidParameter(f"{node.keyword.upper()} requires at least one argument")
    return node.arguments


# ---- stages and variables ---------------------------------------------------------------------------


def _from(node: Node) -> it.From:
    options = read_options(node.flags, {"platform": Kind.TEXT})
    words = node.arguments
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise InvalidParameter(
                f'invalid name for build stage: "{words[2]}", '
                "name can't start with a number or contain symbols"
            )
    elif len(words) != 1:
        raise InvalidParameter("FROM requires either one or three arguments")
    return it.From(**_base(node), image=words[0], name=name, platform=options.text("platform"))


def _pairs(node: Node) -> tuple[it.Pair, ...]:
    _no_options(node)
    words = _some(node)
    names, values = words[::3], words[1::3]
    if not all(names):
        raise InvalidParameter(f"{node.keyword.upper()} names can not be blank")
    return tuple(it.Pair(name, value) for name, value in zip(names, values, strict=True))


def _env(node: Node) -> it.Env:
    return it.Env(**_base(node), pairs=_pairs(node))


def _label(node: Node) -> it.Label:
    return it.Label(**_base(node), pairs=_pairs(node))


def _arg(node: Node) -> it.Arg:
    arguments = []
    for word in _some(node):
        name, equals, value = word.partition("=")
        if equals and not name:
            raise InvalidParameter("ARG names can not be blank")
        arguments.append(it.Argument(name, value if equals else None))
    return it.Arg(**_base(node), arguments=tuple(arguments))


# ---- files ------------------------------------------------------------------------------------------

_COPY: Mapping[str, Kind] = {
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.FLAG,
    "exclude": Kind.LIST,
}


def _sources(node: Node) -> it.Sources:
    keyword = node.keyword.upper()
    *paths, target = node.arguments
    if heredoc_named(target) is not None:
        raise InvalidParameter(f"{keyword} cannot accept a heredoc as a destination")
    contents = {heredoc.name: heredoc for heredoc in node.heredocs}
    plain, files = [], []
    for path in paths:
        named = heredoc_named(path)
        if named is None:
            plain.append(path)
        elif named.name in contents:
            files.append(contents[named.name])
    return it.Sources(paths=tuple(plain), files=tuple(files), target=target)


def _file_options(node: Node, more: Mapping[str, Kind]) -> Options:
    if len(node.arguments) < 2:
        raise InvalidParameter(
            f"{node.keyword.upper()} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    return read_options(node.flags, {**_COPY, **more})


def _copy(node: Node) -> it.Copy:
    options = _file_options(node, {"from": Kind.TEXT, "parents": Kind.FLAG})
    return it.Copy(
        **_base(node),
        sources=_sources(node),
        from_=options.text("from"),
        chown=options.text("chown"),
        chmod=options.text("chmod"),
        link=options.flag("link"),
        parents=options.flag("parents"),
        exclude=options.list("exclude"),
    )


def _add(node: Node) -> it.Add:
    more = {"checksum": Kind.TEXT, "unpack": Kind.FLAG, "keep-git-dir": Kind.FLAG}
    options = _file_options(node, more)
    return it.Add(
        **_base(node),
        sources=_sources(node),
        chown=options.text("chown"),
        chmod=options.text("chmod"),
        link=options.flag("link"),
        exclude=options.list("exclude"),
        checksum=options.text("checksum"),
        unpack=options.maybe("unpack"),
        keep_git_dir=options.maybe("keep-git-dir"),
    )


# ---- commands ---------------------------------------------------------------------------------------


def _command_line(node: Node) -> it.CommandLine:
    words = node.arguments if node.is_json else (" ".join(node.arguments),) if node.arguments else ()
    return it.CommandLine(words=words, shell=not node.is_json, heredocs=node.heredocs)


def _run(node: Node) -> it.Run:
    known = {"mount": Kind.LIST, "network": Kind.TEXT, "security": Kind.TEXT, "device": Kind.LIST}
    options = read_options(node.flags, known)
    network = options.text("network") or "default"
    security = options.text("security") or "sandbox"
    if network not in ("default", "none", "host"):
        raise InvalidParameter(f'invalid network mode "{network}"')
    if security not in ("sandbox", "insecure"):
        raise InvalidParameter(f'security "{security}" is not valid')
    if options.list("device"):
        raise InvalidParameter("RUN --device is not supported: no CDI devices are known to builds")
    for mount in options.list("mount"):
        check_mount(mount)
    if not node.arguments and not node.heredocs:
        raise InvalidParameter("RUN requires at least one argument")
    return it.Run(
        **_base(node),
        command=_command_line(node),
        mounts=options.list("mount"),
        network=network,
        security=security,
    )


def _cmd(node: Node) -> it.Cmd:
    _no_options(node)
    return it.Cmd(**_base(node), command=_command_line(node))


def _entrypoint(node: Node) -> it.Entrypoint:
    _no_options(node)
    return it.Entrypoint(**_base(node), command=_command_line(node))


def _shell(node: Node) -> it.Shell:
    _no_options(node)
    words = _some(node)
    if not node.is_json:
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")
    return it.Shell(**_base(node), words=words)


def _healthcheck(node: Node) -> it.Healthcheck:
    kind, *words = _some(node)
    kind = kind.upper()
    if kind == "NONE":
        if words:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        return it.Healthcheck(**_base(node), check=HealthConfig(test=["NONE"]))
    times = ("interval", "timeout", "start-period", "start-interval")
    options = read_options(node.flags, dict.fromkeys((*times, "retries"), Kind.TEXT))
    if kind != "CMD":
        raise InvalidParameter(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if not words:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    test = ["CMD", *words] if node.is_json else ["CMD-SHELL", " ".join(words)]
    interval, timeout, start_period, start_interval = (_interval(name, options.text(name)) for name in times)
    return it.Healthcheck(
        **_base(node),
        check=HealthConfig(
            test=test,
            interval=interval,
            timeout=timeout,
            start_period=start_period,
            start_interval=start_interval,
            retries=_retries(options.text("retries")),
        ),
    )


def _interval(name: str, text: str) -> int:
    value = parse_duration(text) if text else 0
    if 0 < value < _MILLISECOND or value < 0:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise InvalidParameter(f"--retries cannot be negative ({int(text)})")
    return int(text)


# ---- settings ---------------------------------------------------------------------------------------


def _expose(node: Node) -> it.Expose:
    _no_options(node)
    return it.Expose(**_base(node), ports=tuple(sorted(_some(node))))


def _volume(node: Node) -> it.Volume:
    _no_options(node)
    paths = tuple(path.strip() for path in _some(node))
    if not all(paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return it.Volume(**_base(node), paths=paths)


def _user(node: Node) -> it.User:
    return it.User(**_base(node), user=_one(node))


def _workdir(node: Node) -> it.Workdir:
    return it.Workdir(**_base(node), path=_one(node))


def _stopsignal(node: Node) -> it.StopSignal:
    return it.StopSignal(**_base(node), signal=_one(node))


def _maintainer(node: Node) -> it.Maintainer:
    return it.Maintainer(**_base(node), name=_one(node))


def _onbuild(node: Node) -> it.Onbuild:
    _no_options(node)
    _some(node)
    assert node.trigger is not None
    keyword = node.trigger.keyword.upper()
    if keyword == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{keyword} isn't allowed as an ONBUILD trigger")
    expression = _ONBUILD.sub("", node.original)
    for heredoc in node.heredocs:
        expression += f"\n{heredoc.content}{heredoc.name}"
    return it.Onbuild(**_base(node), expression=expression)


_PARSERS: Mapping[str, Callable[[Node], it.Instruction]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}

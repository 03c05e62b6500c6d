"""What each instruction says, typed; variables are not replaced yet.

Source: the Dockerfile reference, one section an instruction.
"""

from msgspec import Struct

from proa.build.dockerfile.lines import Heredoc
from proa.build.dockerfile.source import Location
from proa.schema.container import HealthConfig


class Instruction(Struct, frozen=True, kw_only=True):
    """What all have: where it stands and what it said, for errors and history."""

    location: Location
    original: str


class From(Instruction, frozen=True, kw_only=True):
    """The start of a stage: an image, another stage or `scratch`."""

    image: str
    name: str = ""
    platform: str = ""


class Pair(Struct, frozen=True):
    """A name with its value."""

    name: str
    value: str


class Env(Instruction, frozen=True, kw_only=True):
    """ENV, in order."""

    pairs: tuple[Pair, ...]


class Label(Instruction, frozen=True, kw_only=True):
    """LABEL, in order."""

    pairs: tuple[Pair, ...]


class Argument(Struct, frozen=True):
    """A build argument; None where it has no default."""

    name: str
    default: str | None = None


class Arg(Instruction, frozen=True, kw_only=True):
    """ARG, in order."""

    arguments: tuple[Argument, ...]


class Sources(Struct, frozen=True, kw_only=True):
    """What COPY and ADD take and where it goes."""

    paths: tuple[str, ...]
    files: tuple[Heredoc, ...]
    target: str


class Copy(Instruction, frozen=True, kw_only=True):
    """COPY, from the context, a stage, an image or a named context."""

    sources: Sources
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(Instruction, frozen=True, kw_only=True):
    """ADD, which also takes URLs and git repositories and unpacks local archives.

    `unpack` and `keep_git_dir` are None where the default of the kind of source holds.
    """

    sources: Sources
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool | None = None


class CommandLine(Struct, frozen=True, kw_only=True):
    """The exec form (`shell` false, any number of words), or the shell form (one text and its heredocs)."""

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


class Run(Instruction, frozen=True, kw_only=True):
    """RUN; `mounts` are read once their variables are known (mounts.py)."""

    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"


class Cmd(Instruction, frozen=True, kw_only=True):
    """CMD."""

    command: CommandLine


class Entrypoint(Instruction, frozen=True, kw_only=True):
    """ENTRYPOINT."""

    command: CommandLine


class Expose(Instruction, frozen=True, kw_only=True):
    """EXPOSE: `80`, `80-90/udp`, sorted."""

    ports: tuple[str, ...]


class User(Instruction, frozen=True, kw_only=True):
    """USER."""

    user: str


class Workdir(Instruction, frozen=True, kw_only=True):
    """WORKDIR."""

    path: str


class Volume(Instruction, frozen=True, kw_only=True):
    """VOLUME."""

    paths: tuple[str, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    """STOPSIGNAL."""

    signal: str


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """HEALTHCHECK; NONE is the test `NONE`."""

    check: HealthConfig


class Shell(Instruction, frozen=True, kw_only=True):
    """SHELL."""

    words: tuple[str, ...]


class Onbuild(Instruction, frozen=True, kw_only=True):
    """ONBUILD: the instruction's text, heredocs and all, for whoever builds on this image."""

    expression: str


class Maintainer(Instruction, frozen=True, kw_only=True):
    """MAINTAINER, deprecated for a label."""

    name: str

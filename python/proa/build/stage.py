"""A stage as it grows: instruction by instruction, its variables, its image's configuration and its vertices.

Knows no other stage: whoever an instruction copies from or mounts is looked up through `Sources`.

Source: the Dockerfile reference; history texts as BuildKit writes them.
"""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from msgspec.structs import replace

from proa.build import graph
from proa.build.dockerfile import instructions as it
from proa.build.dockerfile.expansion import Expander, expand, expand_text, expand_words
from proa.build.dockerfile.lines import heredoc_named
from proa.build.dockerfile.mounts import Mount, MountType, parse_mount
from proa.build.git import parse_git
from proa.build.words import exposed_ports, go_list, is_git, is_signal, shown_health
from proa.errors import InvalidParameter
from proa.schema.image import ImageConfig
from proa.schema.oci import ImageFile, Platform

SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXY_ARGUMENTS = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Arguments that are there without an ARG, and leave no trace in the image or the cache."""

_UNSEEN_ARGUMENTS = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
"""Arguments that speak to the builder: no command sees them."""

_URL = re.compile(r"https?://")
_ALGORITHM = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*")
_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_SYMBOLIC = re.compile(r"[ugoa]*[-+=][rwxXstugo]*(?:[-+=][rwxXstugo]*)*(?:,[ugoa]*[-+=][rwxXstugo]*)*")


class Sources(Protocol):
    """What a stage may take files from."""

    def vertex(self, name: str) -> int | None:
        """The vertex of a stage or image; None where `name` is a context of files."""
        ...

    def add(self, vertex: graph.Vertex) -> int:
        """Put a vertex into the graph; its number."""
        ...


class Stage:
    """One stage, from its base on."""

    def __init__(
        self,
        *,
        name: str,
        vertex: int,
        base: ImageFile | None,
        platform: Platform,
        config: ImageConfig,
        sources: Sources,
        arguments: Mapping[str, str],
        inherited: Mapping[str, str],
        escape: str,
        ignore_cache: bool,
        total: int,
        counted: int,
    ) -> None:
        """`arguments` are the user's, `inherited` global ones; `counted` of `total` were shown."""
        self.name = name
        self.vertex = vertex
        self.base = base
        self.platform = platform
        self.config = config
        self.author = base.author if base else ""
        self.steps: list[graph.Step] = []
        self.written: list[graph.Written] = []
        self.used: set[str] = set()
        self._sources = sources
        self._given = arguments
        self._inherited = inherited
        self._escape = escape
        self._ignore_cache = ignore_cache
        self._total, self._counted = total, counted
        self._cmd_is_ours = False
        self._environment = dict(entry.partition("=")[::2] for entry in config.env or ())
        self._declared: dict[str, str] = {}

    def inherit(self, below: "Stage") -> None:
        """Begin where another stage ended."""
        self.author = below.author
        self.steps = list(below.steps)
        self.written = list(below.written)
        self._environment = dict(below._environment)
        self._declared = dict(below._declared)

    def outcome(self) -> graph.Outcome:
        """The image so far."""
        return graph.Outcome(
            vertex=self.vertex,
            base=self.base,
            config=self.config,
            author=self.author,
            platform=self.platform,
            steps=tuple(self.steps),
            written=tuple(self.written),
        )

    def apply(self, instruction: it.Instruction, *, triggered: bool = False) -> None:
        """Take one more instruction. Raises InvalidParameter."""
        self._onbuild_mark = "ONBUILD " if triggered else ""
        before = self.vertex
        _APPLY[type(instruction)](self, instruction)
        self.written.append(
            graph.Written(
                text=instruction.original,
                vertex=self.vertex,
                layer=self.vertex != before,
                steps=len(self.steps),
                config=self.config,
                author=self.author,
                triggered=triggered,
            )
        )

    # ---- words ----------------------------------------------------------------------------------

    def _expand(self, text: str) -> str:
        return expand(text, self._environment, self._escape)

    def _words(self, texts: Sequence[str]) -> list[str]:
        return [word for text in texts for word in expand_words(text, self._environment, self._escape)]

    def _shown(self, text: str) -> str:
        """An instruction as progress shows it: its keyword in capitals, known variables replaced."""
        with suppress(InvalidParameter):
            text = Expander(
                text, self._environment, self._escape, raw_quotes=True, raw_escapes=True, skip_unset=True
            ).run()[0]
        keyword, _, rest = text.partition(" ")
        self._counted += 1
        width = len(str(self._total))
        place = " ".join(filter(None, (self.name, f"{self._counted:{width}}/{self._total}")))
        return f"[{place}] {self._onbuild_mark}{keyword.upper()} {rest}".rstrip()

    # ---- what changes only the configuration --------------------------------------------------------

    def _note(self, created_by: str) -> None:
        self.steps.append(graph.Step(created_by=created_by))

    def _env(self, instruction: it.Env) -> None:
        pairs = [(self._expand(pair.name), self._expand(pair.value)) for pair in instruction.pairs]
        entries = dict(entry.partition("=")[::2] for entry in self.config.env or ())
        for name, value in pairs:
            entries[name] = self._environment[name] = value
        self.config = replace(self.config, env=[f"{name}={value}" for name, value in entries.items()])
        self._note("ENV " + " ".join(f"{name}={value}" for name, value in pairs))

    def _arg(self, instruction: it.Arg) -> None:
        shown = []
        for argument in instruction.arguments:
            name, value = argument.name, argument.default
            self.used.add(name)
            if name in self._given:
                value = self._given[name]
            elif value is not None:
                value = self._expand(value)
            else:
                value = self._inherited.get(name)
            if value is not None and name not in _UNSEEN_ARGUMENTS:
                self._environment[name] = value
            self._declared[name] = value or ""
            shown.append(name if value is None else f"{name}={value}")
        self._note("ARG " + " ".join(shown))

    def _label(self, instruction: it.Label) -> None:
        pairs = [(self._expand(pair.name), self._expand(pair.value)) for pair in instruction.pairs]
        self.config = replace(self.config, labels={**(self.config.labels or {}), **dict(pairs)})
        self._note("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))

    def _expose(self, instruction: it.Expose) -> None:
        ports = exposed_ports(self._words(instruction.ports))
        known = self.config.exposed_ports or {}
        self.config = replace(self.config, exposed_ports={**known, **{port: {} for port in ports}})
        self._note(f"EXPOSE [{' '.join(ports)}]")

    def _volume(self, instruction: it.Volume) -> None:
        paths = [self._expand(path) for path in instruction.paths]
        if not all(paths):
            raise InvalidParameter("VOLUME specified can not be an empty string")
        known = self.config.volumes or {}
        self.config = replace(self.config, volumes={**known, **{path: {} for path in paths}})
        self._note(f"VOLUME [{' '.join(paths)}]")

    def _user(self, instruction: it.User) -> None:
        user = self._expand(instruction.user)
        self.config = replace(self.config, user=user)
        self._note(f"USER {user}")

    def _cmd(self, instruction: it.Cmd) -> None:
        words = self._with_shell(instruction.command)
        self._cmd_is_ours = True
        self.config = replace(self.config, cmd=words, args_escaped=True)
        self._note(f"CMD {go_list(words)}")

    def _entrypoint(self, instruction: it.Entrypoint) -> None:
        words = self._with_shell(instruction.command) or None
        self.config = replace(self.config, entrypoint=words)
        if not self._cmd_is_ours:
            self.config = replace(self.config, cmd=None)
        self._note(f"ENTRYPOINT {go_list(words or [])}")

    def _shell(self, instruction: it.Shell) -> None:
        self.config = replace(self.config, shell=list(instruction.words))
        self._note(f"SHELL [{' '.join(instruction.words)}]")

    def _stopsignal(self, instruction: it.StopSignal) -> None:
        name = self._expand(instruction.signal)
        if not is_signal(name):
            raise InvalidParameter(f"invalid signal: {name}")
        self.config = replace(self.config, stop_signal=name)
        self._note(f"STOPSIGNAL {name}")

    def _healthcheck(self, instruction: it.Healthcheck) -> None:
        self.config = replace(self.config, healthcheck=instruction.check)
        self._note(f"HEALTHCHECK {shown_health(instruction.check)}")

    def _maintainer(self, instruction: it.Maintainer) -> None:
        self.author = instruction.name
        self._note(f"MAINTAINER {instruction.name}")

    def _onbuild(self, instruction: it.Onbuild) -> None:
        self.config = replace(self.config, on_build=[*(self.config.on_build or ()), instruction.expression])

    def _with_shell(self, command: it.CommandLine) -> list[str]:
        words = list(command.words)
        return [*(self.config.shell or SHELL), " ".join(words)] if command.shell else words

    # ---- what changes the file system ---------------------------------------------------------------

    def _layer(
        self,
        operation: graph.Operation,
        inputs: Sequence[int],
        instruction: it.Instruction,
        created_by: str,
        *,
        title: str = "",
        proxy: tuple[str, ...] = (),
    ) -> None:
        vertex = graph.Vertex(
            operation=operation,
            inputs=(self.vertex, *inputs),
            title=self._shown(title or instruction.original),
            stage=self.name,
            location=instruction.location,
            ignore_cache=self._ignore_cache,
            proxy=proxy,
        )
        self.vertex = self._sources.add(vertex)
        self.steps.append(graph.Step(created_by=created_by, vertex=self.vertex))

    def _workdir(self, instruction: it.Workdir) -> None:
        path = self._expand(instruction.path)
        if not path.startswith("/"):
            below = posixpath.join("/", self.config.working_dir)
            path = _clean(posixpath.join(below, path)) if path else below
        # An absolute one stands in the configuration as it was written.
        self.config = replace(self.config, working_dir=path)
        if path == "/":
            self._note(f"WORKDIR {path}")
            return
        operation = graph.Directory(path=_clean(path), user=self.config.user)
        self._layer(operation, (), instruction, f"WORKDIR {path}")

    def _run(self, instruction: it.Run) -> None:
        command = instruction.command
        words, script, title = _heredocs(command, instruction.original)
        if command.shell:
            words = [*(self.config.shell or SHELL), *words]
        inputs: list[int] = []
        mounts = tuple(self._mount(text, inputs) for text in instruction.mounts)
        operation = graph.Run(
            arguments=tuple(words),
            environment=tuple(f"{name}={value}" for name, value in self._run_environment().items()),
            directory=_clean(self.config.working_dir or "/"),
            user=self.config.user,
            mounts=mounts,
            network=instruction.network,
            security=instruction.security,
            script=script,
        )
        declared = [f"{name}={self._environment.get(name, value)}" for name, value in self._declared.items()]
        shown = [f"|{len(declared)}", *declared, *words] if declared else words
        proxy = tuple(
            f"{name}={value}"
            for name, value in self._given.items()
            if name in PROXY_ARGUMENTS and name not in self._declared
        )
        self.used |= PROXY_ARGUMENTS
        self._layer(
            operation, inputs, instruction, f"RUN {' '.join(shown)} # buildkit", title=title, proxy=proxy
        )

    def _run_environment(self) -> dict[str, str]:
        return (
            self._environment if "PATH" in self._environment else {"PATH": DEFAULT_PATH, **self._environment}
        )

    def _mount(self, text: str, inputs: list[int]) -> graph.StepMount:
        mount = parse_mount(text, self._expand)
        number, context = self._mounted(mount, inputs)
        secret = mount.type in (MountType.SECRET, MountType.SSH)
        target = mount.target
        if target or not secret:
            target = _clean(posixpath.join("/", self.config.working_dir, target))
        if target == "/":
            raise InvalidParameter('invalid mount target "/"')
        identity = mount.id or (_secret_id(mount) if secret else "")
        if mount.type is MountType.CACHE:
            identity = mount.id or posixpath.normpath(mount.target)
        return graph.StepMount(
            type=mount.type,
            target=target or (f"/run/secrets/{identity}" if mount.type is MountType.SECRET else ""),
            input=number,
            context=context,
            source="" if secret else mount.source,
            read_only=mount.read_only,
            id=identity,
            sharing=mount.sharing or "shared",
            required=mount.required,
            env=mount.env,
            size=mount.size,
            mode=mount.mode,
            uid=mount.uid,
            gid=mount.gid,
        )

    def _mounted(self, mount: Mount, inputs: list[int]) -> tuple[int | None, str | None]:
        """Where a mount's files come from: (place among the vertex's inputs, context)."""
        if mount.type not in (MountType.BIND, MountType.CACHE):
            return None, None
        if not mount.from_:
            return None, "" if mount.type is MountType.BIND else None
        number = self._sources.vertex(mount.from_)
        if number is None:
            return None, mount.from_
        inputs.append(number)
        return len(inputs), None

    def _copy(self, instruction: it.Copy) -> None:
        inputs: list[int] = []
        paths = self._paths(instruction.sources)
        for path in paths:
            if is_git(path) and "://" in path:
                raise InvalidParameter("source can't be a git ref for COPY")
            if _URL.match(path):
                raise InvalidParameter("source can't be a URL for COPY")
        taken: list[graph.CopySource] = [self._taken(instruction.from_, paths, inputs)] if paths else []
        self._place(
            instruction,
            [*taken, *self._inline(instruction.sources)],
            inputs,
            parents=instruction.parents,
        )

    def _taken(self, name: str, paths: Sequence[str], inputs: list[int]) -> graph.CopySource:
        number = self._sources.vertex(name) if name else None
        if number is None:
            return graph.FromContext(context=name, paths=tuple(paths))
        inputs.append(number)
        return graph.FromInput(input=len(inputs), paths=tuple(paths))

    def _add(self, instruction: it.Add) -> None:
        paths = self._paths(instruction.sources)
        checksum = self._expand(instruction.checksum)
        taken: list[graph.CopySource] = []
        for path in paths:
            if is_git(path):
                parse_git(path)  # What is wrong with it is said before anything is done.
                keep = bool(instruction.keep_git_dir)
                taken.append(graph.FromGit(remote=path, checksum=checksum, keep_git_dir=keep))
            elif _URL.match(path):
                unpack = bool(instruction.unpack)
                taken.append(graph.FromUrl(url=path, checksum=checksum, unpack=unpack))
            else:
                taken.append(graph.FromContext(context="", paths=(path,)))
        if checksum and (len(taken) != 1 or isinstance(taken[0], graph.FromContext)):
            raise InvalidParameter(
                "checksum requires HTTP(S) or Git sources"
                if len(taken) == 1
                else "checksum can't be specified for multiple sources"
            )
        if checksum and isinstance(taken[0], graph.FromUrl):
            _check_digest(checksum)
        unpack = True if instruction.unpack is None else instruction.unpack
        self._place(instruction, [*taken, *self._inline(instruction.sources)], [], unpack=unpack)

    def _paths(self, sources: it.Sources) -> list[str]:
        return [self._expand(path) for path in sources.paths]

    def _inline(self, sources: it.Sources) -> list[graph.CopySource]:
        return [
            graph.Inline(
                name=file.name,
                text=expand_text(file.text, self._environment) if file.expand else file.text,
            )
            for file in sources.files
        ]

    def _place(
        self,
        instruction: it.Copy | it.Add,
        taken: Sequence[graph.CopySource],
        inputs: list[int],
        *,
        parents: bool = False,
        unpack: bool = False,
    ) -> None:
        chown, chmod = self._expand(instruction.chown), self._expand(instruction.chmod)
        _check_mode(chmod)
        operation = graph.Copy(
            sources=tuple(taken),
            target=self._target(self._expand(instruction.sources.target)),
            chown=chown,
            chmod=chmod,
            # A mode keeps it from standing alone, as in BuildKit.
            link=instruction.link and not chmod,
            parents=parents,
            unpack=unpack,
            exclude=tuple(self._expand(pattern) for pattern in instruction.exclude),
        )
        keyword = "ADD" if isinstance(instruction, it.Add) else "COPY"
        options = "".join(
            f" {option}"
            for option, given in (
                ("--parents", parents),
                (f"--chown={chown}", chown),
                (f"--chmod={chmod}", chmod),
            )
            if given
        )
        paths = "".join(f" {path}" for path in self._paths(instruction.sources))
        files = "".join(f" <<{file.name}" for file in instruction.sources.files)
        target = self._expand(instruction.sources.target)
        self._layer(operation, inputs, instruction, f"{keyword}{options}{paths}{files} {target} # buildkit")

    def _target(self, path: str) -> str:
        """Absolute and clean, with the slash that says that it is a directory."""
        slash = path.endswith(("/", "/.")) or path in ("", ".")
        clean = _clean(posixpath.join("/", self.config.working_dir, path))
        return clean + "/" if slash and clean != "/" else clean


def _clean(path: str) -> str:
    """An absolute path without what says nothing: two slashes, `.`, `..` and a slash at the end."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _heredocs(command: it.CommandLine, original: str) -> tuple[list[str], tuple[str, str] | None, str]:
    """(words, a script to run instead of a shell, title) of a command with its heredocs."""
    words = list(command.words)
    if not command.heredocs:
        return words, None, original
    first = command.heredocs[0]
    if heredoc_named(words[0]) is not None:
        lines = first.content.strip().splitlines() or [""]
        title = f"{original} ({lines[0]}{'...' if len(lines) > 1 else ''})"
        if first.text.startswith("#!"):
            return [f"/dev/pipes/{first.name}"], (first.name, first.text), title
        return [first.text], None, title
    text = words[0]
    for heredoc in command.heredocs:
        text += f"\n{heredoc.content}{heredoc.name}"
    return [text], None, original


def _secret_id(mount: Mount) -> str:
    if mount.type is MountType.SSH:
        return "default"
    return mount.source or posixpath.basename(mount.target)


def _check_digest(text: str) -> None:
    """Source: opencontainers/go-digest, Parse."""
    algorithm, colon, value = text.partition(":")
    if not colon or not _ALGORITHM.fullmatch(algorithm) or not value:
        raise InvalidParameter("invalid checksum digest format")
    if algorithm not in _DIGITS:
        raise InvalidParameter("unsupported digest algorithm")
    if len(value) != _DIGITS[algorithm]:
        raise InvalidParameter("invalid checksum digest length")
    if value.strip("0123456789abcdef"):
        raise InvalidParameter("invalid checksum digest format")


def _check_mode(text: str) -> None:
    if not text or _SYMBOLIC.fullmatch(text):
        return
    if text.strip("01234567") or int(text, 8) > 0o7777:
        raise InvalidParameter(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )


_APPLY: Mapping[type[it.Instruction], Callable[[Stage, Any], None]] = {
    it.Add: Stage._add,
    it.Arg: Stage._arg,
    it.Cmd: Stage._cmd,
    it.Copy: Stage._copy,
    it.Entrypoint: Stage._entrypoint,
    it.Env: Stage._env,
    it.Expose: Stage._expose,
    it.Healthcheck: Stage._healthcheck,
    it.Label: Stage._label,
    it.Maintainer: Stage._maintainer,
    it.Onbuild: Stage._onbuild,
    it.Run: Stage._run,
    it.Shell: Stage._shell,
    it.StopSignal: Stage._stopsignal,
    it.User: Stage._user,
    it.Volume: Stage._volume,
    it.Workdir: Stage._workdir,
}

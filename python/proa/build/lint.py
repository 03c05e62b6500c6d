"""Build checks: what a Dockerfile should not say though it can be built.

The environment of a base image is known where the image is here. On one that is not, a variable that is
declared nowhere counts as undefined only where it is all but the name of one that is declared.

Source: Docker's documentation, "Build checks" and its pages of rules, for names and texts.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from posixpath import normpath

from msgspec import Struct

from proa.build.dockerfile import instructions as it
from proa.build.dockerfile.expansion import Expander
from proa.build.dockerfile.lines import Node
from proa.build.dockerfile.parsing import Dockerfile, Stage
from proa.build.dockerfile.source import Location
from proa.build.words import go_quoted, nearest
from proa.errors import InvalidParameter
from proa.ignore import Patterns
from proa.schema.reference import parse_reference

_PAGES = "https://docs.docker.com/go/dockerfile/rule/"
_EXPERIMENTAL = frozenset(("CopyIgnoredFile", "InvalidDefinitionDescription"))
"""Rules that only count where the Dockerfile asks for them."""

_PLATFORM = ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
_AUTOMATIC = frozenset(
    ("TARGETSTAGE", *(f"{side}{name}" for side in ("TARGET", "BUILD") for name in _PLATFORM))
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_ALWAYS = frozenset(("PATH", *_PROXIES, *(name.lower() for name in _PROXIES)))
"""Variables that every stage knows."""

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z][a-z]+|[A-Z]+(?![a-z])")


class Finding(Struct, frozen=True):
    """One violation: `message` without the rule's name; `url` is the rule's page."""

    rule: str
    message: str
    url: str
    location: Location

    def __str__(self) -> str:
        return f"{self.rule}: {self.message} (line {self.location.start})"


class Settings(Struct, frozen=True):
    """`skip=A,B;experimental=C;error=true`, of the directive `check` or its build argument."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Whether violations of a rule count."""
        if rule in _EXPERIMENTAL and not self.experimental & {"all", rule.lower()}:
            return False
        return not self.skip & {"all", rule.lower()}


def settings_of(file: Dockerfile, argument: str = "") -> Settings:
    """What `argument` (BUILDKIT_DOCKERFILE_CHECK) says, or else the file's directive.

    Raises InvalidParameter.
    """
    found: dict[str, str] = {}
    for part in (argument or file.lines.directives.get("check", "")).split(";"):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals or name.strip() not in ("skip", "experimental", "error"):
            raise InvalidParameter(f"invalid check option {part!r}")
        found[name.strip()] = value.strip()
    error = found.get("error", "false").lower()
    if error not in ("true", "false", "1", "0"):
        raise InvalidParameter(f"invalid check option error={error}: strconv.ParseBool: invalid syntax")
    return Settings(
        _names(found.get("skip", "")), _names(found.get("experimental", "")), error in ("true", "1")
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


Environment = Callable[[str], Sequence[str] | None]
"""`NAME=value` entries of an image by its name; None where it is not known."""


def lint(
    file: Dockerfile,
    ignore: Patterns | None = None,
    settings: Settings | None = None,
    environment: Environment = lambda image: None,
) -> list[Finding]:
    """Every violation that counts, in the order of the lines; `ignore` are the context's patterns."""
    settings = settings or settings_of(file)
    found = [*_of_nodes(file), *_of_globals(file), *_of_stages(file, ignore, environment)]
    wanted = {finding: None for finding in found if settings.wants(finding.rule)}
    return sorted(wanted, key=lambda finding: finding.location.start)


def _finding(rule: str, message: str, location: Location) -> Finding:
    page = "-".join(_WORDS.findall(rule)).lower()
    return Finding(rule, message, f"{_PAGES}{page}/", location)


# ---- how the file is written ------------------------------------------------------------------------


def _of_nodes(file: Dockerfile) -> Iterator[Finding]:
    yield from _empty_continuations(file)
    yield from _casing(file.lines.nodes)
    for node in file.lines.nodes:
        keyword = node.keyword.upper()
        if keyword == "FROM":
            yield from _from_words(node)
        elif keyword in ("ENV", "LABEL"):
            if "" in node.arguments[2::3]:
                text = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
                yield _finding("LegacyKeyValueFormat", text, node.location)
        elif keyword == "MAINTAINER":
            text = "Maintainer instruction is deprecated in favor of using label"
            yield _finding("MaintainerDeprecated", text, node.location)
        if keyword in ("ARG", "FROM"):
            yield from _description(node)


def _empty_continuations(file: Dockerfile) -> Iterator[Finding]:
    for node in file.lines.nodes:
        for empty in file.lines.empty_continuations:
            if node.location.start <= empty.start <= node.location.end:
                end = Location(node.location.end, node.location.end)
                yield _finding("NoEmptyContinuation", "Empty continuation line", end)
                break


def _casing(nodes: tuple[Node, ...]) -> Iterator[Finding]:
    keywords = [node.keyword for node in nodes]
    lower = sum(keyword.islower() for keyword in keywords) > sum(keyword.isupper() for keyword in keywords)
    majority = "lowercase" if lower else "uppercase"
    for node in nodes:
        if node.keyword != (node.keyword.lower() if lower else node.keyword.upper()):
            text = f"Command '{node.keyword}' should match the case of the command majority ({majority})"
            yield _finding("ConsistentInstructionCasing", text, node.location)


def _from_words(node: Node) -> Iterator[Finding]:
    if len(node.arguments) != 3:
        return
    _, as_, name = node.arguments
    if (as_.islower(), as_.isupper()) != (node.keyword.islower(), node.keyword.isupper()):
        text = f"'{as_}' and '{node.keyword}' keywords' casing do not match"
        yield _finding("FromAsCasing", text, node.location)
    if name != name.lower():
        yield _finding("StageNameCasing", f"Stage name '{name}' should be lowercase", node.location)


def _description(node: Node) -> Iterator[Finding]:
    if node.keyword.upper() == "FROM":
        kind, name = "build stage", node.arguments[2] if len(node.arguments) == 3 else ""
    else:
        kind, name = "argument", node.arguments[0].partition("=")[0]
    if name and node.comments and not node.comments[-1].startswith(f"{name} "):
        text = f"Comment for {kind} should follow the format: `# {name} <description>`"
        yield _finding("InvalidDefinitionDescription", text, node.location)


# ---- FROM, and the arguments before it --------------------------------------------------------------


def _of_globals(file: Dockerfile) -> Iterator[Finding]:
    declared: dict[str, str] = dict.fromkeys(_AUTOMATIC, "linux")
    for instruction in file.arguments:
        for argument in instruction.arguments:
            yield from _secret("ARG", argument.name, instruction.location)
            declared[argument.name] = _expanded(argument.default or "", declared, file.lines.escape)[0]
    stages: set[str] = set()
    for stage in file.stages:
        yield from _from(stage.start, declared, stages, file.lines.escape)
        if stage.start.name:
            stages.add(stage.start.name)


def _from(start: it.From, declared: Mapping[str, str], stages: set[str], escape: str) -> Iterator[Finding]:
    here = start.location
    if start.name in stages:
        text = f'Duplicate stage name "{start.name}", stage names should be unique'
        yield _finding("DuplicateStageName", text, here)
    if start.name in ("scratch", "context"):
        text = f'Stage name should not use the same name as reserved stage "{start.name}"'
        yield _finding("ReservedStageName", text, here)
    image = _expanded(start.image, declared, escape, skip_unset=False)[0]
    if image != start.image and image.lower() not in stages and not _is_reference(image):
        text = f"Default value for ARG {start.image} results in empty or invalid base image name"
        yield _finding("InvalidDefaultArgInFrom", text, here)
    unknown = _expanded(start.image, declared, escape)[1]
    for name in sorted(unknown | _expanded(start.platform, declared, escape)[1]):
        text = f"FROM argument '{name}' is not declared{_meant(name, declared)}"
        yield _finding("UndefinedArgInFrom", text, here)
    yield from _platform(start)


def _platform(start: it.From) -> Iterator[Finding]:
    platform = start.platform
    if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        text = (
            f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
        )
        yield _finding("RedundantTargetPlatform", text, start.location)
        return
    # A stage that is named for its platform means it.
    named = any(part in start.name for part in platform.split("/"))
    if platform and "$" not in platform and not named:
        text = f'FROM --platform flag should not use constant value "{platform}"'
        yield _finding("FromPlatformFlagConstDisallowed", text, start.location)


def _is_reference(image: str) -> bool:
    try:
        parse_reference(image)
    except InvalidParameter:
        return False
    return True


# ---- what stages do ---------------------------------------------------------------------------------


class _Known:
    """What is known at a place in a stage, and what stages that stand on it start from."""

    def __init__(self, above: "_Known | None", *, scratch: bool) -> None:
        self.environment: dict[str, str] = dict(above.environment) if above else {}
        self.arguments: dict[str, str] = {}
        self.whole: bool = above.whole if above else scratch
        """There is no environment but this."""
        self.workdir: bool = above.workdir if above else False
        self.shell: bool = above.shell if above else False

    def stand_on(self, entries: Sequence[str]) -> None:
        """Begin with the environment of an image, all of which is known."""
        self.environment.update(entry.partition("=")[::2] for entry in entries)
        self.whole = True

    @property
    def variables(self) -> dict[str, str]:
        return {**dict.fromkeys(_ALWAYS, ""), **self.arguments, **self.environment}


def _of_stages(file: Dockerfile, ignore: Patterns | None, environment: Environment) -> Iterator[Finding]:
    ends: dict[str, _Known] = {}
    defaults = {
        argument.name: argument.default or ""
        for instruction in file.arguments
        for argument in instruction.arguments
    }
    for number, stage in enumerate(file.stages):
        image = _expanded(stage.start.image, defaults, file.lines.escape)[0]
        above = ends.get(image.lower())
        known = _Known(above, scratch=image == "scratch")
        if above is None and (entries := environment(image)) is not None:
            known.stand_on(entries)
        linter = _StageLinter(stage, known, defaults, file.lines.escape, ignore)
        yield from linter.findings()
        ends[str(number)] = known
        if stage.start.name:
            ends[stage.start.name] = known


class _StageLinter:
    """The instructions of one stage, in order; `known` grows with them."""

    def __init__(
        self,
        stage: Stage,
        known: _Known,
        defaults: Mapping[str, str],
        escape: str,
        ignore: Patterns | None,
    ) -> None:
        self._stage = stage
        self._known = known
        self._defaults = defaults
        self._escape = escape
        self._ignore = ignore
        self._only_once: dict[str, Location] = {}

    def findings(self) -> Iterator[Finding]:
        for instruction in self._stage.instructions:
            yield from self._undefined(instruction)
            yield from self._one(instruction)

    def _one(self, instruction: it.Instruction) -> Iterator[Finding]:
        known, here = self._known, instruction.location
        match instruction:
            case it.Arg(arguments=arguments):
                for argument in arguments:
                    yield from _secret("ARG", argument.name, here)
                    default = self._defaults.get(argument.name, "")
                    known.arguments[argument.name] = argument.default or default
            case it.Env(pairs=pairs):
                values = {pair.name: self._expand(pair.value)[0] for pair in pairs}
                for name in values:
                    yield from _secret("ENV", name, here)
                known.environment.update(values)
            case it.Shell():
                known.shell = True
            case it.Cmd(command=command):
                yield from self._command("CMD", command, here)
            case it.Entrypoint(command=command):
                yield from self._command("ENTRYPOINT", command, here)
            case it.Healthcheck():
                yield from self._once("HEALTHCHECK", here)
            case it.Workdir(path=path):
                yield from self._workdir(path, here)
            case it.Expose(ports=ports):
                for port in ports:
                    yield from _exposed(self._expand(port)[0], here)
            case it.Copy(from_="", sources=sources):
                yield from self._ignored("Copy", sources, here)
            case it.Add(sources=sources):
                yield from self._ignored("Add", sources, here)

    def _command(self, name: str, command: it.CommandLine, here: Location) -> Iterator[Finding]:
        yield from self._once(name, here)
        if command.shell and command.words and not self._known.shell:
            text = (
                f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            )
            yield _finding("JSONArgsRecommended", text, here)

    def _once(self, name: str, here: Location) -> Iterator[Finding]:
        before = self._only_once.get(name)
        self._only_once[name] = here
        if before is not None:
            text = (
                f"Multiple {name} instructions should not be used in the same stage "
                "because only the last one will be used"
            )
            # The place of the one that is of no use.
            yield _finding("MultipleInstructionsDisallowed", text, before)

    def _workdir(self, path: str, here: Location) -> Iterator[Finding]:
        expanded, unknown = self._expand(path)
        if not (self._known.workdir or unknown or expanded.startswith("/")):
            shown = go_quoted(expanded)
            text = f"Relative workdir {shown} can have unexpected results if the base image changes"
            yield _finding("WorkdirRelativePath", text, here)
        self._known.workdir = True

    def _ignored(self, verb: str, sources: it.Sources, here: Location) -> Iterator[Finding]:
        for source in sources.paths if self._ignore else ():
            if "://" in source or source.startswith("git@") or re.search(r"[*?\[$]", source):
                continue
            path = normpath(source).lstrip("/")
            if path != "." and self._ignore is not None and self._ignore.leaves_out(path):
                text = f'Attempting to {verb} file "{source}" that is excluded by .dockerignore'
                yield _finding("CopyIgnoredFile", text, here)

    def _undefined(self, instruction: it.Instruction) -> Iterator[Finding]:
        variables = self._known.variables
        unknown: set[str] = set()
        for text in _expandable(instruction):
            unknown |= _expanded(text, variables, self._escape)[1]
        for name in sorted(unknown):
            meant = _meant(name, variables, "$")
            if self._known.whole or meant or name in self._defaults or name in _AUTOMATIC:
                text = f"Usage of undefined variable '${name}'{meant}"
                yield _finding("UndefinedVar", text, instruction.location)

    def _expand(self, text: str) -> tuple[str, set[str]]:
        return _expanded(text, self._known.variables, self._escape)


def _expandable(instruction: it.Instruction) -> tuple[str, ...]:
    """The texts of an instruction whose unknown variables are told; BuildKit tells none of EXPOSE."""
    match instruction:
        case it.Env(pairs=pairs) | it.Label(pairs=pairs):
            return tuple(text for pair in pairs for text in (pair.name, pair.value))
        case it.Arg(arguments=arguments):
            return tuple(argument.default or "" for argument in arguments)
        case (
            it.Copy(sources=sources, chown=chown, chmod=chmod)
            | it.Add(sources=sources, chown=chown, chmod=chmod)
        ):
            return (*sources.paths, sources.target, chown, chmod)
        case it.Run(mounts=mounts):
            return mounts
        case it.Volume(paths=paths):
            return paths
        case it.User(user=text) | it.Workdir(path=text) | it.StopSignal(signal=text):
            return (text,)
    return ()


def _exposed(port: str, here: Location) -> Iterator[Finding]:
    number, _, protocol = port.partition("/")
    if protocol != protocol.lower():
        text = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
        yield _finding("ExposeProtoCasing", text, here)
    if ":" in number:
        text = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        yield _finding("ExposeInvalidFormat", text, here)


def _secret(keyword: str, name: str, here: Location) -> Iterator[Finding]:
    if _SECRET.search(name) and not _PUBLIC.search(name):
        text = f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{name}")'
        yield _finding("SecretsUsedInArgOrEnv", text, here)


def _meant(name: str, known: Mapping[str, str], mark: str = "") -> str:
    close = nearest(name, known)
    return f" (did you mean {mark}{close}?)" if close else ""


def _expanded(
    text: str, variables: Mapping[str, str], escape: str, *, skip_unset: bool = True
) -> tuple[str, set[str]]:
    """The text with what is known, and the names that are not; one that cannot be read is another's error."""
    expander = Expander(text, variables, escape, skip_unset=skip_unset)
    try:
        return expander.run()[0], expander.unmatched
    except InvalidParameter:
        return text, set()

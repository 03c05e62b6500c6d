"""From a Dockerfile to a graph: which stages the target needs, what each stands on, and what they do.

Base images are asked for all at once, and only those of stages that the target needs. Pure but for `Bases`.

Source: the Dockerfile reference, FROM, ARG, ONBUILD, "Automatic platform ARGs in the global scope".
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from proa.build import graph
from proa.build.dockerfile import instructions as it
from proa.build.dockerfile import parsing
from proa.build.dockerfile.expansion import expand
from proa.build.dockerfile.mounts import parse_mount
from proa.build.dockerfile.source import DockerfileError, Location
from proa.build.platforms import parse_platform, platform_arguments, shown
from proa.build.stage import DEFAULT_PATH, PROXY_ARGUMENTS, Stage
from proa.build.words import go_quoted, meant
from proa.errors import InvalidParameter, ProaError
from proa.schema.image import ImageConfig
from proa.schema.oci import ImageFile, Platform
from proa.schema.reference import parse_reference

IMAGE_CONTEXT = "docker-image://"
_SCRATCH = "scratch"
_NO_EXPANSION = (
    "variable expansion is not supported for --from, "
    "define a new stage with FROM using ARG from global scope as a workaround"
)
_LAYERS = (it.Add, it.Copy, it.Run, it.Workdir)


class Base(Struct, frozen=True, kw_only=True):
    """An image to build on: its id, and its configuration."""

    reference: str
    id: str
    file: ImageFile


class Bases(Protocol):
    """Where images come from: the store, or a registry."""

    async def resolve(self, reference: str, platform: Platform) -> Base:
        """Raises NotFound and what a pull raises."""
        ...


class BaseUnresolved(DockerfileError):
    """An image that a stage stands on, or takes files from, could not be had: `__cause__` says why."""


class Request(Struct, frozen=True, kw_only=True):
    """What a build asks for, beside the Dockerfile itself.

    `contexts` are the named ones: `docker-image://...` for an image, anything else for files.
    """

    target: str = ""
    arguments: Mapping[str, str] = {}
    contexts: Mapping[str, str] = {}
    platform: Platform
    build_platform: Platform
    one_of_several: bool = False
    """Name the platform with each step."""
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()


async def plan(file: parsing.Dockerfile, request: Request, bases: Bases) -> graph.Graph:
    """Plan the target. Raises DockerfileError, with the place, and what `bases` raises."""
    planner = _Planner(file, request, bases)
    stage = await planner.target()
    used = planner.used | stage.used | PROXY_ARGUMENTS
    return graph.Graph(
        vertices=tuple(planner.vertices),
        outcome=stage.outcome(),
        arguments=tuple(each.original for each in file.arguments),
        stages=planner.texts(),
        unused_arguments=tuple(sorted(request.arguments.keys() - used)),
    )


class _Planner:
    """One planning; implements stage.Sources for each stage through `_View`."""

    def __init__(self, file: parsing.Dockerfile, request: Request, bases: Bases) -> None:
        self.vertices: list[graph.Vertex] = []
        self.used: set[str] = set()
        self._file = file
        self._request = request
        self._bases = bases
        self._global = self._global_arguments()
        self._stages: dict[int, Stage] = {}
        self._numbers = {
            stage.start.name: number for number, stage in enumerate(file.stages) if stage.start.name
        }
        self._images: dict[tuple[str, str], Base] = {}
        self._copied: dict[str, int] = {}
        self._begun: dict[int, tuple[int | None, int, int]] = {}

    def _global_arguments(self) -> dict[str, str]:
        request = self._request
        known = platform_arguments(request.platform, request.build_platform)
        known["TARGETSTAGE"] = request.target or "default"
        self.used |= known.keys()
        known.update({name: request.arguments[name] for name in known.keys() & request.arguments.keys()})
        for instruction in self._file.arguments:
            for argument in instruction.arguments:
                self.used.add(argument.name)
                value = argument.default
                if argument.name in request.arguments:
                    value = request.arguments[argument.name]
                elif value is not None:
                    with _placed(instruction.location):
                        value = expand(value, known, self._file.lines.escape)
                if value is not None:
                    known[argument.name] = value
        return known

    # ---- which stages, and their images --------------------------------------------------------------

    async def target(self) -> Stage:
        """The stage that was asked for, and before it those that it needs."""
        number = self._target_number()
        needed = self._needed(number)
        await self._resolve(needed)
        for each in sorted(needed):
            self._stages[each] = await self._stage(each)
            self.used |= self._stages[each].used
        return self._stages[number]

    def texts(self) -> tuple[graph.StageText, ...]:
        """The stages that were needed, in their order."""
        places = {number: place for place, number in enumerate(sorted(self._stages))}
        found = []
        for number in places:
            below, first, vertex = self._begun[number]
            found.append(
                graph.StageText(
                    text=self._file.stages[number].start.original,
                    below=None if below is None else places[below],
                    first=first,
                    vertex=vertex,
                    outcome=self._stages[number].outcome(),
                )
            )
        return tuple(found)

    def _target_number(self) -> int:
        wanted = self._request.target
        stages = self._file.stages
        if not wanted:
            return len(stages) - 1
        number = self._numbers.get(wanted.lower())
        if number is None and wanted.isascii() and wanted.isdigit() and int(wanted) < len(stages):
            number = int(wanted)
        if number is None:
            hint = meant(wanted, self._numbers)
            raise InvalidParameter(f"target stage {go_quoted(wanted)} could not be found{hint}")
        return number

    def _needed(self, number: int) -> set[int]:
        needed: set[int] = set()
        waiting = [number]
        while waiting:
            number = waiting.pop()
            if number in needed:
                continue
            needed.add(number)
            stage = self._file.stages[number]
            names = [(self._image_of(number), stage.start.location), *_taken_from(stage.instructions)]
            for name, location in names:
                with _placed(location):
                    found = self._stage_number(name, number)
                waiting += [] if found is None else [found]
        return needed

    def _stage_number(self, name: str, before: int) -> int | None:
        """The stage that a name means inside stage `before`."""
        if name.lower() in self._request.contexts:
            return None
        number = self._numbers.get(name.lower())
        if number is None and name.isascii() and name.isdigit():
            number = int(name)
            if number == before:
                raise InvalidParameter(f"circular dependency detected on stage: {self._name_of(number)}")
            if number > before:
                raise InvalidParameter(f"invalid stage index {number}")
        return number if number is not None and number < before else None

    def _image_of(self, number: int) -> str:
        start = self._file.stages[number].start
        with _placed(start.location):
            name = expand(start.image, self._global, self._file.lines.escape)
            if not name:
                raise InvalidParameter(f"base name ({start.image}) should not be blank")
            return name

    def _platform_of(self, number: int) -> Platform:
        start = self._file.stages[number].start
        if not start.platform:
            return self._request.platform
        with _placed(start.location):
            text = expand(start.platform, self._global, self._file.lines.escape)
            if not text:
                raise InvalidParameter(f"empty platform value from expression {start.platform}")
            return parse_platform(text)

    async def _resolve(self, needed: set[int]) -> None:
        """Ask for every image that the stages stand on, at once."""
        wanted: dict[tuple[str, str], tuple[str, Platform, Location]] = {}
        for number in needed:
            name = self._context_image(self._image_of(number))
            if name and name != _SCRATCH and self._stage_number(name, number) is None:
                platform = self._platform_of(number)
                start = self._file.stages[number].start
                wanted[name, shown(platform)] = (name, platform, start.location)
        found = await asyncio.gather(*(self._base(*each) for each in wanted.values()))
        self._images.update(zip(wanted, found, strict=True))

    async def _base(self, name: str, platform: Platform, location: Location) -> Base:
        with _placed(location):
            reference = parse_reference(name).with_default_tag().canonical
        try:
            return await self._bases.resolve(reference, platform)
        except ProaError as exc:
            text = f"{name}: failed to resolve source metadata for {reference}: {exc}"
            raise BaseUnresolved(text, location) from exc

    def _context_image(self, name: str) -> str:
        """The image that a name stands for once named contexts are looked at; empty where it is files."""
        given = self._request.contexts.get(name.lower())
        if given is None:
            try:
                given = self._request.contexts.get(parse_reference(name).with_default_tag().familiar)
            except InvalidParameter:
                given = None
        if given is None:
            return name
        return given.removeprefix(IMAGE_CONTEXT) if given.startswith(IMAGE_CONTEXT) else ""

    # ---- one stage -----------------------------------------------------------------------------------

    async def _stage(self, number: int) -> Stage:
        source = self._file.stages[number]
        name = self._image_of(number)
        below = self._stage_number(name, number)
        triggers: Sequence[str] = ()
        if below is not None:
            triggers = self._stages[below].config.on_build or ()
            stage = self._on_stage(number, self._stages[below], len(triggers))
        else:
            base = await self._start(number, name)
            triggers = ((base.file.config and base.file.config.on_build) or ()) if base else ()
            stage = self._on_image(number, base, name, len(triggers))
        self._begun[number] = (below, len(stage.written), stage.vertex)
        stage.config = replace(stage.config, on_build=None)
        location = source.start.location
        for text in triggers:
            await self._apply(stage, number, parsing.parse_trigger(text, location), triggered=True)
        for instruction in source.instructions:
            await self._apply(stage, number, instruction)
        return stage

    async def _start(self, number: int, name: str) -> Base | None:
        image = self._context_image(name)
        if image in ("", _SCRATCH):
            return None
        return self._images[image, shown(self._platform_of(number))]

    async def _apply(
        self, stage: Stage, number: int, instruction: it.Instruction, *, triggered: bool = False
    ) -> None:
        for name, _ in _taken_from([instruction]):
            if "$" in name:
                raise DockerfileError(_NO_EXPANSION, instruction.location)
            await self._prepare(name, number, instruction.location)
        with _placed(instruction.location):
            stage.apply(instruction, triggered=triggered)

    async def _prepare(self, name: str, number: int, location: Location) -> None:
        """Have the vertex of whatever an instruction of stage `number` takes files from."""
        if name in self._copied or (name.lower() in self._request.contexts and not self._context_image(name)):
            return
        other = self._numbers.get(name.lower())
        if other is not None and other >= number and name.lower() not in self._request.contexts:
            if other == number:
                raise DockerfileError(f"circular dependency detected on stage: {name}", location)
            raise DockerfileError(
                f'cannot copy from stage "{name}", it needs to be defined before current stage '
                f'"{self._shown_name(number)}"',
                location,
            )
        other = self._stage_number(name, number)
        if other is not None:
            # A trigger of the base may want a stage that nothing else does.
            if other not in self._stages:
                await self._resolve(self._needed(other))
                for each in sorted(self._needed(other) - self._stages.keys()):
                    self._stages[each] = await self._stage(each)
            self._copied[name] = self._stages[other].vertex
            return
        image = self._context_image(name)
        if image == _SCRATCH:
            self._copied[name] = self._add(graph.Vertex(operation=graph.Scratch()))
            return
        base = await self._base(image, self._request.platform, location)
        self._copied[name] = self._add(_image_vertex(base, f"FROM {base.reference}", "", location))

    def _on_stage(self, number: int, below: Stage, triggers: int) -> Stage:
        stage = self._new(number, below.vertex, below.base, below.platform, below.config, triggers, counted=0)
        stage.inherit(below)
        return stage

    def _on_image(self, number: int, base: Base | None, name: str, triggers: int) -> Stage:
        source = self._file.stages[number]
        platform = self._platform_of(number)
        if base is None:
            is_files = not self._context_image(name)
            operation = graph.ContextRoot(context=name.lower()) if is_files else graph.Scratch()
            vertex = self._add(graph.Vertex(operation=operation, location=source.start.location))
            config = ImageConfig(env=[f"PATH={DEFAULT_PATH}"], working_dir="/")
            return self._new(number, vertex, None, platform, config, triggers, counted=0)
        total = self._total(number, triggers, counted=1)
        place = " ".join(filter(None, (self._shown_name(number), f"{1:{len(str(total))}}/{total}")))
        title = f"[{place}] FROM {base.reference}"
        vertex = self._add(_image_vertex(base, title, self._shown_name(number), source.start.location))
        file = base.file
        found = Platform(
            architecture=file.architecture or platform.architecture,
            os=file.os or platform.os,
            variant=file.variant or (platform.variant if not file.architecture else ""),
        )
        return self._new(number, vertex, file, found, file.config or ImageConfig(), triggers, counted=1)

    def _new(
        self,
        number: int,
        vertex: int,
        base: ImageFile | None,
        platform: Platform,
        config: ImageConfig,
        triggers: int,
        *,
        counted: int,
    ) -> Stage:
        start = self._file.stages[number].start
        request = self._request
        return Stage(
            name=self._shown_name(number),
            vertex=vertex,
            base=base,
            platform=platform,
            config=config,
            sources=_View(self, number),
            arguments=request.arguments,
            inherited=self._global,
            escape=self._file.lines.escape,
            ignore_cache=request.no_cache or (start.name or str(number)) in request.no_cache_stages,
            total=self._total(number, triggers, counted=counted),
            counted=counted,
        )

    def _total(self, number: int, triggers: int, *, counted: int) -> int:
        layers = sum(isinstance(found, _LAYERS) for found in self._file.stages[number].instructions)
        return layers + triggers + counted

    def _shown_name(self, number: int) -> str:
        platform = shown(self._platform_of(number)) if self._request.one_of_several else ""
        if len(self._file.stages) == 1:
            return platform
        return f"{platform} {self._name_of(number)}".lstrip()

    def _name_of(self, number: int) -> str:
        return self._file.stages[number].start.name or f"stage-{number}"

    def _add(self, vertex: graph.Vertex) -> int:
        self.vertices.append(vertex)
        return len(self.vertices) - 1

    def copied(self, name: str) -> int | None:
        """The vertex of what was prepared; None for a context of files."""
        return self._copied.get(name)


class _View:
    """The graph as one stage sees it."""

    def __init__(self, planner: _Planner, number: int) -> None:
        self._planner = planner
        self._number = number

    def vertex(self, name: str) -> int | None:
        return self._planner.copied(name)

    def add(self, vertex: graph.Vertex) -> int:
        return self._planner._add(vertex)


class _placed:
    """An error inside is one of these lines."""

    def __init__(self, location: Location) -> None:
        self._location = location

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidParameter) and not isinstance(error, DockerfileError):
            raise DockerfileError(str(error), self._location) from error


def _image_vertex(base: Base, title: str, stage: str, location: Location) -> graph.Vertex:
    rootfs = base.file.rootfs
    operation = graph.Image(
        reference=base.reference, id=base.id, diff_ids=tuple(rootfs.diff_ids or ()) if rootfs else ()
    )
    return graph.Vertex(operation=operation, title=title, stage=stage, location=location)


def _taken_from(instructions: Sequence[it.Instruction]) -> list[tuple[str, Location]]:
    """Names of stages, images or contexts that instructions take files from, and where."""
    names = []
    for instruction in instructions:
        if isinstance(instruction, it.Copy) and instruction.from_:
            names.append((instruction.from_, instruction.location))
        elif isinstance(instruction, it.Run):
            mounts = (_mount_source(text) for text in instruction.mounts)
            names += [(name, instruction.location) for name in mounts if name]
    return names


def _mount_source(text: str) -> str:
    try:
        return parse_mount(text, lambda value: value).from_
    except ProaError:
        # Its variables are not known yet, or it is malformed: the stage says so.
        for field in text.split(","):
            key, _, value = field.partition("=")
            if key.lower() == "from":
                return value
        return ""

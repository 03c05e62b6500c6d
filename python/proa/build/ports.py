"""What builds need of the rest of the engine: layers, commands, files, contexts, and who watches."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from proa.build import graph
from proa.build.dockerfile.source import Location
from proa.build.words import go_quoted
from proa.errors import ProaError
from proa.registry import Remote
from proa.schema.build import ProaBuild
from proa.schema.plan import Overlay

if TYPE_CHECKING:
    from proa.build.solver import Layer


class StepFailed(ProaError):
    """A command ended with an exit code that is not 0."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(f"{_process(command)} did not complete successfully: exit code: {code}")
        self.command = tuple(command)
        self.code = code


class StepNotStarted(ProaError):
    """A command could not be run at all: `__cause__` says why."""

    def __init__(self, command: Sequence[str], why: ProaError) -> None:
        super().__init__(f"{_process(command)} did not complete successfully: {why}")


def _process(command: Sequence[str]) -> str:
    return f"process {go_quoted(' '.join(command))}"


class VertexFailed(ProaError):
    """A step could not be done: `__cause__` says why; vertex and place are the step's."""

    def __init__(self, text: str, vertex: int, location: Location | None) -> None:
        super().__init__(text)
        self.vertex = vertex
        self.location = location


class Measured(Struct, frozen=True):
    """A layer's tar, without having been written anywhere."""

    diff_id: str
    size: int
    inodes: int


class Layers(Protocol):
    """Snapshots as a build sees them; directories are those of overlayfs, top first."""

    def of_image(self, image_id: str) -> list[tuple[str, str]]:
        """(chain id, directory) of an image's layers, base first. Raises NotFound."""
        ...

    def of_chain(self, chain_id: str) -> list[tuple[str, str]] | None:
        """The same of a chain id; None where it is not there."""
        ...

    def begin(self, lower: Sequence[str]) -> Overlay:
        """A new writable layer over others, to be committed or discarded."""
        ...

    async def measure(self, overlay: Overlay) -> Measured:
        """Pack the writable layer for its digest."""
        ...

    def commit(self, overlay: Overlay, chain_id: str, parent: str, measured: Measured) -> str:
        """Make it known, within a transaction; returns the directory that is known by that id from now on.

        That is another one where equal content was there already: then the layer is the caller's to discard.
        """
        ...

    async def stack(self, directory: str, lower: Sequence[str]) -> str:
        """A second directory of a layer that was made alone, to be put on others; committed or discarded."""
        ...

    def commit_stacked(self, directory: str, chain_id: str, parent: str, alone: str) -> str:
        """As `commit`, of what `stack` made; `alone` is the layer's own chain id."""
        ...

    async def discard(self, overlay: Overlay) -> None:
        """Remove a layer that was not committed, whatever is in it."""
        ...


class Output(Protocol):
    """Where a command's output goes: stream 1 or 2. Stream 0 comes first: the id of its container."""

    def __call__(self, stream: int, data: bytes) -> None: ...


class Mounted(Struct, frozen=True):
    """A mount of a step with the directories of the input it is of (top first), if it is of one."""

    mount: graph.StepMount
    lower: tuple[str, ...] = ()


class Work(Protocol):
    """What steps do: each call changes one writable layer and returns when nothing of it runs any more."""

    def hold(self) -> AbstractContextManager[None]:
        """What steps need stays while this lasts, past the build's own end: others may wait for a step."""
        ...

    async def run(
        self,
        rootfs: Overlay,
        step: graph.Run,
        mounts: Sequence[Mounted],
        proxy: Sequence[str],
        output: Output,
    ) -> None:
        """Run a command. Raises StepFailed, StepNotStarted."""
        ...

    async def copy(
        self, rootfs: Overlay, step: graph.Copy, inputs: Sequence[tuple[str, ...]], output: Output
    ) -> None:
        """Copy files; `inputs` are the directories of `Vertex.inputs`. Raises NotFound, InvalidParameter."""
        ...

    async def make_directory(self, rootfs: Overlay, step: graph.Directory) -> None:
        """Make a directory."""
        ...

    async def fill(self, rootfs: Overlay, step: graph.ContextRoot) -> None:
        """Copy a whole context."""
        ...

    async def identify(self, operation: graph.Operation) -> tuple[str, ...]:
        """Digests of everything outside the graph that an operation reads: contexts, URLs, repositories.

        Content and what of the metadata reaches the image, never times. Raises NotFound for a missing file.
        """
        ...


class Lent:
    """What a client that is there as long as its build has for it."""

    def __init__(
        self,
        stand: AsyncExitStack,
        stores: Mapping[str, Any],
        fill: Callable[[ProaBuild, str], Awaitable[ProaBuild]],
    ) -> None:
        """`stand` is what the contexts stand on: from the build's beginning it is closed with them.

        `stores` are the places of caches by the client's names of them; `fill` has what a Dockerfile, its
        text, may ask the client for: secrets and agents.
        """
        self.stand = stand
        self.stores = stores
        self.fill = fill


class Web(Protocol):
    """What is fetched over HTTP: contexts, and the sources of ADD."""

    def open_url(self, url: str) -> AbstractAsyncContextManager[Remote]:
        """Raises classes of proa.errors, by the server's status."""
        ...


class Watcher(Protocol):
    """Who is told how a build goes; by vertex number."""

    def started(self, vertex: int) -> None: ...
    def cached(self, vertex: int) -> None: ...
    def missed(self, vertex: int, why: str) -> None: ...
    def output(self, vertex: int, stream: int, data: bytes) -> None: ...
    def finished(self, vertex: int, error: str | None) -> None: ...

    async def had(self, vertex: int, top: "Layer | None") -> None:
        """A step's files are there, done or found; what stands on them waits for this."""
        ...

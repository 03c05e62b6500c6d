"""The solver: does what a graph asks for, as much at once as the graph allows, and nothing twice.

Keys come first, from the graph and the content it reads alone, so that a step that was done before needs no
look at anything below it. Steps of equal key are one piece of work, whichever builds want them; it ends when
nobody wants it any more. A finished step's layer is measured for its digest beside the steps that follow;
once it is known it belongs to the cache, whatever becomes of the build.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from hashlib import sha256
from typing import Any, Protocol

from proa.build import graph
from proa.build.cache import Cache, Identity, identify
from proa.build.flights import Flight, Flights
from proa.build.ports import Layers, Measured, Mounted, Output, VertexFailed, Watcher, Work
from proa.errors import ProaError
from proa.schema.plan import Overlay


class Transactions(Protocol):
    """The metadata store's transactions."""

    def transaction(self) -> AbstractContextManager[None]: ...


class Imports(Protocol):
    """What was done elsewhere, and may be had from there."""

    def offers(self, vertex: int, identity: Identity) -> bool:
        """Whether a step may be had; being asked, it may begin to fetch it."""
        ...

    async def take(self, vertex: int, identity: Identity, description: str) -> bool:
        """Put an offered step and its layers into the cache; False where it could not be had after all."""
        ...


class Layer:
    """One layer of a result; its identity may be known later than its files."""

    def __init__(
        self,
        parent: "Layer | None",
        directory: str,
        chain_id: str = "",
        diff_id: str = "",
        created_ns: int = 0,
    ) -> None:
        """`created_ns` is when its step was done; 0 for a layer of an image."""
        self.created_ns = created_ns
        self.parent = parent
        self.directory = directory
        self.chain_id = chain_id
        self.diff_id = diff_id
        self.settling: asyncio.Task[None] | None = None

    @property
    def directories(self) -> tuple[str, ...]:
        """Of the whole stack, top first."""
        found = []
        layer: Layer | None = self
        while layer is not None:
            found.append(layer.directory)
            layer = layer.parent
        return tuple(found)

    async def stack(self) -> "list[Layer]":
        """It and those below, base first, all settled."""
        found = []
        layer: Layer | None = self
        while layer is not None:
            await layer.settled()
            found.append(layer)
            layer = layer.parent
        return found[::-1]

    async def settled(self) -> None:
        """Wait until chain id and diff_id are known. Raises what prevented it."""
        if self.settling is not None:
            await asyncio.shield(self.settling)


Result = Layer | None
"""The top layer; None for an empty file system."""


class Solver:
    """One for the daemon."""

    def __init__(
        self, *, layers: Layers, cache: Cache, transactions: Transactions, spawn: Callable[..., Any]
    ) -> None:
        """`spawn(coroutine, name)` starts background work that the daemon's end waits for."""
        self.layers = layers
        self._cache = cache
        self._transactions = transactions
        self._spawn = spawn
        self.flights: Flights[Layer] = Flights()
        self._running = 0
        self._duplicates: list[Overlay] = []

    @asynccontextmanager
    async def solve(
        self, wanted: graph.Graph, work: Work, watcher: Watcher, imports: Imports | None = None
    ) -> AsyncIterator["Solution"]:
        """Do all that the outcome needs; its files stay while the context lasts.

        Raises VertexFailed; then what was begun has ended.
        """
        self._running += 1
        try:
            yield await _Solving(self, wanted, work, watcher, imports).run()
        finally:
            self._running -= 1
            if not self._running:
                await asyncio.shield(asyncio.ensure_future(self._discard_duplicates()))

    def knows(self, key: str) -> bool:
        """Whether a step was done before."""
        entry = self._cache.find(key)
        return entry is not None and self.layers.of_chain(entry.chain_id) is not None

    def explain(self, description: str, identity: Identity) -> str:
        """Why a step is not in the cache."""
        return self._cache.explain(description, identity)

    def find(self, key: str, parent: Result) -> Layer | None:
        """The layer of a step that was done before, on top of `parent`."""
        entry = self._cache.find(key)
        found = self.layers.of_chain(entry.chain_id) if entry else None
        if entry is None or found is None:
            return None
        *_, (chain_id, directory) = found
        return Layer(parent, directory, chain_id, entry.diff_id, entry.created_ns)

    async def make(
        self,
        parent: Result,
        identity: Identity,
        description: str,
        change: Callable[[Overlay], Coroutine[Any, Any, None]],
    ) -> Layer:
        """Have a new layer changed, and go on; its digest is found in the background."""
        overlay = self.layers.begin(parent.directories if parent else ())
        try:
            await change(overlay)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self.layers.discard(overlay)))
            raise
        layer = Layer(parent, overlay.upper, created_ns=time.time_ns())
        layer.settling = self._spawn(
            self._settle(layer, overlay, identity, description), f"layer {description}"
        )
        return layer

    async def stack(self, alone: Layer, parent: Result) -> Layer:
        """A layer that was made alone, on top of others."""
        if parent is None:
            return alone
        if alone.diff_id and parent.chain_id:
            chain_id = chain(parent.chain_id, alone.diff_id)
            if found := self.layers.of_chain(chain_id):
                return Layer(parent, found[-1][1], chain_id, alone.diff_id, alone.created_ns)
        directory = await self.layers.stack(alone.directory, parent.directories)
        stacked = Layer(parent, directory, created_ns=alone.created_ns)
        stacked.settling = self._spawn(self._settle_stacked(stacked, alone, parent), "stacked layer")
        return stacked

    async def _settle_stacked(self, stacked: Layer, alone: Layer, parent: Layer) -> None:
        """Make it known under its chain id; its key is the lone layer's."""
        kept = False
        try:
            await alone.settled()
            await parent.settled()
            chain_id = chain(parent.chain_id, alone.diff_id)
            with self._transactions.transaction():
                directory = self.layers.commit_stacked(
                    stacked.directory, chain_id, parent.chain_id, alone.chain_id
                )
            stacked.chain_id, stacked.diff_id = chain_id, alone.diff_id
            kept = directory == stacked.directory
        finally:
            if not kept:
                await self._unneeded(Overlay(lower=(), upper=stacked.directory, work=""))

    async def _settle(self, layer: Layer, overlay: Overlay, identity: Identity, description: str) -> None:
        """Measure it, and make it known under its chain id and its key."""
        kept = False
        try:
            measured = await self.layers.measure(overlay)
            if layer.parent is not None:
                await layer.parent.settled()
            below = layer.parent.chain_id if layer.parent else ""
            kept = self._record(layer, overlay, identity, description, below, measured)
        finally:
            if not kept:
                await self._unneeded(overlay)

    async def _unneeded(self, overlay: Overlay) -> None:
        """Discard a layer as soon as no build is under way whose steps may stand on it."""
        self._duplicates.append(overlay)
        if not self._running:
            await self._discard_duplicates()

    async def _discard_duplicates(self) -> None:
        duplicates, self._duplicates = self._duplicates, []
        for overlay in duplicates:
            await self.layers.discard(overlay)

    def _record(
        self,
        layer: Layer,
        overlay: Overlay,
        identity: Identity,
        description: str,
        below: str,
        measured: Measured,
    ) -> bool:
        chain_id = chain(below, measured.diff_id)
        with self._transactions.transaction():
            directory = self.layers.commit(overlay, chain_id, below, measured)
            self._cache.record(identity, chain_id, measured.diff_id, description, layer.created_ns)
        layer.chain_id, layer.diff_id = chain_id, measured.diff_id
        return directory == overlay.upper


class Solution:
    """What a solved graph came to."""

    def __init__(self, wanted: graph.Graph, results: Mapping[int, Result], keys: Mapping[int, str]) -> None:
        """`keys` are the steps' in the cache, by vertex."""
        self.graph = wanted
        self.keys = keys
        self._results = results

    def result(self, vertex: int) -> Result:
        """The file system that a vertex made."""
        return self._results[vertex]

    @property
    def directories(self) -> tuple[str, ...]:
        """The outcome's file system, top first."""
        top = self.result(self.graph.outcome.vertex)
        return top.directories if top else ()

    async def layers(self) -> list[Layer]:
        """The outcome's layers, base first, all settled."""
        top = self.result(self.graph.outcome.vertex)
        return await top.stack() if top else []


class _Solving:
    """One graph on its way. Vertices are tasks; the first that fails ends the others."""

    def __init__(
        self,
        solver: Solver,
        wanted: graph.Graph,
        work: Work,
        watcher: Watcher,
        imports: Imports | None,
    ) -> None:
        self._imports = imports
        self._keys: dict[int, str] = {}
        self._solver = solver
        self._vertices = wanted.vertices
        self._graph = wanted
        self._work = work
        self._watcher = watcher
        self._identities: dict[int, asyncio.Task[Identity]] = {}
        self._results: dict[int, asyncio.Task[Result]] = {}
        self._group = asyncio.TaskGroup()

    async def run(self) -> Solution:
        try:
            async with self._group:
                self._result(self._graph.outcome.vertex)
                for step in self._graph.outcome.steps:
                    if step.vertex is not None:
                        self._result(step.vertex)
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            raise failure from failure.__cause__
        results = {number: task.result() for number, task in self._results.items()}
        return Solution(self._graph, results, await self._all_keys())

    async def _all_keys(self) -> dict[int, str]:
        """Of every step, those that nobody had to look at among them."""
        found = dict(self._keys)
        for number, identity in self._identities.items():
            if number in found:
                continue
            alone = graph.stands_alone(self._vertices[number].operation)
            found[number] = (await self._lone_identity(number) if alone else identity.result()).key
        return found

    def _identity(self, number: int) -> "asyncio.Task[Identity]":
        if number not in self._identities:
            self._identities[number] = self._group.create_task(self._identify(number))
        return self._identities[number]

    def _result(self, number: int) -> "asyncio.Task[Result]":
        if number not in self._results:
            self._results[number] = self._group.create_task(self._solve(number))
        return self._results[number]

    async def _identify(self, number: int) -> Identity:
        vertex = self._vertices[number]
        with self._named(number):
            pending = [self._identity(each) for each in vertex.inputs]
            inputs = [await each for each in pending]
            reads = await self._work.identify(vertex.operation)
        return identify(vertex.operation, [each.key for each in inputs], reads)

    async def _lone_identity(self, number: int) -> Identity:
        """Of a layer that stands alone: what it is put on has no part in it."""
        vertex = self._vertices[number]
        with self._named(number):
            inputs = [await each for each in [self._identity(each) for each in vertex.inputs[1:]]]
            reads = await self._work.identify(vertex.operation)
        return identify(vertex.operation, [each.key for each in inputs], reads)

    async def _solve(self, number: int) -> Result:
        top = await self._made(number)
        await self._watcher.had(number, top)
        return top

    async def _made(self, number: int) -> Result:
        vertex = self._vertices[number]
        match vertex.operation:
            case graph.Scratch():
                return None
            case graph.Image(id=image_id):
                with self._named(number):
                    return self._image(number, image_id)
        alone = graph.stands_alone(vertex.operation)
        identity = await (self._lone_identity(number) if alone else self._identity(number))
        self._keys[number] = identity.key
        offered = self._imports is not None and self._imports.offers(number, identity)
        if vertex.ignore_cache or not (offered or self._solver.knows(identity.key)):
            for each in vertex.inputs:
                self._result(each)
        parent = await self._result(vertex.inputs[0]) if vertex.inputs else None
        layer = await self._layer(number, vertex, identity, None if alone else parent)
        return await self._solver.stack(layer, parent) if alone else layer

    async def _layer(self, number: int, vertex: graph.Vertex, identity: Identity, parent: Result) -> Layer:
        if not vertex.ignore_cache:
            found = self._solver.find(identity.key, parent) or await self._imported(number, identity, parent)
            if found is not None:
                self._watcher.cached(number)
                return found
            self._watcher.missed(number, self._solver.explain(vertex.title, identity))
        return await self._fly(number, vertex, identity, parent)

    async def _imported(self, number: int, identity: Identity, parent: Result) -> Layer | None:
        """The layer of a step that was done elsewhere."""
        if self._imports is None or not self._imports.offers(number, identity):
            return None
        taken = await self._imports.take(number, identity, self._vertices[number].title)
        return self._solver.find(identity.key, parent) if taken else None

    def _image(self, number: int, image_id: str) -> Result:
        layer: Result = None
        for chain_id, directory in self._solver.layers.of_image(image_id):
            layer = Layer(layer, directory, chain_id)
        self._watcher.started(number)
        self._watcher.finished(number, None)
        return layer

    async def _fly(self, number: int, vertex: graph.Vertex, identity: Identity, parent: Result) -> Layer:
        """Do the step, or share it with whoever does it already."""
        pending = [self._result(each) for each in vertex.inputs]
        inputs = [await each for each in pending]

        async def step(flight: "Flight[Layer]") -> Layer:
            def change(overlay: Overlay) -> Coroutine[Any, Any, None]:
                return self._change(overlay, vertex, inputs, flight.tell)

            with self._work.hold():
                return await self._solver.make(parent, identity, vertex.title, change)

        self._watcher.started(number)
        try:
            layer = await self._solver.flights.join(
                identity.key, step, lambda stream, data: self._watcher.output(number, stream, data)
            )
        except BaseException as exc:
            self._watcher.finished(
                number, "canceled" if isinstance(exc, asyncio.CancelledError) else str(exc)
            )
            if isinstance(exc, ProaError):
                raise VertexFailed(str(exc), number, vertex.location) from exc
            raise
        self._watcher.finished(number, None)
        return layer

    async def _change(
        self, overlay: Overlay, vertex: graph.Vertex, inputs: Sequence[Result], output: Output
    ) -> None:
        directories = [each.directories if each else () for each in inputs]
        match vertex.operation:
            case graph.Run() as run:
                mounts = [
                    Mounted(mount, directories[mount.input] if mount.input is not None else ())
                    for mount in run.mounts
                ]
                await self._work.run(overlay, run, mounts, vertex.proxy, output)
            case graph.Copy() as copy:
                await self._work.copy(overlay, copy, directories, output)
            case graph.Directory() as directory:
                await self._work.make_directory(overlay, directory)
            case graph.ContextRoot() as root:
                await self._work.fill(overlay, root)

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """An error inside is this vertex's."""
        try:
            yield
        except VertexFailed:
            raise
        except ProaError as exc:
            self._watcher.started(number)
            self._watcher.finished(number, str(exc))
            raise VertexFailed(
                f"failed to compute cache key: {exc}", number, self._vertices[number].location
            ) from exc


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the others; the cause, not what it cancelled."""
    first = group.exceptions[0]
    return first_failure(first) if isinstance(first, BaseExceptionGroup) else first


def chain(below: str, diff_id: str) -> str:
    """The chain id of a layer on top of another. Source: OCI image specification, config.md."""
    return "sha256:" + sha256(f"{below} {diff_id}".encode()).hexdigest() if below else diff_id

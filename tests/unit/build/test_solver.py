"""The solver: order, sharing, the cache, failures, and what is left behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from proa.build import cache, graph, tables
from proa.build.cache import Cache
from proa.build.dockerfile.source import Location
from proa.build.ports import Measured, Mounted, Output, StepFailed, VertexFailed
from proa.build.solver import Result, Solution, Solver, chain
from proa.errors import NotFound
from proa.metadata import Metadata
from proa.schema.image import ImageConfig
from proa.schema.oci import Platform
from proa.schema.plan import Overlay

BASE = "sha256:base"


class FakeLayers:
    """Layers without files: a layer is the text of what was done to it."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, str]] = {BASE: ("", "base")}
        self.open: dict[str, str] = {}
        self.discarded: list[str] = []
        self.numbers = iter(range(100))

    def of_image(self, image_id: str) -> list[tuple[str, str]]:
        found = self.of_chain(image_id)
        if found is None:
            raise NotFound(f"No such image: {image_id}")
        return found

    def of_chain(self, chain_id: str) -> list[tuple[str, str]] | None:
        found = []
        while chain_id:
            if chain_id not in self.known:
                return None
            parent, directory = self.known[chain_id]
            found.append((chain_id, directory))
            chain_id = parent
        return found[::-1]

    def begin(self, lower: Sequence[str]) -> Overlay:
        upper = f"u{next(self.numbers)}"
        self.open[upper] = ""
        return Overlay(lower=tuple(lower), upper=upper, work="w")

    async def measure(self, overlay: Overlay) -> Measured:
        return Measured(f"sha256:{self.open[overlay.upper]}", 1, 1)

    def commit(self, overlay: Overlay, chain_id: str, parent: str, measured: Measured) -> str:
        return self.known.setdefault(chain_id, (parent, overlay.upper))[1]

    async def stack(self, directory: str, lower: Sequence[str]) -> str:
        stacked = f"{directory} on {lower[0]}"
        self.open[stacked] = self.open[directory]
        return stacked

    def commit_stacked(self, directory: str, chain_id: str, parent: str, alone: str) -> str:
        return self.known.setdefault(chain_id, (parent, directory))[1]

    async def discard(self, overlay: Overlay) -> None:
        del self.open[overlay.upper]
        self.discarded.append(overlay.upper)


class FakeWork:
    """Steps that say what they did; `gates` hold one up, by its command."""

    def __init__(self, layers: FakeLayers) -> None:
        self.layers = layers
        self.done: list[str] = []
        self.content = "content"
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    async def run(
        self,
        rootfs: Overlay,
        step: graph.Run,
        mounts: Sequence[Mounted],
        proxy: Sequence[str],
        output: Output,
    ) -> None:
        (command,) = step.arguments
        self.begun.put_nowait(command)
        if command in self.gates:
            await self.gates[command].wait()
        if command == "fail":
            raise StepFailed(step.arguments, 3)
        output(1, command.encode())
        self.done.append(command)
        self.layers.open[rootfs.upper] = command.partition(" ")[0]

    async def copy(
        self, rootfs: Overlay, step: graph.Copy, inputs: Sequence[tuple[str, ...]], output: Output
    ) -> None:
        self.done.append(f"copy {inputs}")
        self.layers.open[rootfs.upper] = f"copy-{self.content}"

    async def make_directory(self, rootfs: Overlay, step: graph.Directory) -> None:
        self.done.append(f"mkdir {step.path}")

    async def fill(self, rootfs: Overlay, step: graph.ContextRoot) -> None:
        self.done.append("fill")

    async def identify(self, operation: graph.Operation) -> tuple[str, ...]:
        return (self.content,) if isinstance(operation, graph.Copy) else ()


class Events:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.had_them: list[int] = []
        self.stepping = asyncio.Event()

    def started(self, vertex: int) -> None:
        self.told.append(("started", vertex))
        if vertex:
            self.stepping.set()

    def cached(self, vertex: int) -> None:
        self.told.append(("cached", vertex))

    def missed(self, vertex: int, why: str) -> None:
        self.missing = why

    def output(self, vertex: int, stream: int, data: bytes) -> None:
        self.told.append(("output", vertex, data))

    def finished(self, vertex: int, error: str | None) -> None:
        self.told.append(("finished", vertex, error))

    async def had(self, vertex: int, top: Result) -> None:
        self.had_them.append(vertex)


class World:
    """A solver and its fakes."""

    def __init__(self, root: Path) -> None:
        self.layers = FakeLayers()
        self.work = FakeWork(self.layers)
        self.metadata = Metadata(root / "db", {"build": tables.SCHEMA})
        self.cache = Cache(self.metadata)
        self.tasks: list[asyncio.Task[Any]] = []
        self.solver = Solver(
            layers=self.layers, cache=self.cache, transactions=self.metadata, spawn=self.spawn
        )

    def spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(coroutine)
        self.tasks.append(task)
        return task

    async def settle(self) -> None:
        await asyncio.gather(*self.tasks)

    async def build(self, *vertices: graph.Vertex, events: Events | None = None) -> list[str]:
        """Solve for the last vertex; the layers' directories, base first."""
        async with self.solving(*vertices, events=events) as solution:
            found = [layer.directory for layer in await solution.layers()]
        await self.settle()
        return found

    @asynccontextmanager
    async def solving(self, *vertices: graph.Vertex, events: Events | None = None) -> AsyncIterator[Solution]:
        async with self.solver.solve(wanted(vertices), self.work, events or Events()) as solution:
            yield solution


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.metadata.close()


def wanted(vertices: Sequence[graph.Vertex]) -> graph.Graph:
    outcome = graph.Outcome(
        vertex=len(vertices) - 1,
        base=None,
        config=ImageConfig(),
        author="",
        platform=Platform(),
        steps=(),
    )
    return graph.Graph(vertices=tuple(vertices), outcome=outcome)


def image() -> graph.Vertex:
    return graph.Vertex(operation=graph.Image(reference="a", id=BASE, diff_ids=("sha256:base",)))


def run(command: str, *inputs: int, **more: Any) -> graph.Vertex:
    operation = graph.Run(arguments=(command,), environment=(), directory="/", user="")
    return graph.Vertex(operation=operation, inputs=inputs, title=command, **more)


def copy(*inputs: int, link: bool = False) -> graph.Vertex:
    sources = (graph.FromInput(input=1, paths=("/x",)),)
    operation = graph.Copy(sources=sources, target="/", link=link)
    return graph.Vertex(operation=operation, inputs=inputs, title="copy")


async def test_steps_stand_on_each_other(world: World) -> None:
    events = Events()
    layers = await world.build(image(), run("one", 0), run("two", 1), events=events)
    assert layers == ["base", "u0", "u1"]
    assert world.work.done == ["one", "two"]
    assert events.told == [
        ("started", 0), ("finished", 0, None),
        ("started", 1), ("output", 1, b"one"), ("finished", 1, None),
        ("started", 2), ("output", 2, b"two"), ("finished", 2, None),
    ]  # fmt: skip
    one = chain(BASE, "sha256:one")
    assert world.layers.of_chain(chain(one, "sha256:two")) == [
        (BASE, "base"), (one, "u0"), (chain(one, "sha256:two"), "u1"),
    ]  # fmt: skip


async def test_what_was_done_before_is_not_done_again(world: World) -> None:
    await world.build(image(), run("one", 0), run("two", 1))
    events = Events()
    layers = await world.build(image(), run("one", 0), run("three", 1), events=events)
    assert layers == ["base", "u0", "u2"]
    assert world.work.done == ["one", "two", "three"]
    assert ("cached", 1) in events.told


async def test_a_base_of_another_name_changes_nothing(world: World) -> None:
    await world.build(image(), run("one", 0))
    other = graph.Vertex(operation=graph.Image(reference="b", id=BASE, diff_ids=("sha256:base",)))
    await world.build(other, run("one", 0))
    assert world.work.done == ["one"]


async def test_changed_content_is_read_again(world: World) -> None:
    vertices = (image(), run("one", 0), copy(0, 1))
    await world.build(*vertices)
    await world.build(*vertices)
    world.work.content = "other"
    events = Events()
    await world.build(*vertices, events=events)
    assert events.missing == "changed: content 0"
    assert world.work.done == ["one", "copy [('base',), ('u0', 'base')]", "copy [('base',), ('u0', 'base')]"]


async def test_the_cache_may_be_ignored(world: World) -> None:
    await world.build(image(), run("one", 0))
    layers = await world.build(image(), run("one", 0, ignore_cache=True))
    assert world.work.done == ["one", "one"]
    # The same content: the layer there was is the one that stays.
    assert world.layers.discarded == ["u1"]
    assert layers == ["base", "u1"]
    assert set(world.layers.open) == {"u0"}


async def test_independent_steps_go_on_at_once(world: World) -> None:
    world.work.gates = {"left": asyncio.Event(), "right": asyncio.Event()}
    building = asyncio.ensure_future(world.build(image(), run("left", 0), run("right", 0), copy(1, 2)))
    assert {await world.work.begun.get(), await world.work.begun.get()} == {"left", "right"}
    for gate in world.work.gates.values():
        gate.set()
    assert (await building)[0] == "base"


async def test_two_builds_share_a_step(world: World) -> None:
    world.work.gates = {"one": asyncio.Event()}
    events = Events()
    first = asyncio.ensure_future(world.build(image(), run("one", 0)))
    await world.work.begun.get()
    second = asyncio.ensure_future(world.build(image(), run("one", 0), run("two", 1), events=events))
    await events.stepping.wait()
    world.work.gates["one"].set()
    assert [await first, await second] == [["base", "u0"], ["base", "u0", "u1"]]
    assert world.work.done == ["one", "two"]
    assert ("output", 1, b"one") in events.told


async def test_a_shared_step_outlives_one_of_its_builds(world: World) -> None:
    world.work.gates = {"one": asyncio.Event()}
    first = asyncio.ensure_future(world.build(image(), run("one", 0)))
    await world.work.begun.get()
    events = Events()
    second = asyncio.ensure_future(world.build(image(), run("one", 0), events=events))
    await events.stepping.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.work.gates["one"].set()
    assert await second == ["base", "u0"]


async def test_a_shared_step_keeps_what_it_needs_past_its_own_build(world: World) -> None:
    world.work.gates = {"one": asyncio.Event()}
    first = asyncio.ensure_future(world.build(image(), run("one", 0)))
    await world.work.begun.get()
    events = Events()
    second = asyncio.ensure_future(world.build(image(), run("one", 0), events=events))
    await events.stepping.wait()
    first.cancel()
    await asyncio.wait({first})
    assert world.work.held == 1
    world.work.gates["one"].set()
    await second
    assert world.work.held == 0


async def test_a_linked_copy_is_made_once_for_every_base(world: World) -> None:
    world.layers.known["sha256:other"] = ("", "other")
    other = graph.Vertex(operation=graph.Image(reference="b", id="sha256:other", diff_ids=("sha256:other",)))
    layers = await world.build(image(), run("one", 0), copy(0, 1, link=True))
    assert layers == ["base", "u1 on base"]
    assert world.work.done == ["one", "copy [('base',), ('u0', 'base')]"]
    events = Events()
    layers = await world.build(other, image(), run("one", 1), copy(0, 2, link=True), events=events)
    assert layers == ["other", "u1 on other"]
    assert ("cached", 3) in events.told
    assert world.layers.of_chain(chain("sha256:other", "sha256:copy-content")) == [
        ("sha256:other", "other"), (chain("sha256:other", "sha256:copy-content"), "u1 on other"),
    ]  # fmt: skip
    assert await world.build(other, image(), run("one", 1), copy(0, 2, link=True)) == layers
    assert world.layers.discarded == []


async def test_what_stands_on_a_linked_copy_sees_the_base(world: World) -> None:
    world.layers.known["sha256:other"] = ("", "other")
    other = graph.Vertex(operation=graph.Image(reference="b", id="sha256:other", diff_ids=("sha256:other",)))
    await world.build(image(), copy(0, 0, link=True), run("after", 1))
    await world.build(other, image(), copy(0, 1, link=True), run("after", 2))
    assert world.work.done.count("after") == 2


class Elsewhere:
    """A cache that has some steps, by their commands; `broken` ones cannot be had after all."""

    def __init__(self, world: World, chains: dict[int, tuple[str, str]], broken: bool = False) -> None:
        self.world = world
        self.chains = chains
        self.broken = broken

    def offers(self, vertex: int, identity: cache.Identity) -> bool:
        return vertex in self.chains

    async def take(self, vertex: int, identity: cache.Identity, description: str) -> bool:
        if not self.broken:
            chain_id, diff_id = self.chains[vertex]
            self.world.layers.known[chain_id] = (BASE, f"came {description}")
            self.world.cache.record(identity, chain_id, diff_id, description, 1)
        return not self.broken


@pytest.mark.parametrize("broken", [False, True])
async def test_what_was_done_elsewhere_is_taken_over(world: World, broken: bool) -> None:
    came = Elsewhere(world, {1: (chain(BASE, "sha256:one"), "sha256:one")}, broken)
    graph_ = wanted((image(), run("one", 0), run("two", 1)))
    async with world.solver.solve(graph_, world.work, Events(), came) as solution:
        found = [layer.directory for layer in await solution.layers()]
    await world.settle()
    assert found == (["base", "u0", "u1"] if broken else ["base", "came one", "u0"])
    assert world.work.done == (["one", "two"] if broken else ["two"])
    assert {number for number in solution.keys if number} == {1, 2}


async def test_a_cancelled_build_leaves_nothing(world: World) -> None:
    world.work.gates = {"one": asyncio.Event()}
    building = asyncio.ensure_future(world.build(image(), run("one", 0)))
    await world.work.begun.get()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert world.layers.open == {}
    assert world.layers.discarded == ["u0"]
    assert world.cache.all() == []


async def test_a_failure_names_its_step_and_ends_the_others(world: World) -> None:
    world.work.gates = {"slow": asyncio.Event()}
    events = Events()
    failing = run("fail", 0, location=Location(7, 7))
    with pytest.raises(VertexFailed) as caught:
        await world.build(image(), run("slow", 0), failing, copy(1, 2), events=events)
    assert (caught.value.vertex, caught.value.location) == (2, Location(7, 7))
    assert str(caught.value) == 'process "fail" did not complete successfully: exit code: 3'
    assert ("finished", 1, "canceled") in events.told
    assert world.layers.open == {}


async def test_an_image_that_is_gone_is_named(world: World) -> None:
    missing = graph.Vertex(
        operation=graph.Image(reference="a", id="sha256:no", diff_ids=()), location=Location(1, 1)
    )
    with pytest.raises(VertexFailed, match="No such image"):
        await world.build(missing, run("one", 0))


async def test_a_layer_that_was_collected_is_made_again(world: World) -> None:
    await world.build(image(), run("one", 0))
    del world.layers.known[chain(BASE, "sha256:one")]
    await world.build(image(), run("one", 0))
    assert world.work.done == ["one", "one"]


async def test_a_miss_is_explained(world: World) -> None:
    await world.build(image(), run("one", 0))
    same = cache.identify(run("one", 0).operation, ["other"], [])
    assert world.cache.explain("one", same) == "changed: input 0"
    assert world.cache.explain("two", same) == "no step like this was done before"

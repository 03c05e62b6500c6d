"""The key of a step: all that decides its result is in it, so that no other step's result can be taken.

Source: CVE-2024-24557.
"""

from typing import Any

import pytest
from msgspec.structs import fields, replace

from proa.build import graph
from proa.build.cache import identify
from proa.build.dockerfile.mounts import MountType

MOUNT = graph.StepMount(type=MountType.BIND, target="/m")
RUN = graph.Run(arguments=("a",), environment=("A=1",), directory="/", user="", mounts=(MOUNT,))
COPY = graph.Copy(sources=(graph.FromInput(input=1, paths=("/x",)),), target="/t")
OPERATIONS: tuple[graph.Operation, ...] = (
    RUN,
    COPY,
    graph.Directory(path="/d"),
    graph.ContextRoot(context="c"),
)
SOURCES: tuple[graph.CopySource, ...] = (
    *COPY.sources,
    graph.FromContext(context="", paths=("/x",)),
    graph.Inline(name="n", text="t"),
    graph.FromUrl(url="https://h/x"),
    graph.FromGit(remote="https://h/x.git"),
)


def key(operation: graph.Operation, inputs: tuple[str, ...] = ("in",), reads: tuple[str, ...] = ()) -> str:
    return identify(operation, inputs, reads).key


def other(value: Any) -> Any:
    """Some other value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, *(value or ("x",)))
        case MountType():
            return MountType.CACHE
        case _:
            return 7 if value is None else ("name", "text")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
def test_every_member_of_an_operation_counts(operation: graph.Operation) -> None:
    for field in fields(operation):
        changed = replace(operation, **{field.name: other(getattr(operation, field.name))})
        assert key(changed) != key(operation), field.name


def test_every_member_of_a_mount_counts() -> None:
    for field in fields(MOUNT):
        changed = replace(MOUNT, **{field.name: other(getattr(MOUNT, field.name))})
        assert key(replace(RUN, mounts=(changed,))) != key(RUN), field.name


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_every_member_of_a_source_counts(source: graph.CopySource) -> None:
    of = replace(COPY, sources=(source,))
    for field in fields(source):
        changed = replace(source, **{field.name: other(getattr(source, field.name))})
        assert key(replace(COPY, sources=(changed,))) != key(of), field.name


def test_inputs_and_what_is_read_count_by_their_place() -> None:
    assert key(RUN, ("a", "b")) != key(RUN, ("b", "a"))
    assert key(RUN, ("a",), ("b",)) != key(RUN, ("a", "b"))
    assert key(RUN, reads=("a", "b")) != key(RUN, reads=("b", "a"))
    assert key(RUN, reads=("ab",)) != key(RUN, reads=("a", "b"))


def test_operations_of_other_kinds_are_never_the_same() -> None:
    keys = {key(operation) for operation in OPERATIONS}
    assert len(keys) == len(OPERATIONS)

"""What buildx asks for, as the engine's builds take it."""

from typing import Any

import pytest

from proa.buildkit import messages, wishes
from proa.errors import InvalidParameter, NotImplemented_
from proa.schema.build import BuildOptions, ProaBuild
from proa.schema.container import Ulimit


def options(**given: str) -> BuildOptions:
    """With names as they are but for `__`, which is a colon, and `_`, a hyphen."""
    named = {name.replace("__", ":").replace("_", "-"): value for name, value in given.items()}
    return wishes.options_of(named, wishes.Export(), ProaBuild(context="/c"), (), ())


def test_every_option_finds_its_place() -> None:
    found = wishes.options_of(
        {
            "filename": "Other",
            "target": "t",
            "build-arg:A": "1",
            "label:l": "v",
            "platform": "linux/arm64",
            "image-resolve-mode": "pull",
            "add-hosts": "a=1.2.3.4,b=::1",
            "ulimit": "nofile=1:2,nproc=3",
            "shm-size": "1024",
            "cgroup-parent": "/p",
            "force-network-mode": "host",
            "context:base": "docker-image://alpine",
            "context:src": "local:src",
        },
        wishes.Export(names=("a", "b"), fields={"compression": "zstd"}),
        ProaBuild(context="/c", contexts={"src": "/d"}),
        [messages.CacheEntry(Type="registry", Attrs={"ref": "r"})],
        [messages.CacheEntry(Type="inline")],
    )
    assert found == BuildOptions(
        local=ProaBuild(
            context="/c",
            contexts={"base": "docker-image://alpine", "src": "/d"},
            cache_from=[{"type": "registry", "ref": "r"}],
            cache_to=[{"type": "inline"}],
            output={"compression": "zstd"},
        ),
        events=True,
        dockerfile="Other",
        tags=("a", "b"),
        pull=True,
        target="t",
        platform="linux/arm64",
        arguments={"A": "1"},
        labels={"l": "v"},
        network_mode="host",
        extra_hosts=("a:1.2.3.4", "b:::1"),
        cgroup_parent="/p",
        shm_size=1024,
        ulimits=(Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="nproc", soft=3, hard=3)),
    )


@pytest.mark.parametrize(
    ("value", "all_of_it", "stages"), [("", True, []), ("a,b", False, ["a", "b"]), (None, False, [])]
)
def test_no_cache_of_all_or_of_stages(value: str | None, all_of_it: bool, stages: list[str]) -> None:
    found = options(**({} if value is None else {"no_cache": value}))
    assert (found.no_cache, found.local.no_cache_filter) == (all_of_it, stages)


@pytest.mark.parametrize(
    "given",
    [
        {"force_network_mode": "bridge"},
        {"ulimit": "nofile"},
        {"ulimit": "nofile=a"},
        {"shm_size": "big"},
    ],
)
def test_bad_values_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        options(**given)


def test_a_bad_epoch_is_refused() -> None:
    given = {"build-arg:SOURCE_DATE_EPOCH": "now"}
    with pytest.raises(InvalidParameter):
        wishes.options_of(given, wishes.Export(), ProaBuild(), (), ())


def test_nothing_of_the_daemons_host_is_named() -> None:
    with pytest.raises(InvalidParameter):
        options(context__x="/etc")
    cache = messages.CacheEntry(Type="local", Attrs={"dest": "/etc", "src": "/var", "mode": "max"})
    found = wishes.options_of({}, wishes.Export(), ProaBuild(), [cache], [cache]).local
    assert found.cache_from == [{"type": "local", "mode": "max", "store": "local:/var"}]
    assert found.cache_to == [{"type": "local", "mode": "max", "store": "local:/etc"}]


def test_directories_of_the_clients_are_stores() -> None:
    read = messages.CacheEntry(Type="local", Attrs={"src": "a", "digest": "sha256:x"})
    written = messages.CacheEntry(Type="local", Attrs={"dest": "b"})
    both = messages.CacheEntry(Type="local", Attrs={"dest": "a"})
    other = messages.CacheEntry(Type="registry", Attrs={"ref": "r"})
    found = wishes.stores_of([read, other], [written, both, other])
    assert found == {"local:b": "", "local:a": "sha256:x"}


def test_layouts_of_the_clients() -> None:
    digest = "sha256:" + 64 * "0"
    given = {"context:base::linux/amd64": f"oci-layout://store:tag@{digest}", "context:b": "docker-image://b"}
    assert wishes.layouts_of(given) == [wishes.Layout(name="base", store="oci:store", digest=digest)]
    for bad in ("oci-layout://store", "oci-layout://store@sha256:../x"):
        with pytest.raises(InvalidParameter):
            wishes.layouts_of({"context:a": bad})


def test_attestations_that_somebody_asks_for_are_refused() -> None:
    options(attest__provenance="mode=min,inline-only=true")
    options(attest__sbom="disabled=true")
    for given in ({"attest__sbom": ""}, {"attest__provenance": "mode=max"}):
        with pytest.raises(NotImplemented_):
            options(**given)


def asked(**given: Any) -> Any:
    return messages.ControlSolveRequest(**given)


def test_exporters_old_and_new() -> None:
    assert wishes.exports_of(asked()) == []
    new = messages.Exporter(Type="image", Attrs={"name": "a,b", "push": "true", "compression": "zstd"})
    wanted = wishes.Export(names=("a", "b"), push=True, fields={"compression": "zstd"})
    assert wishes.exports_of(asked(Exporters=[new, new])) == [wanted, wanted]
    old = asked(ExporterDeprecated="moby", ExporterAttrsDeprecated={"name": "a"})
    assert wishes.exports_of(old) == [wishes.Export(kind="moby", names=("a",))]
    with pytest.raises(NotImplemented_, match="could not be found"):
        wishes.exports_of(asked(ExporterDeprecated="floppy"))


def test_several_outputs_are_of_one_image() -> None:
    one = wishes.Export(kind="moby", names=("a", "b"), push=True)
    two = wishes.Export(kind="oci", names=("b", "c"), fields={"compression": "zstd"})
    wanted = wishes.Export(names=("a", "b", "c"), fields={"compression": "zstd"})
    assert wishes.image_of([one, two]) == wanted
    assert wishes.image_of([]) == wishes.Export()
    three = wishes.Export(kind="tar", fields={"compression": "gzip"})
    with pytest.raises(NotImplemented_, match="differ in compression"):
        wishes.image_of([one, two, three])


@pytest.mark.parametrize(
    ("given", "context", "named"),
    [
        ({}, "context", {}),
        ({"context": "local:other"}, "other", {}),
        ({"context": "https://host/x.git"}, "", {}),
        ({"context": "http://buildkit-session/abc"}, "", {}),
        ({"context:a": "local:adir", "context:b": "docker-image://b"}, "context", {"a": "adir"}),
    ],
)
def test_which_directories_are_the_clients(
    given: dict[str, str], context: str, named: dict[str, str]
) -> None:
    found = wishes.directories_of(given)
    assert (found.context, found.named) == (context, named)


def test_an_upload_is_no_url() -> None:
    given = {"context": "http://buildkit-session/abc"}
    assert wishes.upload_of(given) == "/abc"
    assert options(context=given["context"]).remote == ""
    assert wishes.upload_of({"context": "http://buildkit-session.example/abc"}) == ""
    assert options(context="https://host/x.git").remote == "https://host/x.git"


def test_secrets_and_agents_that_a_dockerfile_names() -> None:
    text = (
        "RUN --mount=type=secret,id=a --mount=type=secret,target=/run/x/b cat\n"
        'RUN --mount="type=secret,id=c",required --mount=type=ssh --mount=type=ssh,id=deploy \\\n'
        "  --mount=type=cache,id=no,target=/c true\n"
    )
    assert wishes.secrets_in(text) == ["a", "b", "c"]
    assert wishes.agents_in(text) == ["default", "deploy"]


def test_registries_that_are_named() -> None:
    text = "FROM reg.example.com:5000/a/b:1\nFROM localhost/x\nCOPY --from=ghcr.io/o/i /a /b\nFROM nginx\n"
    assert wishes.hosts_in([text]) == ["docker.io", "reg.example.com:5000", "localhost", "ghcr.io"]

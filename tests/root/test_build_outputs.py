"""What a built image is like elsewhere: several platforms, annotations, compressions, files."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, instance, require_root
from registry_server import RegistryServer, registry_server
from test_build import context_of

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BOTH = "linux/amd64,linux/arm64"
DOCKERFILE = (
    "FROM --platform=$BUILDPLATFORM busybox AS cross\nARG TARGETPLATFORM\nARG BUILDPLATFORM\n"
    "RUN echo $TARGETPLATFORM by $BUILDPLATFORM > /made\n"
    "FROM scratch\nARG TARGETARCH\nCOPY --from=cross /made /made\nCOPY $TARGETARCH /arch\n"
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    require_root()
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("outputs")) as daemon:
        yield daemon


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return context_of(tmp_path / "context", DOCKERFILE, amd64="here", arm64="there")


def built(daemon: Instance, context: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    done = daemon.run("build", *words, str(context), cli="proa")
    assert done.returncode == 0, done.stderr
    return done


def fetched(registry: RegistryServer, name: str, what: str) -> tuple[str, Any]:
    """(digest, document) of a manifest."""
    status, headers, body = registry.get(f"/v2/{name}/manifests/{what}", Accept=f"{INDEX}, {MANIFEST}")
    assert status == 200, body
    return headers["docker-content-digest"], json.loads(body)


def blob(registry: RegistryServer, name: str, digest: str) -> bytes:
    status, _, body = registry.get(f"/v2/{name}/blobs/{digest}")
    assert status == 200
    return body


def test_several_platforms_are_an_index(
    daemon: Instance, registry: RegistryServer, context: Path, tmp_path: Path
) -> None:
    name, meta, iid = f"{registry.host}/both:1", tmp_path / "meta", tmp_path / "iid"
    annotations = ("a=b", "index:c=d", "manifest-descriptor:e=f", "manifest[linux/arm64]:g=h")
    words = [word for text in annotations for word in ("--annotation", text)]
    files = ("--metadata-file", str(meta), "--iidfile", str(iid))
    done = built(daemon, context, "--platform", BOTH, "-t", name, "--push", *files, *words)
    assert "[linux/arm64 stage-1 2/2] COPY arm64 /arch" in done.stderr
    digest, index = fetched(registry, "both", "1")
    assert (index["mediaType"], index["annotations"]) == (INDEX, {"c": "d"})
    assert json.loads(meta.read_text())["containerimage.digest"] == digest == iid.read_text()
    assert json.loads(meta.read_text())["containerimage.descriptor"]["mediaType"] == INDEX
    platforms = [child["platform"]["architecture"] for child in index["manifests"]]
    assert platforms == ["amd64", "arm64"]
    assert {child["annotations"]["e"] for child in index["manifests"]} == {"f"}
    manifests = [fetched(registry, "both", child["digest"])[1] for child in index["manifests"]]
    assert [each["annotations"] for each in manifests] == [{"a": "b"}, {"a": "b", "g": "h"}]
    configs = [json.loads(blob(registry, "both", each["config"]["digest"])) for each in manifests]
    assert [config["architecture"] for config in configs] == platforms
    # The name is the host's image here, and an index again when it is pushed anew.
    shown = json.loads(daemon.run("image", "inspect", name).stdout)[0]
    assert (shown["Architecture"], shown["RepoDigests"][-1].partition("@")[2]) != ("arm64", "")
    assert daemon.run("push", name).returncode == 0
    assert fetched(registry, "both", "1")[0] == digest
    # An image of one platform under the same name is no index any more.
    built(daemon, context, "-t", name, "--push")
    assert "manifests" not in fetched(registry, "both", "1")[1]


def test_several_platforms_as_files(daemon: Instance, context: Path, tmp_path: Path) -> None:
    built(daemon, context, "--platform", BOTH, "-o", str(tmp_path / "out"))
    found = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(found) == {"linux_amd64", "linux_arm64"}
    assert (found["linux_amd64"] / "arch").read_text() == "here"
    assert (found["linux_arm64"] / "made").read_text() == "linux/arm64 by linux/amd64\n"
    built(daemon, context, "--platform", BOTH, "-o", f"type=tar,dest={tmp_path}/out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        member = archive.extractfile("linux_arm64/arch")
        assert member is not None
        assert member.read() == b"there"


def test_several_platforms_as_an_archive(
    daemon: Instance, registry: RegistryServer, context: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "both.tar"
    built(daemon, context, "--platform", BOTH, "-t", "both:2", "-o", f"type=oci,dest={archive}")
    with tarfile.open(archive) as members:

        def read(path: str) -> Any:
            member = members.extractfile(path)
            assert member is not None
            return json.loads(member.read())

        (top,) = read("index.json")["manifests"]
        assert top["mediaType"] == INDEX
        index = read("blobs/" + top["digest"].replace(":", "/"))
        manifests = [read("blobs/" + each["digest"].replace(":", "/")) for each in index["manifests"]]
        names = set(members.getnames())
    assert len(manifests) == 2
    assert all(
        "blobs/" + layer["digest"].replace(":", "/") in names
        for each in manifests
        for layer in each["layers"]
    )
    refused = daemon.run(
        "build", "--platform", BOTH, "-o", "type=docker,dest=/tmp/x", str(context), cli="proa"
    )
    assert "does not currently support exporting manifest lists" in refused.stderr


@pytest.mark.parametrize(
    ("fields", "magic"),
    [
        ("compression=zstd,force-compression=true", b"\x28\xb5\x2f\xfd"),
        ("compression=gzip,compression-level=9,force-compression=true,oci-mediatypes=true", b"\x1f\x8b"),
        ("compression=uncompressed,force-compression=true", b""),
    ],
)
def test_layers_have_the_compression_that_was_asked_for(
    daemon: Instance, registry: RegistryServer, tmp_path: Path, fields: str, magic: bytes
) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN echo x > /x\n")
    kind = fields.partition(",")[0].partition("=")[2]
    name = f"{registry.host}/{kind}:1"
    built(daemon, context, "-t", name, "-o", f"type=registry,{fields},name-canonical=true")
    digest, manifest = fetched(registry, kind, "1")
    assert manifest["mediaType"] == MANIFEST
    for layer in manifest["layers"]:
        data = blob(registry, kind, layer["digest"])
        assert data.startswith(magic)
        assert layer["mediaType"].endswith(f"+{kind}") or kind == "uncompressed"
    assert daemon.run("image", "inspect", f"{registry.host}/{kind}@{digest}").returncode == 0
    # What was pushed can be had and run.
    assert daemon.run("rmi", "-f", name, f"{registry.host}/{kind}@{digest}").returncode == 0
    assert daemon.run("run", "--rm", name, "cat", "/x").stdout == "x\n"
    archive = tmp_path / "image.tar"
    assert daemon.run("save", "-o", str(archive), name).returncode == 0
    with tarfile.open(archive) as members:
        assert f"blobs/{digest.replace(':', '/')}" in members.getnames()


def test_a_base_of_another_platform_keeps_its_name(
    daemon: Instance, registry: RegistryServer, context: Path, tmp_path: Path
) -> None:
    base = f"{registry.host}/base:1"
    built(daemon, context, "--platform", BOTH, "-t", base, "--push")
    before = json.loads(daemon.run("image", "inspect", base).stdout)[0]
    (tmp_path / "on").mkdir()
    over = context_of(tmp_path / "on", f"FROM {base}\nCOPY Dockerfile /own\n")
    built(daemon, over, "--platform", BOTH, "-t", "over", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out/linux_arm64/arch").read_text() == "there"
    assert json.loads(daemon.run("image", "inspect", base).stdout)[0]["Id"] == before["Id"]


def test_a_command_of_another_platform_says_what_is_wrong(daemon: Instance, tmp_path: Path) -> None:
    """Without an interpreter in binfmt_misc for it; files can be copied all the same."""
    if list(Path("/proc/sys/fs/binfmt_misc").glob("*s390x*")):
        pytest.skip("this host runs programs of s390x")
    # An ELF header of a 64-bit, big-endian program for s390.
    head = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16" + bytes(44)
    (tmp_path / "tool").write_bytes(head)
    (tmp_path / "tool").chmod(0o755)
    context = context_of(tmp_path, 'FROM scratch\nCOPY tool /tool\nRUN ["/tool"]\n')
    done = daemon.run("build", "--platform", "linux/s390x", str(context), cli="proa")
    assert done.returncode == 1
    assert "exec /tool: exec format error" in done.stderr


def test_files_are_the_images_alone(daemon: Instance, tmp_path: Path) -> None:
    """Nothing of what an engine puts into containers, nor directories of volumes."""
    context = context_of(tmp_path, "FROM scratch\nCOPY file /bin/\nVOLUME /data\nWORKDIR /w\n", file="x")
    built(daemon, context, "-o", str(tmp_path / "out"))
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["bin", "bin/file", "w"]
    built(daemon, context, "-o", f"type=tar,dest={tmp_path}/out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert sorted(archive.getnames()) == ["bin", "bin/file", "w"]
    assert daemon.run("ps", "-aq").stdout == ""


def test_an_archive_as_a_directory(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM scratch\nCOPY file /\n", file="x")
    built(daemon, context, "-o", f"type=oci,dest={tmp_path}/layout,tar=false")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    assert json.loads((tmp_path / "layout/blobs/sha256" / digest).read_text())["layers"]


def test_a_directory_for_the_platform_where_it_is_asked_for(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM scratch\nCOPY file /\n", file="x")
    words = ("--platform", "linux/arm64", "-o", f"type=local,dest={tmp_path}/out,platform-split=true")
    built(daemon, context, *words)
    assert (tmp_path / "out/linux_arm64/file").read_text() == "x"


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (
            "type=image,push=maybe",
            'non-bool value specified for push: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        ("type=foo", 'exporter "foo" could not be found'),
        ("type=image,push-by-digest=true", "push-by-digest=true is not supported"),
        ("type=oci,tar=false", "dest is required for oci exporter"),
    ],
)
def test_outputs_that_cannot_be(daemon: Instance, context: Path, output: str, error: str) -> None:
    done = daemon.run("build", "-o", output, str(context), cli="proa")
    assert done.returncode == 1
    assert error in done.stderr

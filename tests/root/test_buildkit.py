"""Builds by BuildKit's protocol: a client like buildx on a real daemon, and buildx itself where it is."""

import asyncio
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from buildkit_client import CONTROL, Client, client, write_files
from git_server import git, require_git, serving
from instance import Instance

from proa.buildkit import grpc, messages
from proa.buildkit.grpc import CallFailed

OWN_BINARIES = "/var/cache/proa-ci/bin"


def socket_of(daemon: Instance) -> str:
    assert daemon.engine is not None
    return daemon.engine.socket


def titles(told: list[messages.StatusResponse]) -> list[str]:
    return list(dict.fromkeys(vertex.name for status in told for vertex in status.vertexes))


def left_behind(daemon: Instance) -> list[str]:
    """What builds keep while they run."""
    builds = [daemon.root / "lib/builds" / name for name in ("contexts", "steps")]
    return [str(path) for directory in builds if directory.exists() for path in directory.iterdir()]


async def nothing_left(daemon: Instance) -> None:
    """What an ended build had goes in the background: ask the daemon until it has."""
    for _ in range(200):
        if not left_behind(daemon):
            return
        await asyncio.to_thread(daemon.run, "version", cli="proa")
    raise AssertionError(left_behind(daemon))


async def test_a_directory_is_built(daemon: Instance, tmp_path: Path) -> None:
    files = {
        "Dockerfile": "FROM busybox\nCOPY . /app\nRUN cat /app/a/file; ls /app\nCMD cat /app/a/file\n",
        ".dockerignore": "# no logs\nskip.log\n",
        "a/file": "content\n",
        "skip.log": "x",
    }
    async with client(socket_of(daemon), write_files(tmp_path, files)) as buildx:
        result = await buildx.build({"filename": "Dockerfile"}, name="bk/one:1,bk/two")
    assert [wish["exclude-patterns"] for wish in buildx.asked] == [[], [], ["skip.log"]]
    shown = titles(buildx.told)
    assert shown[:2] == ["[internal] load build context", "[internal] load build definition from Dockerfile"]
    assert shown[-1] == "exporting to image"
    logs = b"".join(log.msg for status in buildx.told for log in status.logs)
    assert logs == b"content\nDockerfile\na\n"
    image = json.loads(daemon.run("image", "inspect", "bk/one:1", cli="proa").stdout)[0]
    assert result["containerimage.config.digest"] == image["Id"]
    assert result["image.name"] == "docker.io/bk/one:1,docker.io/bk/two:latest"
    assert daemon.run("run", "--rm", "bk/two", cli="proa").stdout == "content\n"
    assert left_behind(daemon) == []


async def test_what_has_not_changed_does_not_come_again(daemon: Instance, tmp_path: Path) -> None:
    files = {"Dockerfile": "FROM busybox\nCOPY . /c\nRUN cat /c/*/*\n", "a/one": "1\n", "a/two": "2\n"}
    context = write_files(tmp_path, files)
    for path in (context / "a").iterdir():
        os.utime(path, (1, 1))

    async def built() -> tuple[bytes, list[str]]:
        async with client(socket_of(daemon), context) as buildx:
            await buildx.build({})
        sent = [Path(path).name for path in buildx.sent]
        return b"".join(log.msg for status in buildx.told for log in status.logs), sent

    assert await built() == (b"1\n2\n", ["Dockerfile", "Dockerfile", "one", "two"])
    os.utime(context / "Dockerfile", (1, 1))
    assert (await built())[0] == b""
    assert await built() == (b"", ["Dockerfile"])
    (context / "a/one").unlink()
    (context / "a/two").write_text("3\n")
    assert await built() == (b"3\n", ["Dockerfile", "two"])
    assert len(list((daemon.root / "lib/builds/kept").iterdir())) == 1
    daemon.run("builder", "prune", "-af", cli="proa")
    assert list((daemon.root / "lib/builds/kept").iterdir()) == []


async def test_what_nobody_has_a_key_for_is_not_kept(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nCOPY . /c\n"})
    os.utime(context / "Dockerfile", (1, 1))
    daemon.run("builder", "prune", "-af", cli="proa")
    for _ in range(2):
        async with client(socket_of(daemon), context, shared_key="") as buildx:
            await buildx.build({})
        assert [Path(path).name for path in buildx.sent] == ["Dockerfile", "Dockerfile"]
        assert list((daemon.root / "lib/builds/kept").iterdir()) == []


async def test_secrets_and_named_directories(daemon: Instance, tmp_path: Path) -> None:
    text = (
        "FROM busybox\nCOPY --from=other o /o\n"
        "RUN --mount=type=secret,id=s --mount=type=secret,id=missing cat /run/secrets/s /o; ls /run/secrets\n"
    )
    context = write_files(tmp_path / "c", {"Dockerfile": text})
    other = write_files(tmp_path / "o", {"o": "named\n"})
    async with client(socket_of(daemon), context, {"s": b"very secret\n"}, other=other) as buildx:
        await buildx.build({"context:other": "local:other"})
    assert b"".join(log.msg for status in buildx.told for log in status.logs) == b"very secret\nnamed\ns\n"


async def test_a_failed_step_names_its_lines(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\n\nRUN exit 7\n"})
    async with client(socket_of(daemon), context) as buildx:
        with pytest.raises(CallFailed, match='process "/bin/sh -c exit 7" did not complete') as caught:
            await buildx.begin("gateway-less", Frontend="dockerfile.v0")
    status = messages.RpcStatus.FromString(caught.value.details)
    source = messages.Source.FromString(status.details[0].value)
    assert status.details[0].type_url.endswith("/errdefs.Source")
    assert (source.info.filename, source.info.data) == ("Dockerfile", b"FROM busybox\n\nRUN exit 7\n")
    assert [(found.start.line, found.end.line) for found in source.ranges] == [(3, 3)]
    assert left_behind(daemon) == []


async def test_outputs_that_the_client_takes(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(
        tmp_path, {"Dockerfile": "FROM scratch\nCOPY f /d/f\nCOPY f /d/g\n", "f": "x" * 100_000}
    )
    containers = daemon.run("ps", "-aq", cli="proa").stdout
    async with client(socket_of(daemon), context) as buildx:
        await buildx.build({}, exporter="local")
        assert {path: buildx.received[path] for path in ("d/f", "d/g")} == {
            "d/f": b"x" * 100_000,
            "d/g": b"x" * 100_000,
        }
        buildx.wants_archive = True
        await buildx.build({}, exporter="tar")
        with tarfile.open(fileobj=io.BytesIO(buildx.archive)) as tar:
            assert tar.getmember("d/f").size == 100_000
        buildx.archive = b""
        await buildx.build({}, exporter="docker", name="bk/archived")
        with tarfile.open(fileobj=io.BytesIO(buildx.archive)) as tar:
            assert "manifest.json" in tar.getnames()
    assert daemon.run("ps", "-aq", cli="proa").stdout == containers


async def test_several_outputs_at_once(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "x"})
    exporters = [
        messages.Exporter(Type="moby", Attrs={"name": "bk/several"}),
        messages.Exporter(Type="local"),
        messages.Exporter(Type="image", Attrs={"name": "bk/another"}),
    ]
    async with client(socket_of(daemon), context) as buildx:
        result = await buildx.build({}, fields={"Exporters": exporters})
    assert buildx.received["f"] == b"x"
    assert buildx.exporters == ["1"]
    assert result["image.name"] == "docker.io/bk/several:latest,docker.io/bk/another:latest"
    for name in ("bk/several", "bk/another"):
        assert daemon.run("image", "inspect", name, cli="proa").returncode == 0


async def test_files_of_several_platforms(daemon: Instance, tmp_path: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /f\n"
    context = write_files(tmp_path, {"Dockerfile": text, "amd64": "one", "arm64": "other"})
    given = {"platform": "linux/amd64,linux/arm64"}
    async with client(socket_of(daemon), context) as buildx:
        await buildx.build(given, exporter="local")
        assert buildx.received == {"linux_amd64/f": b"one", "linux_arm64/f": b"other"}
        with pytest.raises(CallFailed, match="several platforms is not supported"):
            await buildx.build(given, exporter="tar")


async def test_a_cache_in_the_clients_directory(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo cached > /f; date +%N > /t\n"})

    def logs(buildx: Client) -> list[str]:
        return [vertex.name for told in buildx.told for vertex in told.vertexes if vertex.cached]

    async with client(socket_of(daemon), context) as buildx:
        buildx.stores["local:there"] = {}
        written = messages.CacheEntry(Type="local", Attrs={"dest": "there", "mode": "max"})
        fields = {"Cache": messages.CacheOptions(Exports=[written])}
        result = await buildx.build({}, fields=fields)
        again = await buildx.build({}, fields=fields)  # what the client has is not sent again
        assert again["cache.manifest"] == result["cache.manifest"]
        digest = json.loads(result["cache.manifest"])["digest"]
        assert digest in buildx.stores["local:there"]
        image = result["containerimage.config.digest"]
        daemon.run("rmi", "-f", image, cli="proa")
        daemon.run("builder", "prune", "-af", cli="proa")
        read = messages.CacheEntry(Type="local", Attrs={"src": "there", "digest": digest})
        taken = await buildx.build({}, fields={"Cache": messages.CacheOptions(Imports=[read])})
        assert taken["containerimage.config.digest"] == image
        assert any("RUN echo cached" in name for name in logs(buildx))
        # A cache that is not what it says costs the steps' own work, and nothing else.
        for content in buildx.stores["local:there"]:
            buildx.stores["local:there"][content] = b"{}"
        daemon.run("rmi", "-f", image, cli="proa")
        daemon.run("builder", "prune", "-af", cli="proa")
        remade = await buildx.build({}, fields={"Cache": messages.CacheOptions(Imports=[read])})
        assert remade["containerimage.config.digest"] != image


async def test_an_image_in_the_clients_directory(daemon: Instance, tmp_path: Path) -> None:
    files = {
        "Dockerfile": "FROM scratch\nCOPY f /f\n",
        "Second": "FROM base\nCOPY g /g\n",
        "f": "x",
        "g": "y",
    }
    context = write_files(tmp_path, files)
    before = daemon.run("image", "ls", "-aq", "--no-trunc", cli="proa").stdout
    async with client(socket_of(daemon), context) as buildx:
        buildx.wants_archive = True
        first = await buildx.build({}, exporter="oci")
        daemon.run("rmi", "-f", first["containerimage.config.digest"], cli="proa")
        with tarfile.open(fileobj=io.BytesIO(buildx.archive)) as tar:
            blobs = {
                member.name.rpartition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.isfile()
            }
        top = json.loads(blobs["index.json"])["manifests"][0]["digest"]
        buildx.stores["oci:abc"] = {f"sha256:{name}": data for name, data in blobs.items()}
        buildx.wants_archive = False
        given = {"filename": "Second", "context:base": f"oci-layout://abc:latest@{top}"}
        second = await buildx.build(given, exporter="local")
        assert {path: buildx.received[path] for path in ("f", "g")} == {"f": b"x", "g": b"y"}
        daemon.run("rmi", "-f", second["containerimage.config.digest"], cli="proa")
        assert daemon.run("image", "ls", "-aq", "--no-trunc", cli="proa").stdout == before
        with pytest.raises(CallFailed, match="not found"):
            await buildx.build({**given, "context:base": f"oci-layout://abc@sha256:{64 * '0'}"})


async def test_a_git_context(daemon: Instance, tmp_path: Path) -> None:
    require_git()
    text = (
        "FROM busybox\nCOPY --from=other o /o\nCOPY f /f\n"
        "RUN --mount=type=secret,id=s cat /run/secrets/s /f /o\nRUN false\n"
    )
    repository = write_files(tmp_path / "r", {"sub/Dockerfile": text, "sub/f": "of git\n", "top": ""})
    git(repository, "init", "-q", "-b", "main")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    git(repository, "tag", "v1")
    write_files(repository, {"sub/Dockerfile": "FROM nothing\n"})
    git(repository, "commit", "-qam", "second")
    other = write_files(tmp_path / "o", {"o": "named\n"})
    with serving(tmp_path) as url:
        async with client(socket_of(daemon), tmp_path, {"s": b"secret\n"}, other=other) as buildx:
            given = {"context": f"{url}/r/.git#v1:sub", "context:other": "local:other", "label:a": "b"}
            with pytest.raises(CallFailed, match="exit code: 1") as caught:
                await buildx.build(given)
            told = buildx.told
            assert b"".join(log.msg for status in told for log in status.logs) == b"secret\nof git\nnamed\n"
            source = messages.Source.FromString(
                messages.RpcStatus.FromString(caught.value.details).details[0].value
            )
            assert source.info.data == text.encode()
            with pytest.raises(CallFailed, match="repository does not contain ref missing"):
                await buildx.build({**given, "context": f"{url}/r/.git#missing"})
    await nothing_left(daemon)


async def test_a_cancelled_build_leaves_nothing(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo begun; sleep 1000\n"})
    async with client(socket_of(daemon), context) as buildx:
        building = buildx.begin("cancelled", Frontend="dockerfile.v0")
        request = messages.StatusRequest(Ref="cancelled").SerializeToString()
        async with grpc.Calling(buildx.calls, f"{CONTROL}Status") as following:
            await following.send(request)
            async for message in following.messages():
                if any(b"begun" in log.msg for log in messages.StatusResponse.FromString(message).logs):
                    building.cancel()
        assert building.cancelled()
        await nothing_left(daemon)


async def test_a_client_that_goes_away_ends_its_build(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo begun; sleep 1000\n"})
    async with client(socket_of(daemon), context) as buildx:
        building = asyncio.ensure_future(buildx.build({"no-cache": ""}))
        await buildx.begun.wait()
    with pytest.raises(ConnectionResetError):
        await building
    await nothing_left(daemon)


async def test_links_lead_to_nothing_of_the_host(daemon: Instance, tmp_path: Path) -> None:
    """A Dockerfile below a link: what the link means in the client's directory, never on the host."""
    secret = tmp_path / "host/Dockerfile"
    write_files(tmp_path / "host", {"Dockerfile": "FROM busybox\nRUN echo of the host\n"})
    inside = f"c{secret.parent}/Dockerfile"
    context = write_files(tmp_path, {inside: "FROM busybox\nRUN echo of the client\n"}) / "c"
    (context / "link").symlink_to(secret.parent)
    (context / "Linked").symlink_to(secret)
    async with client(socket_of(daemon), context) as buildx:
        buildx.follows = False
        for name in ("link/Dockerfile", "Linked"):
            await buildx.build({"filename": name, "no-cache": ""})
            assert b"".join(log.msg for status in buildx.told for log in status.logs) == b"of the client\n"
        up = "../" * 20 + str(secret).lstrip("/")
        await buildx.build({"filename": up, "no-cache": ""})
        assert b"".join(log.msg for status in buildx.told for log in status.logs) == b"of the client\n"


async def test_an_ignore_file_of_the_dockerfiles_own(daemon: Instance, tmp_path: Path) -> None:
    files = {
        "Dockerfile": "FROM busybox\nCOPY . /c\nRUN ls /c\n",
        "Dockerfile.dockerignore": "b\nDockerfile*\n.dockerignore\n",
        ".dockerignore": "a\n",
        "a": "",
        "b": "",
    }
    async with client(socket_of(daemon), write_files(tmp_path, files)) as buildx:
        await buildx.build({})
    assert b"".join(log.msg for status in buildx.told for log in status.logs) == b"a\n"


async def test_checks(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nMAINTAINER me\n"})
    async with client(socket_of(daemon), context) as buildx:
        solving = buildx.begin("check")
        request = messages.SolveRequest(Frontend="dockerfile.v0", FrontendOpt={"requestid": "frontend.lint"})
        build_id = ("buildkit-controlapi-buildid", "check")
        path = "/moby.buildkit.v1.frontend.LLBBridge/Solve"
        answer = await buildx.ask(path, request, messages.SolveResponse, build_id)
        solving.cancel()
    found = json.loads(answer.result.metadata["result.json"])
    (warning,) = found["warnings"]
    assert warning["ruleName"] == "MaintainerDeprecated"
    assert warning["location"]["ranges"][0]["start"]["line"] == 2


async def test_what_is_not_there_is_said(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\n"})
    async with client(socket_of(daemon), context) as buildx:
        with pytest.raises(CallFailed, match='exporter "floppy" could not be found'):
            await buildx.build({}, exporter="floppy")
        llb = messages.Definition(**{"def": [b"x"]})
        for field, value in {"Definition": llb, "FrontendInputs": {"x": llb}}.items():
            with pytest.raises(CallFailed, match="building LLB is not supported"):
                await buildx.begin(field, **{field: value})
        with pytest.raises(CallFailed, match="source policies are not supported"):
            await buildx.begin("policy", SourcePolicy=llb)
        with pytest.raises(CallFailed, match="attestations are not supported: provenance"):
            await buildx.build({"attest:provenance": "mode=max"})
        (context / "Empty").touch()
        with pytest.raises(CallFailed, match="the Dockerfile cannot be empty"):
            await buildx.build({"filename": "Empty"})
        with pytest.raises(CallFailed, match=r"failed to push 127.0.0.1:1/x:latest: .*connection refused"):
            await buildx.build({}, exporter="image", name="127.0.0.1:1/x:latest", push="true")
        with pytest.raises(CallFailed, match="failed to read dockerfile"):
            await buildx.build({"filename": "missing"})


@pytest.fixture
def buildx(tmp_path: Path) -> dict[str, str]:
    """The environment of a docker CLI that has buildx."""
    own = f"{OWN_BINARIES}/docker-buildx"
    plugins = tmp_path / "config/cli-plugins"
    plugins.mkdir(parents=True)
    if os.path.exists(own):
        (plugins / "docker-buildx").symlink_to(own)
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "config")}
    if (
        not shutil.which("docker")
        or subprocess.run(
            ["docker", "buildx", "version"], env=environment, capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the docker CLI with buildx")
    return environment


def test_buildx_itself(daemon: Instance, tmp_path: Path, buildx: dict[str, str]) -> None:
    context = write_files(
        tmp_path / "c",
        {"Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f\nCMD cat /f\n", "f": "by buildx\n"},
    )

    def docker(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = {**buildx, "DOCKER_HOST": f"unix://{socket_of(daemon)}"}
        return subprocess.run(
            ["docker", *words], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    done = docker("build", "-t", "by-buildx", "--progress", "plain", str(context))
    assert done.returncode == 0, done.stderr
    assert "by buildx" in done.stderr
    assert docker("run", "--rm", "by-buildx").stdout == "by buildx\n"
    (context / "Dockerfile").write_text("FROM busybox\nRUN false\n")
    failed = docker("build", str(context))
    assert failed.returncode == 1
    assert "   2 | >>> RUN false\n" in failed.stderr
    assert docker("buildx", "du").returncode == 0
    target = tmp_path / "out"
    (context / "Dockerfile").write_text("FROM scratch\nCOPY f /f\n")
    assert docker("build", "-o", str(target), str(context)).returncode == 0
    assert (target / "f").read_text() == "by buildx\n"

"""Pulls and pushes with a real registry, and with docker and skopeo as its other clients."""

import json
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import docker as docker_py
import peers
import pytest
from docker_rig import Docker, dockerd
from faulty_proxy import FaultyProxy
from image_archives import docker_archive, oci_archive, tar
from instance import Instance, eventually, instance, require_root
from registry_server import RegistryServer, registry_server
from skopeo_rig import skopeo


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    require_root()
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with dockerd() as running:
        yield running


@pytest.fixture
def fresh() -> Iterator[Instance]:
    """A daemon of the test's own: it may be killed."""
    root = Path(tempfile.mkdtemp(prefix="proa-pull-"))
    with instance(root) as running:
        yield running


def digest_of(name: str) -> str:
    """What skopeo says the digest of a name in a registry is."""
    return str(json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))["Digest"])


def put(registry: RegistryServer, name: str, tmp_path: Path, *sizes: int) -> str:
    """An image of layers with random bytes into the registry, by skopeo; its digest."""
    layers = [tar({f"file{number}": os.urandom(size)}) for number, size in enumerate(sizes)]
    archive = tmp_path / "archive.tar"
    archive.write_bytes(oci_archive(layers, "x:latest"))
    target = f"docker://{registry.host}/{name}"
    skopeo("copy", "-q", "--preserve-digests", "--dest-tls-verify=false", f"oci-archive:{archive}", target)
    archive.unlink()
    return digest_of(f"{registry.host}/{name}")


def proa(daemon: Instance, *words: str, cli: str = "proa") -> str:
    """One command that succeeds."""
    done = daemon.run(*words, cli=cli)
    assert done.returncode == 0, done.stderr
    return done.stdout


def repo_digests(daemon: Instance, name: str) -> list[str]:
    found: list[str] = daemon.api.call("GET", f"/images/{name}/json")["RepoDigests"]
    return found


def left_behind(daemon: Instance) -> dict[str, list[str]]:
    """Blobs, partials, scratch and snapshots on disk, without busybox's."""
    content = Path(daemon.config.data_root, "content")
    found = {name: sorted(os.listdir(content / name)) for name in ("blobs/sha256", "partial", "ingest")}
    snapshots = os.listdir(f"{daemon.config.data_root}/snapshots")
    found["snapshots"] = sorted(set(snapshots) - {"base"})
    return found


# ---- both ways -----------------------------------------------------------------------------------


def test_what_proa_pushes_docker_and_skopeo_pull(
    daemon: Instance, registry: RegistryServer, docker: Docker
) -> None:
    name = f"{registry.host}/by-proa:1"
    proa(daemon, "tag", "busybox", name)
    told = proa(daemon, "push", name)
    pushed = re.search(r"^1: digest: (sha256:[0-9a-f]{64}) size: \d+$", told, re.MULTILINE)
    assert pushed is not None
    assert digest_of(name) == pushed[1]
    assert repo_digests(daemon, name) == [f"{registry.host}/by-proa@{pushed[1]}"]
    docker("pull", "-q", name)
    image = docker.inspect(name)
    ours = daemon.api.call("GET", f"/images/{name}/json")
    assert (image["Id"], image["RepoDigests"]) == (ours["Id"], ours["RepoDigests"])
    assert docker("run", "--rm", "--network", "none", name, "echo", "ran") == b"ran\n"
    docker("rmi", name)


def test_what_docker_pushes_proa_pulls_and_runs(
    daemon: Instance, registry: RegistryServer, docker: Docker
) -> None:
    docker("load", data=peers.busybox_archive(peers.busybox_tree(docker.root / "tree")))
    name = f"{registry.host}/by-docker:1"
    docker("run", "--name", "changed", "--network", "none", "busybox", "sh", "-c", "echo new > /etc/new")
    docker("commit", "changed", name)
    docker("push", name)
    assert f"Downloaded newer image for {name}" in proa(daemon, "pull", name)
    image = docker.inspect(name)
    ours = daemon.api.call("GET", f"/images/{name}/json")
    for member in ("Id", "RepoDigests", "RootFS", "Created"):
        assert ours[member] == image[member]
    assert proa(daemon, "run", "--rm", name, "cat", "/etc/new") == "new\n"


def test_an_image_goes_from_one_registry_to_another_unchanged(
    daemon: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    digest = put(registry, "origin:1", tmp_path, 100_000, 50_000)
    with registry_server(tmp_path / "other") as other:
        proa(daemon, "pull", f"{registry.host}/origin:1")
        proa(daemon, "tag", f"{registry.host}/origin:1", f"{other.host}/copy:1")
        told = proa(daemon, "push", f"{other.host}/copy:1")
        assert f"1: digest: {digest}" in told
        assert digest_of(f"{other.host}/copy:1") == digest
        copied = tmp_path / "copied"
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{other.host}/copy:1", f"oci:{copied}:1")
        manifest = json.loads((copied / "index.json").read_text())["manifests"][0]
        assert manifest["digest"] == digest


@pytest.mark.parametrize("cli", ["docker", "proa"])
def test_the_words_of_both_clis(daemon: Instance, registry: RegistryServer, tmp_path: Path, cli: str) -> None:
    digest = put(registry, f"words-{cli}:1", tmp_path, 1000)
    name = f"{registry.host}/words-{cli}"
    first = proa(daemon, "pull", f"{name}:1", cli=cli).splitlines()
    assert first[0] == f"1: Pulling from words-{cli}"
    assert first[-3:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:1",
        f"{name}:1",
    ]
    assert [line.split(": ")[1] for line in first[1:-3]] == [
        "Pulling fs layer",
        "Verifying Checksum",
        "Download complete",
        "Pull complete",
    ]
    before = len(registry.requests("GET", f"words-{cli}/")), len(registry.requests("HEAD", f"words-{cli}/"))
    again = proa(daemon, "pull", f"{name}:1", cli=cli).splitlines()
    assert again[-2] == f"Status: Image is up to date for {name}:1"
    after = len(registry.requests("GET", f"words-{cli}/")), len(registry.requests("HEAD", f"words-{cli}/"))
    assert after == (before[0], before[1] + 1)
    proa(daemon, "tag", f"{name}:1", f"{name}:2", cli=cli)
    pushed = proa(daemon, "push", "-a", name, cli=cli)
    assert pushed.startswith(f"The push refers to repository [{name}]\n")
    assert "Layer already exists" in pushed
    assert {f"1: digest: {digest}", f"2: digest: {digest}"} <= {
        line.split(" size")[0] for line in pushed.splitlines()
    }
    proa(daemon, "rmi", f"{name}:1", f"{name}:2", cli=cli)
    assert proa(daemon, "pull", "-q", f"{name}@{digest}", cli=cli) == f"{name}@{digest}\n"
    missing = daemon.run("pull", f"{registry.host}/nothing:1", cli=cli)
    assert missing.returncode == 1
    assert f"manifest for {registry.host}/nothing:1 not found: manifest unknown" in missing.stderr
    unknown = daemon.run("push", f"{registry.host}/nothing:1", cli=cli)
    assert unknown.returncode == 1
    assert f"An image does not exist locally with the tag: {registry.host}/nothing" in unknown.stderr


def test_docker_py(daemon: Instance, registry: RegistryServer, tmp_path: Path) -> None:
    digest = put(registry, "by-py:1", tmp_path, 1000)
    with closing(docker_py.DockerClient(base_url=f"unix://{daemon.engine.socket}")) as client:
        image = client.images.pull(f"{registry.host}/by-py", tag="1")
        assert image.attrs["RepoDigests"] == [f"{registry.host}/by-py@{digest}"]
        image.tag(f"{registry.host}/by-py", "2")
        told = list(client.images.push(f"{registry.host}/by-py", tag="2", stream=True, decode=True))
        assert [line["aux"]["Digest"] for line in told if "aux" in line] == [digest]
        (image,) = client.images.pull(f"{registry.host}/by-py", all_tags=True)
        assert image.tags == [f"{registry.host}/by-py:1", f"{registry.host}/by-py:2"]


def test_run_pulls_what_is_missing(daemon: Instance, registry: RegistryServer) -> None:
    name = f"{registry.host}/to-run:1"
    proa(daemon, "tag", "busybox", name)
    proa(daemon, "push", "-q", name)
    proa(daemon, "rmi", name)
    assert daemon.run("run", "--pull", "never", "--rm", name, "true", cli="proa").returncode == 125
    done = daemon.run("run", "--rm", name, "echo", "ran", cli="proa")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.startswith(f"Unable to find image '{name}' locally\n1: Pulling from to-run\n")
    done = daemon.run("run", "--pull", "always", "--rm", name, "echo", "ran", cli="proa")
    assert (done.stdout, f"Image is up to date for {name}" in done.stderr) == ("ran\n", True)


def test_a_mirror_of_the_hub(registry: RegistryServer, tmp_path: Path) -> None:
    digest = put(registry, "library/mirrored:1", tmp_path, 1000)
    root = Path(tempfile.mkdtemp(prefix="proa-pull-"))
    with instance(root, "--registry-mirror", f"http://{registry.host}") as running:
        told = proa(running, "pull", "mirrored:1").splitlines()
        assert told[0] == "1: Pulling from library/mirrored"
        assert told[-1] == "docker.io/library/mirrored:1"
        assert repo_digests(running, "mirrored:1") == [f"mirrored@{digest}"]


# ---- many at a time ------------------------------------------------------------------------------


def test_twenty_pulls_download_each_layer_once(
    daemon: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    put(registry, "many:1", tmp_path, 3_000_000, 2_000_000, 1000)
    name = f"{registry.host}/many:1"
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda _: daemon.run("pull", name, cli="proa"), range(20)))
    assert [each.returncode for each in done] == [0] * 20
    layers = [layer["digest"] for layer in registry.manifest("many", "1")["layers"]]
    assert [len(registry.requests("GET", f"blobs/{digest}")) for digest in layers] == [1, 1, 1]


# ---- what breaks ---------------------------------------------------------------------------------


def test_a_line_that_is_cut_again_and_again(
    daemon: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    digest = put(registry, "cut:1", tmp_path, 3_000_000, 1_000_000)
    with closing(FaultyProxy(registry.port)) as proxy:
        proxy.cut_after = 700_000
        proa(daemon, "pull", f"{proxy.host}/cut:1")
        assert repo_digests(daemon, f"{proxy.host}/cut:1") == [f"{proxy.host}/cut@{digest}"]
    ranges = [line for line in registry.requests("GET", "cut/blobs/") if " 206 " in line]
    assert len(ranges) >= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_daemon_killed_in_the_middle_of_a_pull(
    fresh: Instance, registry: RegistryServer, tmp_path: Path, seed: int
) -> None:
    sizes = (6_000_000, 4_000_000, 2_000_000)
    put(registry, f"killed-{seed}:1", tmp_path, *sizes)
    before = left_behind(fresh)
    with closing(FaultyProxy(registry.port)) as proxy:
        name = f"{proxy.host}/killed-{seed}:1"
        proxy.stall_at(random.Random(seed).randrange(20_000, sum(sizes)))
        with ThreadPoolExecutor(1) as pool:
            pulling = pool.submit(fresh.run, "pull", name, cli="proa")
            assert proxy.stalled.wait(60)
            fresh.kill_daemon()
            assert pulling.result().returncode != 0
        proxy.go_on()
        fresh.start()
        assert name not in str(fresh.api.call("GET", "/images/json"))
        after = left_behind(fresh)
        partials = after.pop("partial")
        assert after == {key: value for key, value in before.items() if key != "partial"}
        kept = sum(Path(fresh.config.data_root, "content/partial", each).stat().st_size for each in partials)
        proxy.passed = 0
        proa(fresh, "pull", name)
        # All but what was there already, and what was on its way to the disk, came over the line once.
        assert proxy.passed <= sum(sizes) - kept + 200_000
        assert left_behind(fresh)["partial"] == []
        proa(fresh, "rmi", name)
        assert eventually(lambda: left_behind(fresh) == before)


def test_a_daemon_killed_in_the_middle_of_a_removal(
    fresh: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    """`rmi` answers before the trees are gone; who dies meanwhile leaves them to the next one."""
    put(registry, "doomed:1", tmp_path, 6_000_000, 2_000_000)
    before = left_behind(fresh)
    name = f"{registry.host}/doomed:1"
    for _ in range(3):
        proa(fresh, "pull", name)
        proa(fresh, "rmi", name)
        fresh.kill_daemon()
        fresh.start()
        assert eventually(lambda: left_behind(fresh) == before)


def test_a_client_killed_in_the_middle_of_a_pull(
    fresh: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    put(registry, "client:1", tmp_path, 3_000_000)
    before = left_behind(fresh)
    with closing(FaultyProxy(registry.port)) as proxy:
        proxy.stall_at(1_000_000)
        environment = {**os.environ, **fresh.engine.environment}
        command = [fresh.engine.cli[0], "pull", f"{proxy.host}/client:1"]
        client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        assert proxy.stalled.wait(60)
        client.kill()
        client.wait()

        def quiet() -> bool:
            now = left_behind(fresh)
            return {**now, "partial": []} == {**before, "partial": []}

        assert eventually(quiet)
        proxy.go_on()
        proa(fresh, "pull", f"{proxy.host}/client:1")


def test_a_registry_with_other_bytes_than_it_says(
    fresh: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    put(registry, "wrong:1", tmp_path, 1000, 500_000)
    before = left_behind(fresh)
    digest = registry.manifest("wrong", "1")["layers"][1]["digest"]
    blob = registry.root / f"data/docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
    data = bytearray(blob.read_bytes())
    data[-20] ^= 1
    blob.write_bytes(data)
    done = fresh.run("pull", f"{registry.host}/wrong:1", cli="proa")
    assert done.returncode == 1
    assert re.search(f"verification failed for digest {digest}|failed to register layer", done.stderr)
    after = left_behind(fresh)
    assert digest[7:] not in after["partial"]
    assert {**after, "partial": []} == {**before, "partial": []}


def test_a_disk_that_is_full(registry: RegistryServer, tmp_path: Path) -> None:
    put(registry, "large:1", tmp_path, 20_000_000, 10_000_000)
    root = Path(tempfile.mkdtemp(prefix="proa-pull-"))
    (root / "lib").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "proa-test", str(root / "lib")]
    subprocess.run(mount, check=True)
    try:
        with instance(root) as running:
            before = left_behind(running)
            done = running.run("pull", f"{registry.host}/large:1", cli="proa")
            assert done.returncode == 1
            assert "no space left on device" in done.stderr
            after = left_behind(running)
            kept = after.pop("partial")
            assert after == {key: value for key, value in before.items() if key != "partial"}
            assert kept
            subprocess.run(["mount", "-o", "remount,size=100m", str(root / "lib")], check=True)
            proa(running, "pull", f"{registry.host}/large:1")
            assert left_behind(running)["partial"] == []
            running.process.terminate()
            running.process.wait()
    finally:
        subprocess.run(["umount", "-l", str(root / "lib")], check=True)
        shutil.rmtree(root, ignore_errors=True)


def test_a_disk_that_is_full_at_a_load_a_push_and_a_commit(registry: RegistryServer, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(docker_archive([tar({"large": os.urandom(40_000_000)})], ["full:1"]))
    small = tmp_path / "small.tar"
    name = f"{registry.host}/full:2"
    small.write_bytes(docker_archive([tar({"large": os.urandom(18_000_000)})], [name]))
    root = Path(tempfile.mkdtemp(prefix="proa-pull-"))
    (root / "lib").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "proa-test", str(root / "lib")]
    subprocess.run(mount, check=True)
    try:
        with instance(root) as running:

            def refused(*words: str) -> None:
                before = left_behind(running)
                done = running.run(*words, cli="proa")
                assert (done.returncode, "no space left on device" in done.stderr.lower()) == (1, True), done
                assert eventually(lambda: left_behind(running) == before)

            refused("load", "-i", str(archive))
            proa(running, "load", "-i", str(small))
            refused("push", name)  # its layer's blob would be as large again
            proa(running, "rmi", name)
            script = "head -c 18000000 /dev/urandom > /large"
            proa(running, "run", "--network", "none", "--name", "filler", "busybox", "sh", "-c", script)
            refused("commit", "filler", "full:3")
            assert running.run("images", "-q", "full", cli="proa").stdout == ""
            proa(running, "rm", "filler")
    finally:
        subprocess.run(["umount", "-l", str(root / "lib")], check=True)
        shutil.rmtree(root, ignore_errors=True)

"""Manifest lists by both CLIs in one registry: the same words, the same digests, either's files."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_archives import config, docker_archive, tar
from instance import Instance, require_root
from registry_server import RegistryServer, registry_server
from skopeo_rig import skopeo


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """Images of two platforms in two repositories, as Docker's manifests and as OCI's."""
    require_root()
    root = tmp_path_factory.mktemp("registry")
    with registry_server(root) as server:
        for architecture in ("amd64", "arm64"):
            layers = [tar({"arch": architecture.encode()})]
            archive = root / "archive.tar"
            archive.write_bytes(docker_archive(layers, ["x:1"], config(layers, architecture=architecture)))
            for form in ("v2s2", "oci"):
                target = f"docker://{server.host}/{form}/{architecture}:1"
                skopeo(
                    "copy", "-q", "-f", form, "--dest-tls-verify=false", f"docker-archive:{archive}", target
                )
        yield server


class Client:
    """One of the two CLIs with a configuration of its own."""

    def __init__(self, daemon: Instance, cli: str, directory: Path) -> None:
        self._command = [daemon.engine.cli[0]] if cli == "proa" else ["docker"]
        self._environment = {**os.environ, **daemon.engine.environment, "DOCKER_CONFIG": str(directory)}

    def __call__(self, *words: str) -> tuple[int, str, str]:
        command = [*self._command, "manifest", *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def commands(host: str, form: str, name: str) -> list[list[str]]:
    listed = f"{host}/{name}:1"
    amd, arm = (f"{host}/{form}/{architecture}:1" for architecture in ("amd64", "arm64"))
    return [
        ["create", "--insecure", listed, amd, arm],
        ["create", "--insecure", listed, amd],
        ["annotate", listed, arm, "--variant", "v8", "--os-features", "a,b", "--os-version", "1"],
        ["annotate", listed, arm, "--arch", "riscv"],
        ["annotate", listed, f"{host}/none:1"],
        ["inspect", listed],
        ["inspect", listed, arm],
        ["create", "--insecure", "--amend", listed, amd],
        ["push", "--insecure", listed],
        ["push", "--insecure", "--purge", listed],
        ["push", listed],
        ["rm", listed],
        ["create", "--insecure", f"{host}/other:1", listed],
        ["create", "--insecure", f"{host}/other:1", f"{host}/nowhere:1"],
    ]


@pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker CLI")
def test_both_clis_say_and_push_the_same(daemon: Instance, registry: RegistryServer, tmp_path: Path) -> None:
    host = registry.host
    digests = set()
    for cli in ("docker", "proa"):
        client = Client(daemon, cli, tmp_path / cli)
        told = [client(*words) for words in commands(host, "v2s2", f"by-{cli}")]
        digests.add(told[8][1].splitlines()[-1])
        raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/by-{cli}:1")
        if cli == "docker":
            docker = told, raw
    assert raw == docker[1]
    assert len(digests) == 1
    for words, theirs, ours in zip(commands(host, "v2s2", "by-docker"), docker[0], told, strict=True):
        expected = tuple(text.replace("by-docker", "by-proa") for text in theirs[1:])
        assert (ours[0], *ours[1:]) == (theirs[0], *expected), words


@pytest.mark.parametrize("form", ["v2s2", "oci"])
def test_what_was_pushed_is_pulled_by_its_platform(
    daemon: Instance, registry: RegistryServer, tmp_path: Path, form: str
) -> None:
    """The layers were in other repositories: the registry has them in this one now."""
    client = Client(daemon, "proa", tmp_path)
    name = f"{registry.host}/pulled-{form}:1"
    sources = [f"{registry.host}/{form}/{architecture}:1" for architecture in ("amd64", "arm64")]
    assert client("create", name, *sources)[0] == 0
    code, told, _ = client("push", name)
    assert (code, len(told.splitlines())) == (0, 3)
    index = json.loads(client("inspect", "--insecure", name)[1])
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    for architecture in ("amd64", "arm64"):
        done = daemon.run("pull", "--platform", f"linux/{architecture}", name, cli="proa")
        assert done.returncode == 0, done.stderr
        assert daemon.api.call("GET", f"/images/{name}/json")["Architecture"] == architecture


@pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker CLI")
def test_either_goes_on_with_what_the_other_began(
    daemon: Instance, registry: RegistryServer, tmp_path: Path
) -> None:
    docker, proa = (Client(daemon, cli, tmp_path) for cli in ("docker", "proa"))
    amd, arm = (f"{registry.host}/v2s2/{architecture}:1" for architecture in ("amd64", "arm64"))
    for number, (first, second) in enumerate(((docker, proa), (proa, docker))):
        name = f"{registry.host}/begun-{number}:1"
        assert first("create", "--insecure", name, amd)[0] == 0
        assert second("create", "--insecure", "--amend", name, arm)[0] == 0
        assert first("inspect", name) == second("inspect", name)
        code, told, error = second("push", "--insecure", "-p", name)
        assert (code, error) == (0, ""), told
        assert len(json.loads(first("inspect", "--insecure", name)[1])["manifests"]) == 2

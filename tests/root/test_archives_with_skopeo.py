"""Archives and registries with skopeo: what either writes the other reads, by the same digests."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, require_root
from registry_server import RegistryServer, registry_server
from skopeo_rig import skopeo

RUN = "rm /etc/group && mkdir -p /x && echo content > /x/file && ln /x/file /x/hard && chmod 6755 /x/file"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    require_root()
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def image(daemon: Instance) -> str:
    """Two layers: a deletion, a hard link, modes."""
    name = "127.0.0.1:1/skopeo/made:1"
    proa(daemon, "run", "--name", "skopeo-made", "busybox", "sh", "-c", RUN)
    proa(daemon, "commit", "-c", "LABEL a=b", "skopeo-made", name)
    proa(daemon, "rm", "skopeo-made")
    return name


def proa(daemon: Instance, *words: str) -> str:
    done = daemon.run(*words, cli="proa")
    assert done.returncode == 0, done.stderr
    return done.stdout


def inspect(daemon: Instance, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.api.call("GET", f"/images/{name}/json")
    return found


def digest(data: bytes | str) -> str:
    return f"sha256:{hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()}"


def layout_manifest(layout: Path) -> dict[str, Any]:
    """The one manifest of an OCI layout, and that it is what index.json says."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    data = (layout / "blobs/sha256" / entry["digest"][7:]).read_bytes()
    assert digest(data) == entry["digest"]
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_what_proa_saves_skopeo_reads_and_gives_back(
    daemon: Instance, image: str, transport: str, tmp_path: Path
) -> None:
    before = inspect(daemon, image)
    saved, copied, back = (tmp_path / name for name in ("saved.tar", "copied", "back.tar"))
    proa(daemon, "save", "-o", str(saved), image)
    skopeo("copy", "-q", f"{transport}:{saved}", f"dir:{copied}")
    manifest = json.loads((copied / "manifest.json").read_text())
    assert manifest["config"]["digest"] == before["Id"]
    skopeo("copy", "-q", f"dir:{copied}", f"{transport}:{back}:{image}")
    proa(daemon, "rmi", image)
    proa(daemon, "load", "-i", str(back))
    after = inspect(daemon, before["Id"])
    for member in ("RootFS", "Config", "Size", "Created"):
        assert after[member] == before[member]
    proa(daemon, "tag", before["Id"], image)
    shown = proa(
        daemon, "run", "--rm", image, "sh", "-c", "stat -c '%a %h' /x/hard; ls /etc/group || echo gone"
    )
    assert shown.splitlines() == ["6755 2", "gone"]


def test_several_images_in_one_archive(daemon: Instance, image: str, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    proa(daemon, "save", "-o", str(saved), image, "busybox")
    for name in (image, "docker.io/library/busybox:latest"):
        config = skopeo("inspect", "--config", "--raw", f"docker-archive:{saved}:{name}")
        assert digest(config) == inspect(daemon, name)["Id"]


def test_the_digests_of_a_push_are_skopeos(
    daemon: Instance, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    """Manifest, configuration and every layer: as skopeo inspects them, and as it writes them to a layout."""
    name = f"{registry.host}/digests:1"
    proa(daemon, "tag", image, name)
    proa(daemon, "push", name)
    ours = inspect(daemon, name)
    remote = ("--tls-verify=false", f"docker://{name}")
    seen = json.loads(skopeo("inspect", *remote))
    assert ours["RepoDigests"] == [f"{registry.host}/digests@{seen['Digest']}"]
    assert digest(skopeo("inspect", "--raw", *remote)) == seen["Digest"]
    assert digest(skopeo("inspect", "--config", "--raw", *remote)) == ours["Id"]
    layout = tmp_path / "layout"
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:1")
    manifest = layout_manifest(layout)
    assert [layer["digest"] for layer in manifest["layers"]] == seen["Layers"]
    for layer in manifest["layers"]:
        assert digest((layout / "blobs/sha256" / layer["digest"][7:]).read_bytes()) == layer["digest"]


def test_the_digests_of_a_pull_are_skopeos(
    daemon: Instance, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    """skopeo made the manifest: pulled and pushed on, it is the same, byte for byte."""
    saved = tmp_path / "saved.tar"
    proa(daemon, "save", "-o", str(saved), image)
    theirs, ours = f"{registry.host}/by-skopeo:1", f"{registry.host}/by-proa:1"
    skopeo("copy", "-q", "--dest-tls-verify=false", f"docker-archive:{saved}", f"docker://{theirs}")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{theirs}")
    proa(daemon, "pull", theirs)
    assert f"{registry.host}/by-skopeo@{digest(raw)}" in inspect(daemon, theirs)["RepoDigests"]
    assert inspect(daemon, theirs)["Id"] == json.loads(raw)["config"]["digest"]
    proa(daemon, "tag", theirs, ours)
    proa(daemon, "push", ours)
    assert skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{ours}") == raw

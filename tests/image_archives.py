"""Archives for tests of images: made here, owned by whoever runs the tests."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Any


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


def tar(members: Mapping[str, bytes | str | None], *, modes: int = 0o644) -> bytes:
    """bytes: a file, with `modes`; str: a symlink's target; None: a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid = os.getuid(), os.getgid()
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size, info.mode = len(content), modes
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def config(layers: Sequence[bytes], **extra: Any) -> bytes:
    """A config blob for these plain layers."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09.123456789Z",
            "config": {"Cmd": ["/bin/true"], "Labels": {"tier": "test"}},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created_by": f"layer {number}"} for number, _ in enumerate(layers)],
        }
        | extra
    ).encode()


def docker_archive(
    layers: Sequence[bytes], names: Sequence[str] = (), blob: bytes | None = None, **extra: Any
) -> bytes:
    """What docker save wrote before 25: the layers as <n>/layer.tar, the manifest last."""
    config_blob = blob if blob is not None else config(layers, **extra)
    members: dict[str, bytes | str | None] = {f"{n}/layer.tar": layer for n, layer in enumerate(layers)}
    members[f"{digest(config_blob)[7:]}.json"] = config_blob
    manifest = {
        "Config": f"{digest(config_blob)[7:]}.json",
        "RepoTags": list(names),
        "Layers": [f"{n}/layer.tar" for n, _ in enumerate(layers)],
    }
    members["manifest.json"] = json.dumps([manifest]).encode()
    return tar(members)


def legacy_archive(layers: Sequence[bytes], repositories: Mapping[str, Any], **extra: Any) -> bytes:
    """What docker save wrote before 1.10: images named 0..., each on the one before it."""
    members: dict[str, bytes | str | None] = {}
    for number, layer in enumerate(layers):
        id_ = f"{number:064x}"
        document = {
            "id": id_,
            "created": "2015-05-06T07:08:09.123456789Z",
            "author": "a <b@c>",
            "container_config": {"Cmd": ["/bin/sh", "-c", f"echo {number} > /x && true"]},
            "config": {"Cmd": ["/bin/true"], "Labels": {"tier": "test"}},
            "architecture": "amd64",
            "os": "linux",
            "docker_version": "1.9.1",
            "Size": len(layer),
        } | extra
        if number:
            document["parent"] = f"{number - 1:064x}"
        members |= {f"{id_}/": None, f"{id_}/VERSION": b"1.0", f"{id_}/json": json.dumps(document).encode()}
        members[f"{id_}/layer.tar"] = layer
    if repositories:
        members["repositories"] = json.dumps(repositories).encode()
    return tar(members)


def oci_archive(layers: Sequence[bytes], name: str, *, nested: bool = False) -> bytes:
    """An OCI layout with gzip layers, as buildx writes it; `nested`: an index of platforms in it."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str, **extra: Any) -> dict[str, Any]:
        blobs[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)} | extra

    oci = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "config": blob(config(layers), f"{oci}.config.v1+json"),
        "layers": [blob(gzip.compress(layer, mtime=0), f"{oci}.layer.v1.tar+gzip") for layer in layers],
    }
    top = blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    if nested:
        foreign = {"mediaType": top["mediaType"], "digest": "sha256:" + "0" * 64, "size": 1}
        platforms = [
            foreign | {"platform": {"architecture": "s390x", "os": "linux"}},
            foreign | {"platform": {"architecture": "unknown", "os": "unknown"}},
            top | {"platform": {"architecture": "amd64", "os": "linux"}},
        ]
        index = {"schemaVersion": 2, "manifests": platforms}
        top = blob(json.dumps(index).encode(), f"{oci}.index.v1+json")
    top |= {"annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}}
    index = {"schemaVersion": 2, "manifests": [top]}
    return tar({**blobs, "index.json": json.dumps(index).encode(), "oci-layout": b"{}"})


async def chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """A request body."""
    for start in range(0, len(data), size):
        yield data[start : start + size]

"""The image that the benches move: a Debian base, a whole Python installation, 100 MB of random bytes.

Built once into a cache directory, as an OCI layout with gzip layers: 430 MB compressed, 1.3 GB unpacked.
The Python layer has about 60,000 files and 960 MB, taken from the host's own installations.
"""

import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("PROA_BENCH_CACHE", "/var/cache/proa-bench"))
FILES = 60_000
BYTES = 960 << 20
SMALL = 4096
"""Once the bytes are there, only files below this fill up the count."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NAME = "bench"


def layout() -> Path:
    """The OCI layout, built where it is missing (minutes); its image is called `bench`."""
    target = CACHE / "layout"
    if (target / "index.json").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    (target / "blobs/sha256").mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        print("building the bench's image (once)", file=sys.stderr)
        layers = [
            _layer(target, _debian(Path(scratch))),
            _layer(target, _python()),
            _layer(target, _random(Path(scratch))),
        ]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(target, json.dumps(config).encode(), CONFIG),
        "layers": [descriptor for descriptor, _ in layers],
    }
    descriptor = _blob(target, json.dumps(manifest).encode(), MANIFEST)
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return target


def archive() -> Path:
    """The same image as a Docker archive with plain layers, as `docker save` writes it."""
    target = CACHE / "archive.tar"
    if not target.exists():
        fresh = CACHE / "archive.tar.new"
        fresh.unlink(missing_ok=True)
        command = ["skopeo", "copy", "-q", f"oci:{layout()}:{NAME}", f"docker-archive:{fresh}:bench:latest"]
        subprocess.run(command, check=True)
        fresh.rename(target)
    return target


def big_layer() -> Path:
    """The blob of the Python layer: what `tar xzf` is measured with."""
    target = layout()
    index = json.loads((target / "index.json").read_text())
    manifest = json.loads(_path(target, index["manifests"][0]["digest"]).read_text())
    return _path(target, manifest["layers"][1]["digest"])


Source = Iterator[tuple[Path, str]]
"""Files of the host and their names in the layer."""


def _debian(scratch: Path) -> Source:
    base = scratch / "base"
    suite = "bookworm"
    subprocess.run(["debootstrap", "--variant=minbase", suite, base], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(base / "var/cache/apt/archives", ignore_errors=True)
    for path in sorted(base.rglob("*")):
        yield path, str(path.relative_to(base))


def _python() -> Source:
    """The host's Python installations, as often as it takes."""
    trees = [Path(tree) for tree in ("/root/.pyenv/versions", sys.prefix, "/usr/lib/python3", "/usr/lib")]
    files = size = 0
    for round_ in range(50):
        for tree in trees:
            for directory, names, leaves in os.walk(tree):
                names.sort()
                yield Path(directory), f"opt/python-{round_}{directory}"
                for leaf in sorted(leaves):
                    path = Path(directory, leaf)
                    if path.is_symlink() or not path.is_file():
                        continue
                    bytes_ = path.stat().st_size
                    if size + bytes_ > BYTES and bytes_ > SMALL:
                        continue
                    yield path, f"opt/python-{round_}{path}"
                    files, size = files + 1, size + bytes_
                    if files == FILES:
                        return


def _random(scratch: Path) -> Source:
    path = scratch / "random"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(1 << 20))
    yield path, "opt/random"


def _layer(target: Path, source: Source) -> tuple[dict[str, object], str]:
    """Pack one layer: its descriptor and diff_id."""
    fresh = target / "layer.new"
    with fresh.open("wb") as out, gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
        hashing = _Hashing(packed)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path, name in source:
                tar.add(path, name, recursive=False)
    with fresh.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    size = fresh.stat().st_size
    fresh.rename(_path(target, digest))
    return {"mediaType": LAYER, "digest": digest, "size": size}, "sha256:" + hashing.hash.hexdigest()


class _Hashing:
    """Writes on, and hashes what it writes."""

    def __init__(self, target: gzip.GzipFile) -> None:
        self._target = target
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._target.write(data)


def _blob(target: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    _path(target, digest).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _path(target: Path, digest: str) -> Path:
    return target / "blobs/sha256" / digest.removeprefix("sha256:")

"""The registries that the image benches pull from: Debian's docker-registry and proa's own, on 127.0.0.1."""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import big_image
import peers

CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


@dataclass
class Registry:
    """A running registry and where it logs each request."""

    name: str
    address: str
    log: Path

    def seed(self, repository: str) -> None:
        """Give it the bench's image, byte for byte."""
        source = f"oci:{big_image.layout()}:{big_image.NAME}"
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", source]
        subprocess.run([*command, f"docker://{self.address}/{repository}:latest"], check=True)

    def requests(self) -> int:
        """Requests so far (docker-registry only: proa's does not log them)."""
        return sum(" /v2/" in line for line in self.log.read_text().splitlines())

    def download(self, repository: str) -> tuple[int, float]:
        """Bytes of all layers and the seconds to read them, one after the other on one connection."""
        host, _, port = self.address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        headers = {"Accept": big_image.MANIFEST}
        connection.request("GET", f"/v2/{repository}/manifests/latest", headers=headers)
        manifest = json.loads(connection.getresponse().read())
        buffer, total = bytearray(1 << 20), 0
        begun = time.perf_counter()
        for layer in manifest["layers"]:
            connection.request("GET", f"/v2/{repository}/blobs/{layer['digest']}")
            response = connection.getresponse()
            while count := response.readinto(buffer):
                total += count
        elapsed = time.perf_counter() - begun
        connection.close()
        return total, elapsed


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def _serve(name: str, command: list[str], address: str, root: Path) -> Iterator[Registry]:
    log = root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        host, _, port = address.partition(":")
        for _ in range(2000):
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {log.read_text()[-500:]}")
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
                break
            time.sleep(0.005)
        yield Registry(name, address, log)
    finally:
        peers.end(process)


@contextlib.contextmanager
def docker_registry(root: Path) -> Iterator[Registry]:
    """Debian's docker-registry with its store below `root`."""
    if not shutil.which("docker-registry"):
        raise RuntimeError("needs Debian's docker-registry")
    root.mkdir(parents=True)
    address = _free_address()
    (root / "config.yml").write_text(CONFIG.format(root=root, address=address))
    command = ["docker-registry", "serve", str(root / "config.yml")]
    with _serve("docker-registry", command, address, root) as registry:
        yield registry


@contextlib.contextmanager
def proa_registry(root: Path) -> Iterator[Registry]:
    """`proa registry serve` of this interpreter's environment."""
    root.mkdir(parents=True)
    address = _free_address()
    command = [peers.script("proa"), "registry", "serve", "--addr", address, "--root", f"{root}/data"]
    with _serve("proa registry", command, address, root) as registry:
        yield registry

"""Debian's docker-registry on a port of 127.0.0.1, for tests: the registry that everybody agrees with."""

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest

_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}/data}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"{http}}}
"""


class RegistryServer:
    """One registry; `host` is its name in references."""

    def __init__(self, root: Path, more: str = "", tls: str = "") -> None:
        """`more` is YAML of the configuration's top level, `tls` what is below http.tls, in braces."""
        if not shutil.which("docker-registry"):
            pytest.skip("needs Debian's docker-registry")
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        root.mkdir(parents=True, exist_ok=True)
        (root / "config.yml").write_text(
            _CONFIG.format(root=root, port=self.port, http=f", tls: {tls}" if tls else "") + more
        )
        self._tls = tls
        self._log = (root / "log").open("wb")
        command = ["docker-registry", "serve", str(root / "config.yml")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._wait()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One GET: status, headers in lower case, body."""
        connection = self._connection()
        try:
            connection.request(
                "GET", path, headers={key.replace("_", "-"): text for key, text in headers.items()}
            )
            response = connection.getresponse()
            return (
                response.status,
                {key.lower(): text for key, text in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def manifest(self, name: str, reference: str) -> dict[str, Any]:
        """A manifest, decoded."""
        accept = (
            "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        )
        status, _, body = self.get(f"/v2/{name}/manifests/{reference}", Accept=accept)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def requests(self, method: str = "GET", part: str = "") -> list[str]:
        """Lines of the access log so far with a method and a part of the path."""
        lines = (self.root / "log").read_text().splitlines()
        return [line for line in lines if f'"{method} /v2/' in line and part in line]

    def close(self) -> None:
        """End it."""
        peers.end(self._process)
        self._log.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        anyone = ssl._create_unverified_context()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=anyone)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10):
                return
            assert self._process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextlib.contextmanager
def registry_server(root: Path, more: str = "", tls: str = "") -> Iterator[RegistryServer]:
    """A registry that ends with the block."""
    server = RegistryServer(root, more, tls)
    try:
        yield server
    finally:
        server.close()

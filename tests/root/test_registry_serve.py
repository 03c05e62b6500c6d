"""`proa registry serve` as a process: skopeo, docker and proa as clients, kill -9, an upstream."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import bcrypt
import peers
import pytest
from docker_rig import dockerd
from instance import instance
from registry_server import registry_server
from registry_thread import MANIFEST, digest_of, image

SIZE = 48 << 20


class Served:
    """One `proa registry serve`, started by the CLI."""

    def __init__(self, root: Path, *words: str) -> None:
        self.root = root
        self.port = peers.free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._words = words
        self._start()

    def _start(self) -> None:
        command = [peers.script("proa"), "registry", "serve"]
        command += ["--root", str(self.root), "--addr", self.host, *self._words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self._reader = threading.Thread(target=self.process.stderr.read)  # so that it never waits for us
        self._reader.start()
        peers.wait_for_port(self.port, self.process)

    def kill_and_restart(self) -> None:
        """SIGKILL, and the next one on the same root."""
        self.process.send_signal(signal.SIGKILL)
        self._ended()
        self._start()

    def stop(self) -> None:
        """SIGTERM."""
        self.process.terminate()
        self._ended()

    def _ended(self) -> None:
        self.process.wait(20)
        self._reader.join()
        self.process.stderr.close()

    def call(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        connection = HTTPConnection(self.host, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return (
                response.status,
                {key.lower(): text for key, text in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def push_blob(self, repository: str, data: bytes) -> None:
        """POST."""
        status, _, body = self.call("POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", data)
        assert status == 201, body


@contextmanager
def served(root: Path, *words: str) -> Iterator[Served]:
    registry = Served(root, *words)
    try:
        yield registry
    finally:
        if registry.process.poll() is None:
            registry.stop()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "registry") as running:
        yield running


def skopeo(*words: str) -> str:
    if not shutil.which("skopeo"):
        pytest.skip("needs skopeo")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def layout(root: Path) -> tuple[str, str]:
    """(an OCI layout of one image as skopeo names it, the manifest's digest)."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = os.urandom(3_000_000)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    ).encode()
    manifest = image(config, layer)
    for data in (layer, config, manifest):
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {"mediaType": MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci:{root}", digest_of(manifest)


def test_skopeo_both_ways(registry: Served, tmp_path: Path) -> None:
    source, digest = layout(tmp_path / "image")
    skopeo(
        "copy", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{registry.host}/a/b:v1"
    )
    found = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.host}/a/b:v1"))
    assert (found["Digest"], found["RepoTags"]) == (digest, ["v1"])
    skopeo(
        *("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *(f"docker://{registry.host}/a/b:v1", f"docker://{registry.host}/c:v2"),
    )
    copy = ("copy", "--preserve-digests", "--src-tls-verify=false", f"docker://{registry.host}/c:v2")
    skopeo(*copy, f"oci:{tmp_path}/back")
    blobs = "blobs/sha256"
    assert set(os.listdir(tmp_path / "back" / blobs)) == set(os.listdir(tmp_path / "image" / blobs))
    skopeo("delete", "--tls-verify=false", f"docker://{registry.host}/a/b:v1")
    assert registry.call("GET", "/v2/a/b/manifests/v1")[0] == 404
    assert registry.call("GET", "/v2/c/manifests/v2")[0] == 200


def test_skopeo_with_a_password_over_tls(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", f"{certs}/key.pem", "-out", f"{certs}/ca.crt"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "users").write_text(f"ann:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    flags = (
        "--htpasswd",
        f"{tmp_path}/users",
        "--tls-cert",
        f"{certs}/ca.crt",
        "--tls-key",
        f"{certs}/key.pem",
    )
    source, digest = layout(tmp_path / "image")
    (tmp_path / "trusted").mkdir()
    shutil.copy(certs / "ca.crt", tmp_path / "trusted")
    with served(tmp_path / "registry", *flags) as registry:
        target = f"docker://{registry.host}/r:v1"
        trust = f"--dest-cert-dir={tmp_path}/trusted"
        skopeo("copy", "--preserve-digests", trust, "--dest-creds=ann:secret", source, target)
        inspect = ("inspect", f"--cert-dir={tmp_path}/trusted", "--creds=ann:secret", target)
        assert json.loads(skopeo(*inspect))["Digest"] == digest
        with pytest.raises(AssertionError, match="authentication required"):
            skopeo("inspect", f"--cert-dir={tmp_path}/trusted", "--creds=ann:wrong", target)


def test_proa_and_the_docker_cli_both_ways(registry: Served) -> None:
    """The CLIs of docker and proa on a proad: what is pushed is pulled back, and runs."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-serve-"))) as daemon:
        for cli, name in (("docker", "one"), ("proa", "two")):
            target = f"{registry.host}/{name}:v1"
            for words in (("tag", "busybox", target), ("push", target), ("rmi", target), ("pull", target)):
                done = daemon.run(*words, cli=cli)
                assert done.returncode == 0, done.stderr
            done = daemon.run("run", "--rm", target, "echo", "hello", cli=cli)
            assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_dockerd_both_ways(registry: Served, tmp_path: Path) -> None:
    tree = peers.busybox_tree(tmp_path / "tree")
    with dockerd() as docker:
        docker("load", data=peers.busybox_archive(tree))
        target = f"{registry.host}/busybox:v1"
        docker("tag", "busybox", target)
        docker("push", target)
        pushed = docker.inspect(target)
        docker("rmi", target, "busybox")
        docker("pull", target)
        pulled = docker.inspect(target)
        assert (pulled["Id"], pulled["RepoDigests"]) == (pushed["Id"], pushed["RepoDigests"])


def test_killed_during_an_upload(registry: Served) -> None:
    data = os.urandom(1 << 20) * (SIZE >> 20)
    digest = digest_of(data)
    location = registry.call("POST", "/v2/r/blobs/uploads/")[1]["location"]
    connection = HTTPConnection(registry.host, timeout=30)
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", str(SIZE))
    connection.endheaders()
    connection.send(data[: SIZE // 2])
    path = registry.root / "uploads" / location.rpartition("/")[2]
    deadline = time.monotonic() + 30
    while path.stat().st_size < SIZE // 4:
        assert time.monotonic() < deadline
    registry.kill_and_restart()
    connection.close()
    there = int(registry.call("GET", location)[1]["range"].removeprefix("0-")) + 1
    assert SIZE // 4 <= there <= SIZE // 2
    status, _, body = registry.call(
        "PUT", f"{location}?digest={digest}", data[there:], Content_Range=f"{there}-{SIZE - 1}"
    )
    assert status == 201, body
    assert registry.call("GET", f"/v2/r/blobs/{digest}")[2] == data
    registry.kill_and_restart()
    assert registry.call("GET", f"/v2/r/blobs/{digest}")[2] == data
    assert os.listdir(registry.root / "uploads") == []


def test_the_collection_as_a_process_during_pushes(registry: Served) -> None:
    """Whatever it takes, an image whose manifest was taken is whole."""
    stop = threading.Event()
    failures: list[str] = []

    def push() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            config, layer = b'{"n":%d}' % number, os.urandom(100_000)
            registry.push_blob("r", config)
            registry.push_blob("r", layer)
            path = f"/v2/r/manifests/v{number}"
            status, _, body = registry.call("PUT", path, image(config, layer), Content_Type=MANIFEST)
            if status == 201:
                blob = registry.call("GET", f"/v2/r/blobs/{digest_of(layer)}")
                if blob[2] != layer:
                    failures.append(f"{number}: {blob[0]}")
            elif b"MANIFEST_BLOB_UNKNOWN" not in body:
                failures.append(f"{number}: {body!r}")

    pusher = threading.Thread(target=push)
    pusher.start()
    command = [sys.executable, "-m", "proa.registryd", "gc", "--root", str(registry.root), "--grace=-1"]
    try:
        for _ in range(5):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    finally:
        stop.set()
        pusher.join()
    assert failures == []


def test_memory_is_bounded_whatever_the_blob(registry: Served) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(300):
            yield bytes(1 << 20)

    state = hashlib.sha256()
    for part in parts():
        state.update(part)
    digest = f"sha256:{state.hexdigest()}"
    location = registry.call("POST", "/v2/r/blobs/uploads/")[1]["location"]
    assert registry.call("PATCH", location, parts())[0] == 202
    assert registry.call("PUT", f"{location}?digest={digest}")[0] == 201
    assert registry.call("HEAD", f"/v2/r/blobs/{digest}")[1]["content-length"] == str(300 << 20)
    status = Path(f"/proc/{registry.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 120_000, f"{peak} KiB"


def test_a_cache_of_docker_registry(tmp_path: Path) -> None:
    source, digest = layout(tmp_path / "image")
    with registry_server(tmp_path / "upstream") as upstream:
        skopeo(
            "copy", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{upstream.host}/r:v1"
        )
        words = ("--upstream", f"http://{upstream.host}", "--upstream-ttl", "0")
        with served(tmp_path / "cache", *words) as cache:
            copy = ("copy", "--src-tls-verify=false", f"docker://{cache.host}/r:v1")
            skopeo(*copy, f"oci:{tmp_path}/first")
            blob_requests = len(upstream.requests("GET", "/blobs/"))
            assert blob_requests == 2
            skopeo(*copy, f"oci:{tmp_path}/second")
            assert len(upstream.requests("GET", "/blobs/")) == blob_requests
            upstream.close()
            skopeo(*copy, f"oci:{tmp_path}/third")
            assert cache.call("GET", "/v2/r/manifests/v1")[1]["docker-content-digest"] == digest
            assert cache.call("POST", "/v2/r/blobs/uploads/")[0] == 405


def test_basic_without_a_user_is_asked_for_one(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"ann:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    with served(tmp_path / "registry", "--htpasswd", f"{tmp_path}/users") as registry:
        status, headers, _ = registry.call("GET", "/v2/")
        assert (status, headers["www-authenticate"][:6]) == (401, "Basic ")
        token = base64.b64encode(b"ann:secret").decode()
        assert registry.call("GET", "/v2/", Authorization=f"Basic {token}")[0] == 200

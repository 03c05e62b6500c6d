"""Who may come in, by which names, and what a hostile client gets."""

import base64
import ssl
import subprocess
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import bcrypt
import pytest
from registry_thread import MANIFEST, RegistryThread, digest_of

from proa.distribution import names
from proa.distribution.failures import Refusal
from proa.errors import InvalidParameter


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def write_users(path: Path, **users: str) -> None:
    lines = [
        f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for user, word in users.items()
    ]
    path.write_text("# users\n\n" + "".join(lines))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RegistryThread]:
    write_users(tmp_path / "users", ann="secret")
    with RegistryThread(tmp_path / "root", "--htpasswd", str(tmp_path / "users")) as registry:
        yield registry


def test_who_does_not_say_is_asked(guarded: RegistryThread) -> None:
    answer = guarded.call("GET", "/v2/")
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith('Basic realm="')


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", "wrong"),
        basic("bob", "secret"),
        basic("ann", ""),
        basic("", ""),
        basic("ann", "x" * 10_000),
        basic("ann", "sec\0ret"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Bearer x"},
    ],
)
def test_who_is_wrong_stays_out(guarded: RegistryThread, headers: dict[str, str]) -> None:
    for _ in range(2):
        assert guarded.call("GET", "/v2/", headers=headers).status == 401
    assert guarded.call("POST", "/v2/r/blobs/uploads/", headers=headers).status == 401


def test_who_is_right_comes_in(guarded: RegistryThread) -> None:
    for _ in range(2):
        assert guarded.call("GET", "/v2/", headers=basic("ann", "secret")).status == 200


def test_the_file_is_read_again(guarded: RegistryThread, tmp_path: Path) -> None:
    assert guarded.call("GET", "/v2/", headers=basic("ann", "secret")).status == 200
    (tmp_path / "new").touch()
    write_users(tmp_path / "new", ann="other")
    (tmp_path / "new").rename(tmp_path / "users")
    assert guarded.call("GET", "/v2/", headers=basic("ann", "secret")).status == 401
    assert guarded.call("GET", "/v2/", headers=basic("ann", "other")).status == 200
    (tmp_path / "users").write_text("ann:{SHA}x\n")
    assert guarded.call("GET", "/v2/", headers=basic("ann", "other")).status == 200


def test_a_file_of_other_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ann:$apr1$x$y\n")
    with (
        pytest.raises(InvalidParameter, match="only bcrypt"),
        RegistryThread(tmp_path / "root", "--htpasswd", str(tmp_path / "users")),
    ):
        pass


def test_a_malformed_hash_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ann:$2y$05$short\n")
    with RegistryThread(tmp_path / "root", "--htpasswd", str(tmp_path / "users")) as registry:
        assert registry.call("GET", "/v2/", headers=basic("ann", "secret")).status == 401


def test_read_only(tmp_path: Path) -> None:
    with RegistryThread(tmp_path) as registry:
        digest = registry.push_image("r")
    with RegistryThread(tmp_path, "--read-only") as registry:
        assert registry.call("GET", "/v2/r/manifests/latest").status == 200
        for method, path in (
            ("POST", "/v2/r/blobs/uploads/"),
            ("PUT", "/v2/r/manifests/x"),
            ("DELETE", f"/v2/r/manifests/{digest}"),
        ):
            answer = registry.call(method, path, b"", {"Content-Type": MANIFEST})
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/../manifests/x", "NAME_INVALID"),
        ("/v2/a/../../b/tags/list", "NAME_INVALID"),
        ("/v2/%2e%2e/tags/list", "NAME_INVALID"),
        ("/v2/a%2f..%2fb/tags/list", "NAME_INVALID"),
        ("/v2/a//b/tags/list", "NAME_INVALID"),
        ("/v2//tags/list", "UNSUPPORTED"),
        ("/v2/UPPER/tags/list", "NAME_INVALID"),
        ("/v2/%ff/tags/list", "NAME_INVALID"),
        ("/v2/a%00/tags/list", "NAME_INVALID"),
        (f"/v2/{'a' * 256}/tags/list", "NAME_INVALID"),
        ("/v2/a/manifests/..", "TAG_INVALID"),
        ("/v2/a/manifests/%2e%2e", "TAG_INVALID"),
        (f"/v2/a/manifests/{'t' * 129}", "TAG_INVALID"),
        ("/v2/a/manifests/sha256:..", "DIGEST_INVALID"),
        ("/v2/a/blobs/..", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:" + "A" * 64, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:" + "a" * 63, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:..%2f..%2fmetadata.db", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/..", "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/a/blobs/uploads/%2e%2e%2fmetadata.db", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/" + "f" * 32, "BLOB_UPLOAD_UNKNOWN"),
        ("/etc/passwd", "UNSUPPORTED"),
        ("/v2/a", "UNSUPPORTED"),
    ],
)
def test_hostile_names(registry: RegistryThread, path: str, code: str) -> None:
    answer = registry.call("GET", path)
    assert (answer.status in (400, 404), answer.code) == (True, code)


def test_hostile_parameters(registry: RegistryThread) -> None:
    upload = "/v2/a/blobs/uploads/"
    assert registry.call("POST", f"{upload}?mount=../x&from=b").code == "DIGEST_INVALID"
    assert registry.call("POST", f"{upload}?mount={digest_of(b'')}&from=../b").code == "NAME_INVALID"
    assert registry.call("POST", f"{upload}?{'&'.join('ab')}{'&a=b' * 100}").status == 400
    assert registry.call("GET", "/v2/_catalog?n=1e9").code == "PAGINATION_NUMBER_INVALID"


def test_other_methods(registry: RegistryThread) -> None:
    answer = registry.call("DELETE", "/v2/a/tags/list")
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
    assert registry.call("BREW", "/v2/").status == 501


@pytest.mark.parametrize("text", ["a\n", "a/", "/a", "a/-b", "-a", "a..b", "a___b", "ä", ""])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(Refusal):
        names.check_name(text)


@pytest.mark.parametrize("text", ["a", "a-b", "a--b/c__d/e.f", "0/1"])
def test_names(text: str) -> None:
    assert names.check_name(text) == text


def ask(client: HTTPSConnection) -> None:
    client.request("GET", "/v2/")
    client.getresponse()


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        f"-keyout {key} -out {certificate} -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1",
        shell=True,
        check=True,
        capture_output=True,
    )
    words = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(certificate))
    data = bytes(1_000_000)
    with RegistryThread(tmp_path / "root") as registry:
        digest = registry.push_blob("r", data)
    with RegistryThread(tmp_path / "root", *words) as registry:
        context = ssl.create_default_context(cafile=str(certificate))
        stranger = HTTPSConnection(registry.address, context=context, timeout=10)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(stranger)
        stranger.close()
        context.load_cert_chain(certificate, key)
        client = HTTPSConnection(registry.address, context=context, timeout=10)
        client.request("GET", f"/v2/r/blobs/{digest}")
        assert client.getresponse().read() == data
        client.close()


def test_half_a_pair_of_tls_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter), RegistryThread(tmp_path, "--tls-cert", "x"):
        pass

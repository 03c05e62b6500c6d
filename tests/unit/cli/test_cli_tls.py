"""TLS to a remote daemon: who is trusted, and half-closing while data still comes in."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.cli.endpoint import TlsFiles, client_for
from proa.cli.failure import ConnectionFailed, Failure
from proa.cli.flags import Globals
from proa.cli.tls import TlsSocket

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One self-signed certificate, which is its own authority."""
    folder = tmp_path_factory.mktemp("certificates")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem"
    subject = ["-subj", "/CN=proad", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(["openssl", *words.split(), *subject], cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


@pytest.fixture
def port(certificates: Path) -> Iterator[int]:
    """A server that answers every byte until the input ends, and says goodbye then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        with plain:
            try:
                connection = context.wrap_socket(plain, server_side=True)
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)
                connection.sendall(b"goodbye")

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def files(folder: Path, verify: bool = True) -> TlsFiles:
    return TlsFiles(verify, str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


def connect(port: int, wanted: TlsFiles) -> TlsSocket:
    return TlsSocket(socket.create_connection(("127.0.0.1", port)), "127.0.0.1", "tcp://here", wanted)


def test_half_close_lets_the_answer_in(certificates: Path, port: int) -> None:
    connection = connect(port, files(certificates))
    data = b"x" * 300_000
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    seen = b""
    while piece := connection.recv(65536):
        seen += piece
    connection.close()
    assert seen == data + b"goodbye"


def test_a_stranger_is_refused(port: int) -> None:
    # No authority that the system knows has signed it.
    everyone = ssl.get_default_verify_paths()
    authorities = everyone.cafile or "/etc/ssl/certs/ca-certificates.crt"
    if not Path(authorities).exists():
        socket.create_connection(("127.0.0.1", port)).close()
        pytest.skip("this system has no authorities")
    with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
        connect(port, TlsFiles(True, authorities, "", ""))


def test_without_verification_anyone_is_believed(certificates: Path, port: int) -> None:
    connection = connect(port, files(certificates, verify=False))
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b"goodbye"
    connection.close()


def test_certificates_that_are_not_there(tmp_path: Path, port: int) -> None:
    with pytest.raises(
        ConnectionFailed, match=r"unable to resolve docker endpoint: open .*/ca.pem: no such file"
    ):
        connect(port, files(tmp_path))
    socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("tcp://example.com", "tcp://example.com:2375"),
        ("example.com:99", "tcp://example.com:99"),
        ("tcp://[::1]:99", "tcp://[::1]:99"),
        ("unix:///a/b.sock", "unix:///a/b.sock"),
    ],
)
def test_hosts(host: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    options = Globals()
    options.hosts = [host]
    assert client_for(options).host == shown


def test_tls_has_a_port_of_its_own(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    options = Globals()
    options.hosts = ["tcp://example.com"]
    assert client_for(options).host == "tcp://example.com:2376"


@pytest.mark.parametrize("host", ["ftp://x", "ssh://"])
def test_hosts_that_cannot_be(host: str) -> None:
    options = Globals()
    options.hosts = [host]
    with pytest.raises(Failure, match="unable to resolve docker endpoint"):
        client_for(options)

"""A daemon behind ssh: the command line, and the bytes that go through it."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proa.cli.endpoint import client_for
from proa.cli.failure import ConnectionFailed, Failure
from proa.cli.flags import Globals
from proa.cli.ssh import command_for, connect

PYTHON = Path(__file__).parents[3] / "python"
START = ["ssh", "-o", "ConnectTimeout=30", "-T"]


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("ssh://There", [*START, "--", "There", "proa", "system", "dial-stdio"]),
        (
            "ssh://me@there:2222",
            [*START, "-l", "me", "-p", "2222", "--", "there", "proa", "system", "dial-stdio"],
        ),
        (
            "ssh://[::1]/run/my%20proa/proad.sock",
            [
                *START,
                "--",
                "::1",
                "proa",
                "--host",
                "'unix:///run/my proa/proad.sock'",
                "system",
                "dial-stdio",
            ],
        ),
        (
            "ssh://-oProxyCommand=x/",
            [*START, "--", "-oProxyCommand=x", "proa", "system", "dial-stdio"],
        ),
    ],
)
def test_command_lines(host: str, command: list[str]) -> None:
    assert command_for(host) == command


@pytest.mark.parametrize("host", ["ssh://", "ssh://me:secret@there", "ssh://there:port", "ssh://there?x=1"])
def test_addresses_that_cannot_be(host: str) -> None:
    options = Globals()
    options.hosts = [host]
    with pytest.raises(Failure, match="unable to resolve docker endpoint: invalid SSH URL"):
        client_for(options)


def test_bytes_pass_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nexec cat\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with connect("ssh://there") as stream:
        stream.sendall(b"request")
        stream.shutdown(socket.SHUT_WR)
        assert stream.makefile("rb").read() == b"request"
    assert (tmp_path / "words").read_text().split() == command_for("ssh://there")[1:]
    os.wait()


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConnectionFailed, match="ssh: no such file or directory"):
        connect("ssh://there")


def _dial(host: str, data: bytes) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "proa.cli", "--host", host, "system", "dial-stdio"]
    return subprocess.run(
        command, env={"PYTHONPATH": str(PYTHON)}, input=data, capture_output=True, check=False, timeout=20
    )


def test_dial_stdio(tmp_path: Path) -> None:
    """The answer comes after the request's end: the half-close goes through."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                stream.sendall(stream.makefile("rb").read()[::-1])

        thread = threading.Thread(target=serve)
        thread.start()
        done = _dial(f"unix://{path}", b"abc" * 100_000)
        thread.join()
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"cba" * 100_000


def test_dial_stdio_is_for_this_host() -> None:
    done = _dial("tcp://127.0.0.1:1", b"")
    assert done.returncode == 1
    assert done.stderr == b"dial-stdio reaches a daemon on this host, not tcp://127.0.0.1:1\n"

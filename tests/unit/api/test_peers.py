"""Who may connect to the unix socket, and sockets that systemd passes on."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from proa.api.server import serve
from proa.errors import InvalidParameter
from proa.http.listeners import inherited
from proa.schema.config import DaemonConfig

NOBODY = 65534
GROUP = 54321

ASK = """
import os, socket, sys
user, group, *extra = map(int, sys.argv[2:])
os.setgroups(extra)
os.setgid(group)
os.setuid(user)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(b"GET /_ping HTTP/1.1\\r\\nHost: p\\r\\nConnection: close\\r\\n\\r\\n")
print(client.recv(65536).split()[1].decode())
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users may enter."""
    with tempfile.TemporaryDirectory(prefix="proa-peers-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory) / "s"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize(
    ("user", "group", "extra", "status"),
    [
        (0, 0, (), "200"),
        (NOBODY, NOBODY, (), "403"),
        (NOBODY, GROUP, (), "200"),
        (NOBODY, NOBODY, (GROUP,), "200"),
        (NOBODY, NOBODY, (GROUP + 1,), "403"),
    ],
)
async def test_root_and_the_group_are_served(
    public: Path, user: int, group: int, extra: tuple[int, ...], status: str
) -> None:
    """Even where someone has opened the file's mode to everybody."""
    server = await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{public}",), group=str(GROUP)))
    try:
        os.chmod(public, 0o666)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", ASK, str(public), str(user), str(group), *map(str, extra)),
            stdout=subprocess.PIPE,
            cwd="/",
        )
        output, _ = await process.communicate()
        assert output.decode().strip() == status
    finally:
        await server.close()


def test_no_inherited_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(InvalidParameter, match="socket activation"):
        inherited()
    assert "LISTEN_FDS" not in os.environ


ACTIVATED = """
import asyncio, os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
from fake_engine import FakeEngine
from proa.api.server import serve
from proa.schema.config import DaemonConfig
async def main():
    server = await serve(FakeEngine(), DaemonConfig(hosts=("fd://",)))
    print(server.addresses[0], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close()
asyncio.run(main())
"""


def test_an_inherited_socket_is_served(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(listener.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == f"unix://{address}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert process.returncode == 0

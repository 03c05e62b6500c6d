"""A dockerd on roots of its own, beside proa in tests; skipped where there is none."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
from instance import require_root


@contextlib.contextmanager
def dockerd(*arguments: str) -> "Iterator[Docker]":
    """A running one, without networks."""
    require_root()
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd here")
    root = Path(tempfile.mkdtemp(prefix="proa-docker-"))  # Short: its sockets lie below.
    command = [
        "dockerd",
        "--data-root",
        f"{root}/data",
        "--exec-root",
        f"{root}/exec",
        "--pidfile",
        f"{root}/pid",
    ]
    command += ["-H", f"unix://{root}/docker.sock", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    command += arguments
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        peers.wait_for_ping(f"{root}/docker.sock", process)
        yield Docker(root)
    finally:
        peers.end(process)
        shutil.rmtree(root)


class Docker:
    """The docker CLI on that daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environment = os.environ | {
            "DOCKER_HOST": f"unix://{root}/docker.sock",
            "DOCKER_CONFIG": f"{root}/config",
        }

    def __call__(self, *words: str, data: bytes = b"") -> bytes:
        done = subprocess.run(
            ["docker", *words], env=self._environment, input=data, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """One command, whatever comes of it."""
        return subprocess.run(
            ["docker", *words], env=self._environment, capture_output=True, text=True, check=False
        )

    def inspect(self, image: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self("image", "inspect", image))[0]
        return found

    def contents(self, image: str) -> list[str]:
        """Every file of the image with owner, mode, links and type, as a container sees it.

        But for what docker itself puts into a container's /etc.
        """
        find = "find / -xdev -mindepth 1 ! -path '/[.dps]*' ! -path '/etc' ! -path '/etc/[hmr]*'"
        # A merged directory's count of links says where it was merged, not what is in it.
        script = (
            f"{find} ! -type d -exec stat -c '%n %u %g %a %h %F %s %Y' {{}} +;"
            f"{find} -type d -exec stat -c '%n %u %g %a %F %Y' {{}} +"
        )
        listed = self("run", "--rm", "--network", "none", image, "/bin/busybox", "sh", "-c", script)
        return sorted(listed.decode().splitlines())

"""Docker Compose, unmodified, against a real proad: networks, a volume, services that wait for others."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from instance import Instance, eventually

FILE = Path(__file__).parent.parent / "compose/shop.yaml"
BUILT = Path(os.environ.get("PROA_CI_CACHE", "/var/cache/proa-ci")) / "bin/docker-compose"


@pytest.fixture(scope="module")
def program() -> str:
    found = str(BUILT) if BUILT.exists() else shutil.which("docker-compose")
    if found is None:
        pytest.skip(f"needs docker-compose (v2), in PATH or at {BUILT}: `go build ./cmd` in its sources")
    return found


class Project:
    """One project of the file."""

    def __init__(self, daemon: Instance, program: str, root: Path) -> None:
        assert daemon.engine is not None
        self.daemon = daemon
        self.name = f"shop{os.getpid()}"
        self._command = [program, "-f", str(FILE)]
        self._environment = {
            **os.environ,
            **peers.docker_cli_environment(daemon.engine, root),
            "SHOP": self.name,
        }

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [*self._command, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def inside(self, service: str, *words: str, code: int = 0) -> str:
        return self("exec", "-T", service, "busybox", *words, code=code)

    def services(self) -> dict[str, dict[str, Any]]:
        shown = map(json.loads, self("ps", "-a", "--format", "json").splitlines())
        return {one["Service"]: one for one in shown}

    def page(self) -> str:
        """What the published port answers; empty while nobody does."""
        address, _, port = self("port", "web", "80").rpartition(":")
        try:
            with socket.create_connection((address.strip("[]"), int(port)), timeout=5) as made:
                made.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                return made.makefile().read().rpartition("\n\n")[2].strip()
        except ConnectionError:
            return ""


@pytest.fixture
def shop(daemon: Instance, program: str, tmp_path: Path) -> Iterator[Project]:
    project = Project(daemon, program, tmp_path)
    try:
        project("up", "-d", "--wait")
        yield project
    finally:
        project("down", "-v", "-t", "0")


def names_of(daemon: Instance, project: str) -> list[str]:
    """What is left of a project: its containers, networks and volumes."""
    api = daemon.api
    volumes = api.call("GET", "/volumes")["Volumes"] or []
    found = [*api.call("GET", "/networks"), *volumes]
    containers = [name for one in api.call("GET", "/containers/json?all=1") for name in one["Names"]]
    return [name for name in (*(one["Name"] for one in found), *containers) if project in name]


def test_a_file_with_several_networks(shop: Project) -> None:
    services = shop.services()
    assert {name: one["State"] for name, one in services.items()} == dict.fromkeys(services, "running")
    assert [services[name]["Health"] for name in ("db", "api", "web")] == ["healthy", "healthy", ""]
    assert eventually(lambda: shop.page() == "7 apples", 30)
    assert shop.inside("api", "wget", "-qO-", "http://database/stock") == "7 apples"
    assert "bad address" in shop.inside("web", "sh", "-c", "busybox ping -c1 db 2>&1 || true")
    # The network behind has no way out, not even to the host's other addresses.
    assert "default" not in shop.inside("db", "ip", "route")
    networks = shop.daemon.api.call("GET", f"/containers/{services['api']['ID']}/json")["NetworkSettings"]
    assert sorted(networks["Networks"]) == [f"{shop.name}_back", f"{shop.name}_front"]


def test_services_scale_and_start_again(shop: Project) -> None:
    before = shop.services()["db"]["ID"]
    shop("up", "-d", "--no-recreate", "--scale", "api=3")
    answers = shop.inside("web", "nslookup", "-type=a", "api")
    assert len({line for line in answers.splitlines() if line.startswith("Address: ")}) == 3, answers
    shop("restart", "-t", "0", "web")
    shop("up", "-d")
    assert shop.services()["db"]["ID"] == before, "what did not change stays"
    shop("stop", "-t", "0")
    shop("start")
    assert eventually(lambda: shop.page() == "7 apples", 30)


def test_nothing_is_left_but_what_is_to_stay(daemon: Instance, program: str, tmp_path: Path) -> None:
    project = Project(daemon, program, tmp_path)
    project("up", "-d", "--wait")
    project("down", "-t", "0")
    assert names_of(daemon, project.name) == [f"{project.name}_stock"]
    project("up", "-d", "--wait", "db")
    assert project.inside("db", "cat", "/data/stock") == "7 apples"
    project("down", "-v", "-t", "0")
    assert names_of(daemon, project.name) == []

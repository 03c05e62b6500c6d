"""A published port is free the moment its container is said to be gone, whatever else is going on."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
from instance import Instance
from peers import UnixConnection, free_port

ROUNDS = 60
SLEEP = {"Image": "busybox", "Cmd": ["sleep", "60"]}


def published(port: int, protocol: str) -> dict[str, object]:
    inner = f"80/{protocol}"
    bindings = {inner: [{"HostPort": str(port)}]}
    return {**SLEEP, "ExposedPorts": {inner: {}}, "HostConfig": {"PortBindings": bindings}}


def run(api: UnixConnection, body: dict[str, object]) -> str:
    made = str(api.call("POST", "/containers/create", body)["Id"])
    api.call("POST", f"/containers/{made}/start")
    return made


def remove(api: UnixConnection, made: str) -> None:
    api.call("DELETE", f"/containers/{made}?force=1")


@pytest.fixture
def churn(daemon: Instance) -> Iterator[None]:
    """Others start, execute and end all the time: children of the keeper, and namespaces for its pool."""
    over = threading.Event()
    failures: list[Exception] = []

    def go(api: UnixConnection) -> None:
        with contextlib.closing(api):
            try:
                while not over.is_set():
                    made = run(api, SLEEP)
                    execution = api.call("POST", f"/containers/{made}/exec", {"Cmd": ["true"]})
                    api.call("POST", f"/exec/{execution['Id']}/start", {"Detach": True})
                    remove(api, made)
            except Exception as exc:
                failures.append(exc)

    threads = [threading.Thread(target=go, args=(daemon.engine.connection(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.usefixtures("churn")
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_after_a_removal(daemon: Instance, protocol: str) -> None:
    api, body = daemon.api, published(free_port(), protocol)
    for _ in range(ROUNDS):
        remove(api, run(api, body))


@pytest.mark.usefixtures("churn")
@pytest.mark.parametrize("end", ["stop?t=0", "kill"])
def test_after_the_end_of_another(daemon: Instance, end: str) -> None:
    """Who saw one end may start the next: `docker run -p ...; docker run -p ...`."""
    api, body = daemon.api, published(free_port(), "tcp")
    made: list[str] = []
    for _ in range(ROUNDS // 2):
        made.append(run(api, body))
        api.call("POST", f"/containers/{made[-1]}/{end}")
        api.call("POST", f"/containers/{made[-1]}/wait")
    for one in made:
        remove(api, one)

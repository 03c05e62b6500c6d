"""kill -9 of proad, or of the keeper, at random points under load: nothing is lost or leaked."""

import contextlib
import http.client
import os
import random
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from instance import Instance, eventually, instance

KILLS = 100
LINES = 20
CRASH = (OSError, http.client.HTTPException)


@pytest.fixture
def own() -> Iterator[Instance]:
    """A daemon of this test's own: it will be killed."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-crash-"))) as running:
        yield running


@dataclass
class Load:
    """Clients that create and start containers for as long as they may; what they were told of."""

    daemon: Instance
    created: dict[str, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int:
        with self.lock:
            self.number += 1
            return self.number

    def body(self, number: int) -> dict[str, object]:
        script = f"i=0; while [ $i -lt {LINES} ]; do echo {number}-$i; i=$((i+1)); done; exit {number % 100}"
        return {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {}}

    def work(self) -> None:
        while not self.stop.is_set():
            try:
                connection = self.daemon.api
                while not self.stop.is_set():
                    number = self.next()
                    body = self.body(number)
                    container = str(connection.call("POST", f"/containers/create?name=c{number}", body)["Id"])
                    self.created[container] = number
                    connection.call("POST", f"/containers/{container}/start")
                    self.started.add(container)
            except CRASH:
                self.stop.wait(0.02)
            except RuntimeError as error:
                self.refused.append(str(error))
                self.stop.wait(0.02)

    @contextlib.contextmanager
    def running(self, clients: int = 2) -> Iterator[None]:
        threads = [threading.Thread(target=self.work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def state(daemon: Instance, container: str) -> dict[str, object]:
    return daemon.api.call("GET", f"/containers/{container}/json")["State"]


def logged(daemon: Instance, container: str) -> list[str]:
    """The container's stdout lines, out of the stream's frames."""
    connection = daemon.api
    connection.request("GET", f"/v1.41/containers/{container}/logs?stdout=1")
    data = connection.getresponse().read()
    out = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        out += data[8 : 8 + length]
        data = data[8 + length :]
    return out.decode().splitlines()


def settled(daemon: Instance) -> bool:
    return not daemon.api.call("GET", "/containers/json")


def assert_nothing_lost(load: Load, *, engine_may_end_them: bool) -> None:
    known = {str(c["Id"]) for c in load.daemon.api.call("GET", "/containers/json?all=1")}
    assert set(load.created) <= known
    for container, number in load.created.items():
        found = state(load.daemon, container)
        if container not in load.started and found["Status"] == "created":
            continue
        assert found["Status"] == "exited", (number, found)
        if found["ExitCode"] != number % 100:
            assert engine_may_end_them, (number, found)
            assert found["ExitCode"] == 137, (number, found)
            continue
        assert logged(load.daemon, container) == [f"{number}-{i}" for i in range(LINES)]


def assert_nothing_leaked(daemon: Instance) -> None:
    connection = daemon.api
    for container in connection.call("GET", "/containers/json?all=1"):
        connection.call("DELETE", f"/containers/{container['Id']}?force=1")
    assert eventually(lambda: not daemon.leftovers()), daemon.leftovers()[:5]
    bridge = Path("/sys/class/net", daemon.config.bridge_name, "brif")
    pool = daemon.config.network_pool_size * 4
    assert eventually(lambda: len(list(bridge.iterdir())) <= pool), len(list(bridge.iterdir()))


@pytest.mark.timeout(900)
def test_proad_killed_a_hundred_times(own: Instance) -> None:
    load = Load(own)
    dice = random.Random(1)
    with load.running():
        for _ in range(KILLS):
            load.stop.wait(dice.uniform(0.01, 0.25))
            own.kill_daemon()
            own.start()
    assert eventually(lambda: settled(own), 60)
    assert len(load.started) > KILLS / 4
    assert_nothing_lost(load, engine_may_end_them=False)
    assert_nothing_leaked(own)


@pytest.mark.timeout(900)
def test_keeper_killed_a_hundred_times(own: Instance) -> None:
    load = Load(own)
    dice = random.Random(2)
    keepers = set()
    with load.running():
        for _ in range(KILLS):
            load.stop.wait(dice.uniform(0.05, 0.25))
            pid = living_keeper(own)
            keepers.add(pid)
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda old=pid: keeper(own) not in (0, old), 20)
    assert eventually(lambda: settled(own), 60)
    assert len(keepers) == KILLS
    assert len(load.started) > KILLS / 4
    assert_nothing_lost(load, engine_may_end_them=True)
    assert_nothing_leaked(own)


def keeper(daemon: Instance) -> int:
    """The keeper's pid, 0 while there is none."""
    try:
        return daemon.keeper_pid()
    except LookupError:
        return 0


def living_keeper(daemon: Instance) -> int:
    """The keeper's pid, once there is one: a signal to 0 would end this process's whole group."""
    found: list[int] = []
    assert eventually(lambda: found.append(keeper(daemon)) or found[-1] != 0, 20)
    return found[-1]


def test_containers_run_on_while_proad_is_dead(own: Instance) -> None:
    connection = own.api
    script = "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); sleep 0.02; done; exit 9"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script]}
    container = str(connection.call("POST", "/containers/create", body)["Id"])
    connection.call("POST", f"/containers/{container}/start")
    pid = state(own, container)["Pid"]
    own.kill_daemon()
    assert Path(f"/proc/{pid}").exists()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 30)
    own.start()
    assert state(own, container)["ExitCode"] == 9
    assert logged(own, container) == [str(i) for i in range(50)]


def test_a_host_where_everything_died_is_reconciled(own: Instance) -> None:
    connection = own.api
    container = str(
        connection.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "60"]})["Id"]
    )
    connection.call("POST", f"/containers/{container}/start")
    pid = int(state(own, container)["Pid"])
    dead = living_keeper(own)
    own.kill_daemon()
    os.kill(dead, signal.SIGKILL)
    own.start()
    assert state(own, container)["Status"] == "exited"
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert_nothing_leaked(own)

"""docker-py and aiodocker, unmodified, against a real proad."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import aiodocker
import docker
import pytest
import pytest_asyncio
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from instance import Instance


@pytest.fixture
def client(daemon: Instance) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=f"unix://{daemon.engine.socket}")
    yield made
    made.close()


def test_negotiates_the_newest_version_it_knows(daemon: Instance) -> None:
    made = docker.DockerClient(base_url=f"unix://{daemon.engine.socket}", version="auto")
    try:
        assert made.ping()
        assert tuple(map(int, made.api.api_version.split("."))) >= (1, 41)
    finally:
        made.close()


def test_run_returns_what_was_printed(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert failed.value.exit_status == 3


def test_life_of_a_container(client: docker.DockerClient) -> None:
    container = client.containers.run(
        "busybox", "sleep 60", detach=True, mem_limit="64m", environment={"A": "1"}
    )
    try:
        assert container.status in {"created", "running"}
        container.reload()
        assert container.status == "running"
        assert container.attrs["HostConfig"]["Memory"] == 64 << 20
        assert container.exec_run(["sh", "-c", "echo $A"]) == (0, b"1\n")
        demuxed = container.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
        assert demuxed.output == (b"o\n", b"e\n")
        assert container.top()["Processes"]
        assert container.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
    finally:
        container.remove(force=True)


def test_attach_socket_carries_both_ways(client: docker.DockerClient) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True, tty=True)
    try:
        sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        raw = sock._sock
        raw.settimeout(20)
        raw.sendall(b"over\n")
        seen = b""
        while seen.count(b"over") < 2:
            seen += raw.recv(100)
        sock.close()
    finally:
        container.remove(force=True)


def test_errors_are_dockers(client: docker.DockerClient) -> None:
    with pytest.raises(NotFound, match="No such container: nope"):
        client.containers.get("nope")
    with pytest.raises(ImageNotFound):
        client.images.get("nope")
    with pytest.raises(APIError) as refused:
        client.containers.create("busybox", "true", mem_limit=1)
    assert refused.value.status_code == 400


# The stream that docker-py hands out forgets its socket, closed or not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_logs_follow_as_they_come(client: docker.DockerClient) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; done"], detach=True
    )
    try:
        with closing(container.logs(stream=True, follow=True)) as stream:
            assert b"".join(stream) == b"1\n2\n3\n"
    finally:
        container.remove(force=True)


def test_events(client: docker.DockerClient) -> None:
    stream = client.events(decode=True, filters={"type": "container"})
    container = client.containers.create("busybox", "true")
    container.remove()
    assert [next(stream)["Action"], next(stream)["Action"]] == ["create", "destroy"]
    stream.close()


@pytest_asyncio.fixture
async def async_client(daemon: Instance) -> AsyncIterator[aiodocker.Docker]:
    made = aiodocker.Docker(url=f"unix://{daemon.engine.socket}")
    yield made
    await made.close()


async def test_aiodocker_runs_a_container(async_client: aiodocker.Docker) -> None:
    container = await async_client.containers.run(config={"Image": "busybox", "Cmd": ["echo", "hello"]})
    try:
        assert (await container.wait())["StatusCode"] == 0
        assert await container.log(stdout=True) == ["hello\n"]
        assert json.loads(json.dumps(await container.show()))["State"]["Status"] == "exited"
    finally:
        await container.delete(force=True)


def test_volumes_and_mounts(client: docker.DockerClient) -> None:
    volume = client.volumes.create("py-memory", driver_opts={"type": "tmpfs", "device": "tmpfs"})
    plain = client.volumes.create("py-plain", labels={"kind": "plain"})
    try:
        mounts = [
            docker.types.Mount("/memory", "py-memory"),
            docker.types.Mount("/plain", "py-plain", no_copy=True),
            docker.types.Mount("/scratch", None, type="tmpfs", tmpfs_size="1m", tmpfs_mode=0o700),
            docker.types.Mount("/host", "/etc", type="bind", read_only=True),
            {"Type": "image", "Source": "busybox", "Target": "/image", "ImageOptions": {"Subpath": "bin"}},
        ]
        script = "awk '$5 ~ /^.(memory|plain|scratch|host|image)$/ {print $5}' /proc/self/mountinfo | sort"
        shown = client.containers.run("busybox", ["sh", "-c", script], mounts=mounts, remove=True)
        assert shown.decode().split() == ["/host", "/image", "/memory", "/plain", "/scratch"]
        assert [v.name for v in client.volumes.list(filters={"label": "kind=plain"})] == ["py-plain"]
        assert volume.attrs["Options"] == {"type": "tmpfs", "device": "tmpfs"}
        with pytest.raises(APIError, match="volume name must be unique"):
            client.volumes.create("py-plain", driver="other")
        with pytest.raises(APIError) as refused:
            client.api._result(client.api._put(client.api._url("/volumes/py-plain"), json={}), json=True)
        assert refused.value.status_code == 503
    finally:
        volume.remove()
        plain.remove()

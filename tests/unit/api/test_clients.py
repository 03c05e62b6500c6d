"""The clients people use, against the server: docker-py, aiodocker and the docker CLI."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiodocker
import docker
import pytest
from fake_containers import frame
from server_thread import ServerThread


class TestDockerPy:
    """docker-py, which blocks: the server runs in a thread."""

    @pytest.fixture
    def client(self, threaded: ServerThread) -> Iterator[docker.DockerClient]:
        client = docker.DockerClient(base_url=threaded.url, version="auto")
        yield client
        client.close()

    def test_version_and_info(self, client: docker.DockerClient) -> None:
        assert client.ping() is True
        assert client.version()["ApiVersion"] == "1.51"
        assert client.info()["ServerVersion"] == "28.0.0"

    def test_life_of_a_container(self, client: docker.DockerClient) -> None:
        container = client.containers.create("busybox", ["true"], name="one", mem_limit="64m")
        container.start()
        assert container.wait() == {"StatusCode": 0}
        container.reload()
        assert container.attrs["HostConfig"]["Memory"] == 64 * 1024 * 1024
        assert [c.name for c in client.containers.list(all=True)] == ["one"]
        assert container.logs() == b"one\ntwo\nthree\n"
        assert container.logs(stdout=False) == b"two\n"
        assert list(container.logs(stream=True, follow=False)) == [b"one\n", b"two\n", b"three\n"]
        container.rename("two")
        container.remove(v=True)
        with pytest.raises(docker.errors.NotFound, match="No such container"):
            client.containers.get("two")

    def test_errors(self, client: docker.DockerClient) -> None:
        client.containers.create("busybox", ["nosuch"], name="one")
        with pytest.raises(docker.errors.APIError) as caught:
            client.containers.get("one").start()
        assert caught.value.status_code == 400
        assert "executable file not found" in caught.value.explanation

    def test_attach_socket(self, client: docker.DockerClient) -> None:
        container = client.containers.create("busybox", ["cat"], stdin_open=True)
        stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        stream._sock.sendall(b"hello")
        assert stream.read(13) == frame(1, b"hello")
        stream._sock.shutdown(socket.SHUT_WR)
        assert stream.read(11) == frame(2, b"eof")
        assert stream.read(1) == b""
        stream._sock.close()
        stream.close()

    def test_exec(self, client: docker.DockerClient) -> None:
        container = client.containers.create("busybox", ["sleep"])
        exec_id = client.api.exec_create(container.id, ["cat"], stdin=True)["Id"]
        stream = client.api.exec_start(exec_id, socket=True)
        stream._sock.sendall(b"hello")
        assert stream.read(13) == frame(1, b"hello")
        stream._sock.close()
        stream.close()
        assert client.api.exec_inspect(exec_id)["ExitCode"] == 0

    def test_stats_events_top(self, client: docker.DockerClient) -> None:
        container = client.containers.create("busybox", ["sleep"], name="one")
        assert container.stats(stream=False)["name"] == f"/{container.id}"
        assert container.top()["Titles"] == ["PID", "CMD"]
        events = client.events(decode=True)
        assert [next(events)["Action"], next(events)["status"]] == ["create", "start"]
        events.close()

    def test_images(self, client: docker.DockerClient) -> None:
        assert client.images.list()[0].tags == ["busybox:latest"]
        assert b"".join(client.images.get("library/busybox:latest").save()).startswith(b"tar")
        client.api.load_image(b"archive")
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get("nosuch")
        with pytest.raises(docker.errors.NotFound):
            client.images.pull("nosuch")

    def test_volumes_and_networks(self, client: docker.DockerClient) -> None:
        client.volumes.create("data")
        assert client.volumes.get("data").attrs["Mountpoint"] == "/v/data"
        assert [volume.name for volume in client.volumes.list()] == ["data"]
        client.volumes.get("data").remove()
        client.volumes.prune()
        assert client.networks.get("bridge").name == "bridge"
        mine = client.networks.create("mine", labels={"a": "b"})
        mine.connect("one", aliases=["alias"], ipv4_address="10.0.0.9")
        mine.disconnect("one", force=True)
        mine.remove()
        assert client.networks.prune() == {"NetworksDeleted": ["mine"]}


class TestAiodocker:
    """aiodocker, which shares the test's loop."""

    @pytest.fixture
    async def client(self, server: object, address: Path) -> AsyncIterator[aiodocker.Docker]:
        async with aiodocker.Docker(url=f"unix://{address}") as client:
            yield client

    async def test_life_of_a_container(self, client: aiodocker.Docker) -> None:
        assert (await client.version())["ApiVersion"] == "1.51"
        container = await client.containers.create({"Image": "busybox", "Cmd": ["true"]}, name="one")
        await container.start()
        assert (await container.wait())["StatusCode"] == 0
        assert (await container.show())["Name"] == "/one"
        assert [c.id for c in await client.containers.list(all=True)] == [container.id]
        assert await container.log(stdout=True) == ["one\n", "three\n"]
        await container.delete(force=True)
        with pytest.raises(aiodocker.DockerError, match="No such container"):
            await client.containers.get("one")

    async def test_exec(self, client: aiodocker.Docker) -> None:
        container = await client.containers.create({"Image": "busybox", "Cmd": ["sleep"]})
        exec_ = await container.exec(["cat"], stdin=True)
        async with exec_.start(detach=False) as stream:
            await stream.write_in(b"hello")
            message = await stream.read_out()
            assert (message.stream, message.data) == (1, b"hello")

    async def test_attach(self, client: aiodocker.Docker) -> None:
        container = await client.containers.create({"Image": "busybox", "Cmd": ["cat"]})
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await stream.write_in(b"hello")
            message = await stream.read_out()
            assert (message.stream, message.data) == (1, b"hello")


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
class TestDockerCLI:
    """The real docker command."""

    @pytest.fixture(autouse=True)
    def environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, threaded: ServerThread
    ) -> ServerThread:
        monkeypatch.setenv("DOCKER_HOST", threaded.url)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
        return threaded

    def docker(self, *words: str, input: bytes = b"", code: int = 0) -> str:
        done = subprocess.run(
            ["docker", *words], input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == code, done.stdout
        return done.stdout.decode()

    def test_version(self) -> None:
        assert (
            self.docker("version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}")
            == "28.0.0 1.51\n"
        )

    def test_containers(self) -> None:
        id = self.docker("create", "--name", "one", "busybox", "true").strip()
        assert self.docker("start", "one") == "one\n"
        assert self.docker("wait", "one") == "0\n"
        assert self.docker("ps", "-aq", "--no-trunc").strip() == id
        assert "Exited (0)" in self.docker("ps", "-a")
        assert self.docker("inspect", "-f", "{{.State.Status}} {{.Name}}", "one") == "exited /one\n"
        assert sorted(self.docker("logs", "one").split()) == ["one", "three", "two"]
        assert self.docker("rm", "one") == "one\n"
        assert "No such container: one" in self.docker("logs", "one", code=1)

    def test_run_with_input(self) -> None:
        self.docker("create", "--name", "one", "-i", "busybox", "cat")
        with (
            subprocess.Popen(
                ["docker", "start", "-ai", "one"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
            contextlib.ExitStack() as stack,
        ):
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"hello\n"
            process.stdin.close()
            assert process.stdout.read(3) == b"eof"
            self.docker("kill", "one")
            assert process.wait(10) == 137

    def test_events_images_volumes(self) -> None:
        assert "container create" in self.docker("events", "--since", "1", "--until", "2")
        assert "busybox" in self.docker("images")
        assert self.docker("volume", "create", "data") == "data\n"
        assert "local" in self.docker("volume", "ls")
        assert "bridge" in self.docker("network", "ls")
        assert "Loaded image: busybox:latest" in self.docker("load", input=b"x" * 100_000)
        assert "sha256:" in self.docker("import", "-", "mine:1", input=b"x" * 1000)
        assert len(self.docker("save", "busybox")) == 200_303

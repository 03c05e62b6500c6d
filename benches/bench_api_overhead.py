"""What does the API server itself cost per request?

The life of a container (create, start, wait, inspect, remove) over one kept-alive connection to a unix
socket, against an engine that does nothing. The peer is aiohttp on uvloop, which sends back the same JSON for
the same requests without decoding a body, in the same run. The floor is a bare uvloop protocol that answers
every read with a constant: what is above it is the server's own work. Server and client have a process each;
the client is the same bare one for all. One JSON object goes to stdout, a table to stderr.

    python benches/bench_api_overhead.py [--lives N]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BODY = json.dumps(
    {
        "Image": "busybox",
        "Cmd": ["true"],
        "Env": ["A=1", "PATH=/usr/bin:/bin"],
        "Labels": {"bench": "api"},
        "HostConfig": {"NetworkMode": "bridge", "AutoRemove": False, "Memory": 67108864, "CapDrop": ["ALL"]},
    }
).encode()

VERBS = ("create", "start", "wait", "inspect", "remove")


def request(method: str, target: str, body: bytes = b"") -> bytes:
    """A request as docker's clients send it."""
    head = f"{method} /v1.51{target} HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n"
    if body:
        head += "Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """A blocking client that reads just enough HTTP."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def ask(self, data: bytes) -> bytes:
        """Send a request, return the body of its answer."""
        self._socket.sendall(data)
        answer = self._socket.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += self._socket.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        head = head.lower()
        if b"transfer-encoding: chunked" in head:
            while not body.endswith(b"0\r\n\r\n"):
                body += self._socket.recv(65536)
        elif b"content-length:" in head:
            size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            while len(body) < size:
                body += self._socket.recv(65536)
        return body

    def life(self, number: int) -> list[int]:
        """Nanoseconds of each verb in one container's life."""
        id = json.loads(self.ask(request("POST", f"/containers/create?name=c{number}", BODY)))["Id"]
        asks = (
            request("POST", f"/containers/create?name=d{number}", BODY),
            request("POST", f"/containers/{id}/start"),
            request("POST", f"/containers/{id}/wait?condition=next-exit"),
            request("GET", f"/containers/{id}/json"),
            request("DELETE", f"/containers/{id}?force=1&v=1"),
        )
        times = []
        for data in asks:
            before = time.perf_counter_ns()
            self.ask(data)
            times.append(time.perf_counter_ns() - before)
        return times


class IdleContainers:
    """An engine that answers at once and keeps nothing."""

    def __init__(self) -> None:
        from proa.schema.container import ContainerConfig, HostConfig
        from proa.schema.container_state import (
            ContainerCreateResponse,
            ContainerInspectResponse,
            ContainerState,
            ContainerWaitResponse,
        )
        from proa.schema.network import NetworkSettings

        self._created = ContainerCreateResponse(id="c" * 64, warnings=[])
        self._inspected = ContainerInspectResponse(
            id="c" * 64,
            created="2026-01-02T03:04:05.000000006Z",
            state=ContainerState(status="exited"),
            host_config=HostConfig(),
            config=ContainerConfig(),
            network_settings=NetworkSettings(ports={}, networks={}),
            mounts=[],
        )
        self._exit = ContainerWaitResponse(status_code=0)

    async def create(self, name: object, body: object, platform: object) -> object:
        return self._created

    async def start(self, ref: str, detach_keys: str) -> None:
        return

    async def wait(self, ref: str, condition: str) -> "asyncio.Future[object]":
        future = asyncio.get_running_loop().create_future()
        future.set_result(self._exit)
        return future

    async def inspect(self, ref: str, *, size: bool) -> object:
        return self._inspected

    async def remove(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None:
        return


class IdleEngine:
    """Containers, and no more."""

    def __init__(self) -> None:
        self.containers = IdleContainers()


def serve_proa(path: str, ready: "multiprocessing.synchronize.Event") -> None:
    """The server under test."""
    from proa.api.server import serve
    from proa.schema.config import DaemonConfig

    async def main() -> None:
        await serve(IdleEngine(), DaemonConfig(hosts=(f"unix://{path}",)))  # type: ignore[arg-type]
        ready.set()
        await asyncio.get_running_loop().create_future()

    uvloop.run(main())


def serve_aiohttp(path: str, ready: "multiprocessing.synchronize.Event") -> None:
    """The peer: the same answers, encoded beforehand."""
    import msgspec
    from aiohttp import web

    containers = IdleContainers()
    encode = msgspec.json.encode

    def answer(status: int, body: object = None) -> object:
        data = None if body is None else encode(body)

        async def handle(request: web.Request) -> web.Response:
            if request.can_read_body:
                await request.read()
            return web.Response(status=status, body=data, content_type="application/json")

        return handle

    async def main() -> None:
        app = web.Application()
        root = "/v1.51/containers"
        app.router.add_post(f"{root}/create", answer(201, containers._created))
        app.router.add_post(root + "/{id}/start", answer(204))
        app.router.add_post(root + "/{id}/wait", answer(200, containers._exit))
        app.router.add_get(root + "/{id}/json", answer(200, containers._inspected))
        app.router.add_delete(root + "/{id}", answer(204))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        ready.set()
        await asyncio.get_running_loop().create_future()

    uvloop.run(main())


class Constant(asyncio.Protocol):
    """Says the same to everything."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"Id":"c"}')


def serve_constant(path: str, ready: "multiprocessing.synchronize.Event") -> None:
    """The floor: no HTTP at all."""

    async def main() -> None:
        await asyncio.get_running_loop().create_unix_server(Constant, path)
        ready.set()
        await asyncio.get_running_loop().create_future()

    uvloop.run(main())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(serve: "object", lives: int) -> dict[str, float]:
    """Median round trips in microseconds by verb, requests per second, server CPU per request."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        server = context.Process(target=serve, args=(path, ready), daemon=True)  # type: ignore[arg-type]
        server.start()
        try:
            ready.wait(30)
            client = Client(path)
            for number in range(lives // 10):
                client.life(number)
            cpu, start = cpu_seconds(server.pid or 0), time.perf_counter()
            times = [client.life(number) for number in range(lives)]
            wall, cpu = time.perf_counter() - start, cpu_seconds(server.pid or 0) - cpu
        finally:
            server.kill()
            server.join()
    requests = lives * (len(VERBS) + 1)
    medians = {
        verb: statistics.median(column) / 1e3
        for verb, column in zip(VERBS, zip(*times, strict=True), strict=True)
    }
    return {**medians, "requests_per_s": requests / wall, "server_cpu_us": cpu / requests * 1e6}


def main() -> None:
    """Measure both, print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=3000, help="containers created per server")
    lives = parser.parse_args().lives
    floor, ours, peer = (measure(serve, lives) for serve in (serve_constant, serve_proa, serve_aiohttp))
    ratio = {
        key: (ours[key] / peer[key] if key == "requests_per_s" else peer[key] / ours[key]) for key in ours
    }
    result = {"floor": floor, "proa": ours, "aiohttp": peer, "times_better": ratio}
    json.dump({"bench": "api_overhead", "lives": lives, **result}, sys.stdout)
    print()
    print(f"{'us':>15} {'floor':>10} {'proa':>10} {'aiohttp':>10}", file=sys.stderr)
    for key in ours:
        print(
            f"{key:>15} {floor[key]:10.1f} {ours[key]:10.1f} {peer[key]:10.1f} {ratio[key]:6.1f} x",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()

"""`proa registry serve` on a loop of its own thread, over the network, for clients that block."""

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import uvloop

from proa import registryd

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Answer:
    """One response; `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The specification's error code."""
        error: str = json.loads(self.body)["errors"][0]["code"]
        return error


class RegistryThread:
    """A registry over `root`, started with the words of its command line."""

    def __init__(self, root: Path, *words: str) -> None:
        self.root = root
        self.address = ""
        self._words = words
        self._stop: Callable[[], object]
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))

    async def _main(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        words = ["serve", "--root", str(self.root), "--addr", "127.0.0.1:0", *self._words]
        try:
            async with AsyncExitStack() as stack:
                options = registryd.parser().parse_args(words)
                (address,) = await registryd.start(options, stack)
                self._ready.set_result(address.removeprefix("tcp://"))
                await stop.wait()
        except BaseException as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)

    def __enter__(self) -> "RegistryThread":
        self._thread.start()
        try:
            self.address = self._ready.result(10)
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        self._thread.join()

    def connect(self) -> socket.socket:
        """A connection, to send bytes as they are."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def push_blob(self, repository: str, data: bytes) -> str:
        """POST and PUT; the digest."""
        digest = digest_of(data)
        begun = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        assert begun.status == 202, begun
        done = self.call("PUT", f"{begun.headers['location']}?digest={digest}", data)
        assert done.status == 201, done
        return digest

    def push_image(self, repository: str, reference: str = "latest", salt: str = "", **more: object) -> str:
        """An image of one layer; the manifest's digest. `more` goes into the manifest."""
        config, layer = b'{"salt":"%s"}' % salt.encode(), b"layer" + salt.encode()
        self.push_blob(repository, config)
        self.push_blob(repository, layer)
        data = image(config, layer, **more)
        reference = reference or digest_of(data)
        answer = self.call("PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": MANIFEST})
        assert answer.status == 201, answer
        return digest_of(data)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def descriptor(data: bytes, media_type: str) -> dict[str, object]:
    """What describes it."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(config: bytes, *layers: bytes, **more: object) -> bytes:
    """An image manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
    }
    return json.dumps(document | more).encode()

"""A registry of a few lines that misbehaves as a test wants: for the client alone, on the test's own loop.

It keeps manifests, blobs and uploads in memory, records every request, and asks `fault` first: a Reply from
there goes out instead of the right answer.
"""

import asyncio
import hashlib
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from proa.schema.oci import CONFIG, LAYER, MANIFEST, Descriptor


def digest(data: bytes) -> str:
    """Of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str = LAYER, **more: Any) -> Descriptor:
    """Of a blob."""
    return Descriptor(media_type=media_type, digest=digest(data), size=len(data), **more)


@dataclass
class Seen:
    """One request; names of headers in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def line(self) -> str:
        """`GET /v2/`."""
        return f"{self.method} {self.path}"


@dataclass
class Reply:
    """What goes out; `cut` ends the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    chunked: bool = False


def refusal(status: int, code: str, message: str, **headers: str) -> Reply:
    """A registry's error."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class ScriptedRegistry:
    """`async with ScriptedRegistry() as registry:`; `host` is its name in references."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.port = port
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.seen: list[Seen] = []
        self.fault: Callable[[Seen], Reply | None] = lambda request: None
        self.upload_limit: int | None = None
        """Bytes of a request's body after which the connection is cut, once."""
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def __aenter__(self) -> "ScriptedRegistry":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if self._tls else 'http'}://{self.host}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def lines(self) -> list[str]:
        """The requests so far."""
        return [seen.line for seen in self.seen]

    def put(self, name: str, reference: str, document: Any, media_type: str = MANIFEST) -> Descriptor:
        """Store a manifest under a tag and its digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for key in (reference, digest(data)):
            self.manifests[name, key] = (media_type, data)
        return Descriptor(media_type=media_type, digest=digest(data), size=len(data))

    def image(self, name: str, tag: str, *layers: bytes) -> Descriptor:
        """Store an image of these layers."""
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        for blob in (config, *layers):
            self.blobs[digest(blob)] = blob
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": digest(one), "size": len(one)} for one in layers],
        }
        return self.put(name, tag, document)

    # ---- HTTP ------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":
            # A TLS client's hello, which every HTTP server answers at once.
            return await self._send(writer, "GET", Reply(400, cut=0))
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rows = head.strip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
        path, _, query = target.partition("?")
        length = int(headers.get("content-length", "0"))
        cut = self.upload_limit is not None and length > self.upload_limit
        body = await reader.readexactly(self.upload_limit if cut and self.upload_limit else length)
        seen = Seen(method, path, parse_qs(query), headers, body)
        self.seen.append(seen)
        if cut:
            self.upload_limit = None
            self._received(seen)
            return False
        reply = self.fault(seen) or self._answer(seen)
        return await self._send(writer, method, reply)

    async def _send(self, writer: asyncio.StreamWriter, method: str, reply: Reply) -> bool:
        headers = dict(reply.headers)
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.setdefault("Content-Length", str(len(reply.body)))
        rows = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} Status\r\n{rows}\r\n".encode("latin-1"))
        body = b"" if method == "HEAD" else reply.body[: reply.cut]
        if reply.chunked:
            half = len(body) // 2
            for part in (body[:half], body[half:], b""):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        else:
            writer.write(body)
        await writer.drain()
        return reply.cut is None

    # ---- the distribution-spec ---------------------------------------------------------------------

    def _answer(self, seen: Seen) -> Reply:
        if seen.path == "/v2/":
            return Reply(200, b"{}")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|blobs/uploads|tags|referrers)/([^/]*)", seen.path)
        if match is None:
            return refusal(404, "NAME_UNKNOWN", "repository name not known to registry")
        name, kind, what = match.groups()
        if kind == "manifests":
            return self._manifest(seen, name, what)
        if kind == "blobs":
            return self._blob(seen, what)
        if kind == "blobs/uploads":
            return self._upload(seen, name, what)
        if kind == "tags":
            tags = sorted(tag for found, tag in self.manifests if found == name and ":" not in tag)
            return Reply(200, json.dumps({"name": name, "tags": tags}).encode())
        return refusal(404, "UNSUPPORTED", "no referrers here")

    def _manifest(self, seen: Seen, name: str, what: str) -> Reply:
        if seen.method == "PUT":
            found = self.put(name, what, seen.body, seen.headers["content-type"])
            return Reply(201, b"", {"Docker-Content-Digest": found.digest})
        if (name, what) not in self.manifests:
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = self.manifests[name, what]
        return Reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest(data)})

    def _blob(self, seen: Seen, what: str) -> Reply:
        data = self.blobs.get(what)
        if data is None:
            return refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
        match = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if match:
            start = int(match[1])
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Reply(206, data[start:], {"Content-Range": span})
        return Reply(200, data)

    def _received(self, seen: Seen) -> None:
        """What came of a body whose connection was cut."""
        if seen.method in ("PUT", "PATCH"):
            self.uploads[seen.path.rpartition("/")[2]] += seen.body

    def _upload(self, seen: Seen, name: str, session: str) -> Reply:
        if seen.method == "POST":
            mounted = seen.query.get("mount", [""])[0]
            if mounted in self.blobs and "from" in seen.query:
                return Reply(201, b"", {"Docker-Content-Digest": mounted})
            session = f"s{len(self.uploads)}"
            self.uploads[session] = bytearray()
            return Reply(202, b"", {"Location": f"/v2/{name}/blobs/uploads/{session}"})
        if session not in self.uploads:
            return refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        kept = self.uploads[session]
        location = {"Location": seen.path, "Range": f"0-{max(0, len(kept) - 1)}"}
        if seen.method == "GET":
            return Reply(204, b"", location)
        if seen.method == "PATCH":
            start = int(seen.headers.get("content-range", "0-").partition("-")[0])
            if start != len(kept):
                return refusal(416, "RANGE_INVALID", "invalid content range")
            kept += seen.body
            return Reply(202, b"", {**location, "Range": f"0-{len(kept) - 1}"})
        kept += seen.body
        wanted = seen.query["digest"][0]
        if digest(bytes(kept)) != wanted:
            return refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs[wanted] = bytes(kept)
        return Reply(201, b"", {"Docker-Content-Digest": wanted})

"""Volume drivers of others, over Docker's plugin protocol: JSON in a POST to a socket.

A plugin called `name` listens on <directory>/name.sock (or <directory>/name/name.sock), or a file
/etc/docker/plugins/name.spec or name.json says where. It is asked only when somebody wants it: nothing is
kept open, nothing is remembered but that it answered to Activate. What it replies is bounded in size and
time, and looked at before it is believed: names as volumes have them, mount points that are absolute.

Source: docs.docker.com, "Docker Engine plugin API" and "Docker volume plugins".
"""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct, field

from proa.errors import NotFound, System

if TYPE_CHECKING:
    import ssl

SOCKETS = ("/run/docker/plugins",)
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")

CONNECT_SECONDS = 5.0
SHORT_SECONDS = 60.0
"""What a plugin knows without doing anything, as dockerd has it."""
LONG_SECONDS = 120.0
LIST_SECONDS = 5.0
"""`volume ls` and `inspect` wait no longer for one that does not answer."""

_REPLY_LIMIT = 1 << 20
_SPEC_LIMIT = 1 << 16
_TEXT_LIMIT = 1024
_PATH_LIMIT = 4096
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")
_ACCEPT = "application/vnd.docker.plugins.v1.2+json"


class PluginVolume(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A volume as its driver shows it."""

    name: str = ""
    mountpoint: str = ""
    created_at: str = ""
    status: dict[str, object] | None = None


class _Capabilities(Struct, frozen=True, kw_only=True, rename="pascal"):
    scope: str = "local"


class _Reply(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Every reply of the protocol in one."""

    err: str = ""
    implements: list[str] | None = None
    mountpoint: str | None = ""
    volume: PluginVolume | None = None
    volumes: list[PluginVolume] | None = None
    capabilities: _Capabilities | None = None


class _TLS(Struct, frozen=True, kw_only=True):
    insecure_skip_verify: bool = field(name="InsecureSkipVerify", default=False)
    ca_file: str = field(name="CAFile", default="")
    cert_file: str = field(name="CertFile", default="")
    key_file: str = field(name="KeyFile", default="")


class _Spec(Struct, frozen=True, kw_only=True, rename="pascal"):
    addr: str = ""
    tls_config: _TLS | None = field(name="TLSConfig", default=None)


class _Address(NamedTuple):
    text: str
    tls: _TLS | None = None


_encode = msgspec.json.encode
_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_spec = msgspec.json.Decoder(_Spec).decode


class Plugins:
    """The volume drivers that this host has beside the local one."""

    def __init__(
        self,
        *,
        sockets: Sequence[str] = SOCKETS,
        specs: Sequence[str] = SPECS,
        short: float = SHORT_SECONDS,
        long: float = LONG_SECONDS,
        listing: float = LIST_SECONDS,
    ) -> None:
        """Directories, in order, and how many seconds each kind of call may take."""
        self._sockets = sockets
        self._specs = specs
        self._short = short
        self._long = long
        self._listing = listing
        self._active: dict[str, _Address] = {}
        """Drivers that said they are some, by where that was."""

    def names(self) -> list[str]:
        """Of all plugins that there may be; what they implement is not known."""
        found = set()
        for directory in (*self._sockets, *self._specs):
            with suppress(OSError):
                for entry in os.scandir(directory):
                    name = entry.name.removesuffix(".sock").removesuffix(".spec").removesuffix(".json")
                    if _NAME.fullmatch(name) and self._find(name) is not None:
                        found.add(name)
        return sorted(found)

    async def create(self, driver: str, name: str, options: Mapping[str, str]) -> None:
        """Idempotent with drivers that are. Raises NotFound (driver), System."""
        await self._call(driver, "Create", {"Name": name, "Opts": dict(options)}, self._long)

    async def remove(self, driver: str, name: str) -> None:
        """Raises NotFound (driver), System."""
        await self._call(driver, "Remove", {"Name": name}, self._long)

    async def mount(self, driver: str, name: str, holder: str) -> str:
        """Where it is mounted for `holder`, an id of the caller's own. Raises NotFound (driver), System."""
        reply = await self._call(driver, "Mount", {"Name": name, "ID": holder}, self._long)
        return _mountpoint(driver, reply.mountpoint or "")

    async def unmount(self, driver: str, name: str, holder: str) -> None:
        """Raises NotFound (driver), System."""
        await self._call(driver, "Unmount", {"Name": name, "ID": holder}, self._long)

    async def get(self, driver: str, name: str) -> PluginVolume:
        """Raises NotFound (driver), System."""
        reply = await self._call(driver, "Get", {"Name": name}, self._listing)
        if reply.volume is None or reply.volume.name != name:
            raise System(f"VolumeDriver.Get: {driver} knows no volume {name}")
        return reply.volume

    async def list(self, driver: str) -> list[PluginVolume]:
        """Raises NotFound (driver), System."""
        reply = await self._call(driver, "List", {}, self._listing)
        return [volume for volume in reply.volumes or () if _VOLUME.fullmatch(volume.name)]

    async def scope(self, driver: str) -> str:
        """`local` or `global`. Raises NotFound (driver)."""
        try:
            reply = await self._call(driver, "Capabilities", {}, self._listing)
        except System:
            return "local"  # drivers need not have it
        scope = reply.capabilities.scope if reply.capabilities else ""
        return scope if scope in ("local", "global") else "local"

    # ---- the protocol ----------------------------------------------------------------------------

    async def _call(self, driver: str, method: str, body: object, seconds: float) -> _Reply:
        address = self._find(driver)
        if address is None:
            raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
        if self._active.get(driver) != address:
            reply = await _post(address, "Plugin.Activate", {}, min(seconds, self._short))
            if "VolumeDriver" not in (reply.implements or ()):
                raise NotFound(
                    f"error looking up volume plugin {driver}: "
                    f'plugin "{driver}" does not implement the requested interface'
                )
            self._active[driver] = address
        try:
            reply = await _post(address, f"VolumeDriver.{method}", body, seconds)
        except System:
            self._active.pop(driver, None)
            raise
        if reply.err:
            raise System(f"VolumeDriver.{method}: {_plain(reply.err)}")
        return reply

    def _find(self, name: str) -> _Address | None:
        if not _NAME.fullmatch(name):
            return None
        for directory in self._sockets:
            for path in (f"{directory}/{name}.sock", f"{directory}/{name}/{name}.sock"):
                if os.path.exists(path):
                    return _Address(f"unix://{path}")
        for directory in self._specs:
            for ending in ("spec", "json"):
                for path in (f"{directory}/{name}.{ending}", f"{directory}/{name}/{name}.{ending}"):
                    if (found := _read_spec(path, ending)) is not None:
                        return found
        return None


def _read_spec(path: str, ending: str) -> _Address | None:
    try:
        with open(path, "rb") as file:
            content = file.read(_SPEC_LIMIT)
        if ending == "spec":
            return _Address(content.decode().strip())
        spec = _decode_spec(content)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return None
    return _Address(spec.addr, spec.tls_config)


async def _post(address: _Address, method: str, body: object, seconds: float) -> _Reply:
    """One request on a connection of its own. Raises System."""
    try:
        async with asyncio.timeout(seconds):
            status, content = await _exchange(address, method, _encode(body))
    except TimeoutError as exc:
        raise System(f"{method}: {address.text} did not answer within {seconds:g} seconds") from exc
    except OSError as exc:
        where = address.text.replace("://", " ")
        reason = (os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)).lower()
        raise System(f"{method}: dial {where}: connect: {reason}") from exc
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        raise System(f"{method}: {address.text} answered with no HTTP") from exc
    try:
        reply = _decode_reply(content or b"{}")
    except msgspec.DecodeError as exc:
        if status != 200:
            raise System(f"{method}: {_plain(content.decode(errors='replace'))}") from exc
        raise System(f"{method}: {address.text} answered with no reply of the protocol: {exc}") from exc
    if status != 200 and not reply.err:
        raise System(f"{method}: {address.text} answered with status {status}")
    return reply


async def _exchange(address: _Address, method: str, body: bytes) -> tuple[int, bytes]:
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await _connect(address)
    try:
        # HTTP/1.0: the answer ends with the connection, and comes in no chunks.
        writer.write(
            f"POST /{method} HTTP/1.0\r\nHost: plugin\r\nAccept: {_ACCEPT}\r\n"
            f"Content-Type: {_ACCEPT}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        protocol, status = head.split(b" ", 2)[:2]
        if not protocol.startswith(b"HTTP/1.") or b"transfer-encoding:" in head.lower():
            raise ValueError("no HTTP/1.0")
        length = re.search(rb"\r\ncontent-length: *(\d{1,18})\r\n", head, re.IGNORECASE)
        return int(status), await _read_body(reader, int(length[1]) if length else None)
    finally:
        writer.transport.abort()


async def _read_body(reader: asyncio.StreamReader, length: int | None) -> bytes:
    """To its length, or to the end; nothing that is too long. Raises ValueError."""
    content = bytearray()
    while length is None or len(content) < length:
        if (length or len(content)) > _REPLY_LIMIT:
            raise ValueError("too long")
        piece = await reader.read(1 << 16)
        if not piece:
            break
        content += piece
    return bytes(content if length is None else content[:length])


async def _connect(address: _Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    scheme, _, rest = address.text.partition("://")
    if scheme == "unix":
        return await asyncio.open_unix_connection(rest)
    if scheme not in ("tcp", "http", "https"):
        raise ValueError(f"a plugin's address is unix or tcp: {address.text}")
    host, _, port = rest.rstrip("/").rpartition(":")
    context = _tls_context(address.tls) if address.tls is not None or scheme == "https" else None
    return await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)


def _tls_context(tls: _TLS | None) -> "ssl.SSLContext":
    import ssl

    wanted = tls or _TLS()
    context = ssl.create_default_context(cafile=wanted.ca_file or None)
    if wanted.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if wanted.cert_file:
        context.load_cert_chain(wanted.cert_file, wanted.key_file or None)
    return context


def _mountpoint(driver: str, path: str) -> str:
    """A path that may become a bind source: absolute, and as it will be read."""
    if not path.startswith("/") or len(path) > _PATH_LIMIT or not path.isprintable():
        raise System(
            f"VolumeDriver.Mount: {driver} gave a mount point that is no absolute path: {_plain(path)!r}"
        )
    return os.path.normpath(path)


def _plain(text: str) -> str:
    """What a stranger says, fit for one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text.strip()[:_TEXT_LIMIT])

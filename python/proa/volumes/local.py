"""The local driver's options `type`, `o`, `device`, `size`, and the mount that they ask for.

A volume with a type is a file system of its own, mounted over its `_data` for as long as a container uses it:
tmpfs, nfs, a block device, an image in a file (a loop device is found for it), or a bind (`o=bind`).
The words of `o` are mount(8)'s: some are attributes of the mount, the rest goes to the file system as it is.

Source: moby daemon/volume/local/local_unix.go; mount(8), mount_setattr(2).
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from proa.errors import InvalidParameter, System
from proa.sizes import parse_size

_KNOWN = frozenset({"type", "o", "device", "size"})
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_ATTRIBUTES = {
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "noatime": 0x10,
    "strictatime": 0x20,
    "nodiratime": 0x80,
}
"""MOUNT_ATTR_*, linux/mount.h."""
_READ_ONLY = 0x1
_NO_CHANGE = frozenset(
    [
        *("rw", "suid", "dev", "exec", "async", "atime", "diratime", "relatime", "defaults", "loop"),
        *("auto", "noauto", "nofail", "_netdev", "private", "rprivate", "slave", "rslave"),
    ]
)
"""Words that say what is so anyway."""
_MOUNTERS = 4
"""Threads for mounts: one that waits for a server that does not answer holds up volumes only."""


class NativeMounts(Protocol):
    """The calls of proa_native; they block, and fail with OSError."""

    def mount_filesystem(
        self, target: str, kind: str, source: str, options: Sequence[str], *, attributes: int = 0
    ) -> None: ...
    def mount_bind(
        self, target: str, source: str, *, recursive: bool = False, attributes: int = 0
    ) -> None: ...
    def unmount(self, target: str) -> bool: ...
    def is_mounted(self, target: str) -> bool: ...
    def has_project_quota(self, directory: str) -> bool: ...
    def limit_directory(self, directory: str, size: int) -> None: ...


class Device(Struct, frozen=True, kw_only=True):
    """What a volume's options make of it."""

    kind: str
    source: str
    options: tuple[str, ...]
    attributes: int
    bind: bool
    recursive: bool


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raises InvalidParameter, in Docker's words."""
    for option in options:
        if option not in _KNOWN:
            raise InvalidParameter(f'create {name}: invalid option: "{option}"')
    for option, needed in _NEEDS.items():
        if option not in options:
            continue
        for other in needed:
            if not options.get(other):
                raise InvalidParameter(f'create {name}: missing required option: "{other}"')
    if any("\0" in text for text in options.values()):
        raise InvalidParameter(f"create {name}: invalid option: contains a nul character")
    if "size" in options:
        try:
            parse_size(options["size"])
        except ValueError as exc:
            raise InvalidParameter(f"create {name}: invalid size: '{options['size']}'") from exc
    if "type" in options:
        parse_device(options)


def parse_device(options: Mapping[str, str]) -> Device:
    """The mount of checked options."""
    kind, words = options["type"], [word for word in options.get("o", "").split(",") if word]
    attributes, rest, bind, recursive = 0, [], False, False
    for word in words:
        if word in ("bind", "rbind"):
            bind, recursive = True, recursive or word == "rbind"
        elif word == "ro":
            attributes |= _READ_ONLY
            rest.append(word)
        elif word in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[word]
        elif word == "remount":
            raise InvalidParameter("invalid mount option: remount")
        elif word not in _NO_CHANGE:
            rest.append(word)
    if bind:
        rest = []
    return Device(
        kind=kind,
        source=options["device"],
        options=tuple(rest),
        attributes=attributes,
        bind=bind,
        recursive=recursive,
    )


class LocalMounts:
    """Mounts volumes of the local driver, in threads of its own."""

    def __init__(
        self, native: NativeMounts, *, resolve: Callable[[str], str] = lambda host: _address(host)
    ) -> None:
        """`resolve` gives the address of a server's name; blocks, raises OSError."""
        self._native = native
        self._resolve = resolve
        self._threads: ThreadPoolExecutor | None = None

    async def mount(self, path: str, options: Mapping[str, str]) -> None:
        """Mount what the options say over `path`, unless something is. Raises System in Docker's words."""
        await self._run(self._mount, path, dict(options))

    async def unmount(self, path: str) -> None:
        """Unmount it; nothing mounted is no error. Raises System."""
        await self._run(self._unmount, path)

    def limit(self, name: str, path: str, size: int) -> None:
        """Bound an empty directory. Raises InvalidParameter where its file system cannot."""
        try:
            if not self._native.has_project_quota(path):
                raise InvalidParameter(f"create {name}: quota size requested but no quota support")
            self._native.limit_directory(path, size)
        except OSError as exc:
            raise System(f"create {name}: {exc.strerror or exc}") from exc

    def lift(self, path: str) -> None:
        """Give a directory's limit back before it is removed, where its file system still knows of any."""
        with suppress(OSError):
            if self._native.has_project_quota(path):
                self._native.limit_directory(path, 0)

    def close(self) -> None:
        """Wait for none that hangs."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[..., None], *arguments: object) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_MOUNTERS, thread_name_prefix="proad-mount")
        await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def _mount(self, path: str, options: dict[str, str]) -> None:
        device = parse_device(options)
        try:
            if self._native.is_mounted(path):
                return
            if device.bind:
                self._native.mount_bind(
                    path, device.source, recursive=device.recursive, attributes=device.attributes
                )
                return
            words = list(device.options)
            if device.kind in ("nfs", "nfs4", "cifs"):
                words = _with_address(words, device.source, self._resolve)
            self._native.mount_filesystem(
                path, device.kind, device.source, words, attributes=device.attributes
            )
        except OSError as exc:
            data = re.sub(r"password=[^,]*", "password=********", options.get("o", ""))
            told = f"mount {device.source}:{path}" + (f", data: {data}" if data else "")
            raise System(
                f"error while mounting volume '{path}': failed to mount local volume: {told}: {_reason(exc)}"
            ) from exc

    def _unmount(self, path: str) -> None:
        try:
            self._native.unmount(path)
        except OSError as exc:
            raise System(f"error while unmounting volume '{path}': {_reason(exc)}") from exc


def _with_address(words: list[str], source: str, resolve: Callable[[str], str]) -> list[str]:
    """The kernel resolves no names: `addr=` becomes an address, taken from the device where it is missing."""
    named = next((word.removeprefix("addr=") for word in words if word.startswith("addr=")), "")
    host = named or (source[2:].partition("/")[0] if source.startswith("//") else source.rpartition(":/")[0])
    kind_words = [word for word in words if not word.startswith("addr=")]
    return [*kind_words, f"addr={resolve(host.strip('[]'))}"] if host else words


def _address(host: str) -> str:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


def _reason(exc: OSError) -> str:
    """The kernel's word, with what the file system added to it."""
    if isinstance(exc, socket.gaierror):
        return str(exc.strerror or exc).lower()
    added = re.search(r" \((.*)\): [^()]*$", exc.strerror or "", re.DOTALL)
    reason = os.strerror(exc.errno or 0).lower()
    return f"{reason} ({added[1]})" if added else reason

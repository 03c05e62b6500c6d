"""The firewall watched: somebody flushes the ruleset, and it is written again at once.

The kernel tells of each change of nftables and who made it. Only what others do to our table, or the end of a
whole ruleset, matters; a burst of such news is one rewrite. While a table is missing for this moment, packets
of connections that stand are passed on by the kernel's connection tracking, which a flush does not touch.

Source: NFNLGRP_NFTABLES and `nf_tables_gen_notify` in the kernel's net/netfilter/nf_tables_api.c.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

from proa.network.netlink import NETFILTER, attributes
from proa.network.nftables import GROUP

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SUBSYSTEM = 10 << 8
_DELETIONS = {_SUBSYSTEM | kind for kind in (2, 5, 8, 11, 14)}
"""Of a table, chain, rule, set, set element."""
_HEADER = struct.Struct("=IHHII")
_GENERIC = 4

_log = logging.getLogger(__name__)


class Watch:
    """Calls back when something of a table was deleted by another process."""

    def __init__(self, table: str, flushed: Callable[[], Awaitable[None]]) -> None:
        self._table = table.encode() + b"\0"
        self._flushed = flushed
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def start(self) -> None:
        """Begin; a kernel without nftables is no error."""
        if self._socket is not None:
            return
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        try:
            made.setblocking(False)
            made.bind((0, 0))
            made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, GROUP)
        except OSError as exc:
            made.close()
            _log.debug("the firewall is not watched: %s", exc)
            return
        self._socket = made
        asyncio.get_running_loop().add_reader(made, self._readable)

    def close(self) -> None:
        """Stop."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()

    def _readable(self) -> None:
        from proa.network.firewall import own_sockets

        hit = False
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: news was lost, so it may have been of ours
                hit = True
                continue
            hit = hit or self.concerns(data, own_sockets.__contains__)
        if hit:
            self._tell()

    def concerns(self, data: bytes, ours: Callable[[int], bool]) -> bool:
        """Whether news tells of something of our table that another's socket has deleted."""
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _, _, sender = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return False
            if kind in _DELETIONS and not ours(sender):
                body = data[offset + _HEADER.size + _GENERIC : offset + length]
                if dict(attributes(body)).get(1) == self._table:
                    return True
            offset += length + (-length % 4)
        return False

    def _tell(self) -> None:
        if self._task is not None and not self._task.done():
            self._again = True
            return
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        _log.warning("the firewall was changed from outside; it is written again")
        while True:
            self._again = False
            await self._flushed()
            if not self._again:
                return

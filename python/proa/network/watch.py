"""The firewall watched: somebody flushes the ruleset, and it is written again at once.

The kernel tells of each change of nftables and who made it. Only what others do matters: to our table, or to
the way through another engine's firewall (docker_user.py: its chain is made, or rules of it go). A burst of
such news is one rewrite. While a table is missing for this moment, packets of connections that stand are
passed on by the kernel's connection tracking, which a flush does not touch.

Source: NFNLGRP_NFTABLES and `nf_tables_gen_notify` in the kernel's net/netfilter/nf_tables_api.c.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

from proa.network.netlink import NETFILTER, attributes
from proa.network.nftables import GROUP

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SUBSYSTEM = 10 << 8
_DELETIONS = {_SUBSYSTEM | kind for kind in (2, 5, 8, 11, 14)}
"""Of a table, chain, rule, set, set element."""
_NEW_CHAIN, _RULE_GONE = _SUBSYSTEM | 3, _SUBSYSTEM | 8
_CHAIN_ATTRIBUTE = {_NEW_CHAIN: 3, _RULE_GONE: 2}
"""Which attribute names the chain (NFTA_CHAIN_NAME, NFTA_RULE_CHAIN)."""
_HEADER = struct.Struct("=IHHII")
_GENERIC = 4

_log = logging.getLogger(__name__)


class Again:
    """A call in the background: once for all that was told before, once more for what is told meanwhile."""

    def __init__(self, call: Callable[[], Awaitable[None]]) -> None:
        self._call = call
        self._task: asyncio.Task[None] | None = None
        self._told = False

    def tell(self) -> None:
        self._told = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._told:
            self._told = False
            await self._call()


class Watch:
    """Calls back when another process has deleted something of a table, or closed the way through its own."""

    def __init__(
        self,
        table: str,
        *,
        flushed: Callable[[], Awaitable[None]],
        way_closed: Callable[[], Awaitable[None]],
    ) -> None:
        self._table = table.encode() + b"\0"
        self._flushed = Again(flushed)
        self._way_closed = Again(way_closed)
        self._socket: socket.socket | None = None

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
        self._flushed.cancel()
        self._way_closed.cancel()

    def _readable(self) -> None:
        from proa.network.firewall import own_sockets

        flushed = way_closed = False
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: news was lost, so it may have been of ours
                flushed = way_closed = True
                continue
            of_table, of_way = self.concerns(data, own_sockets.__contains__)
            flushed, way_closed = flushed or of_table, way_closed or of_way
        if flushed:
            _log.warning("the firewall was changed from outside; it is written again")
            self._flushed.tell()
        if way_closed:
            self._way_closed.tell()

    def concerns(self, data: bytes, ours: Callable[[int], bool]) -> tuple[bool, bool]:
        """Whether another has deleted something of our table; whether another has closed the way through."""
        from proa.network.docker_user import CHAIN, TABLE

        way = (TABLE.encode() + b"\0", CHAIN.encode() + b"\0")
        flushed = way_closed = False
        for kind, sender, body in _news(data):
            if ours(sender) or not (kind in _DELETIONS or kind == _NEW_CHAIN):
                continue
            fields = dict(attributes(body))
            flushed = flushed or (kind in _DELETIONS and fields.get(1) == self._table)
            way_closed = way_closed or (
                kind in _CHAIN_ATTRIBUTE and (fields.get(1), fields.get(_CHAIN_ATTRIBUTE[kind])) == way
            )
        return flushed, way_closed


def _news(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sender, attributes) of each message."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, sender = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, sender, data[offset + _HEADER.size + _GENERIC : offset + length]
        offset += length + (-length % 4)

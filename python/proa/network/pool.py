"""The pool: network namespaces that the keeper has made ready ahead of the starts that take them.

A start takes one that is there and pays nothing; the place is filled again in the background. Where a
start finds none, it waits for one of its own and the pool grows. Where a network's endpoints follow from an
IPv4 address alone, a key tells that and the configuration it was made for, so that a daemon that starts
anew knows what an older one has prepared.
"""

import asyncio
import itertools
import logging
from collections import deque
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from proa.errors import ProaError, System
from proa.network.sandbox import Endpoint, Keeper
from proa.schema.keeper import KeeperEndpoint

MAXIMUM = 64
_SETTLE_S = 0.02
"""How long after a take the refill waits: it must not stand in the way of the start that took."""
_RETRY_S = 1.0
_CUSTOM = 1 << 56
"""In a key: made for one start or one daemon; no other daemon takes it over."""

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class Offer(Struct, frozen=True, kw_only=True):
    """An endpoint that is the taker's, to be prepared; its addresses are held."""

    key: int | None
    """None where it does not tell the address."""
    endpoint: Endpoint
    wire: KeeperEndpoint


class Prepared(Struct, frozen=True, kw_only=True):
    """A namespace that is ready: its key, and its endpoint (without the host's interface, if an older
    daemon prepared it).
    """

    key: int
    endpoint: Endpoint


class Source(Protocol):
    """The network whose endpoints these are."""

    @property
    def shape(self) -> int:
        """24 bits that mark its keys."""
        ...

    @property
    def spare(self) -> bool:
        """Whether there are addresses for one more."""
        ...

    async def offer(self) -> Offer:
        """A new endpoint. Raises ProaError when there is none."""
        ...

    def claim(self, key: int) -> Endpoint | None:
        """The endpoint that a key of an earlier daemon tells of, held now; None where it cannot be."""
        ...

    def free_endpoint(self, endpoint: Endpoint) -> None:
        """Its addresses come free. Idempotent."""
        ...


def custom_key(shape: int = 0) -> int:
    """A key that tells nothing, and that no other daemon will use."""
    return _CUSTOM | shape << 32 | next(_numbers) & 0xFFFFFFFF


class Pool:
    """Prepared namespaces of one bridge network."""

    def __init__(self, keeper: Keeper, source: Source, *, size: int, eager: bool = True) -> None:
        """`size` is how many it holds at least, from its first use on unless it is `eager`; 0 for a pool that
        never holds any.
        """
        self._keeper = keeper
        self._source = source
        self._least = max(0, min(size, MAXIMUM))
        self._size = self._least if eager else 0
        self._ready: deque[Prepared] = deque()
        self._refill: asyncio.Task[None] | None = None
        self._settle: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def size(self) -> int:
        """How many it means to hold."""
        return self._size

    async def take(self, *, named: bool = False) -> Prepared:
        """One that is the caller's from now on: ready already, or made for it. Raises ProaError.

        `named` asks for one whose interface at the host's end is known, which one that an older daemon
        prepared is not.
        """
        if self._ready and not (named and not self._ready[0].endpoint.host_interface):
            prepared = self._ready.popleft()
            self._shrink()
            self._schedule()
            return prepared
        if not self._ready:
            self._size = min(max(self._least, self._size * 2), MAXIMUM) if self._least else 0
            self._schedule()
        try:
            return await self._prepare()
        except System:
            # The last address may be the one that is being made ready.
            if self._refill is not None and not self._refill.done():
                await asyncio.wait([self._refill])
            if not self._ready:
                raise
            return self._ready.popleft()

    async def keeper_changed(self, prepared: set[int]) -> set[int]:
        """Make the pool agree with the keys that the keeper holds: a new keeper has none.

        Returns the keys that are the pool's. Those of its shape that it does not know are an older
        daemon's: they are taken over.
        """
        lost = [p for p in self._ready if p.key not in prepared]
        self._ready = deque(p for p in self._ready if p.key in prepared)
        for gone in lost:
            self._source.free_endpoint(gone.endpoint)
        mine = {p.key for p in self._ready}
        for key in sorted(prepared - mine):
            if key >> 32 != self._source.shape:
                continue
            endpoint = self._source.claim(key)
            if endpoint is not None:
                mine.add(key)
                self._ready.append(Prepared(key=key, endpoint=endpoint))
        self.fill()
        return mine

    def fill(self) -> None:
        """Start filling the pool, if it is not full or being filled."""
        self._settle = None
        if (
            not self._closed
            and len(self._ready) < self._size
            and (self._refill is None or self._refill.done())
        ):
            self._refill = asyncio.get_running_loop().create_task(self._fill())

    async def close(self, *, release: bool = False) -> None:
        """Stop filling; with `release` what is ready is dropped, else the next daemon takes it over."""
        self._closed = True
        if self._settle is not None:
            self._settle.cancel()
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.wait([self._refill])
        while release and self._ready:
            await self.discard(self._ready.popleft())

    async def drain(self) -> None:
        """Give up all that is ready."""
        if self._refill is not None and not self._refill.done():
            await asyncio.wait([self._refill])
        while self._ready:
            await self.discard(self._ready.popleft())

    async def leave(self, addresses: set[str]) -> None:
        """Give up what has one of these addresses, which somebody asks for."""
        if self._refill is not None and not self._refill.done():
            await asyncio.wait([self._refill])
        found = [p for p in self._ready if addresses.intersection(p.endpoint.addresses)]
        for prepared in found:
            self._ready.remove(prepared)
            self._schedule()
        for prepared in found:
            await self.discard(prepared)

    async def leave_one(self) -> None:
        """Give up any one, if there is one, for somebody who is to have an address and finds none."""
        if self._refill is not None and not self._refill.done():
            await asyncio.wait([self._refill])
        if self._ready:
            await self.discard(self._ready.popleft())

    async def discard(self, prepared: Prepared) -> None:
        """One that is of no use."""
        try:
            await self._keeper.release(prepared.key)
        except ProaError as exc:
            _log.debug("release of network namespace %x: %s", prepared.key, exc)
        finally:
            self._source.free_endpoint(prepared.endpoint)

    def _schedule(self) -> None:
        """Fill soon; at once where the next takes would find little."""
        if self._closed:
            return
        if len(self._ready) * 4 <= self._size:
            self.fill()
        elif self._settle is None:
            self._settle = asyncio.get_running_loop().call_later(_SETTLE_S, self.fill)

    def _shrink(self) -> None:
        """A pool that was never near empty since it grew gives up a place with every take."""
        if self._size > self._least and len(self._ready) * 4 >= self._size * 3:
            self._size -= 1

    async def _fill(self) -> None:
        # Where addresses are used up, only who goes can change that; the next take tries again.
        while len(self._ready) < self._size and self._source.spare and not self._closed:
            try:
                self._ready.append(await self._prepare())
            except ProaError as exc:
                _log.warning("network pool: %s", exc)
                if not self._closed and self._settle is None:
                    self._settle = asyncio.get_running_loop().call_later(_RETRY_S, self.fill)
                return

    async def _prepare(self) -> Prepared:
        offer = await self._source.offer()
        key = custom_key(self._source.shape) if offer.key is None else offer.key
        try:
            interface = await self._keeper.prepare(key, offer.wire)
        except BaseException as exc:
            # When cancelled the keeper may make it all the same; the next Welcome lists its key.
            self._source.free_endpoint(offer.endpoint)
            if isinstance(exc, OSError):
                raise System(f"prepare a network namespace: {exc}") from exc
            raise
        return Prepared(key=key, endpoint=replace(offer.endpoint, host_interface=interface))

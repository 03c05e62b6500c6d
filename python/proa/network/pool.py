"""The pool: network namespaces that the keeper has made ready ahead of the starts that take them.

A start takes one that is there and pays nothing; the place is filled again in the background. Where a
start finds none, it waits for one of its own and the pool grows. A key tells the address and the
configuration it was made for, so that a daemon that starts anew knows what an older one has prepared.
"""

import asyncio
import logging
import zlib
from collections import deque

from msgspec import Struct

from proa.errors import ProaError, System
from proa.network.ipam import Addresses, mac_of, to_text
from proa.network.sandbox import Keeper
from proa.schema.keeper import KeeperEndpoint

MAXIMUM = 64
_SETTLE_S = 0.02
"""How long after a take the refill waits: it must not stand in the way of the start that took."""
_RETRY_S = 1.0
_CUSTOM = 1 << 56
"""In a key: made for one start, with a hardware address of its own; no other daemon takes it over."""

_log = logging.getLogger(__name__)


class Prepared(Struct, frozen=True, kw_only=True):
    """A namespace that is ready: its key, its address, the interface at the host's end."""

    key: int
    address: int
    mac: str
    host_interface: str = ""


class Pool:
    """Prepared namespaces of one bridge network."""

    def __init__(
        self, keeper: Keeper, addresses: Addresses, *, bridge: str, gateway: int, mtu: int, size: int
    ) -> None:
        self._keeper = keeper
        self._addresses = addresses
        self._bridge = bridge
        self._gateway = gateway
        self._mtu = mtu
        self._least = max(0, min(size, MAXIMUM))
        self._size = self._least
        self._ready: deque[Prepared] = deque()
        self._refill: asyncio.Task[None] | None = None
        self._settle: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self._closed = False
        shape = f"{bridge} {addresses.subnet} {gateway} {mtu}".encode()
        self._shape = zlib.crc32(shape) & 0xFFFFFF

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def size(self) -> int:
        """How many it means to hold."""
        return self._size

    async def take(self, mac: str = "", *, named: bool = False) -> Prepared:
        """One that is the caller's from now on: ready already, or made for it. Raises ProaError.

        `mac` asks for a hardware address that none in the pool has; `named` for one whose interface at
        the host's end is known, which one that an older daemon prepared is not.
        """
        if mac or (named and self._ready and not self._ready[0].host_interface):
            return await self._prepare(mac)
        if self._ready:
            prepared = self._ready.popleft()
            self._shrink()
            self._schedule()
            return prepared
        self._size = min(max(1, self._size * 2), MAXIMUM) if self._least else 0
        self._schedule()
        return await self._prepare()

    async def give_back(self, key: int) -> None:
        """The sandbox under this key is gone; drop what the keeper may still have of it. Idempotent."""
        try:
            await self._keeper.release(key)
        except ProaError as exc:
            _log.debug("release of network namespace %x: %s", key, exc)
        finally:
            self._addresses.free(key & 0xFFFFFFFF)

    def give_back_soon(self, key: int) -> None:
        """The same in the background; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(self.give_back(key))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def hold(self, address: int) -> None:
        """A container that runs has this address already."""
        self._addresses.hold(address)

    async def keeper_changed(self, prepared: set[int]) -> None:
        """Make the pool agree with the keys that the keeper holds: a new keeper has none.

        Keys of this pool's shape that it does not know are an older daemon's: they are taken over.
        """
        lost = [p for p in self._ready if p.key not in prepared]
        self._ready = deque(p for p in self._ready if p.key in prepared)
        for gone in lost:
            self._addresses.free(gone.address)
        for key in sorted(prepared - {p.key for p in self._ready}):
            address = key & 0xFFFFFFFF
            if key >> 32 == self._shape and self._addresses.hold(address):
                self._ready.append(Prepared(key=key, address=address, mac=mac_of(address)))
            elif key >> 32 != self._shape:
                await self._release_quietly(key)
        self.fill()

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
        if self._returning:
            await asyncio.wait(self._returning)
        while release and self._ready:
            await self.give_back(self._ready.popleft().key)

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
        while len(self._ready) < self._size and not self._closed:
            try:
                self._ready.append(await self._prepare())
            except ProaError as exc:
                _log.warning("network pool: %s", exc)
                if not self._closed and self._settle is None:
                    self._settle = asyncio.get_running_loop().call_later(_RETRY_S, self.fill)
                return

    async def _prepare(self, mac: str = "") -> Prepared:
        address = self._addresses.take()
        key = self._shape << 32 | address | (_CUSTOM if mac else 0)
        hardware = mac or mac_of(address)
        endpoint = KeeperEndpoint(
            bridge=self._bridge,
            mac=bytes.fromhex(hardware.replace(":", "")),
            mtu=self._mtu,
            addresses=(f"{to_text(address)}/{self._addresses.subnet.prefix}",),
            gateways=(to_text(self._gateway),),
        )
        try:
            interface = await self._keeper.prepare(key, endpoint)
        except asyncio.CancelledError:
            # The keeper may make it all the same: its key tells, and the next Welcome lists it.
            self._addresses.free(address)
            raise
        except ProaError:
            self._addresses.free(address)
            raise
        except OSError as exc:
            self._addresses.free(address)
            raise System(f"prepare a network namespace: {exc}") from exc
        return Prepared(key=key, address=address, mac=hardware, host_interface=interface)

    async def _release_quietly(self, key: int) -> None:
        try:
            await self._keeper.release(key)
        except ProaError as exc:
            _log.debug("release of network namespace %x: %s", key, exc)

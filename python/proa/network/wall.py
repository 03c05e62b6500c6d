"""The firewall as it should be, kept so: what is written is remembered, and written anew when it is flushed.
So is the bridges' way through another engine's.

Changes go out one transaction each and may overlap; only what is remembered counts, so a rewrite that
overlapped with a change is done once more. State belongs to the loop thread.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from proa.errors import ProaError

if TYPE_CHECKING:
    from proa.network.firewall import FirewallNetwork, Rule

Blocking = Callable[..., Awaitable[Any]]
"""Runs a call in the executor."""

_log = logging.getLogger(__name__)


class Wall:
    """The one nft table of this daemon."""

    def __init__(self, table: str, blocking: Blocking, *, enabled: bool) -> None:
        self._table = table
        self._blocking = blocking
        self.enabled = enabled
        self._networks: dict[str, FirewallNetwork] = {}
        self._rules: dict[Rule, None] = {}
        self._changes = 0
        self._installed = False
        self._writing: asyncio.Task[None] | None = None
        self._way = asyncio.Lock()
        """Held while the way through is changed: a bridge that goes meanwhile is not let through again."""

    async def install(self) -> None:
        """Write all of it. A host that does not let us is told in the log; then there is no way out."""
        if not self.enabled:
            return
        try:
            await self.assert_again()
        except OSError as exc:
            _log.warning("no firewall, so no way out for containers: %s", exc)
        self._installed = True
        await self.let_through()

    async def let_through(self) -> None:
        """The way of all bridges through another engine's firewall, where that has none for them yet."""
        from proa.network import docker_user

        async with self._way:
            bridges = [bridge for network in self._networks.values() for bridge in network.bridges]
            await self._through(docker_user.let_through, bridges)

    async def _through(self, change: Callable[[Iterable[str]], None], bridges: Iterable[str]) -> None:
        try:
            await self._blocking(change, bridges)
        except (OSError, ProaError) as exc:
            _log.debug("another engine's firewall is left as it is: %s", exc)

    async def assert_again(self) -> None:
        """Write all of it anew; whoever comes meanwhile waits for the same. Raises OSError."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())
        await asyncio.shield(self._writing)

    async def _write(self) -> None:
        from proa.network import firewall

        while True:
            changes = self._changes
            networks, rules = tuple(self._networks.values()), tuple(self._rules)
            await self._blocking(partial(firewall.install, own=True), self._table, networks, rules)
            if changes == self._changes:
                return

    async def set_network(self, network_id: str, network: "FirewallNetwork") -> None:
        """A network, new or changed. Raises OSError."""
        from proa.network import docker_user, firewall

        old = self._networks.get(network_id)
        if old == network:
            return
        self._networks[network_id] = network
        self._changes += 1
        if not (self.enabled and self._installed):
            return
        if old is None or set(old.bridges) <= set(network.bridges):
            await self._change(firewall.add_network, network)
        else:
            await self.assert_again()
        async with self._way:
            await self._through(docker_user.let_through, network.bridges)

    def remember_network(self, network_id: str, network: "FirewallNetwork") -> None:
        """One that `install` is to write."""
        self._networks[network_id] = network
        self._changes += 1

    async def drop_network(self, network_id: str) -> None:
        """A network that is gone. Raises OSError."""
        from proa.network import docker_user, firewall

        old = self._networks.pop(network_id, None)
        self._changes += 1
        if old is None or not (self.enabled and self._installed):
            return
        async with self._way:
            await self._through(docker_user.withdraw, old.bridges)
        await self._blocking(firewall.remove_network, self._table, old)

    def remember(self, rules: Iterable["Rule"]) -> None:
        """Ports that are published since before this daemon; `install` writes them."""
        self._rules.update(dict.fromkeys(rules))
        self._changes += 1

    async def change(self, add: Iterable["Rule"], remove: Iterable["Rule"] = ()) -> None:
        """Publish ports and take others back, all or none. Raises OSError."""
        from proa.network import firewall

        add, remove = tuple(add), tuple(remove)
        self.remember(add)
        for rule in remove:
            self._rules.pop(rule, None)
        try:
            if self.enabled and (add or remove):
                await self._change(firewall.change, add, remove)
        except BaseException:
            for rule in add:
                self._rules.pop(rule, None)
            self._rules.update(dict.fromkeys(remove))
            self._changes += 1
            raise

    async def take_back(self, rules: Iterable["Rule"]) -> None:
        """Ports that are published no more; ones that are not there are no error. Raises OSError."""
        from proa.network import firewall

        gone = tuple(rules)
        for rule in gone:
            self._rules.pop(rule, None)
        self._changes += 1
        if self.enabled and gone:
            await self._blocking(firewall.unpublish, self._table, gone)

    async def _change(self, call: Callable[..., None], *arguments: Any) -> None:
        """The change, or all anew where the table was flushed."""
        try:
            await self._blocking(call, self._table, *arguments)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            _log.warning("the firewall was flushed; it is written again")
            await self.assert_again()

    def close(self) -> None:
        """Let go of the table, which stays."""
        from proa.network import firewall

        firewall.disown(self._table)

    async def flushed(self) -> None:
        """Somebody has changed the table: write it again if something is missing."""
        try:
            await self.assert_again()
        except (OSError, ProaError) as exc:
            _log.warning("the firewall was flushed and cannot be written again: %s", exc)

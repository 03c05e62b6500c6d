"""`proad --tear-down`: what an instance has on the host goes, and what it has on disk stays.

Ends the keeper with every container; takes away bridges, the firewall's table, cgroups and the files of the
exec root. Images, containers and volumes are in the data root: the next daemon finds them as after a reboot.
"""

import os
from contextlib import suppress
from pathlib import Path

import proa_native

from proa.errors import Unavailable
from proa.network import tear_down as tear_down_networks
from proa.runtime import Keeper
from proa.schema.config import DaemonConfig
from proa.schema.keeper import Exited

KEPT = ("proad.lock", "start.lock")
"""Locks stay: whoever waits for one must find the others at the same file."""


class _Nobody:
    """The keeper's news are for the next daemon."""

    def exited(self, exited: Exited) -> None:
        """The ledger of exits goes, too."""

    def oom(self, container_id: str) -> None:
        """As above."""

    def lost(self) -> None:
        """It was asked to go."""


async def tear_down(config: DaemonConfig) -> None:
    """The caller holds the lock of the exec root. Raises Unavailable, OSError."""
    root = Path(config.exec_root)
    if (root / "keeper.sock").exists():
        keeper = Keeper(root)
        await keeper.connect(_Nobody())
        # It may be gone before it has said so.
        with suppress(Unavailable):
            await keeper.shutdown(kill=True)
    tear_down_networks(config)
    proa_native.cgroup_kill(config.cgroup_root)
    proa_native.cgroup_remove(config.cgroup_root)
    for name in os.listdir(root):
        if name not in KEPT:
            proa_native.remove_tree(f"{root}/{name}")

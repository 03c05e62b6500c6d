"""The host as the network room would change it, in memory."""

from collections.abc import Iterable

import msgspec
from fake_keeper import FakeKeeper

from proa.metadata import Metadata
from proa.network import Networking, NetworkRecord, firewall
from proa.network.ipam import to_text
from proa.network.records import SubnetRecord
from proa.schema.config import DaemonConfig


class Host:
    """What would have changed the host: the ports that are translated, and the calls."""

    def __init__(self) -> None:
        self.rules: dict[firewall.Rule, None] = {}
        self.calls: list[tuple[object, ...]] = []
        self.remembered: list[str] = []
        self.refusal: OSError | None = None
        self.passing: set[str] = set()
        self.gone: set[str] = set()
        """Bridges that somebody has deleted."""

    def call(self, *what: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(what)

    def settle_default(self, config: DaemonConfig, record: NetworkRecord, seed: bytes) -> NetworkRecord:
        self.remembered.append(record.subnet)
        subnet = SubnetRecord(subnet="172.30.0.0/16", gateway="172.30.0.1")
        return msgspec.structs.replace(record, subnets=(subnet,))

    def change(
        self, table: str, add: tuple[firewall.Rule, ...], remove: tuple[firewall.Rule, ...] = ()
    ) -> None:
        self.call("change", len(add), len(remove))
        for rule in remove:
            del self.rules[rule]
        self.rules.update(dict.fromkeys(add))

    def pass_through(self, what: str, bridges: Iterable[str]) -> None:
        """docker_user's calls; `passing` are the bridges that may."""
        if self.refusal is not None:
            raise self.refusal
        self.passing = self.passing | set(bridges) if what == "let_through" else self.passing - set(bridges)

    def unpublish(self, table: str, rules: tuple[firewall.Rule, ...]) -> None:
        for rule in rules:
            self.rules.pop(rule, None)

    def targets(self) -> dict[int, str]:
        """Host port to container address of what is translated."""
        return {r.host_port: to_text(r.address, r.bits) for r in self.rules if hasattr(r, "host_port")}


def opened(database: Metadata, keeper: FakeKeeper, **config: object) -> Networking:
    return Networking(DaemonConfig(exec_root="/tmp/x", **config), database, keeper)  # type: ignore[arg-type]

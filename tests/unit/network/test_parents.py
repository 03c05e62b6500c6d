"""Names of interfaces that macvlans sit on."""

import pytest

from proa.errors import System
from proa.network import NetworkRecord, hosts, link
from proa.schema.config import DaemonConfig


@pytest.mark.parametrize(
    ("vlan", "told"),
    [
        *((vlan, "vlan id must be between 1-4094, received") for vlan in ("0", "4095", "99999")),
        *((vlan, "unable to parse a valid vlan id from") for vlan in ("abc", "²", "-1", "")),
        ("7", "-o parent interface was not found on the host: nosuch0"),
    ],
)
def test_a_vlan_s_number_is_one(vlan: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        link.ensure_parent(f"nosuch0.{vlan}", "mark")


def test_one_that_is_not_there_and_cannot_be_made() -> None:
    record = NetworkRecord(id="1", name="m", driver="macvlan", options={"parent": "nosuch0"})
    with pytest.raises(System, match="invalid subinterface vlan name nosuch0, example formatting is eth0"):
        hosts.raise_parent(DaemonConfig(), record)

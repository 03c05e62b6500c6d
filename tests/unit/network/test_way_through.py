"""The bridges' way through another engine's firewall: for all that stand, and for none that is gone."""

from fake_host import Host, opened
from fake_keeper import FakeKeeper

from proa.metadata import Metadata
from proa.schema.network import NetworkCreateRequest


async def test_every_bridge_has_it_as_long_as_it_stands(database: Metadata, host: Host) -> None:
    networking = opened(database, FakeKeeper(), bridge="b0")
    await networking.start()
    assert host.passing == {"b0"}
    record = await networking.create(NetworkCreateRequest(name="n1"))
    assert host.passing == {"b0", f"br-{record.id[:12]}"}
    await networking.drop(record)
    assert host.passing == {"b0"}
    await networking.close()


async def test_the_next_daemon_has_it_for_all_of_them(database: Metadata, host: Host) -> None:
    first = opened(database, FakeKeeper(), bridge="b0")
    record = await first.create(NetworkCreateRequest(name="n1"))
    await first.close()
    host.passing.clear()
    second = opened(database, FakeKeeper(), bridge="b0")
    await second.start()
    assert host.passing == {"b0", f"br-{record.id[:12]}"}
    await second.close()


async def test_without_a_firewall_of_its_own_it_takes_no_way(database: Metadata, host: Host) -> None:
    networking = opened(database, FakeKeeper(), iptables=False)
    await networking.start()
    await networking.drop(await networking.create(NetworkCreateRequest(name="n1")))
    assert host.passing == set()
    await networking.close()

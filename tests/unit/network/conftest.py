"""Fixtures: the metadata store, and a host that nothing is changed on."""

from functools import partial
from pathlib import Path

import pytest
from fake_host import Host

from proa.metadata import Metadata
from proa.network import SCHEMA, docker_user, firewall, hosts, link


@pytest.fixture
def database(tmp_path: Path):
    return Metadata(tmp_path / "db", {"network": SCHEMA})


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(hosts, "settle_default", made.settle_default)
    for name in ("raise_bridge", "raise_parent", "take_down", "tear_down"):
        monkeypatch.setattr(hosts, name, lambda *args, name=name: made.call(name, *args[1:2]))
    monkeypatch.setattr(link, "used_subnets", list)
    monkeypatch.setattr(link, "all_there", lambda names: not made.gone.intersection(names))
    monkeypatch.setattr(link, "put_back", lambda wanted: made.call("put_back", wanted))
    monkeypatch.setattr(link, "allow_hairpin", lambda interfaces: None)
    monkeypatch.setattr(firewall, "change", made.change)
    monkeypatch.setattr(firewall, "unpublish", made.unpublish)
    for name in ("let_through", "withdraw"):
        monkeypatch.setattr(docker_user, name, partial(made.pass_through, name))
    for name in ("install", "add_network", "remove_network"):
        monkeypatch.setattr(firewall, name, lambda *args, name=name, **_: made.call(name))
    return made

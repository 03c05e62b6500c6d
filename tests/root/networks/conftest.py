"""A machine of its own with a proad, and another one outside: namespaces with a wire between them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from instance import Instance, instance, require_root
from machines import HOST, OUTSIDE
from netns import Namespace


@pytest.fixture(scope="package")
def host() -> Iterator[Namespace]:
    require_root()
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to look at what was made")
    with closing(Namespace()) as made:
        yield made


@pytest.fixture(scope="package")
def outside(host: Namespace) -> Iterator[Namespace]:
    """Another machine, which even has routes to the containers."""
    with closing(Namespace()) as made:
        host.ip("link", "add", "wan0", "type", "veth", "peer", "name", "far", "netns", str(made.tid))
        for where, name, number in ((host, "wan0", 1), (made, "far", 2)):
            where.ip("addr", "add", f"203.0.113.{number}/24", "dev", name)
            where.ip("addr", "add", f"2001:db8::{number}/64", "dev", name, "nodad")
            where.ip("link", "set", name, "up")
        host.ip("route", "add", "default", "via", OUTSIDE)
        made.ip("route", "add", "172.16.0.0/12", "via", HOST)
        made.ip("route", "add", "10.0.0.0/8", "via", HOST)
        made.ip("route", "add", "fd00::/8", "via", "2001:db8::1")
        yield made


@pytest.fixture(scope="package")
def daemon(host: Namespace, outside: Namespace) -> Iterator[Instance]:
    """A proad that was started in the host's namespace, so that it is its own."""
    root = Path(tempfile.mkdtemp(prefix="proa-nets-"))
    made = instance(root, "--debug")
    running = host.run(made.__enter__)
    try:
        yield running
    finally:
        host.run(made.__exit__, None, None, None)


@pytest.fixture
def clean(daemon: Instance) -> Iterator[Instance]:
    yield daemon
    for container in daemon.api.call("GET", "/containers/json?all=1"):
        daemon.api.call("DELETE", f"/containers/{container['Id']}?force=1")
    for network in daemon.api.call("GET", "/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            daemon.api.call("DELETE", f"/networks/{network['Id']}")

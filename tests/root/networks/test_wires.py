"""What happens on the wire to another machine: packets that are too large, and a partition."""

from contextlib import closing

from instance import Instance, eventually
from machines import ECHO, HOST, Talk, docker, fetch_all, refused, run_web
from netns import Namespace


def test_a_wire_that_takes_less(clean: Instance, host: Namespace, outside: Namespace) -> None:
    """The containers' packets are larger than the wire's: they learn of it through the translation."""
    docker(clean, "network", "create", "--ipv6", "wide")
    run_web(clean, "web", "--network", "wide", "-p", "8080:80")
    docker(clean, "exec", "web", "busybox", "dd", "if=/dev/zero", "of=/w/big", "bs=100k", "count=10")
    assert eventually(lambda: not refused(host, "127.0.0.1", 8080))
    host.ip("link", "set", "wan0", "mtu", "1280")
    try:
        for at in (HOST, "2001:db8::1"):
            assert fetch_all(outside, at, 8080, 1_024_000) == bytes(1_024_000), at
    finally:
        host.ip("link", "set", "wan0", "mtu", "1500")


def test_a_partition_that_heals(clean: Instance, host: Namespace, outside: Namespace) -> None:
    docker(clean, "network", "create", "kept")
    docker(clean, "run", "-d", "--name", "echo", "--network", "kept", "-p", "7777:7", "busybox", *ECHO)
    assert eventually(lambda: not refused(outside, HOST, 7777))
    with closing(Talk(outside, HOST, 7777)) as talk:
        assert talk.goes_on()
        outside.ip("link", "set", "far", "down")
        assert eventually(lambda: refused(outside, HOST, 7777))
        assert not refused(host, HOST, 7777), "the others do not notice"
        outside.ip("link", "set", "far", "up")
        outside.ip("addr", "replace", "2001:db8::2/64", "dev", "far", "nodad")
        for route in ("172.16.0.0/12", "10.0.0.0/8"):
            outside.ip("route", "replace", route, "via", HOST)
        outside.ip("route", "replace", "fd00::/8", "via", "2001:db8::1")
        assert talk.goes_on(), talk.failure
    assert not refused(outside, HOST, 7777)

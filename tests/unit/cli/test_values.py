"""Values of flags: numbers, sizes, durations, and the grammars of their own."""

import pytest

from proa.cli import specifications, values
from proa.cli.devices import device_mapping, is_cdi_name
from proa.cli.failure import BadFlag, Failure
from proa.cli.platform import normalize
from proa.cli.reference import check, familiar, split


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1k", 1024),
        ("1KB", 1024),
        ("1KiB", 1024),
        ("1.5g", 3 << 29),
        ("10 m", 10 << 20),
        ("5b", 5),
        (".5k", 512),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert values.size(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1kbb", "1xb", "1z", "1 kibi", "1.2.3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(BadFlag):
        values.size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1500 * 10**6),
        ("-10ms", -(10**7)),
        ("1us", 1000),
        ("1µs", 1000),
        (".5s", 5 * 10**8),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert values.duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s2", "--1s", "1.2.3s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(BadFlag):
        values.duration(text)


@pytest.mark.parametrize(
    ("text", "nano"), [("1", 10**9), ("1.5", 15 * 10**8), ("1/4", 25 * 10**7), ("1e-9", 1)]
)
def test_cpus(text: str, nano: int) -> None:
    assert values.cpus(text) == nano


@pytest.mark.parametrize("text", ["x", "", "1e-10", "1/0", "1/3"])
def test_bad_cpus(text: str) -> None:
    with pytest.raises(BadFlag):
        values.cpus(text)


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("-3", -3), ("0x10", 16), ("010", 8), ("0b11", 3), ("1_000", 1000)]
)
def test_integers_are_gos(text: str, number: int) -> None:
    assert values.integer(text) == number


@pytest.mark.parametrize("text", ["", "x", "1.5", "--1", "\uff19", "9223372036854775808"])
def test_bad_integers(text: str) -> None:
    with pytest.raises(BadFlag):
        values.integer(text)


def test_quoted_fields() -> None:
    assert values.csv_fields('a,"b,c",d') == ["a", "b,c", "d"]


def test_a_device_is_not_a_cdi_name() -> None:
    assert is_cdi_name("vendor.com/class=name")
    assert not is_cdi_name("/dev/a=b")


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("/dev/null", ("/dev/null", "/dev/null", "rwm")),
        ("/dev/null:r", ("/dev/null", "/dev/null", "r")),
        ("/dev/null:/dev/x", ("/dev/null", "/dev/x", "rwm")),
        ("/dev/null:/dev/x:rw", ("/dev/null", "/dev/x", "rw")),
    ],
)
def test_devices(text: str, mapping: tuple[str, str, str]) -> None:
    assert tuple(device_mapping(text).values()) == mapping


@pytest.mark.parametrize("text", ["", "x", "/a:/b:x", "/a:b:r", "/a:/b:r:w"])
def test_bad_devices(text: str) -> None:
    with pytest.raises(Failure):
        device_mapping(text)


def test_port_ranges_go_side_by_side() -> None:
    bindings, exposed = specifications.ports(["8000-8001:80-81"], ["90-91/udp"])
    assert bindings == {
        "80/tcp": [{"HostIp": "", "HostPort": "8000"}],
        "81/tcp": [{"HostIp": "", "HostPort": "8001"}],
    }
    assert set(exposed) == {"80/tcp", "81/tcp", "90/udp", "91/udp"}


def test_one_container_port_takes_any_of_a_range() -> None:
    bindings, _ = specifications.ports(["[::1]:70-79:7/udp"], [])
    assert bindings == {"7/udp": [{"HostIp": "::1", "HostPort": "70-79"}]}


@pytest.mark.parametrize(
    ("text", "bind"),
    [("/a:/b", "/a:/b"), ("vol:/b:ro", "vol:/b:ro"), ("/anon", None), ("a::b", "a::b")],
)
def test_volumes(text: str, bind: str | None) -> None:
    assert specifications.volume(text) == bind


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("busybox", ("busybox", "", "")),
        ("a/b:c", ("a/b", "c", "")),
        ("host:5000/a", ("host:5000/a", "", "")),
        ("host:5000/a:t@sha256:00", ("host:5000/a", "t", "sha256:00")),
    ],
)
def test_references(text: str, parts: tuple[str, str, str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "shown"),
    [("busybox", "busybox:latest"), ("docker.io/library/a:1", "a:1"), ("docker.io/a/b", "a/b:latest")],
)
def test_familiar_names(text: str, shown: str) -> None:
    assert familiar(text) == shown


@pytest.mark.parametrize("text", ["A", "a:", "a b", "", "a/../b", "-a", "a:-t"])
def test_bad_references(text: str) -> None:
    with pytest.raises(Failure, match="invalid reference format"):
        check(text)


def test_a_domain_may_have_capitals() -> None:
    check("Registry.Example.com:5000/a/b:Tag")


@pytest.mark.parametrize(
    ("text", "platform"),
    [("linux/x86_64", "linux/amd64"), ("arm64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64")],
)
def test_platforms(text: str, platform: str) -> None:
    assert normalize(text) == platform

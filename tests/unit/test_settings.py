"""proad's command line and daemon.json, with dockerd's complaints."""

import json
from pathlib import Path

import pytest

from proa.errors import InvalidParameter
from proa.settings import invocation, load


@pytest.fixture
def file(tmp_path: Path):
    def write(content: object) -> str:
        path = tmp_path / "daemon.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_flags_are_dockerd_s(file) -> None:
    words = (
        "-H unix:///a --host tcp://127.0.0.1:1 -D --data-root=/d --exec-root /e --tlsverify --dns 1.1.1.1 "
        "--log-opt max-size=1m --live-restore=false --mtu 1400 --ready-fd 5 --default-ulimit nofile=1:2 "
        "--default-network-opt bridge=com.docker.network.driver.mtu=9000"
    )
    called = invocation([*words.split(), "--config-file", file({})], "0")
    config = called.config
    assert config.hosts == ("unix:///a", "tcp://127.0.0.1:1")
    assert (config.data_root, config.exec_root, config.mtu) == ("/d", "/e", 1400)
    assert config.debug
    assert config.tlsverify
    assert not config.live_restore
    assert config.log_opts == {"max-size": "1m"}
    assert config.default_ulimits == {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}
    assert config.default_network_opts == {"bridge": {"com.docker.network.driver.mtu": "9000"}}
    assert called.ready_fd == 5


def test_registries(file) -> None:
    words = (
        "--registry-mirror https://m.example --insecure-registry r.example --certs-dir /certs "
        "--http-proxy http://p:1 --no-proxy x.example"
    )
    path = file({"insecure-registries": ["10.0.0.0/8"]})
    config = invocation([*words.split(), "--config-file", path], "0").config
    assert config.registry_mirrors == ("https://m.example",)
    assert config.insecure_registries == ("10.0.0.0/8", "r.example")
    assert config.certs_dir == "/certs"
    assert config.proxies == {"http-proxy": "http://p:1", "no-proxy": "x.example"}
    config = load(file({"proxies": {"https-proxy": "http://p:2"}}), {})
    assert config.proxies == {"https-proxy": "http://p:2"}


def test_marks_of_image_collection(file) -> None:
    words = "--image-gc-high 20g --image-gc-low=15g --image-gc-keep base/* --image-gc-min-age 1h"
    config = invocation([*words.split(), "--config-file", file({"image-gc-keep": ["a"]})], "0").config
    assert (config.image_gc_high, config.image_gc_low, config.image_gc_min_age) == ("20g", "15g", "1h")
    assert config.image_gc_keep == ("a", "base/*")


def test_file_and_flags_are_merged(file) -> None:
    path = file({"debug": True, "dns": ["1.1.1.1"], "log-opts": {"max-file": "3"}, "bip": "10.9.0.1/24"})
    config = invocation(["--config-file", path, "--dns", "2.2.2.2", "--log-opt", "max-size=1m"], "0").config
    assert config.debug
    assert config.bip == "10.9.0.1/24"
    assert config.dns == ("1.1.1.1", "2.2.2.2")
    assert config.log_opts == {"max-file": "3", "max-size": "1m"}


@pytest.mark.parametrize(
    ("content", "flags", "text"),
    [
        (
            {"nosuch": 1, "other": 2},
            {},
            "the following directives don't match any configuration option: nosuch, other",
        ),
        # Who counts on a plugin to authorise requests must not get a daemon without one (CVE-2024-41110).
        ({"authorization-plugins": ["opa"]}, {}, "any configuration option: authorization-plugins"),
        (
            {"bip": "1"},
            {"bip": "2"},
            r"specified both as a flag and in the configuration file: bip: \(from flag: 2",
        ),
        ("{", {}, "unable to configure the Docker daemon with file"),
        ({"mtu": "x"}, {}, "unable to configure the Docker daemon with file"),
        ({"log-level": "loud"}, {}, "invalid logging level: loud"),
        ({"image-gc-high": "lots"}, {}, "invalid image-gc-high: invalid size: 'lots'"),
        ({"builder": {"gc": {"policy": [{"keepStorage": "lots"}]}}}, {}, "invalid builder gc size"),
        ({"builder": {"gc": {"policy": [{"filter": ["until"]}]}}}, {}, "invalid builder gc filter: until"),
        ({"builder": {"gc": {"none": 1}}}, {}, "invalid builder configuration"),
        ({"data-root": "relative"}, {}, "relative is not an absolute path"),
        ({"max-concurrent-downloads": -1}, {}, "invalid max concurrent downloads: -1"),
    ],
)
def test_complaints(file, content: object, flags: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        load(file(content), flags)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    assert load(str(tmp_path / "none"), {}).mtu == 0
    with pytest.raises(InvalidParameter, match="no such file or directory"):
        load(str(tmp_path / "none"), {}, must_exist=True)


def test_an_empty_file_is_no_configuration(file) -> None:
    assert not load(file(""), {}).debug


def test_wrong_values() -> None:
    with pytest.raises(InvalidParameter, match="must be key=value"):
        invocation(["--log-opt", "x"], "0")
    with pytest.raises(SystemExit):
        invocation(["--nosuch"], "0")

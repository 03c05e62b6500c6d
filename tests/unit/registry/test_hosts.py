"""Which hosts are asked: mirrors, insecure registries, certs.d, hosts.toml."""

from pathlib import Path

import pytest

from proa.errors import InvalidParameter
from proa.registry.hosts import PULL, PUSH, RESOLVE, hosts_of
from proa.registry.origin import Origin
from proa.registry.settings import RegistrySettings
from proa.registry.tls import TLSSettings
from proa.schema.config import DaemonConfig


def settings(root: Path, **more: object) -> RegistrySettings:
    return RegistrySettings(certs_dirs=(str(root),), **more)  # type: ignore[arg-type]


def write(root: Path, host: str, **files: str) -> None:
    (root / host).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / host / name.replace("_", ".")).write_text(text)


def test_the_hub(tmp_path: Path) -> None:
    (host,) = hosts_of("docker.io", settings(tmp_path))
    assert host.origin == Origin("https", "registry-1.docker.io", 443)
    assert not host.plain_http
    assert host.tls == TLSSettings()


def test_mirrors_are_the_hubs_and_come_first(tmp_path: Path) -> None:
    told = settings(tmp_path, mirrors=("https://m1.example/hub", "http://m2.example:5000"))
    first, second, hub = hosts_of("docker.io", told)
    assert (str(first.origin), first.prefix) == ("https://m1.example", "/hub/v2")
    assert (str(second.origin), second.prefix) == ("http://m2.example:5000", "/v2")
    assert (first.is_mirror, second.is_mirror, hub.is_mirror) == (True, True, False)
    assert PUSH not in first.capabilities
    assert len(hosts_of("reg.example", told)) == 1


@pytest.mark.parametrize(
    ("domain", "insecure"),
    [
        ("127.0.0.1:5000", True),
        ("localhost:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("reg.example", True),
        ("reg.example:81", True),
        ("other.example:5000", True),
        ("other.example:5001", False),
        ("10.1.2.3:5000", True),
        ("11.1.2.3:5000", False),
        ("127.0.0.1.example", False),
    ],
)
def test_insecure_registries(tmp_path: Path, domain: str, insecure: bool) -> None:
    told = settings(tmp_path, insecure=("reg.example", "other.example:5000", "10.0.0.0/8"))
    (host,) = hosts_of(domain, told)
    assert host.plain_http == insecure
    assert host.tls.verify != insecure
    assert hosts_of(domain, told, insecure=True)[0].plain_http


def test_certificates_of_a_host(tmp_path: Path) -> None:
    write(tmp_path, "reg.example:5000", ca_crt="", client_cert="", client_key="", notes_txt="")
    (host,) = hosts_of("reg.example:5000", settings(tmp_path))
    folder = f"{tmp_path}/reg.example:5000"
    assert host.tls.authorities == (f"{folder}/ca.crt",)
    assert host.tls.clients == ((f"{folder}/client.cert", f"{folder}/client.key"),)
    assert host.tls.without_client() == TLSSettings(authorities=host.tls.authorities)
    assert hosts_of("reg.example", settings(tmp_path))[0].tls == TLSSettings()


@pytest.mark.parametrize("missing", ["client.key", "client.cert"])
def test_half_a_client_certificate(tmp_path: Path, missing: str) -> None:
    write(tmp_path, "reg.example", client_cert="", client_key="")
    (tmp_path / "reg.example" / missing).unlink()
    with pytest.raises(InvalidParameter, match=r"missing (key client\.key|client certificate client\.cert)"):
        hosts_of("reg.example", settings(tmp_path))


HOSTS = """
server = "https://real.example"
ca = "server.pem"
[host."https://mirror.example/v2/hub"]
capabilities = ["pull"]
override_path = true
ca = ["a.pem", "/etc/b.pem"]
client = [["c.cert", "c.key"], ["d.pem", ""], "e.pem"]
[host."https://mirror.example/v2/hub".header]
authorization = "Basic eA=="
x-more = ["1", "2"]
[host."http://plain.example:5000"]
skip_verify = true
"""


@pytest.mark.parametrize("folder", ["reg.example:5000", "reg.example_5000_", "_default"])
def test_hosts_toml(tmp_path: Path, folder: str) -> None:
    write(tmp_path, folder, hosts_toml=HOSTS)
    told = settings(tmp_path, mirrors=("https://ignored.example",))
    mirror, plain, server = hosts_of("reg.example:5000", told)
    root = f"{tmp_path}/{folder}"
    assert (str(mirror.origin), mirror.prefix) == ("https://mirror.example", "/v2/hub")
    assert mirror.capabilities == {PULL}
    assert mirror.tls.authorities == (f"{root}/a.pem", "/etc/b.pem")
    assert mirror.tls.clients == (
        (f"{root}/c.cert", f"{root}/c.key"),
        (f"{root}/d.pem", ""),
        (f"{root}/e.pem", ""),
    )
    assert mirror.headers == (("authorization", "Basic eA=="), ("x-more", "1"), ("x-more", "2"))
    assert (mirror.namespace, mirror.is_mirror) == ("reg.example:5000", True)
    assert (str(plain.origin), plain.tls.verify) == ("http://plain.example:5000", False)
    assert plain.capabilities == {PULL, RESOLVE, PUSH}
    assert (str(server.origin), server.is_mirror) == ("https://real.example", False)
    assert server.tls.authorities == (f"{root}/server.pem",)


def test_hosts_toml_without_a_server_keeps_the_registry(tmp_path: Path) -> None:
    write(tmp_path, "docker.io", hosts_toml='[host."https://mirror.example"]\n')
    mirror, hub = hosts_of("docker.io", settings(tmp_path, mirrors=("https://ignored.example",)))
    assert str(mirror.origin) == "https://mirror.example"
    assert str(hub.origin) == "https://registry-1.docker.io"


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        '[host."ftp://x"]',
        '[host."https://x"]\nca = 7',
        '[host."https://x".header]\n"bad name" = "x"',
        '[host."https://x".header]\nx = "a\\nb"',
    ],
)
def test_bad_hosts_toml(tmp_path: Path, text: str) -> None:
    write(tmp_path, "reg.example", hosts_toml=text)
    with pytest.raises(InvalidParameter):
        hosts_of("reg.example", settings(tmp_path))


@pytest.mark.parametrize(
    "mirror",
    ["mirror.example", "ftp://mirror.example", "https://", "https://u:p@m.example", "https://m.example?x=y"],
)
def test_bad_mirrors_are_refused_at_start(mirror: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        RegistrySettings.of(DaemonConfig(registry_mirrors=(mirror,)))


def test_settings_of_the_daemon() -> None:
    config = DaemonConfig(
        registry_mirrors=("https://m.example/",),
        insecure_registries=("http://reg.example/", "10.0.0.0/8"),
        certs_dir="/certs",
        proxies={"http-proxy": "http://p:1"},
    )
    told = RegistrySettings.of(config)
    assert told.mirrors == ("https://m.example",)
    assert told.insecure == ("reg.example", "10.0.0.0/8")
    assert told.certs_dirs == ("/certs",)
    with pytest.raises(InvalidParameter, match="is not valid"):
        RegistrySettings.of(DaemonConfig(insecure_registries=("10.0.0.0/99",)))

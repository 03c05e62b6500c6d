"""What the keeper is told of a log that is shipped, and the first connection to where it goes."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from proa.engine import log_connection
from proa.engine.shipping import shipping_of
from proa.errors import InvalidParameter, System
from proa.schema.container import ContainerConfig, HostConfig, LogConfig
from proa.schema.shipping import Fluentd, Gelf, Journald, Shipping, Syslog, Tcp, Udp, Unix, Unixgram

ID = "c0ffee" + "0" * 58


def record(driver: str, **options: str) -> SimpleNamespace:
    config = ContainerConfig(
        image="busybox:1", labels={"com.x/tier": "front", "_own": "me"}, env=["LEVEL=3", "log=odd"]
    )
    options = {name.replace("_", "-"): value for name, value in options.items()}
    host_config = HostConfig(log_config=LogConfig(type=driver, config=options))
    plan = SimpleNamespace(process=SimpleNamespace(args=("sh", "-c", "x")))
    return SimpleNamespace(
        id=ID,
        name="web",
        image_id="sha256:abc",
        created_ns=1_500_000_000,
        resolved=SimpleNamespace(config=config, host_config=host_config, plan=plan),
    )


def shipping(driver: str, **options: str) -> Shipping:
    return shipping_of(record(driver, **options))  # type: ignore[arg-type]


def test_syslog() -> None:
    told = shipping(
        "syslog", syslog_address="udp://h:1", tag="{{.Name}}/{{.Command}}", syslog_facility="user"
    )
    assert told.to == Udp("h", 1)
    assert isinstance(told.format, Syslog)
    assert (told.format.tag, told.format.facility) == ("web/sh -c x", 1)
    assert (told.blocking, told.attempts, told.id) == (True, 1, ID[:12])
    assert shipping("syslog").format.tag == ID[:12]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("a{{.Odd}}", r"executing \"log-tag\" at <.Odd>: can't evaluate field Odd in type \*logger.Info"),
        ("{{if .ID}}x{{end}}", "only fields are supported by proa"),
    ],
)
def test_a_tag_that_cannot_be_filled_in_is_refused(template: str, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        shipping("syslog", tag=template)


def test_journald_names_are_the_journals() -> None:
    told = shipping("journald", labels_regex=".", env="LEVEL")
    assert isinstance(told.format, Journald)
    fields = dict(told.format.fields)
    assert fields["COM_X_TIER"] == "front"
    assert (fields["OWN"], fields["LEVEL"]) == ("me", "3")
    assert (fields["CONTAINER_NAME"], fields["CONTAINER_ID_FULL"], fields["IMAGE_NAME"]) == (
        "web",
        ID,
        "busybox:1",
    )
    assert fields["SYSLOG_IDENTIFIER"] == fields["CONTAINER_TAG"] == ID[:12]


def test_gelf_extra_members_begin_with_an_underscore() -> None:
    told = shipping("gelf", gelf_address="tcp://h:1", labels="_own,com.x/tier", gelf_tcp_max_reconnect="9")
    assert isinstance(told.format, Gelf)
    extra = json.loads("{" + told.format.extra + "}")
    assert (extra["_own"], extra["_com.x/tier"], extra["_command"]) == ("me", "front", "sh -c x")
    assert (extra["_created"], extra["_container_name"]) == ("1970-01-01T00:00:01.5Z", "web")
    assert (told.attempts, told.wait_ns) == (9, 10**9)


def test_fluentd_and_its_modes() -> None:
    told = shipping("fluentd", env_regex=".")
    assert isinstance(told.format, Fluentd)
    assert dict(told.format.record) == {"container_id": ID, "container_name": "/web", "LEVEL": "3"}
    assert (told.blocking, told.attempts) == (True, 2**31 - 1)
    dropping = shipping("fluentd", mode="non-blocking", max_buffer_size="2m")
    assert (dropping.blocking, dropping.buffer) == (False, 2 << 20)
    behind = shipping("fluentd", fluentd_async="true", fluentd_buffer_limit="3m")
    assert (behind.blocking, behind.buffer) == (False, 3 << 20)


def test_labels_of_an_image_do_not_stand_for_the_engines_own_words() -> None:
    lies = {"container_id": "x", "container_name": "x", "message": "x", "image_name": "x", "_tag": "x"}
    for driver, options in (
        ("journald", {}),
        ("gelf", {"gelf_address": "tcp://h:1"}),
        ("fluentd", {}),
    ):
        lied = record(driver, labels_regex="^(container|message|image|_tag)", **options)
        lied.resolved.config.labels.update(lies)
        told = shipping_of(lied).format  # type: ignore[arg-type]
        match told:
            case Journald():
                fields = dict(told.fields)
                assert (fields["CONTAINER_ID"], fields["CONTAINER_NAME"]) == (ID[:12], "web")
                assert (fields["IMAGE_NAME"], "MESSAGE" in fields) == ("busybox:1", False)
            case Gelf():
                extra = json.loads("{" + told.extra + "}")
                assert (extra["_container_id"], extra["_tag"]) == (ID, ID[:12])
            case Fluentd():
                assert dict(told.record)["container_name"] == "/web"


async def connect(driver: str, **options: str) -> log_connection.LogConnection:
    return await log_connection.connect(record(driver, **options))  # type: ignore[arg-type]


@pytest.fixture
def refusing() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def test_a_server_that_refuses_fails_the_start_in_dockers_words(refusing: int) -> None:
    refused = f"dial tcp 127.0.0.1:{refusing}: connect: connection refused"
    prefix = "failed to create task for container: failed to initialize logging driver: "
    address = f"tcp://127.0.0.1:{refusing}"
    for driver, options, told in (
        ("syslog", {"syslog_address": address}, refused),
        ("fluentd", {"fluentd_address": address}, refused),
        (
            "gelf",
            {"gelf_address": address},
            f"gelf: cannot connect to GELF endpoint: {address[6:]} {refused}",
        ),
    ):
        with pytest.raises(System) as failed:
            await connect(driver, **options)
        assert str(failed.value) == prefix + told
    behind = await connect("fluentd", fluentd_address=address, fluentd_async="true")
    assert (behind.fds, behind.shipping.to) == ((), Tcp("127.0.0.1", refusing))  # type: ignore[union-attr]


async def test_a_journal_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("proa.engine.shipping.JOURNAL", str(tmp_path / "socket"))
    with pytest.raises(System, match="journald is not enabled on this host"):
        await connect("journald")


async def test_the_hosts_own_syslog_is_wherever_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = (str(tmp_path / "first"), str(tmp_path / "second"))
    monkeypatch.setattr(log_connection, "LOCAL_PATHS", paths)
    with pytest.raises(System, match="Unix syslog delivery error"):
        await connect("syslog")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(paths[1])
        stream.listen()
        connection = await connect("syslog")
        assert connection.shipping.to == Unix(paths[1])  # type: ignore[union-attr]
        connection.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(paths[0])
            connection = await connect("syslog")
            assert connection.shipping.to == Unixgram(paths[0])  # type: ignore[union-attr]
            assert len(connection.fds) == 1
            connection.close()

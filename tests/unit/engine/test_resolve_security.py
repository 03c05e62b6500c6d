"""Capabilities, seccomp, masked paths, sysctls, devices, namespaces, and what is refused of each."""

from pathlib import Path

import msgspec
import pytest
from resolving import HOST, ID, IMAGE, PEER_ID, context, peer_of, resolved, with_host

from proa.engine.resolve import Storage, capabilities
from proa.engine.resolve.namespaces import subordinate_ids
from proa.errors import Conflict, InvalidParameter, NotImplemented_
from proa.schema.config import DaemonConfig
from proa.schema.container import DeviceMapping, DeviceRequest, HostConfig, LogConfig, RestartPolicy
from proa.schema.image import ImageConfig
from proa.schema.network import EndpointIPAMConfig, EndpointSettings, NetworkingConfig
from proa.schema.plan import ContainerNamespace, Dev, Device, HostNamespace, NewNamespace, NoNetwork

DEFAULT = 0xA80425FB


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, DEFAULT),
        ({"cap_add": ["NET_ADMIN"]}, DEFAULT | 1 << 12),
        ({"cap_add": ["cap_net_admin"], "cap_drop": ["all"]}, 1 << 12),
        ({"cap_drop": ["CAP_CHOWN"]}, DEFAULT & ~1),
        ({"cap_add": ["ALL"], "cap_drop": ["CHOWN"]}, capabilities.ALL & ~1),
        ({"cap_drop": ["ALL"]}, 0),
        ({"privileged": True}, capabilities.ALL),
    ],
)
def test_capabilities(options: dict[str, object], expected: int) -> None:
    found = with_host(**options).plan.process.capabilities
    assert (found.bounding, found.effective, found.permitted, found.ambient) == (
        expected,
        expected,
        expected,
        0,
    )


def test_another_user_has_only_the_bounding_set() -> None:
    found = resolved(user="app").plan.process.capabilities
    assert (found.bounding, found.effective, found.permitted) == (DEFAULT, 0, 0)


@pytest.mark.parametrize(("field", "option"), [("cap_add", "CapAdd"), ("cap_drop", "CapDrop")])
def test_an_unknown_capability(field: str, option: str) -> None:
    with pytest.raises(InvalidParameter, match=f'^invalid {option}: unknown capability: "CAP_FLY"$'):
        with_host(**{field: ["fly"]})


def test_what_the_host_lacks_is_dropped_with_a_warning() -> None:
    poor = msgspec.structs.replace(HOST, capabilities=HOST.capabilities & ~capabilities.SYS_RESOURCE)
    found = resolved(HostConfig(cap_add=["SYS_RESOURCE"]), within=context(host=poor))
    assert found.warnings == ("This host does not have CAP_SYS_RESOURCE. Capabilities discarded.",)
    assert found.plan.process.capabilities.bounding == DEFAULT
    assert resolved(HostConfig(privileged=True), within=context(host=poor)).warnings == ()


@pytest.mark.parametrize(
    ("options", "privileged", "program"),
    [
        ([], False, b"default"),
        (["seccomp=unconfined"], False, None),
        (["seccomp:unconfined"], False, None),
        (["seccomp=builtin"], False, b"default"),
        (['seccomp={"a":1}'], False, b'custom:{"a":1}'),
        ([], True, None),
        (["seccomp=builtin"], True, None),
        (['seccomp={"a":1}'], True, b'custom:{"a":1}'),
    ],
)
def test_seccomp(options: list[str], privileged: bool, program: bytes | None) -> None:
    assert with_host(security_opt=options, privileged=privileged).plan.process.seccomp == program


def test_a_profile_that_is_none() -> None:
    def compiler(profile: bytes | None, capabilities: int) -> bytes:
        raise ValueError("line 1")

    base = context()
    within = type(base)(
        **{name: getattr(base, name) for name in base.__slots__} | {"seccomp": compiler}  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidParameter, match=r"^Decoding seccomp profile failed: line 1$"):
        resolved(HostConfig(security_opt=["seccomp={"]), within=within)


@pytest.mark.parametrize(
    ("option", "expected"),
    [("no-new-privileges", True), ("no-new-privileges=true", True), ("no-new-privileges:false", False)],
)
def test_no_new_privileges(option: str, expected: bool) -> None:
    assert with_host(security_opt=[option]).plan.process.no_new_privileges is expected


@pytest.mark.parametrize("option", ["label=disable", "label:type:x", "apparmor=unconfined", "disable"])
def test_options_that_change_nothing_here(option: str) -> None:
    assert with_host(security_opt=[option]).warnings == ()


@pytest.mark.parametrize("option", ["odd", "odd=1", "no-new-privileges=maybe"])
def test_security_options_that_are_refused(option: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid --security-opt"):
        with_host(security_opt=[option])


@pytest.mark.parametrize(
    ("options", "masked", "readonly"),
    [
        ({}, True, True),
        ({"masked_paths": [], "readonly_paths": []}, False, False),
        ({"masked_paths": ["/x"]}, True, True),
        ({"privileged": True}, False, False),
        ({"security_opt": ["systempaths=unconfined"]}, False, False),
    ],
)
def test_masked_and_read_only_paths(options: dict[str, object], masked: bool, readonly: bool) -> None:
    found = with_host(**options)
    assert bool(found.plan.masked_paths) is masked
    assert bool(found.plan.readonly_paths) is readonly
    if options.get("masked_paths") == ["/x"]:
        assert found.plan.masked_paths == ("/x",)


@pytest.mark.parametrize(
    "name", ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shmmax", "fs.mqueue.msg_max"]
)
def test_sysctls(name: str) -> None:
    assert with_host(sysctls={name: "1"}).plan.sysctls[-1][1] == "1"


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("kernel.core_pattern", {}, 'sysctl "kernel.core_pattern" is not in a separate kernel namespace'),
        ("vm.swappiness", {}, 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        ("kernel.hostname", {}, "conflicts with the OCI"),
        ("net.ipv4.ip_forward", {"network_mode": "host"}, "not allowed in host network namespace"),
        ("kernel.shmmax", {"ipc_mode": "host"}, "is not allowed in the hosts ipc namespace"),
        ("net.../../kernel.core_pattern", {}, "invalid sysctl"),
        ("net/../kernel/core_pattern", {}, "invalid sysctl"),
        ("kernel.core_pattern+net.x", {}, "invalid sysctl"),
    ],
)
def test_sysctls_that_are_refused(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        with_host(sysctls={name: "1"}, **options)


def test_default_sysctls_only_in_a_network_of_ones_own() -> None:
    assert ("net.ipv4.ip_unprivileged_port_start", "0") in with_host().plan.sysctls
    assert with_host(network_mode="host").plan.sysctls == ()


def test_devices_of_the_host() -> None:
    found = with_host(
        devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/x", cgroup_permissions="r")]
    )
    (device,) = found.plan.devices
    assert (device.path, device.kind, device.major, device.minor) == ("/dev/x", "char", 1, 3)
    rules = found.plan.cgroup.resources.devices
    assert (rules[0].allow, rules[0].kind) == (False, "a")
    assert (rules[-1].kind, rules[-1].major, rules[-1].minor, rules[-1].access) == ("c", 1, 3, "r")


def test_device_rules() -> None:
    rules = with_host(device_cgroup_rules=["c 42:* rm"]).plan.cgroup.resources.devices
    assert (rules[-1].major, rules[-1].minor, rules[-1].access) == (42, None, "rm")


def test_a_directory_of_devices_that_is_too_large_is_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proa.engine.resolve.devices._MOST_ENTRIES", 3)
    for number in range(2):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/f").write_text("")
    with pytest.raises(InvalidParameter, match="too many entries"):
        with_host(devices=[DeviceMapping(path_on_host=str(tmp_path))])


def test_privileged_has_every_device_but_the_standard_ones(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "plain").write_text("")
    (tmp_path / "null").symlink_to("/dev/null")
    within = context(host=msgspec.structs.replace(HOST, devices_root=str(tmp_path)))
    found = resolved(HostConfig(privileged=True), within=within)
    assert found.plan.devices == ()
    assert [r.allow for r in found.plan.cgroup.resources.devices] == [True]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"devices": [DeviceMapping(path_on_host="/dev/missing")]},
            'error gathering device information while adding custom device "/dev/missing": no such file',
        ),
        ({"devices": [DeviceMapping(path_on_host="/etc/passwd")]}, "not a device node"),
        (
            {"devices": [DeviceMapping(path_on_host="/dev/null", cgroup_permissions="x")]},
            "invalid device mode: x",
        ),
        ({"device_cgroup_rules": ["c 1 r"]}, "invalid device cgroup rule format: 'c 1 r'"),
        ({"pid_mode": "odd"}, "invalid PID mode: odd"),
        ({"ipc_mode": "odd"}, "invalid IPC mode: odd"),
        ({"uts_mode": "container:x"}, "invalid UTS mode: container:x"),
        ({"userns_mode": "odd"}, "invalid user namespace mode: odd"),
        ({"cgroupns_mode": "odd"}, "invalid cgroup namespace mode: odd"),
        ({"runtime": "kata"}, "unknown or invalid runtime name: kata"),
        ({"isolation": "hyperv"}, "invalid isolation 'hyperv' on linux"),
        ({"log_config": LogConfig(type="splunk")}, "logger: no log driver named 'splunk' is registered"),
        (
            {"log_config": LogConfig(type="odd")},
            'error looking up logging plugin odd: plugin "odd" not found',
        ),
        ({"log_config": LogConfig(type="json-file", config={"x": "1"})}, "unknown log opt 'x' for json-file"),
        ({"log_config": LogConfig(config={"max-file": "0"})}, "max-file cannot be less than 1"),
        ({"log_config": LogConfig(config={"max-size": "x"})}, "invalid size: 'x'"),
        ({"restart_policy": RestartPolicy(name="odd")}, "unknown policy 'odd'; use one of"),
        (
            {"restart_policy": RestartPolicy(name="always", maximum_retry_count=3)},
            "maximum retry count can only be used with 'on-failure'",
        ),
        (
            {"restart_policy": RestartPolicy(name="always"), "auto_remove": True},
            "^can't create 'AutoRemove' container with restart policy$",
        ),
        ({"proa_timeout": -1}, "timeout cannot be negative"),
        ({"extra_hosts": ["nope"]}, 'bad format for add-host: "nope"'),
        ({"extra_hosts": ["a:1.2.3"]}, 'invalid IP address in add-host: "1.2.3"'),
        ({"dns": ["x"]}, "x is not an ip address"),
        ({"network_mode": "container:"}, "invalid container format"),
        ({"port_bindings": {"x": []}}, 'invalid port specification: "x"'),
    ],
)
def test_what_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        with_host(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"device_requests": [DeviceRequest(capabilities=[["gpu"]])]},
            r"could not select device driver .*\[\[gpu\]\]",
        ),
    ],
)
def test_what_is_not_there_yet(options: dict[str, object], text: str) -> None:
    with pytest.raises(NotImplemented_, match=text):
        with_host(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, None),
        ({"size": "1G"}, Storage(size=1 << 30)),
        ({"size": "64m", "backing": "tmpfs"}, Storage(size=64 << 20, tmpfs=True)),
        ({"backing": "disk"}, Storage()),
    ],
)
def test_storage_options(options: dict[str, str] | None, expected: Storage | None) -> None:
    assert with_host(storage_opt=options).storage == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"odd": "1"}, "unknown option odd"),
        ({"size": "much"}, "invalid size: 'much'"),
        ({"backing": "ram"}, "invalid storage option backing=ram: it is disk or tmpfs"),
    ],
)
def test_storage_options_that_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        with_host(storage_opt=options)


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
)
def test_stop_signals(text: str, number: int) -> None:
    from proa.engine.resolve import signal_number

    resolved(stop_signal=text)
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "65", "99999999999", "SIG_DFL"])
def test_stop_signals_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match=rf"^invalid signal: {text}$"):
        resolved(stop_signal=text)


# ---- namespaces and network ---------------------------------------------------------------------


def test_namespaces_are_ones_own() -> None:
    spaces = with_host().plan.namespaces
    assert (spaces.pid, spaces.ipc, spaces.uts, spaces.cgroup) == (NewNamespace(),) * 4
    assert (spaces.net, spaces.user) == (NoNetwork(), None)


def test_namespaces_of_the_host() -> None:
    found = with_host(
        pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host", network_mode="host"
    )
    spaces = found.plan.namespaces
    assert (spaces.pid, spaces.ipc, spaces.uts, spaces.cgroup, spaces.net) == (HostNamespace(),) * 5
    assert next(m for m in found.plan.mounts if isinstance(m, Dev)).shm_source == "/dev/shm"
    assert found.plan.hostname == "box"


def test_namespaces_of_another_container() -> None:
    other = resolved(HostConfig(ipc_mode="shareable"), hostname="other")
    within = context(peers={"peer": peer_of(other)})
    host_config = HostConfig(
        pid_mode="container:peer", ipc_mode="container:peer", network_mode="container:peer"
    )
    found = resolved(host_config, within=within)
    spaces = found.plan.namespaces
    assert (spaces.pid, spaces.ipc, spaces.net) == (ContainerNamespace(PEER_ID),) * 3
    assert found.peers == (PEER_ID,)
    shown = found.host_config
    assert {shown.pid_mode, shown.ipc_mode, shown.network_mode} == {f"container:{PEER_ID}"}
    assert found.plan.hostname == "other"
    sources = {m.source for m in found.plan.mounts if getattr(m, "engine_file", False)}
    assert sources == {f"/containers/{ID}/{name}" for name in ("hostname", "hosts", "resolv.conf")}


def test_private_shared_memory_cannot_be_joined() -> None:
    within = context(peers={"peer": peer_of(with_host())})
    with pytest.raises(Conflict, match="non-shareable IPC"):
        resolved(HostConfig(ipc_mode="container:peer"), within=within)


def test_links_of_the_default_network_need_their_container() -> None:
    with pytest.raises(InvalidParameter, match="could not get container for ghost: No such container: ghost"):
        with_host(links=["ghost:db"])
    assert with_host(links=["ghost:db"], network_mode="mine").host_config.links == ["ghost:db"]


def test_no_shared_memory() -> None:
    assert next(m for m in with_host(ipc_mode="none").plan.mounts if isinstance(m, Dev)).shm_size == 0


@pytest.mark.parametrize("mode", ["pid_mode", "ipc_mode", "network_mode"])
def test_another_container_that_is_not_there(mode: str) -> None:
    with pytest.raises(InvalidParameter, match="No such container: ghost"):
        with_host(**{mode: "container:ghost"})


@pytest.mark.parametrize(
    ("host_config", "config", "text"),
    [
        (HostConfig(uts_mode="host"), {"hostname": "h"}, "hostname and the UTS mode"),
        (HostConfig(network_mode="container:p"), {"hostname": "h"}, "hostname and the network mode"),
        (HostConfig(network_mode="container:p", dns=["1.1.1.1"]), {}, "dns and the network mode"),
        (HostConfig(network_mode="container:p", extra_hosts=["a:1.1.1.1"]), {}, "custom host-to-IP mapping"),
        (HostConfig(network_mode="container:p"), {"mac_address": "02:42:00:00:00:01"}, "mac-address and the"),
        (
            HostConfig(network_mode="container:p"),
            {"exposed_ports": {"80": {}}},
            "port exposing and the container",
        ),
        (HostConfig(network_mode="host", links=["a"]), {}, "host type networking can't be used with links"),
        (HostConfig(), {"mac_address": "01:00:00:00:00:01"}, "invalid MAC address"),
        (HostConfig(), {"hostname": "h" * 65}, "invalid hostname format"),
    ],
)
def test_conflicts(host_config: HostConfig, config: dict[str, object], text: str) -> None:
    within = context(peers={"p": peer_of(with_host())})
    with pytest.raises(InvalidParameter, match=text):
        resolved(host_config, within=within, **config)


def test_a_network_that_is_not_there_is_looked_for_at_start() -> None:
    (asked,) = with_host(network_mode="mine").network.endpoints
    assert asked.network == "mine"


def test_a_fixed_address_is_for_networks_of_ones_own() -> None:
    endpoint = EndpointSettings(ipam_config=EndpointIPAMConfig(i_pv4_address="172.17.0.9"))
    with pytest.raises(
        InvalidParameter, match="user specified IP address is supported on user defined networks only"
    ):
        resolved(networking_config=NetworkingConfig(endpoints_config={"bridge": endpoint}))


def test_user_namespaces() -> None:
    found = with_host(userns_mode="private")
    (line,) = found.plan.namespaces.user.uid_map  # type: ignore[union-attr]
    assert line.container_id == 0
    assert line.size >= 65536
    for options in ({"privileged": True}, {"pid_mode": "host"}, {"network_mode": "host"}):
        with pytest.raises(InvalidParameter, match="user namespaces"):
            with_host(userns_mode="private", **options)


def test_subordinate_ids(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("other:1:2\ndockremap:200000:65536\n")
    assert subordinate_ids(str(file), "dockremap") == (200000, 65536)
    assert subordinate_ids(str(file), "ghost") == (100000, 65536)
    assert subordinate_ids(str(tmp_path / "missing"), "x") == (100000, 65536)


def test_log_defaults_are_capped_and_options_count() -> None:
    log = with_host().plan.stdio.log
    assert log is not None
    assert (log.max_size, log.max_files) == (20 << 20, 5)
    assert log.path == f"/containers/{ID}/{ID}-json.log"
    own = with_host(log_config=LogConfig(type="json-file", config={"max-size": "1.5m", "max-file": "2"}))
    assert own.plan.stdio.log is not None
    assert (own.plan.stdio.log.max_size, own.plan.stdio.log.max_files) == (3 << 19, 2)
    assert with_host(log_config=LogConfig(type="none")).plan.stdio.log is None
    config = DaemonConfig(log_opts={"max-size": "10k"})
    assert resolved(within=context(config=config)).host_config.log_config.config == {"max-size": "10k"}  # type: ignore[union-attr]


def test_the_cgroup_has_its_place() -> None:
    assert with_host().plan.cgroup.path == f"/proa/{ID}"
    assert with_host(cgroup_parent="mine/../yours").plan.cgroup.path == f"/yours/{ID}"
    with pytest.raises(InvalidParameter, match="invalid cgroup-parent"):
        with_host(cgroup_parent="..")


def test_a_device_is_a_struct() -> None:
    assert Device(path="/dev/x", kind="char", major=1, minor=3, mode=0o666).uid == 0


def test_labels_of_an_image_change_nothing_but_labels() -> None:
    """CVE-2026-53488: what an engine keeps in labels an image can write; here nothing is kept there."""
    labels = {
        "containerd.io/restart.loguri": "binary:///bin/sh?-c=id",
        "containerd.io/restart.status": "running",
        "io.containerd.image.config.stop-signal": "SIGKILL",
        "io.kubernetes.cri.container-type": "sandbox",
        "com.docker.volume.anonymous": "",
        "com.docker.network.bridge.name": "eth0",
        "com.docker.compose.project": "other",
        "io.proa.plan": '{"privileged":true}',
        "proa.privileged": "true",
        "desktop.docker.io/binds/0/Source": "/",
    }
    plain = resolved(within=context(image=IMAGE))
    found = resolved(within=context(image=msgspec.structs.replace(IMAGE, labels=labels)))
    assert (found.config.labels or {}) == labels
    same = msgspec.structs.replace(found.config, labels=plain.config.labels)
    assert msgspec.structs.replace(found, config=same) == plain


def test_an_image_has_no_word_in_what_is_the_host_s() -> None:
    """CVE-2026-53488: keys that a request may have and an image may not are passed over."""
    written = b"""{"Cmd": ["sh"], "Env": ["PATH=/bin", "LANG=C"], "Privileged": true, "Runtime": "/bin/sh",
        "Annotations": {"a": "b"}, "ProaRootfs": "/", "MacAddress": "02:00:00:00:00:01",
        "HostConfig": {"Privileged": true, "Binds": ["/:/host"], "PidMode": "host", "CapAdd": ["ALL"],
            "LogConfig": {"Type": "syslog"}, "Init": true, "Runtime": "/bin/sh"}}"""
    image = msgspec.json.decode(written, type=ImageConfig)
    assert resolved(within=context(image=image)) == resolved(within=context(image=IMAGE))

"""Execs: what they take from the container, and what they may change."""

import pytest
from resolving import HOST, read_image, resolved

from proa.engine.resolve import Running, ready, resolve_exec, with_identity
from proa.errors import InvalidParameter
from proa.schema.container import HostConfig
from proa.schema.exec import ExecCreateRequest
from proa.schema.plan import Overlay, PreparedNetwork


def running(host_config: HostConfig | None = None, **config: object) -> Running:
    return Running(resolved=resolved(host_config, **config), read=read_image, host=HOST)


def test_an_exec_takes_over_what_the_container_has() -> None:
    container = running(
        HostConfig(cap_drop=["ALL"], security_opt=["no-new-privileges"]),
        user="app",
        env=["A=1"],
        working_dir="/w",
    )
    process = resolve_exec(ExecCreateRequest(cmd=["id", "-u"]), container)
    plan = container.resolved.plan.process
    assert process.args == ("id", "-u")
    assert (process.uid, process.gid, process.groups) == (1000, 1001, (1001, 10, 29))
    assert (process.capabilities, process.seccomp, process.rlimits) == (
        plan.capabilities,
        plan.seccomp,
        plan.rlimits,
    )
    assert process.no_new_privileges
    assert process.cwd == "/w"
    assert "A=1" in process.env


def test_an_exec_changes_user_environment_directory_and_tty() -> None:
    request = ExecCreateRequest(
        cmd=["sh"], user="daemon", env=["A=2", "B=3"], working_dir="/x", tty=True, console_size=[24, 80]
    )
    process = resolve_exec(request, running(env=["A=1"]))
    assert process.uid == 1
    assert {"A=2", "B=3", "HOME=/usr/sbin", "TERM=xterm"} <= set(process.env)
    assert (process.cwd, process.tty, process.console_size) == ("/x", True, (24, 80))
    assert process.capabilities.effective == 0


def test_a_privileged_exec() -> None:
    process = resolve_exec(ExecCreateRequest(cmd=["sh"], privileged=True), running())
    assert process.capabilities.effective == HOST.capabilities


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ExecCreateRequest(), "^No exec command specified$"),
        (ExecCreateRequest(cmd=["x"], user="ghost"), "unable to find user ghost"),
        (ExecCreateRequest(cmd=["x"], working_dir="rel"), "needs to be an absolute path"),
        (ExecCreateRequest(cmd=["x"], env=["=1"]), "invalid environment variable"),
        (ExecCreateRequest(cmd=["x"], console_size=[1]), "invalid console size"),
    ],
)
def test_execs_that_are_refused(request_: ExecCreateRequest, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        resolve_exec(request_, running())


def test_start_fills_in_what_only_it_knows() -> None:
    plan = resolved().plan
    rootfs = Overlay(lower=("/l",), upper="/u", work="/w")
    found = ready(plan, rootfs=rootfs, net=PreparedNetwork(7))
    assert found.rootfs == rootfs
    assert found.namespaces.net == PreparedNetwork(7)
    assert found.mounts == plan.mounts


def test_a_user_is_looked_up_again_where_the_container_changed_its_files() -> None:
    found = resolved(user="app")
    plan = with_identity(found, lambda paths: [b"app:x:5:6::/new:/bin/sh\n", b""])
    assert (plan.process.uid, plan.process.gid) == (5, 6)
    assert "HOME=/new" in plan.process.env

"""Volumes and mounts as containers have them, with the docker CLI: what is mounted, and what is left."""

import ctypes
import json
import os
import secrets
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import proa_native
import pytest
from instance import Instance, eventually, instance
from plugin_server import PluginServer, dead_socket, serving


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    """A proad of this file's own: it is killed and started again."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-volumes-"))) as running:
        yield running


@pytest.fixture
def name(daemon: Instance) -> Iterator[str]:
    """A container's name, and a volume's; both are removed afterwards."""
    name = f"t-{secrets.token_hex(4)}"
    yield name
    daemon.run("rm", "-f", name)
    daemon.run("volume", "rm", "-f", name)


def sh(daemon: Instance, *arguments: str, script: str) -> str:
    """What a container says; it must succeed."""
    done = daemon.run("run", "--rm", *arguments, "busybox", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(daemon: Instance, *arguments: str) -> str:
    done = daemon.run("run", "--rm", *arguments, "busybox", "true")
    assert done.returncode != 0, done.stdout
    return done.stderr


def mounts_of(daemon: Instance) -> list[str]:
    """Mount points of this daemon's volumes and snapshots on the host."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if str(daemon.root) in line]


def nothing_mounted(daemon: Instance) -> bool:
    return eventually(lambda: not mounts_of(daemon))


# ---- the local driver's options ------------------------------------------------------------------


def test_a_tmpfs_volume_is_mounted_while_a_container_has_it(daemon: Instance, name: str) -> None:
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=4m,mode=1770,nosuid")
    assert daemon.run("volume", "create", *options, name).returncode == 0
    assert mounts_of(daemon) == []
    running = daemon.run("run", "-d", "--name", name, "-v", f"{name}:/data", "busybox", "sleep", "1000")
    assert running.returncode == 0, running.stderr
    assert mounts_of(daemon) == [f"{daemon.root}/lib/volumes/{name}/_data"]
    script = "grep ' /data ' /proc/self/mountinfo | grep -c 'nosuid.*tmpfs.*size=4096k'; echo x > /data/x"
    assert sh(daemon, "-v", f"{name}:/data", script=script) == "1\n"
    assert daemon.run("exec", name, "cat", "/data/x").stdout == "x\n"
    assert len(mounts_of(daemon)) == 1
    daemon.run("rm", "-f", name)
    assert nothing_mounted(daemon)


def test_a_bind_volume_and_its_words(daemon: Instance, name: str, tmp_path: Path) -> None:
    Path(tmp_path, "file").write_text("on the host\n")
    options = ("--opt", "type=none", "--opt", f"device={tmp_path}", "--opt", "o=bind,ro")
    daemon.run("volume", "create", *options, name)
    script = "cat /data/file; touch /data/new 2>&1; true"
    expected = "on the host\ntouch: /data/new: Read-only file system\n"
    assert sh(daemon, "-v", f"{name}:/data", script=script) == expected
    assert nothing_mounted(daemon)


def test_a_mount_that_fails_is_told_and_leaves_nothing(daemon: Instance, name: str) -> None:
    options = ("--opt", "type=none", "--opt", "device=/no/such/place", "--opt", "o=bind")
    daemon.run("volume", "create", *options, name)
    told = refused(daemon, "-v", f"{name}:/data")
    path = f"{daemon.root}/lib/volumes/{name}/_data"
    assert (
        f"error while mounting volume '{path}': failed to mount local volume: mount /no/such/place:" in told
    )
    assert told.split("\n")[0].endswith("no such file or directory.") or "no such file or directory" in told
    assert mounts_of(daemon) == []
    assert daemon.run("ps", "-aq").stdout == ""


def test_a_file_system_in_a_file(daemon: Instance, name: str, tmp_path: Path) -> None:
    image = tmp_path / "ext4.img"
    make_image(image)
    daemon.run("volume", "create", "--opt", "type=ext4", "--opt", f"device={image}", "--opt", "o=loop", name)
    sh(daemon, "-v", f"{name}:/data", script="echo kept > /data/file")
    assert sh(daemon, "-v", f"{name}:/data:ro", script="cat /data/file; ls -d /data/lost+found") == (
        "kept\n/data/lost+found\n"
    )
    assert nothing_mounted(daemon)
    used = subprocess.run(["losetup", "-j", str(image)], capture_output=True, text=True, check=True)
    assert used.stdout == ""


def make_image(path: Path, *options: str, kind: str = "ext4", size: int = 32 << 20) -> None:
    """An empty file system in a file. Skips where this host has no loop devices or mkfs."""
    with path.open("wb") as file:
        file.truncate(size)
    try:
        made = subprocess.run([f"mkfs.{kind}", "-q", *options, path], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"needs mkfs.{kind}")
    assert made.returncode == 0, made.stderr
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")


def test_volumes_that_are_refused(daemon: Instance, name: str) -> None:
    for options, text in (
        (("odd=1",), f'create {name}: invalid option: "odd"'),
        (("type=tmpfs",), f'create {name}: missing required option: "device"'),
        (("size=1g",), "quota size requested but no quota support"),
    ):
        words = [word for option in options for word in ("--opt", option)]
        done = daemon.run("volume", "create", *words, name)
        if text.startswith("quota") and proa_native.has_project_quota(str(daemon.root)):
            continue
        assert text in done.stderr
    daemon.run("volume", "create", name)
    done = daemon.run("volume", "create", "--driver", "nope", name)
    assert f"create {name}: conflict: volume name must be unique" in done.stderr
    done = daemon.run("volume", "update", name, "--availability", "drain")
    assert done.returncode != 0


def test_the_daemon_dies_and_nothing_stays_mounted(daemon: Instance, name: str) -> None:
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs")
    daemon.run("volume", "create", *options, name)
    daemon.run("run", "-d", "--name", name, "-v", f"{name}:/data", "busybox", "sleep", "1000")
    daemon.run("exec", name, "sh", "-c", "echo kept > /data/file")
    daemon.kill_daemon()
    daemon.start()
    assert daemon.run("exec", name, "cat", "/data/file").stdout == "kept\n"
    assert len(mounts_of(daemon)) == 1
    pid = int(daemon.run("inspect", "-f", "{{.State.Pid}}", name).stdout)
    daemon.kill_daemon()
    os.kill(pid, 9)
    daemon.start()
    assert nothing_mounted(daemon)


def test_copies_reach_a_volume_of_a_container_that_does_not_run(daemon: Instance, name: str) -> None:
    image = daemon.root / f"{name}.img"
    make_image(image)
    daemon.run("volume", "create", "--opt", "type=ext4", "--opt", f"device={image}", name)
    daemon.run("create", "--name", name, "-v", f"{name}:/data", "busybox", "cat", "/data/hosts")
    assert daemon.run("cp", "/etc/hosts", f"{name}:/data/hosts").returncode == 0
    assert nothing_mounted(daemon)
    assert daemon.run("start", "-a", name).stdout == Path("/etc/hosts").read_text()


def test_owners_of_a_volume_are_the_container_s(daemon: Instance, name: str) -> None:
    script = "touch /data/mine; stat -c %u:%g /data /data/mine; cat /proc/self/uid_map"
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", script],
        "HostConfig": {"UsernsMode": "private", "Binds": [f"{name}:/data"]},
    }
    daemon.api.call("POST", f"/containers/create?name={name}", body)
    shown = daemon.run("start", "-a", name)
    assert shown.stdout.startswith("0:0\n0:0\n"), shown
    assert shown.stdout.split()[2:4] != ["0", "0"]
    path = Path(daemon.root, "lib/volumes", name, "_data/mine")
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)


# ---- paths in volumes, images --------------------------------------------------------------------


def subpath(name: str, path: str, target: str = "/sub") -> tuple[str, str]:
    return "--mount", f"type=volume,src={name},dst={target},volume-subpath={path}"


def test_a_subpath_stays_in_its_volume(daemon: Instance, name: str) -> None:
    script = """cd /v; mkdir dir hack; echo hello > dir/file; echo single > single
    ln -s ../dir hack/good; ln -s / hack/root; ln -s root hack/bad; ln -s ../../../../../../etc hack/up"""
    sh(daemon, "-v", f"{name}:/v", script=script)
    assert sh(daemon, *subpath(name, "dir"), script="cat /sub/file") == "hello\n"
    assert sh(daemon, *subpath(name, "hack/good"), script="cat /sub/file") == "hello\n"
    assert sh(daemon, *subpath(name, "single"), script="cat /sub") == "single\n"
    for path in ("hack/root", "hack/bad", "hack/up", "hack/root/etc"):
        assert "path concatenation escapes the base directory" in refused(daemon, *subpath(name, path))
    assert "cannot access path none: no such file" in refused(daemon, *subpath(name, "none"))
    told = refused(daemon, *subpath(name, "../etc"))
    assert "subpath must be a relative path within the volume" in told


def test_a_subpath_that_is_swapped_meanwhile_never_shows_the_host(daemon: Instance, name: str) -> None:
    sh(daemon, "-v", f"{name}:/v", script="mkdir -p /v/a/x /v/b; ln -s / /v/b/x; touch /v/a/x/inside")
    swap = "cd /v; while :; do mv a c; mv b a; mv a b; mv c a; done 2>/dev/null"
    daemon.run("run", "-d", "--name", name, "-v", f"{name}:/v", "busybox", "sh", "-c", swap)
    for _ in range(12):
        done = daemon.run("run", "--rm", *subpath(name, "a/x"), "busybox", "ls", "/sub")
        assert done.stdout in ("inside\n", "")
        if done.returncode:
            assert "escapes" in done.stderr or "cannot access path" in done.stderr


def test_copy_up_goes_into_a_subpath(daemon: Instance, name: str) -> None:
    sh(daemon, "-v", f"{name}:/v", script="mkdir /v/bin; ln -s /tmp /v/link")
    assert sh(daemon, *subpath(name, "bin", "/bin"), script="ls -d /bin/busybox") == "/bin/busybox\n"
    assert "escapes" in refused(daemon, *subpath(name, "link", "/bin"))


def test_an_image_is_mounted_and_held(daemon: Instance, name: str) -> None:
    daemon.run("tag", "busybox", f"{name}:tools")
    script = "ls -d /image/bin/busybox; echo own > /image/new; cat /image/new"
    image = f"type=image,src={name}:tools,dst=/image"
    assert sh(daemon, "--mount", image, script=script) == "/image/bin/busybox\nown\n"
    assert sh(daemon, "--mount", f"{image},image-subpath=bin", script="ls -d /image/sh") == "/image/sh\n"
    told = sh(daemon, "--mount", f"{image},readonly", script="touch /image/x 2>&1; true")
    assert "Read-only file system" in told
    assert "cannot access path gone" in refused(daemon, "--mount", f"{image},image-subpath=gone")
    assert "No such image" in refused(daemon, "--mount", "type=image,src=gone:gone,dst=/image")
    daemon.run("run", "-d", "--name", name, "--mount", image, "busybox", "sleep", "1000")
    shown = json.loads(daemon.run("inspect", "-f", "{{json .Mounts}}", name).stdout)
    assert [(mount["Type"], mount["Source"], mount["Destination"]) for mount in shown] == [
        ("image", f"{name}:tools", "/image")
    ]
    daemon.run("rmi", f"{name}:tools")
    daemon.run("restart", "-t", "0", name)
    assert daemon.run("exec", name, "ls", "-d", "/image/bin/busybox").stdout == "/image/bin/busybox\n"


def test_a_failed_mount_is_told_of_each_time_and_what_kind_it_was(daemon: Instance, name: str) -> None:
    """The reason must not get lost with a child that is gone: it was, once in ten starts."""
    for _ in range(40):
        told = refused(daemon, "-v", f"{name}:/etc/passwd")
        assert "mount /etc/passwd: not a directory" in told
        assert "Are you trying to mount a directory onto a file (or vice-versa)?" in told


def test_what_has_options_is_not_pruned(daemon: Instance, name: str) -> None:
    """It may be another host's file system, or another directory of this one."""
    daemon.run("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", f"{name}-tmpfs")
    daemon.run("volume", "create", name)
    try:
        assert name in daemon.run("volume", "prune", "-af").stdout.splitlines()
        assert f"{name}-tmpfs" in daemon.run("volume", "ls", "-q").stdout
    finally:
        daemon.run("volume", "rm", f"{name}-tmpfs")


def test_every_form_of_tmpfs_and_bind(daemon: Instance, tmp_path: Path) -> None:
    script = "grep ' /t ' /proc/self/mountinfo"
    shown = sh(daemon, "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1700", script=script)
    assert "size=1024k,mode=1700" in shown
    shown = sh(daemon, "--tmpfs", "/t:size=2m,uid=7,gid=8,exec,mode=711", script=script)
    assert "size=2048k,mode=711,uid=7,gid=8" in shown
    Path(tmp_path, "file").write_text("x\n")
    for options in (
        "",
        ",bind-propagation=rslave" * 0,
        ",readonly,bind-recursive=disabled",
        ",bind-nonrecursive",
    ):
        assert (
            sh(daemon, "--mount", f"type=bind,src={tmp_path},dst=/t{options}", script="cat /t/file") == "x\n"
        )
    read_only = f"type=bind,src={tmp_path},dst=/t,readonly,bind-recursive=readonly,bind-propagation=rprivate"
    assert "Read-only" in sh(daemon, "--mount", read_only, script="touch /t/y 2>&1; true")
    for mode in ("ro", "rw", "z", "Z", "ro,Z", "cached"):
        sh(daemon, "-v", f"{tmp_path}:/t:{mode}", script="cat /t/file")


# ---- plugins -------------------------------------------------------------------------------------


@pytest.fixture
def plugin(daemon: Instance, tmp_path: Path) -> Iterator[PluginServer]:
    """The driver `test`, with its volumes below tmp_path."""
    with serving(Path(f"{daemon.root}/run/plugins/test.sock"), tmp_path / "theirs") as server:
        yield server


def test_a_plugin_s_volume_lives_as_long_as_it_is_used(
    daemon: Instance, name: str, plugin: PluginServer
) -> None:
    created = daemon.run("volume", "create", "--driver", "test", "--opt", "a=b", name)
    assert created.stdout == f"{name}\n", created.stderr
    assert plugin.volumes == {name: {"a": "b"}}
    sh(daemon, "-v", f"{name}:/data", script="echo theirs > /data/file")
    assert (plugin.root / name / "file").read_text() == "theirs\n"
    assert eventually(lambda: not plugin.mounts)
    started = daemon.run("run", "-d", "--name", name, "-v", f"{name}:/data", "busybox", "sleep", "1000")
    (mount,) = plugin.mounts
    assert mount == (name, started.stdout.strip())
    assert f"volume is in use - [{mount[1]}]" in daemon.run("volume", "rm", name).stderr
    shown = json.loads(daemon.run("volume", "inspect", name).stdout)[0]
    assert (shown["Driver"], shown["Scope"], shown["Status"]) == ("test", "global", {"options": 1})
    assert shown["Mountpoint"] == str(plugin.root / name)
    daemon.kill_daemon()
    daemon.start()
    assert plugin.mounts == [mount]
    daemon.run("rm", "-f", name)
    assert eventually(lambda: not plugin.mounts)
    assert daemon.run("volume", "rm", name).returncode == 0
    assert plugin.volumes == {}


def test_a_plugin_that_is_gone_fails_a_start_and_nothing_else(
    daemon: Instance, name: str, plugin: PluginServer
) -> None:
    daemon.run("volume", "create", "--driver", "test", name)
    plugin.stop()
    told = refused(daemon, "-v", f"{name}:/data")
    assert 'error looking up volume plugin test: plugin "test" not found' in told
    dead_socket(Path(f"{daemon.root}/run/plugins/test.sock"))
    assert "connect: connection refused" in refused(daemon, "-v", f"{name}:/data")
    assert name in daemon.run("volume", "ls", "-q").stdout
    assert daemon.run("ps", "-aq").stdout == ""
    assert daemon.run("volume", "rm", "-f", name).returncode == 0


def test_ps_does_not_wait_for_a_plugin(daemon: Instance, name: str, plugin: PluginServer) -> None:
    daemon.run("volume", "create", "--driver", "test", name)
    plugin.stuck.add("/VolumeDriver.Mount")
    daemon.run("create", "--name", name, "--mount", f"src={name},dst=/d,volume-nocopy", "busybox", "true")
    starting = threading.Thread(target=daemon.run, args=("start", name))
    starting.start()
    assert eventually(lambda: any(call == "/VolumeDriver.Mount" for call, _ in plugin.calls))
    assert name in daemon.run("ps", "-a", "--format", "{{.Names}}").stdout
    plugin.let_go.set()
    starting.join()


def test_a_mount_point_that_is_none(daemon: Instance, name: str, plugin: PluginServer) -> None:
    daemon.run("volume", "create", "--driver", "test", name)
    for mountpoint in ("", "relative", "../../etc", "/a\nb"):
        plugin.replies["/VolumeDriver.Mount"] = {"Mountpoint": mountpoint}
        told = refused(daemon, "-v", f"{name}:/data:nocopy")
        assert "gave a mount point that is no absolute path" in told
    for driver in ("../test", "a/b", ".."):
        told = daemon.run("volume", "create", "--driver", driver, f"{name}x").stderr
        assert f'plugin "{driver}" not found' in told


# ---- sizes ---------------------------------------------------------------------------------------


def test_a_root_in_memory(daemon: Instance, name: str) -> None:
    options = ("--storage-opt", "backing=tmpfs", "--storage-opt", "size=4m")
    script = "dd if=/dev/zero of=/big bs=1M count=8 2>&1; rm /big; echo kept > /file"
    done = daemon.run("run", "--name", name, *options, "busybox", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert daemon.run("diff", name).stdout == "A /file\n"
    daemon.kill_daemon()
    daemon.start()
    assert daemon.run("start", name).returncode == 0
    assert daemon.run("cp", f"{name}:/file", "-").returncode == 0
    daemon.run("rm", "-f", name)
    assert nothing_mounted(daemon)


def test_a_size_needs_a_quota(daemon: Instance) -> None:
    if proa_native.has_project_quota(str(daemon.root)):
        pytest.skip("this file system has project quotas")
    told = refused(daemon, "--storage-opt", "size=1g")
    assert "--storage-opt size is supported only for overlay over xfs or ext4 with 'pquota'" in told
    assert "unknown option odd" in refused(daemon, "--storage-opt", "odd=1")


def hard_limits(root: Path) -> dict[int, int]:
    """Bytes that each project may have on the file system of `root`; those without a limit are left out.

    Source: quotactl(2), Q_GETNEXTQUOTA; struct if_nextdqblk.
    """
    quotactl_fd, get_next_quota, project_quota = 443, 0x800009, 2
    libc = ctypes.CDLL(None)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    found, number = {}, 0
    try:
        block = ctypes.create_string_buffer(72)
        while not libc.syscall(quotactl_fd, directory, get_next_quota << 8 | project_quota, number, block):
            hard, id_ = struct.unpack_from("Q", block)[0], struct.unpack_from("I", block, 68)[0]
            if hard:
                found[id_] = hard * 1024
            number = id_ + 1
    finally:
        os.close(directory)
    return found


def mount_with_quotas(kind: str, image: Path, root: Path) -> None:
    """An empty file system that holds projects to their limits. Skips where this kernel has none such."""
    if kind == "ext4":
        make_image(image, "-O", "quota,project", "-E", "quotatype=prjquota")
    else:
        make_image(image, kind=kind, size=320 << 20)
    root.mkdir()
    try:
        proa_native.mount_filesystem(str(root), kind, str(image), ["prjquota"])
    except OSError as exc:
        pytest.skip(f"this kernel has no quotas on {kind}: {exc}")


@pytest.mark.quota
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_sizes_are_held_by_project_quota(tmp_path: Path, kind: str) -> None:
    image, root = tmp_path / "quota.img", tmp_path / "root"
    mount_with_quotas(kind, image, root)
    full = {"ext4": "quota exceeded", "xfs": "no space left"}[kind]  # EDQUOT, and ENOSPC
    try:
        if not proa_native.has_project_quota(str(root)):
            pytest.skip("this kernel has no project quotas")
        with instance(root / "proa") as daemon:
            write = "dd if=/dev/zero of={}/big bs=1M count=8 2>&1; true"
            bounded = ("run", "--name", "bounded", "--storage-opt", "size=2m", "busybox", "sh", "-c")
            assert full in daemon.run(*bounded, write.format("")).stdout.lower()
            assert full not in sh(daemon, script=write.format("")).lower()
            storage = daemon.run("inspect", "-f", "{{json .HostConfig.StorageOpt}}", "bounded").stdout
            assert json.loads(storage) == {"size": "2m"}
            used = daemon.run("system", "df", "--format", "{{.Type}} {{.Size}}").stdout
            assert 1.5 < float(used.split("Containers ")[1].split("MB")[0]) <= 2.2, used
            daemon.run("volume", "create", "--opt", "size=3m", "small")
            assert full in sh(daemon, "-v", "small:/v", script=write.format("/v")).lower()
            assert sorted(hard_limits(root).values()) == [2 << 20, 3 << 20]
            daemon.run("rm", "bounded")
            daemon.run("volume", "rm", "small")
            assert eventually(lambda: hard_limits(root) == {})
    finally:
        proa_native.unmount(str(root))


def test_a_container_that_is_removed_at_its_end_is_read_and_started_as_often_as_wanted(
    daemon: Instance, name: str
) -> None:
    """Its overlay is volatile, and each mount of one leaves a mark that refuses the next with EINVAL."""
    daemon.run("create", "--rm", "--name", name, "busybox", "sh", "-c", "echo kept > /file; sleep 1000")
    steps = [("cp", f"{name}:/etc/group", "-")] * 2 + [("cp", "/etc/hostname", f"{name}:/tmp")]
    steps += [("start", name), ("restart", "-t", "0", name), ("cp", f"{name}:/file", "-")]
    for step in steps:
        done = daemon.run(*step)
        assert done.returncode == 0, (step, done.stderr)

"""The local driver's options, and what they mount."""

import errno

import pytest
from fake_mounts import FakeMounts

from proa.errors import InvalidParameter, System
from proa.volumes import LocalMounts, check_options

PATH = "/volumes/v/_data"


def local(native: FakeMounts) -> LocalMounts:
    return LocalMounts(native, resolve=lambda host: {"server": "10.0.0.9"}.get(host, host))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"odd": "1"}, 'create v: invalid option: "odd"'),
        ({"type": "tmpfs"}, 'create v: missing required option: "device"'),
        ({"device": "/dev/sdb"}, 'create v: missing required option: "type"'),
        ({"o": "ro"}, 'create v: missing required option: "device"'),
        ({"type": "tmpfs", "device": "a\0b"}, "nul character"),
        ({"size": "lots"}, "create v: invalid size: 'lots'"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "remount"}, "invalid mount option: remount"),
    ],
)
def test_options_that_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        check_options("v", options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"type": "tmpfs", "device": "tmpfs", "o": "size=4m,nosuid,noatime,ro"},
            ("tmpfs", "tmpfs", ("size=4m", "ro"), 0x13),
        ),
        ({"type": "none", "device": "/srv", "o": "bind,ro"}, ("bind", "/srv", (), 0x1)),
        ({"type": "none", "device": "/srv", "o": "rbind,rw"}, ("rbind", "/srv", (), 0)),
        (
            {"type": "nfs", "device": ":/export", "o": "addr=server,vers=4,rw"},
            ("nfs", ":/export", ("vers=4", "addr=10.0.0.9"), 0),
        ),
        ({"type": "nfs4", "device": "server:/x"}, ("nfs4", "server:/x", ("addr=10.0.0.9",), 0)),
        (
            {"type": "nfs", "device": "[fd00::9]:/x", "o": "nfsvers=4.1,soft,nolock,noexec,ro"},
            ("nfs", "[fd00::9]:/x", ("nfsvers=4.1", "soft", "nolock", "ro", "addr=fd00::9"), 0x9),
        ),
        (
            {"type": "cifs", "device": "//server/share/sub", "o": "username=me,password=x,vers=3.0"},
            (
                "cifs",
                "//server/share/sub",
                ("username=me", "password=x", "vers=3.0", "addr=10.0.0.9"),
                0,
            ),
        ),
        ({"type": "ext4", "device": "/img", "o": "loop,sync"}, ("ext4", "/img", ("sync",), 0)),
    ],
)
async def test_what_is_mounted(options: dict[str, str], expected: tuple[object, ...]) -> None:
    native = FakeMounts()
    check_options("v", options)
    mounts = local(native)
    await mounts.mount(PATH, options)
    await mounts.mount(PATH, options)  # once
    assert native.mounted == {PATH: expected}
    await mounts.unmount(PATH)
    await mounts.unmount(PATH)
    assert native.mounted == {}
    mounts.close()


async def test_a_failure_is_told_in_docker_s_words_without_the_password() -> None:
    native = FakeMounts()
    native.fails = errno.EINVAL
    mounts = local(native)
    options = {"type": "cifs", "device": "//server/x", "o": "username=me,password=secret"}
    with pytest.raises(System) as raised:
        await mounts.mount(PATH, options)
    assert str(raised.value) == (
        f"error while mounting volume '{PATH}': failed to mount local volume: mount //server/x:{PATH}, "
        "data: username=me,password=********: invalid argument (bad magic)"
    )
    mounts.close()


def test_a_size_needs_a_quota() -> None:
    with pytest.raises(InvalidParameter, match="create v: quota size requested but no quota support"):
        LocalMounts(FakeMounts()).limit("v", PATH, 1 << 20)
    native = FakeMounts(quota=True)
    LocalMounts(native).limit("v", PATH, 1 << 20)
    assert native.limits == {PATH: 1 << 20}
    LocalMounts(native).lift(PATH)
    assert native.limits == {PATH: 0}
    LocalMounts(FakeMounts()).lift(PATH)  # mounted without quotas meanwhile

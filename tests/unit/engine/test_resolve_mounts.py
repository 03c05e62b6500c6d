"""Binds, volumes, tmpfs, mounts of other containers: what is mounted, and what is refused."""

from pathlib import Path

import pytest
from resolving import IMAGE, context, peer_of, resolved, with_host

from proa.engine.resolve.propagation import check_source
from proa.errors import InvalidParameter
from proa.schema.container import (
    HostConfig,
    Mount,
    MountBindOptions,
    MountImageOptions,
    MountTmpfsOptions,
    MountVolumeDriverConfig,
    MountVolumeOptions,
)
from proa.schema.image import ImageConfig
from proa.schema.plan import Bind, CgroupMount, Dev, Layers, Mqueue, Proc, Sysfs, Tmpfs


def mount_at(found, target: str):
    return next(m for m in found.plan.mounts if getattr(m, "target", "") == target)


def test_the_kernels_file_systems_come_first_and_parents_before_children() -> None:
    found = with_host(binds=["/x:/etc/deep/er", "/y:/etc", "/z:/a"])
    kinds = [type(m) for m in found.plan.mounts[:5]]
    assert kinds == [Proc, Dev, Mqueue, Sysfs, CgroupMount]
    targets = [m.target for m in found.plan.mounts[5:]]
    assert targets == ["/a", "/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/deep/er"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/src:/dst", Bind(source="/src", target="/dst")),
        ("/src:/dst:ro", Bind(source="/src", target="/dst", readonly=True, recursive_readonly=True)),
        ("/src:/dst:rw,z", Bind(source="/src", target="/dst")),
        ("/src/../other/:/dst//d/:Z", Bind(source="/other", target="/dst/d")),
        ("vol:/dst", Bind(source="/volumes/vol/_data", target="/dst", idmap=True)),
        (
            "vol:/dst:ro,nocopy",
            Bind(
                source="/volumes/vol/_data",
                target="/dst",
                readonly=True,
                recursive_readonly=True,
                idmap=True,
            ),
        ),
    ],
)
def test_short_syntax(raw: str, expected: Bind) -> None:
    assert mount_at(with_host(binds=[raw]), expected.target) == expected


def test_binds_make_their_source_and_volumes_do_not() -> None:
    found = with_host(binds=["/src:/a", "vol:/b"])
    assert found.bind_directories == ("/src",)
    assert [v.name for v in found.volumes] == ["vol"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", "invalid volume specification: ''"),
        (":/dst", "invalid volume specification: ':/dst'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        ("/dst:ro", "invalid volume specification: '/dst:ro'"),
        ("/a:/b:rx", "^invalid mode: rx$"),
        ("/a:/b:ro,rw", "^invalid mode: ro,rw$"),
        ("/a:rel", "invalid mount path: 'rel' mount path must be absolute"),
        ("/a:/", "invalid specification: destination can't be '/'"),
        ("v:/dst", "create v: volume name is too short"),
        ("no/slash:/dst", "includes invalid characters for a local volume name"),
        ("/a:/proc", "cannot be mounted because it is inside /proc"),
        ("/a:/proc/sys/x", "cannot be mounted because it is inside /proc"),
        ("vol:/dst:rshared", "field BindOptions must not be specified"),
        ("/a:/b\0c", "nul character"),
    ],
)
def test_short_syntax_that_is_refused(raw: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text.replace("\0", "")):
        with_host(binds=[raw])


@pytest.mark.parametrize(
    "host_config",
    [
        HostConfig(binds=["/a:/x", "/b:/x"]),
        HostConfig(binds=["/a:/x"], tmpfs={"/x": ""}),
        HostConfig(binds=["/a:/x"], mounts=[Mount(type="tmpfs", target="/x/")]),
    ],
)
def test_duplicates(host_config: HostConfig) -> None:
    with pytest.raises(InvalidParameter, match=r"^Duplicate mount point: /x$"):
        resolved(host_config)


def test_image_volumes_are_anonymous_and_give_way() -> None:
    image = ImageConfig(cmd=["sh"], volumes={"/data": {}, "/taken": {}, "/tmp": {}})
    found = resolved(HostConfig(binds=["/s:/taken"], tmpfs={"/tmp": ""}), within=context(image=image))
    (volume,) = found.volumes
    assert (volume.target, volume.anonymous, len(volume.name)) == ("/data", True, 64)
    (point,) = (p for p in found.mount_points if p.type == "volume")
    assert (point.destination, point.driver, point.rw) == ("/data", "local", True)


def test_an_images_volume_without_a_slash_is_below_the_root() -> None:
    found = resolved(within=context(image=ImageConfig(cmd=["sh"], volumes={"data": {}, "//a/": {}})))
    assert sorted(volume.target for volume in found.volumes) == ["/a", "/data"]


def test_mount_bind_needs_its_source(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(InvalidParameter) as refused:
        with_host(mounts=[Mount(type="bind", source=missing, target="/x")])
    text = f'invalid mount config for type "bind": bind source path does not exist: {missing}'
    assert str(refused.value) == text
    options = MountBindOptions(create_mountpoint=True)
    found = with_host(mounts=[Mount(type="bind", source=missing, target="/x", bind_options=options)])
    assert found.bind_directories == (missing,)


def test_mount_bind_options(tmp_path: Path) -> None:
    request = Mount(
        type="bind",
        source=str(tmp_path),
        target="/x",
        read_only=True,
        bind_options=MountBindOptions(non_recursive=True, read_only_non_recursive=True),
    )
    mount = mount_at(with_host(mounts=[request]), "/x")
    assert (mount.readonly, mount.recursive, mount.recursive_readonly) == (True, False, False)


def test_mount_volume_options() -> None:
    options = MountVolumeOptions(no_copy=True, labels={"a": "b"})
    found = with_host(mounts=[Mount(type="volume", source="vol", target="/x", volume_options=options)])
    (wish,) = found.volumes
    assert (wish.name, wish.copy_up, wish.labels, wish.anonymous) == ("vol", False, {"a": "b"}, False)
    assert with_host(mounts=[Mount(type="volume", target="/x")]).volumes[0].anonymous


def test_mount_tmpfs_options() -> None:
    options = MountTmpfsOptions(size_bytes=1 << 20, mode=0o1700, options=[["exec"]])
    mount = mount_at(with_host(mounts=[Mount(type="tmpfs", target="/x", tmpfs_options=options)]), "/x")
    assert mount == Tmpfs(target="/x", options=("size=1048576", "mode=1700"), noexec=False)


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (Mount(type="bind", target="/x"), "field Source must not be empty"),
        (
            Mount(type="bind", source="rel", target="/x"),
            "invalid mount path: 'rel' mount path must be absolute",
        ),
        (Mount(type="volume"), "field Target must not be empty"),
        (Mount(type="tmpfs", source="/a", target="/x"), "field Source must not be specified"),
        (Mount(type="odd", target="/x"), 'invalid mount config for type "odd": mount type unknown'),
        (
            Mount(type="volume", target="/x", read_only=True),
            "must not set ReadOnly mode when using anonymous",
        ),
        (
            Mount(type="volume", target="/x", bind_options=MountBindOptions()),
            "field BindOptions must not be specified",
        ),
        (
            Mount(type="bind", source="/", target="/x", bind_options=MountBindOptions(propagation="odd")),
            "invalid propagation mode: odd",
        ),
    ],
)
def test_mounts_that_are_refused(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        with_host(mounts=[mount])


@pytest.mark.parametrize("kind", ["npipe", "cluster", "odd"])
def test_mount_types_that_are_none(kind: str) -> None:
    with pytest.raises(InvalidParameter, match=f'invalid mount config for type "{kind}": mount type unknown'):
        with_host(mounts=[Mount(type=kind, target="/x", source="y")])


def test_an_image_is_mounted_over_its_layers() -> None:
    found = with_host(
        mounts=[
            Mount(type="image", target="/rw", source="tools"),
            Mount(
                type="image",
                target="/ro",
                source="tools",
                read_only=True,
                image_options=MountImageOptions(subpath="usr/bin"),
            ),
        ]
    )
    layers = ("/layers/top", "/layers/base")
    assert mount_at(found, "/ro") == Layers(lower=layers, target="/ro", subpath="usr/bin", readonly=True)
    writable = mount_at(found, "/rw")
    own = {image.directory for image in found.images} - {""}
    assert [f"{directory}/fs" for directory in own] == [writable.upper]
    assert {image.id for image in found.images} == {"sha256:" + "a" * 64}
    assert [(point.type, point.rw) for point in found.mount_points] == [("image", False), ("image", True)]


@pytest.mark.parametrize("path", ["/abs", "..", "../x", "a/../../x"])
def test_subpaths_that_leave(path: str) -> None:
    for mount in (
        Mount(type="image", target="/x", source="tools", image_options=MountImageOptions(subpath=path)),
        Mount(type="volume", target="/x", source="vol", volume_options=MountVolumeOptions(subpath=path)),
    ):
        with pytest.raises(InvalidParameter, match="subpath must be a relative path within the volume"):
            with_host(mounts=[mount])


def test_an_image_that_is_not_there() -> None:
    with pytest.raises(InvalidParameter, match="No such image: gone"):
        with_host(mounts=[Mount(type="image", target="/x", source="gone")])


def test_another_volume_driver_is_asked_at_create() -> None:
    driver = MountVolumeOptions(driver_config=MountVolumeDriverConfig(name="nfs"), subpath="a/b")
    found = with_host(mounts=[Mount(type="volume", source="vol", target="/x", volume_options=driver)])
    assert [(wish.driver, wish.subpath) for wish in found.volumes] == [("nfs", "a/b")]
    assert mount_at(found, "/x").subpath == "a/b"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", Tmpfs(target="/t")),
        ("size=1m,mode=1700,uid=5", Tmpfs(target="/t", options=("size=1m", "mode=1700", "uid=5"))),
        ("rw,exec,suid,dev", Tmpfs(target="/t", noexec=False, nosuid=False, nodev=False)),
        ("ro,noexec,tmpcopyup", Tmpfs(target="/t", readonly=True, copy_up=True)),
        ("size=1m,size=50%", Tmpfs(target="/t", options=("size=50%",))),
    ],
)
def test_tmpfs_options(options: str, expected: Tmpfs) -> None:
    assert mount_at(with_host(tmpfs={"/t": options}), "/t") == expected


@pytest.mark.parametrize("option", ["size=x", "odd", "mode=9", "size=1m;x", "uid=-1"])
def test_tmpfs_options_that_are_refused(option: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
        with_host(tmpfs={"/t": option})


def test_volumes_from_takes_over_mounts_and_can_narrow_them() -> None:
    other = with_host(binds=["/src:/a", "vol:/b:ro"])
    within = context(peers={"peer": peer_of(other)})
    found = resolved(HostConfig(volumes_from=["peer:ro"], binds=["/mine:/b"]), within=within)
    assert mount_at(found, "/a").readonly
    assert mount_at(found, "/b").source == "/mine"
    wide = resolved(HostConfig(volumes_from=["peer"]), within=within)
    assert not mount_at(wide, "/a").readonly
    assert mount_at(wide, "/b").readonly
    assert [(v.name, v.copy_up, v.anonymous) for v in wide.volumes] == [("vol", False, False)]


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("ghost", InvalidParameter, "No such container: ghost"),
        ("", InvalidParameter, "cannot be an empty string"),
        ("peer:nocopy", InvalidParameter, "invalid mode: nocopy"),
    ],
)
def test_volumes_from_that_are_refused(spec: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        with_host(volumes_from=[spec])


def test_a_users_mount_takes_the_place_of_the_kernels() -> None:
    found = with_host(binds=["/dev:/dev", "/sys:/sys", "/cg:/sys/fs/cgroup"])
    assert not any(isinstance(m, Dev | Mqueue | Sysfs | CgroupMount) for m in found.plan.mounts)


def test_a_users_hosts_file_takes_the_place_of_the_engines() -> None:
    hosts = [
        m for m in with_host(binds=["/my:/etc/hosts"]).plan.mounts if getattr(m, "target", "") == "/etc/hosts"
    ]
    assert [m.source for m in hosts] == ["/my"]


def test_engine_files_are_read_only_with_the_root() -> None:
    assert mount_at(with_host(readonly_rootfs=True), "/etc/hosts").readonly
    assert not mount_at(with_host(), "/etc/hosts").readonly


def test_propagation_reaches_the_root(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/x rw\n"
        "2 1 8:1 / /shared\\040dir rw shared:7 - ext4 /dev/x rw\n"
        "3 1 8:1 / /slave rw master:7 - ext4 /dev/x rw\n"
    )
    check_source("/shared dir/x", "rshared", mountinfo=str(table))
    check_source("/slave", "rslave", mountinfo=str(table))
    with pytest.raises(
        InvalidParameter, match="path /slave is mounted on /slave but it is not a shared mount"
    ):
        check_source("/slave", "shared", mountinfo=str(table))
    with pytest.raises(
        InvalidParameter, match="path /x is mounted on / but it is not a shared or slave mount"
    ):
        check_source("/x", "slave", mountinfo=str(table))


def test_privileged_writes_to_the_kernel() -> None:
    mounts = with_host(privileged=True).plan.mounts
    assert not next(m for m in mounts if isinstance(m, Sysfs)).readonly
    assert not next(m for m in mounts if isinstance(m, CgroupMount)).readonly
    assert IMAGE.volumes is None

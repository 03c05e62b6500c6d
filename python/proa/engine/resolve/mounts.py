"""Mounts: what a container sees besides its root, from every option that adds one.

Order of precedence as Docker's: volumes of other containers, binds, mounts, then the image's volumes
where nothing else is mounted. Source: moby's daemon/volumes.go and volume/mounts/linux_parser.go.
"""

import os
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from proa.engine.resolve.model import Context, ImageMount, VolumeWish
from proa.engine.resolve.process import clean_path
from proa.engine.resolve.tmpfs import mount_tmpfs, parse_tmpfs
from proa.engine.resolve.volumespec import (
    Specification,
    parse_specification,
    parse_volumes_from,
    propagation,
)
from proa.errors import InvalidParameter
from proa.schema.container import (
    ContainerConfig,
    HostConfig,
    MountBindOptions,
    MountImageOptions,
    MountVolumeOptions,
)
from proa.schema.container import Mount as MountRequest
from proa.schema.container_state import MountPoint
from proa.schema.plan import Bind, Layers, Propagation, Tmpfs
from proa.volumes import DRIVER, check_name, check_options

_INSIDE_PROC = frozenset(
    [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    ]
)
"""Files that lxcfs and its like replace; nothing else of /proc can be mounted over."""


class UserMounts(Struct, frozen=True, kw_only=True):
    """The mounts that a request and an image ask for; parents come before children."""

    mounts: tuple[Bind | Layers | Tmpfs, ...]
    points: tuple[MountPoint, ...]
    volumes: tuple[VolumeWish, ...]
    images: tuple[ImageMount, ...]
    directories: tuple[str, ...]
    """Bind sources to be made where missing."""
    rootfs_propagation: Propagation


class _Entry(Struct, frozen=True, kw_only=True):
    mount: Bind | Layers | Tmpfs
    point: MountPoint | None = None
    volume: VolumeWish | None = None
    image: ImageMount | None = None
    create_source: bool = False


def resolve_mounts(config: ContainerConfig, host_config: HostConfig, context: Context) -> UserMounts:
    """Every mount that was asked for, checked; names and paths only, nothing is made."""
    entries = dict(_from_peers(host_config, context))
    tmpfs = {_target(path): options for path, options in (host_config.tmpfs or {}).items()}
    explicit: set[str] = set()
    for entry in (*_binds(host_config, context), *_requests(host_config, context)):
        target = entry.mount.target
        if target in explicit or target in tmpfs:
            raise InvalidParameter(f"Duplicate mount point: {target}")
        explicit.add(target)
        entries[target] = entry
    for path, options in tmpfs.items():
        entries[path] = _Entry(mount=parse_tmpfs(path, options))
    for path in config.volumes or {}:
        target = _target(f"/{path.lstrip('/')}")  # an image's may be relative, to the root then
        if target not in entries:
            entries[target] = _anonymous(target, context, host_config.volume_driver)
    return _collect(entries)


def _collect(entries: dict[str, _Entry]) -> UserMounts:
    ordered = [entries[target] for target in sorted(entries, key=depth)]
    for entry in ordered:
        _refuse_proc(entry.mount.target)
    return UserMounts(
        mounts=tuple(e.mount for e in ordered),
        points=tuple(e.point for e in ordered if e.point is not None),
        volumes=tuple(e.volume for e in ordered if e.volume is not None),
        images=tuple(e.image for e in ordered if e.image is not None),
        directories=tuple(e.mount.source for e in ordered if e.create_source and isinstance(e.mount, Bind)),
        rootfs_propagation=_rootfs_propagation(ordered),
    )


def depth(target: str) -> tuple[int, str]:
    """Sort key that puts parents before children."""
    return (target.rstrip("/").count("/"), target)


def _rootfs_propagation(entries: list[_Entry]) -> Propagation:
    asked = {e.mount.propagation for e in entries if isinstance(e.mount, Bind)}
    if asked & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if asked & {"slave", "rslave"} else "rprivate"


# ---- one option each -----------------------------------------------------------------------------


def _from_peers(host_config: HostConfig, context: Context) -> Iterator[tuple[str, _Entry]]:
    for spec in host_config.volumes_from or ():
        name, mode = parse_volumes_from(spec)
        peer = context.peer(name)
        theirs = {mount.target: mount for mount in peer.plan.mounts if isinstance(mount, Bind)}
        for point in peer.mount_points:
            if point.type not in ("bind", "volume") or point.destination not in theirs:
                continue
            writable = point.rw and not mode.readonly
            mount = msgspec.structs.replace(
                theirs[point.destination], readonly=not writable, recursive_readonly=not writable
            )
            volume = (
                VolumeWish(name=point.name, target=point.destination, copy_up=False) if point.name else None
            )
            shown = MountPoint(
                type=point.type,
                name=point.name,
                source=point.source,
                destination=point.destination,
                driver=point.driver,
                rw=writable,
                propagation=point.propagation,
            )
            yield point.destination, _Entry(mount=mount, point=shown, volume=volume)


def _binds(host_config: HostConfig, context: Context) -> Iterator[_Entry]:
    for raw in host_config.binds or ():
        spec = parse_specification(raw)
        kind = "bind" if spec.source.startswith("/") else "volume"
        try:
            target = _target(spec.target)
        except InvalidParameter as exc:
            raise InvalidParameter(
                f"invalid volume specification: '{raw}': invalid mount config for type \"{kind}\": {exc}"
            ) from None
        if kind == "bind" and spec.mode.nocopy:
            raise InvalidParameter(
                f"invalid volume specification: '{raw}': invalid mount config for type \"bind\": "
                "field VolumeOptions must not be specified"
            )
        if kind == "bind":
            yield _bind_of_spec(spec, target)
        elif not spec.source:
            yield _anonymous(target, context, host_config.volume_driver)
        else:
            yield _volume_of_spec(raw, spec, target, context, host_config.volume_driver)


def _bind_of_spec(spec: Specification, target: str) -> _Entry:
    source = clean_path(spec.source)
    mount = Bind(
        source=source,
        target=target,
        readonly=spec.mode.readonly,
        recursive_readonly=spec.mode.readonly,
        propagation=spec.mode.propagation or "rprivate",
    )
    return _Entry(mount=mount, point=_bind_point(mount, spec.mode.text), create_source=True)


def _volume_of_spec(raw: str, spec: Specification, target: str, context: Context, driver: str) -> _Entry:
    if spec.mode.propagation:
        raise InvalidParameter(
            f"invalid volume specification: '{raw}': invalid mount config for type \"volume\": "
            "field BindOptions must not be specified"
        )
    wish = VolumeWish(name=spec.source, target=target, copy_up=not spec.mode.nocopy, driver=driver)
    _check_volume(wish)
    return _volume_entry(wish, context, readonly=spec.mode.readonly, mode=spec.mode.text)


def _anonymous(target: str, context: Context, driver: str) -> _Entry:
    wish = VolumeWish(name=os.urandom(32).hex(), target=target, anonymous=True, driver=driver)
    return _volume_entry(wish, context, readonly=False, mode="")


def _requests(host_config: HostConfig, context: Context) -> Iterator[_Entry]:
    for request in host_config.mounts or ():
        try:
            entry = _request(request, context)
        except InvalidParameter as exc:
            raise InvalidParameter(f'invalid mount config for type "{request.type}": {exc}') from None
        if entry.volume is not None:
            _check_volume(entry.volume)
        yield entry


def _request(request: MountRequest, context: Context) -> _Entry:
    if not request.target:
        raise InvalidParameter("field Target must not be empty")
    target = _target(request.target)
    match request.type:
        case "bind":
            _refuse_extra(request, "VolumeOptions", "TmpfsOptions", "ImageOptions")
            return _requested_bind(request, target)
        case "volume":
            _refuse_extra(request, "BindOptions", "TmpfsOptions", "ImageOptions")
            return _requested_volume(request, target, context)
        case "tmpfs":
            _refuse_extra(request, "BindOptions", "VolumeOptions", "ImageOptions")
            if request.source:
                raise InvalidParameter("field Source must not be specified")
            mount = mount_tmpfs(target, request.tmpfs_options, readonly=request.read_only)
            point = MountPoint(type="tmpfs", destination=target, rw=not request.read_only)
            return _Entry(mount=mount, point=point)
        case "image":
            _refuse_extra(request, "BindOptions", "VolumeOptions", "TmpfsOptions")
            return _requested_image(request, target, context)
    raise InvalidParameter("mount type unknown")


def _refuse_extra(request: MountRequest, *fields: str) -> None:
    given = {
        "BindOptions": request.bind_options,
        "VolumeOptions": request.volume_options,
        "TmpfsOptions": request.tmpfs_options,
        "ImageOptions": request.image_options,
    }
    for name in fields:
        if given[name] is not None:
            raise InvalidParameter(f"field {name} must not be specified")


def _requested_bind(request: MountRequest, target: str) -> _Entry:
    options = request.bind_options or MountBindOptions()
    if not request.source:
        raise InvalidParameter("field Source must not be empty")
    if not request.source.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{request.source}' mount path must be absolute")
    source = _plain(clean_path(request.source))
    if not options.create_mountpoint and not os.path.lexists(source):
        raise InvalidParameter(f"bind source path does not exist: {source}")
    if options.read_only_force_recursive and not request.read_only:
        raise InvalidParameter("mount must be read-only to force recursive read-only")
    if options.read_only_force_recursive and options.read_only_non_recursive:
        raise InvalidParameter(
            "ReadOnlyNonRecursive and ReadOnlyForceRecursive must not be specified together"
        )
    mount = Bind(
        source=source,
        target=target,
        readonly=request.read_only,
        recursive=not options.non_recursive,
        recursive_readonly=request.read_only and not options.read_only_non_recursive,
        recursive_readonly_forced=options.read_only_force_recursive,
        propagation=propagation(options.propagation) or "rprivate",
    )
    return _Entry(mount=mount, point=_bind_point(mount, ""), create_source=options.create_mountpoint)


def _requested_volume(request: MountRequest, target: str, context: Context) -> _Entry:
    options = request.volume_options or MountVolumeOptions()
    if not request.source and request.read_only:
        raise InvalidParameter("must not set ReadOnly mode when using anonymous volumes")
    if not request.source and options.subpath:
        raise InvalidParameter("must not set Subpath when using anonymous volumes")
    driver = options.driver_config
    wish = VolumeWish(
        name=request.source or os.urandom(32).hex(),
        target=target,
        anonymous=not request.source,
        copy_up=not options.no_copy,
        driver=driver.name if driver else "",
        driver_opts=(driver.options if driver else None) or {},
        labels=options.labels or {},
        subpath=_subpath(options.subpath),
    )
    return _volume_entry(wish, context, readonly=request.read_only, mode="")


def _requested_image(request: MountRequest, target: str, context: Context) -> _Entry:
    options = request.image_options or MountImageOptions()
    if not request.source:
        raise InvalidParameter("field Source must not be empty")
    subpath = _subpath(options.subpath)
    image = context.find_image(request.source)
    if not image.layers:
        raise InvalidParameter(f"image {request.source} has no layers")
    # Writes are the container's own, and go with it.
    own = "" if request.read_only else f"{context.directory}/image-{os.urandom(4).hex()}"
    mount = Layers(
        lower=image.layers,
        target=target,
        subpath=subpath,
        readonly=request.read_only,
        upper=f"{own}/fs" if own else None,
        work=f"{own}/work" if own else None,
    )
    point = MountPoint(type="image", source=request.source, destination=target, rw=not request.read_only)
    return _Entry(mount=mount, point=point, image=ImageMount(id=image.id, directory=own))


def _subpath(path: str) -> str:
    """Of a volume or an image. Source: Go's filepath.IsLocal."""
    if not path:
        return ""
    cleaned = os.path.normpath(_plain(path))
    if path.startswith("/") or cleaned == ".." or cleaned.startswith("../"):
        raise InvalidParameter("subpath must be a relative path within the volume")
    return "" if cleaned == "." else path


# ---- what they share ----------------------------------------------------------------------------


def _volume_entry(wish: VolumeWish, context: Context, *, readonly: bool, mode: str) -> _Entry:
    source = context.volume_path(wish.name)
    point = MountPoint(
        type="volume",
        name=wish.name,
        source=source if wish.driver in ("", DRIVER) else "",
        destination=wish.target,
        driver=wish.driver or "local",
        mode=mode or ("" if wish.anonymous else "z"),
        rw=not readonly,
    )
    mount = Bind(
        source=source,
        target=wish.target,
        readonly=readonly,
        recursive_readonly=readonly,
        subpath=wish.subpath,
        idmap=True,
    )
    return _Entry(mount=mount, point=point, volume=wish)


def _check_volume(wish: VolumeWish) -> None:
    check_name(wish.name)
    if wish.driver in ("", DRIVER):
        check_options(wish.name, wish.driver_opts)


def _bind_point(mount: Bind, mode: str) -> MountPoint:
    return MountPoint(
        type="bind",
        source=mount.source,
        destination=mount.target,
        mode=mode,
        rw=not mount.readonly,
        propagation=mount.propagation,
    )


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    cleaned = clean_path(_plain(path))
    if cleaned == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    return cleaned


def _plain(path: str) -> str:
    if "\0" in path:
        raise InvalidParameter("invalid mount path: contains a nul character")
    return path


def _refuse_proc(target: str) -> None:
    if (target == "/proc" or target.startswith("/proc/")) and target not in _INSIDE_PROC:
        raise InvalidParameter(f'"{target}" cannot be mounted because it is inside /proc')

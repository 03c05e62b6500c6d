"""What a resolution is made of in tests: a plain host, an image, other containers."""

from collections.abc import Sequence

from proa.engine.resolve import Context, Host, Peer, Resolved, resolve
from proa.errors import NotFound
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerCreateRequest, HostConfig
from proa.schema.image import ImageConfig

ID = "c0ffee" + "0" * 58
PEER_ID = "beef" + "0" * 60

HOST = Host(
    hostname="box",
    cpus=2,
    memory=8 << 30,
    capabilities=(1 << 41) - 1,
    rlimits={7: 20000},
    may_raise_rlimits=False,
    oom_score_adj=0,
    cgroup_version="1",
    controllers=frozenset({"memory", "cpu", "cpuset", "pids", "blkio", "devices"}),
    swap_accounting=True,
    cpuset_cpus="0-1",
    cpuset_mems="0",
)

IMAGE = ImageConfig(cmd=["sh"], env=["PATH=/bin", "LANG=C"])

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/usr/sbin:/bin/false
app:x:1000:1001:an app:/home/app:/bin/sh
huge:x:4294967296:0::/:/bin/sh
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
app:x:1001:
audio:x:29:app
"""


def read_image(paths: Sequence[str]) -> list[bytes | None]:
    files = {"/etc/passwd": PASSWD, "/etc/group": GROUP}
    return [files.get(path) for path in paths]


def no_peer(ref: str) -> Peer:
    raise NotFound(f"No such container: {ref}")


class MountedImage:
    """An image of two layers, `tools`; others are not there."""

    id = "sha256:" + "a" * 64
    layers = ("/layers/top", "/layers/base")


def _find_image(ref: str) -> MountedImage:
    if ref != "tools":
        raise NotFound(f"No such image: {ref}")
    return MountedImage()


def context(
    *,
    host: Host = HOST,
    image: ImageConfig | None = IMAGE,
    config: DaemonConfig | None = None,
    peers: dict[str, Peer] | None = None,
) -> Context:
    def peer(ref: str) -> Peer:
        return (peers or {}).get(ref) or no_peer(ref)

    return Context(
        id=ID,
        directory=f"/containers/{ID}",
        config=config or DaemonConfig(),
        host=host,
        image=image,
        read=read_image,
        peer=peer,
        volume_path=lambda name: f"/volumes/{name}/_data",
        endpoint_faults=lambda _: (),
        find_image=_find_image,
        seccomp=lambda profile, capabilities: b"default" if profile is None else b"custom:" + profile,
    )


def resolved(
    host_config: HostConfig | None = None, *, within: Context | None = None, **config: object
) -> Resolved:
    """Resolve a request of these fields; the image is busybox's like."""
    request = ContainerCreateRequest(image="busybox", host_config=host_config, **config)  # type: ignore[arg-type]
    return resolve(request, within or context())


def with_host(**options: object) -> Resolved:
    """Resolve a request with these fields of HostConfig."""
    return resolved(HostConfig(**options))  # type: ignore[arg-type]


def peer_of(found: Resolved, *, name: str = "peer", running: bool = True) -> Peer:
    """A container as others see it, made of a resolution."""
    return Peer(
        id=PEER_ID,
        name=name,
        running=running,
        host_config=found.host_config,
        plan=found.plan,
        mount_points=found.mount_points,
    )

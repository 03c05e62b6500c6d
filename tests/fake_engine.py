"""An engine without containers: it implements proa.api.ports in memory, for tests and for the API's bench."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from fake_containers import CREATED, FakeContainers, FakeExecs, FakeFiles

from proa.api.ports import Filters
from proa.errors import (
    InvalidParameter,
    NotFound,
    Unauthorized,
)
from proa.schema.container import ContainerConfig
from proa.schema.image import (
    ImageConfig,
    ImageDeleteResponseItem,
    ImageHistoryResponseItem,
    ImageInspect,
    ImageSummary,
)
from proa.schema.network import (
    Network,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
)
from proa.schema.oci import Descriptor, Platform
from proa.schema.prune import (
    ImagesPruneReport,
    NetworksPruneReport,
    VolumesPruneReport,
)
from proa.schema.registry import AuthResponse, Credentials, DistributionInspect, SearchResult
from proa.schema.system import (
    EventActor,
    EventMessage,
    IDResponse,
    SystemDataUsage,
    SystemInfo,
    SystemVersion,
)
from proa.schema.volume import Volume, VolumeCreateOptions, VolumeListResponse


class FakeCommits:
    """POST /commit."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def commit(self, ref: str, asked: ContainerConfig | None, **options: object) -> IDResponse:
        self.calls.append(("commit", ref, asked, options))
        return IDResponse(id="sha256:" + "c" * 64)


class FakeImages:
    """The verbs of /images; `loaded` is what arrived."""

    def __init__(self) -> None:
        self.loaded = bytearray()
        self.gate: asyncio.Event | None = None
        self.calls: list[tuple[object, ...]] = []
        self.manifests = False
        """Whether the last list or inspect was to have them."""
        self.saved = [b"tar" * 100, b"x" * 200_000, b"end"]

    async def list(
        self, *, all: bool, filters: Filters, digests: bool, shared_size: bool, manifests: bool
    ) -> Sequence[ImageSummary]:
        self.manifests = manifests
        return [
            ImageSummary(
                id="sha256:" + "a" * 64, repo_tags=["busybox:latest"], size=5, shared_size=-1, containers=2
            )
        ]

    async def inspect(self, ref: str, *, platform: str, manifests: bool) -> ImageInspect:
        self.manifests = manifests
        if ref not in ("library/busybox:latest", "sha256:" + "a" * 64):
            raise NotFound(f"No such image: {ref}")
        config = ImageConfig(env=["PATH=/bin"])
        return ImageInspect(
            id="sha256:" + "a" * 64, repo_tags=["busybox:latest"], os="linux", config=config, size=5
        )

    async def history(self, ref: str, *, platform: str) -> Sequence[ImageHistoryResponseItem]:
        return [ImageHistoryResponseItem(id="<missing>", created_by="ADD")]

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        self.calls.append(("tag", ref, repo, tag))

    async def remove(
        self, ref: str, *, force: bool, prune: bool, platform: str
    ) -> Sequence[ImageDeleteResponseItem]:
        return [ImageDeleteResponseItem(untagged=ref)]

    async def load(self, body: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncIterator[bytes]:
        async for chunk in body:
            if self.gate is not None:
                await self.gate.wait()
            if not self.loaded and chunk.startswith(b"bad"):
                raise InvalidParameter("invalid tar header")
            self.loaded += chunk
            if chunk.endswith(b"late"):
                yield b'{"status":"Loading"}\r\n'
                raise InvalidParameter("archive ends early")
        yield b'{"stream":"Loaded image: busybox:latest\\n"}\r\n'

    async def save(self, refs: Sequence[str], *, platform: str) -> AsyncIterator[bytes]:
        self.calls.append(("save", tuple(refs)))
        if "nosuch" in refs:
            raise NotFound("No such image: nosuch")
        return self._archive()

    async def _archive(self) -> AsyncIterator[bytes]:
        for chunk in self.saved:
            yield chunk

    async def import_(
        self,
        body: AsyncIterator[bytes],
        *,
        url: str,
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[bytes]:
        async for chunk in body:
            self.loaded += chunk
        self.calls.append(("import", url, repo, tag, message, tuple(changes), platform))
        yield b'{"status":"sha256:' + b"a" * 64 + b'"}\r\n'

    async def pull(
        self, repo: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        self.calls.append(("pull", repo, tag, platform, credentials))
        raise NotFound(f"pull access denied for {repo}")

    async def push(
        self, name: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        self.calls.append(("push", name, tag, platform, credentials))
        raise NotFound(f"An image does not exist locally with the tag: {name}")

    async def prune(self, filters: Filters) -> ImagesPruneReport:
        return ImagesPruneReport(images_deleted=[], space_reclaimed=0)


class FakeNetworks:
    """The verbs of /networks; `calls` is what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def create(self, body: NetworkCreateRequest) -> NetworkCreateResponse:
        self.calls.append(("create", body))
        return NetworkCreateResponse(id="n" * 64)

    async def remove(self, ref: str) -> None:
        self.calls.append(("remove", ref))

    async def connect(self, ref: str, body: NetworkConnectRequest) -> None:
        self.calls.append(("connect", ref, body))

    async def disconnect(self, ref: str, body: NetworkDisconnectRequest) -> None:
        self.calls.append(("disconnect", ref, body))

    async def prune(self, filters: Filters) -> NetworksPruneReport:
        return NetworksPruneReport(networks_deleted=["mine"])

    async def list(self, filters: Filters) -> Sequence[Network]:
        return [await self.inspect("bridge")]

    async def inspect(self, ref: str, *, scope: str = "") -> Network:
        if ref == "n" * 64:
            return Network(name="mine", id=ref, created=CREATED, scope="local", driver="bridge")
        if ref != "bridge":
            raise NotFound(f"network {ref} not found")
        return Network(name="bridge", id="b" * 64, created=CREATED, scope="local", driver="bridge")


class FakeVolumes:
    """The verbs of /volumes."""

    def __init__(self) -> None:
        self.by_name: dict[str, Volume] = {}

    async def list(self, filters: Filters) -> VolumeListResponse:
        return VolumeListResponse(volumes=list(self.by_name.values()), warnings=[])

    async def create(self, body: VolumeCreateOptions) -> Volume:
        name = body.name or "v" * 64
        self.by_name[name] = Volume(name=name, driver="local", mountpoint=f"/v/{name}", created_at=CREATED)
        return self.by_name[name]

    async def inspect(self, name: str) -> Volume:
        if name not in self.by_name:
            raise NotFound(f"get {name}: no such volume")
        return self.by_name[name]

    async def remove(self, name: str, *, force: bool) -> None:
        del self.by_name[(await self.inspect(name)).name]

    async def prune(self, filters: Filters) -> VolumesPruneReport:
        self.pruned_with = filters
        return VolumesPruneReport(volumes_deleted=[], space_reclaimed=0)


class FakeRegistries:
    """The verbs that ask a registry: there is one image, x, and one user, who says `secret`."""

    MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def login(self, credentials: Credentials) -> AuthResponse:
        self.calls.append(("login", credentials))
        if credentials.password != "secret":
            raise Unauthorized("incorrect username or password")
        return AuthResponse(status="Login Succeeded", identity_token="")

    async def search(
        self, term: str, limit: int, filters: Filters, credentials: Credentials | None
    ) -> Sequence[SearchResult]:
        self.calls.append(("search", term, limit, filters, credentials))
        return [SearchResult(name=term, description="found", star_count=3, is_official=True)]

    async def put_manifest(
        self,
        name: str,
        media_type: str,
        data: bytes,
        credentials: Credentials | None,
        *,
        source: str,
        insecure: bool,
    ) -> str:
        self.calls.append(("put", name, media_type, data, credentials, source, insecure))
        return "sha256:" + "a" * 64

    async def inspect(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> DistributionInspect:
        self.calls.append(("inspect", name, credentials))
        descriptor = Descriptor(media_type="m", digest="sha256:" + "a" * 64, size=len(self.MANIFEST))
        return DistributionInspect(
            descriptor=descriptor, platforms=[Platform(architecture="amd64", os="linux")]
        )

    async def manifest(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> tuple[str, str, bytes]:
        self.calls.append(("manifest", name, credentials, insecure))
        if name.startswith("nosuch"):
            raise NotFound(f"manifest for {name} not found: manifest unknown: manifest unknown")
        return "application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, self.MANIFEST


class FakeSystem:
    """The verbs of the daemon itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.events_closed = asyncio.Event()

    async def version(self) -> SystemVersion:
        return SystemVersion(version="28.0.0", api_version="1.51", min_api_version="1.24", os="linux")

    async def disk_usage(self, kinds: Sequence[str]) -> SystemDataUsage:
        self.calls.append(("df", tuple(kinds)))
        return SystemDataUsage(layers_size=5, images=[], containers=[], volumes=[], build_cache=[])

    async def info(self) -> SystemInfo:
        return SystemInfo(id="fake", containers=0, driver="overlay2", server_version="28.0.0", ncpu=2)

    async def events(self, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[EventMessage]:
        self.calls.append(("events", since_ns, until_ns, filters))
        return self._events(until_ns)

    async def _events(self, until_ns: int) -> AsyncIterator[EventMessage]:
        try:
            for action in ("create", "start"):
                yield EventMessage(
                    type="container",
                    action=action,
                    actor=EventActor(id="c" * 64, attributes={"image": "busybox", "name": "one"}),
                    scope="local",
                    time=1_700_000_000,
                    time_nano=1_700_000_000_000_000_001,
                )
            if not until_ns:
                await asyncio.get_running_loop().create_future()
        finally:
            self.events_closed.set()


class FakeEngine:
    """The whole of it."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs(self.containers)
        self.files = FakeFiles(self.containers)
        self.commits = FakeCommits()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.registries = FakeRegistries()
        self.system = FakeSystem()

"""`manifest inspect`: what a registry, or a list in the making, has under a name.

The HTTP is the daemon's (/distribution/{name}/manifest, proa's own), which knows mirrors, certificates and
proxies; Docker's CLI talks to the registry itself.

Source: docker/cli cli/command/manifest; the observed output of docker 28.
"""

from proa.cli.credentials import header_for, header_line
from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.jsontext import decode, pretty
from proa.cli.manifest_store import ManifestStore
from proa.cli.reference import check, full_repository, split
from proa.cli.table import show
from proa.cli.transport import Client, client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.manifest_store import Manifest

INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_LISTS = (INDEX, DOCKER_LIST)

_FLAGS = (
    ("insecure", "", "bool", "", "Allow communication with an insecure registry"),
    ("verbose", "v", "bool", "", "Output additional info including layers and platform"),
)


class Source:
    """One repository, asked through the daemon."""

    def __init__(self, api: Client, parsed: Parsed, reference: str) -> None:
        self._api = api
        self._extra = header_line(header_for(reference, parsed.options))
        self._insecure = parsed.flag("insecure")
        self._repository = split(reference)[0]

    def raw(self, reference: str) -> "tuple[str, str, bytes]":
        """(media type, digest, document). Raises Failure, `no such manifest: x` among them."""
        path = f"/distribution/{quote(reference)}/manifest{query(insecure=self._insecure)}"
        try:
            response = self._api.request("GET", path, extra=self._extra)
        except DaemonError as exc:
            if exc.status != 404:
                raise
            raise Failure(f"no such manifest: {canonical(reference)}") from None
        data = response.read()
        self._api.release(response)
        headers = response.headers
        return headers.get("content-type", ""), headers.get("docker-content-digest", ""), data

    def image(self, reference: str) -> "Manifest":
        """A single image, with the platform that its configuration says. Raises Failure."""
        return self.described(reference, *self.raw(reference))

    def described(self, reference: str, media_type: str, digest: str, data: bytes) -> "Manifest":
        """The same of a document that was read already."""
        if media_type in _LISTS:
            raise Failure(f"{canonical(reference)} is a manifest list")
        descriptor: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data)}
        path = f"/distribution/{quote(reference)}/json{query(insecure=self._insecure)}"
        platforms = (self._api.call("GET", path, extra=self._extra) or {}).get("Platforms") or []
        if len(platforms) == 1:
            descriptor["platform"] = platforms[0]
        return verbose(canonical(reference), descriptor, media_type, data)

    def put(self, reference: str, media_type: str, data: bytes, *, mounting: str = "") -> str:
        """Store a document, with what it names mounted from a repository; its digest. Raises Failure."""
        path = f"/distribution/{quote(reference)}/manifest"
        path += query(**{"from": mounting or None, "insecure": self._insecure})
        response = self._api.upload("PUT", path, [data], media_type, self._extra)
        answer = response.read()
        self._api.release(response)
        return str(decode(answer)["Digest"])

    def child(self, digest: str) -> str:
        """The reference of one image of an index."""
        return f"{self._repository}@{digest}"


def inspect(parsed: Parsed) -> int:
    """`proa manifest inspect`."""
    for name in parsed.args:
        check(name)
    reference = parsed.args[-1]
    store = ManifestStore(parsed.options)
    if len(parsed.args) > 1:
        found = store.get(canonical(parsed.args[0]), canonical(reference))
        if found is None:
            raise Failure(f"No such manifest: {canonical(reference)}")
        return _show_image(parsed, found)
    if store.has_list(canonical(reference)):
        manifests = store.get_list(canonical(reference))
        if parsed.flag("verbose"):
            show(pretty(manifests, "\t") + "\n")
        else:
            show(pretty(list_document(manifests, full_repository(split(reference)[0])), "   ") + "\n")
        return 0
    return _inspect_remote(parsed, reference)


def _inspect_remote(parsed: Parsed, reference: str) -> int:
    source = Source(client(parsed.options), parsed, reference)
    media_type, digest, data = source.raw(reference)
    if not parsed.flag("verbose"):
        show(pretty(decode(data), "   " if media_type in _LISTS else "\t") + "\n")
        return 0
    if media_type in _LISTS:
        found = [_child(source, reference, one) for one in decode(data).get("manifests") or []]
        show(pretty(found, "\t") + "\n")
        return 0
    return _show_image(parsed, source.described(reference, media_type, digest, data))


def _show_image(parsed: Parsed, found: "Manifest") -> int:
    shown = found if parsed.flag("verbose") else found.get("SchemaV2Manifest") or found.get("OCIManifest")
    show(pretty(shown, "\t") + "\n")
    return 0


def _child(source: Source, reference: str, descriptor: "dict[str, Any]") -> "Manifest":
    digest = str(descriptor.get("digest") or "")
    media_type, _, data = source.raw(source.child(digest))
    return verbose(f"{canonical(reference)}@{digest}", descriptor, media_type, data)


def verbose(name: str, descriptor: "dict[str, Any]", media_type: str, data: bytes) -> "Manifest":
    """An image's manifest with what is known of it, as `-v` shows it and as the store keeps it."""
    import binascii

    kind = "SchemaV2Manifest" if media_type == DOCKER else "OCIManifest"
    raw = binascii.b2a_base64(data, newline=False).decode()
    return {"Ref": name, "Descriptor": descriptor, "Raw": raw, kind: decode(data)}


def list_document(manifests: "list[Manifest]", repository: str) -> "dict[str, Any]":
    """The list of these images, with its members in Docker's order. Raises Failure.

    It is an OCI index where the first of them is an OCI image.
    """
    entries = []
    for manifest in manifests:
        descriptor = manifest["Descriptor"]
        platform = descriptor.get("platform") or {}
        if not platform.get("architecture") or not platform.get("os"):
            raise Failure(
                f"manifest {manifest['Ref']} must have an OS and Architecture to be pushed to a registry"
            )
        theirs, ours = manifest["Ref"].partition("/")[0], repository.partition("/")[0]
        if theirs != ours:
            raise Failure(
                "cannot use source images from a different registry than the target image: "
                f"{theirs} != {ours}"
            )
        entry = {key: descriptor[key] for key in ("mediaType", "size", "digest") if descriptor.get(key)}
        names = ("architecture", "os", "os.version", "os.features", "variant")
        entry["platform"] = {name: platform[name] for name in names if platform.get(name)}
        entries.append(entry)
    kind = INDEX if entries and entries[0].get("mediaType") == OCI else DOCKER_LIST
    return {"schemaVersion": 2, "mediaType": kind, "manifests": entries}


def canonical(reference: str) -> str:
    """The full form, with the tag that is meant."""
    repository, tag, digest = split(reference)
    end = f":{tag}" if tag else "" if digest else ":latest"
    return f"{full_repository(repository)}{end}{'@' if digest else ''}{digest}"


COMMANDS = {
    "manifest inspect": Command(
        "manifest inspect",
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        "Display an image manifest, or manifest list",
        inspect,
        _FLAGS,
        minimum=1,
        maximum=2,
    )
}

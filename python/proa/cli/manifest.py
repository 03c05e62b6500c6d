"""`manifest inspect`: what a registry has under a name.

The HTTP is the daemon's (GET /distribution/{name}/manifest, proa's own), which knows mirrors, certificates
and proxies; Docker's CLI talks to the registry itself.

Source: the observed output of docker 28.
"""

from proa.cli.credentials import header_for, header_line
from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.jsontext import decode, pretty
from proa.cli.reference import check, full_repository, split
from proa.cli.table import show
from proa.cli.transport import Client, client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LISTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"

_FLAGS = (
    ("insecure", "", "bool", "", "Allow communication with an insecure registry"),
    ("verbose", "v", "bool", "", "Output additional info including layers and platform"),
)


class _Source:
    """One repository, asked through the daemon."""

    def __init__(self, api: Client, parsed: Parsed, reference: str) -> None:
        self._api = api
        self._extra = header_line(header_for(reference, parsed.options))
        self._query = query(insecure=parsed.flag("insecure"))
        self._repository = split(reference)[0]

    def raw(self, reference: str) -> "tuple[str, str, bytes]":
        """(media type, digest, document). Raises Failure."""
        response = self._api.request(
            "GET", f"/distribution/{quote(reference)}/manifest{self._query}", extra=self._extra
        )
        data = response.read()
        self._api.release(response)
        return (
            response.headers.get("content-type", ""),
            response.headers.get("docker-content-digest", ""),
            data,
        )

    def platform(self, reference: str) -> "dict[str, Any]":
        """What a single image runs on."""
        found = self._api.call("GET", f"/distribution/{quote(reference)}/json", extra=self._extra) or {}
        platforms = found.get("Platforms") or []
        return platforms[0] if len(platforms) == 1 else {}

    def child(self, digest: str) -> str:
        """The reference of one image of an index."""
        return f"{self._repository}@{digest}"


def inspect(parsed: Parsed) -> int:
    """`proa manifest inspect`."""
    reference = parsed.args[-1]
    if len(parsed.args) > 1:
        raise Failure("manifest lists that are not in a registry are not supported")
    check(reference)
    api = client(parsed.options)
    source = _Source(api, parsed, reference)
    try:
        media_type, digest, data = source.raw(reference)
    except DaemonError as exc:
        raise Failure(
            "no such manifest: " + _canonical(reference) if exc.status == 404 else str(exc)
        ) from None
    if not parsed.flag("verbose"):
        show(pretty(decode(data), "   " if media_type in _LISTS else "\t") + "\n")
        return 0
    if media_type in _LISTS:
        found = [_child(source, reference, one) for one in decode(data).get("manifests") or []]
        show(pretty(found, "\t") + "\n")
        return 0
    descriptor = {"mediaType": media_type, "digest": digest, "size": len(data)}
    platform = source.platform(reference)
    if platform:
        descriptor["platform"] = platform
    show(pretty(_verbose(_canonical(reference), descriptor, media_type, data), "\t") + "\n")
    return 0


def _child(source: _Source, reference: str, descriptor: "dict[str, Any]") -> "dict[str, Any]":
    digest = str(descriptor.get("digest") or "")
    media_type, _, data = source.raw(source.child(digest))
    return _verbose(f"{_canonical(reference)}@{digest}", descriptor, media_type, data)


def _verbose(name: str, descriptor: "dict[str, Any]", media_type: str, data: bytes) -> "dict[str, Any]":
    import binascii

    kind = "SchemaV2Manifest" if media_type == _DOCKER else "OCIManifest"
    raw = binascii.b2a_base64(data, newline=False).decode()
    return {"Ref": name, "Descriptor": descriptor, "Raw": raw, kind: decode(data)}


def _canonical(reference: str) -> str:
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

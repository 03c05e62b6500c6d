"""`manifest create`, `annotate`, `push` and `rm`: lists of images of several platforms.

A list is made of files of the client (manifest_store.py); only `create` and `push` ask a registry, through
the daemon as `inspect` does: cli has no client of registries and may not import one. What is pushed has the
bytes, and so the digest, that Docker's CLI would give it.

Source: docker/cli cli/command/manifest; distribution manifest/manifestlist; the observed output of docker 28.
"""

from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.jsontext import pretty
from proa.cli.manifest import DOCKER, OCI, Source, canonical, list_document
from proa.cli.manifest_store import ManifestStore
from proa.cli.reference import check, split
from proa.cli.table import show
from proa.cli.transport import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.manifest_store import Manifest

_INSECURE = "Allow communication with an insecure registry"
_CREATE = (
    ("amend", "a", "bool", "", "Amend an existing manifest list"),
    ("insecure", "", "bool", "", _INSECURE),
)
_ANNOTATE = (
    ("arch", "", "string", "", "Set architecture"),
    ("os", "", "string", "", "Set operating system"),
    ("os-features", "", "list", "", "Set operating system feature"),
    ("os-version", "", "string", "", "Set operating system version"),
    ("variant", "", "string", "", "Set architecture variant"),
)
_PUSH = (
    ("insecure", "", "bool", "", "Allow push to an insecure registry"),
    ("purge", "p", "bool", "", "Remove the local manifest list after push"),
)

_PLATFORMS = {
    "darwin": ("386", "amd64", "arm", "arm64"),
    "dragonfly": ("amd64",),
    "freebsd": ("386", "amd64", "arm"),
    "linux": ("386", "amd64", "arm", "arm64", "ppc64le", "mips64", "mips64le", "riscv64", "s390x"),
    "netbsd": ("386", "amd64", "arm"),
    "openbsd": ("386", "amd64", "arm"),
    "plan9": ("386", "amd64"),
    "solaris": ("amd64",),
    "windows": ("386", "amd64"),
}


def create(parsed: Parsed) -> int:
    """`proa manifest create`."""
    listed = _named(parsed.args[0], f"error parsing name for manifest list {parsed.args[0]}: ")
    store = ManifestStore(parsed.options)
    if store.has_list(listed) and not parsed.flag("amend"):
        raise Failure("refusing to amend an existing manifest list with no --amend flag")
    for name in parsed.args[1:]:
        reference = _named(name)
        found = store.get(listed, reference)
        if found is None or not found.get("Raw"):
            found = Source(client(parsed.options), parsed, reference).image(reference)
        store.save(listed, reference, found)
    show(f"Created manifest list {listed}\n")
    return 0


def annotate(parsed: Parsed) -> int:
    """`proa manifest annotate`."""
    names = parsed.args
    listed = _named(names[0], f"annotate: error parsing name for manifest list {names[0]}: ")
    reference = _named(names[1], f"annotate: error parsing name for manifest {names[1]}: ")
    store = ManifestStore(parsed.options)
    found = store.get(listed, reference)
    if found is None:
        raise Failure(f"manifest for image {names[1]} does not exist in {names[0]}")
    platform = found["Descriptor"].setdefault("platform", {"architecture": "", "os": ""})
    for flag, key in (
        ("arch", "architecture"),
        ("os", "os"),
        ("os-version", "os.version"),
        ("variant", "variant"),
    ):
        if parsed.get(flag):
            platform[key] = parsed.get(flag)
    features = [word for value in parsed.get("os-features", ()) for word in value.split(",") if word]
    if features:
        platform["os.features"] = list(dict.fromkeys([*(platform.get("os.features") or ()), *features]))
    if platform.get("architecture") not in _PLATFORMS.get(platform.get("os", ""), ()):
        raise Failure(
            "manifest entry for image has unsupported os/arch combination: "
            f"{parsed.get('os')}/{parsed.get('arch')}"
        )
    store.save(listed, reference, found)
    return 0


def push(parsed: Parsed) -> int:
    """`proa manifest push`."""
    listed = _named(parsed.args[0])
    store = ManifestStore(parsed.options)
    manifests = store.get_list(listed)
    if not manifests:
        raise Failure(f"{listed} not found")
    repository = split(listed)[0]
    document = list_document(manifests, repository)
    source = Source(client(parsed.options), parsed, listed)
    for manifest in manifests:
        home = split(manifest["Ref"])[0]
        if home == repository:
            continue
        reference = f"{repository}@{manifest['Descriptor']['digest']}"
        kind = OCI if "OCIManifest" in manifest else DOCKER
        digest = source.put(reference, kind, _raw(manifest), mounting=home)
        show(f"Pushed ref {reference} with digest: {digest}\n")
    data = pretty(document, "   ").encode()
    show(source.put(listed, document["mediaType"], data) + "\n")
    if parsed.flag("purge"):
        store.remove(listed)
    return 0


def remove(parsed: Parsed) -> int:
    """`proa manifest rm`."""
    store = ManifestStore(parsed.options)
    failures = []
    for name in parsed.args:
        try:
            listed = _named(name)
            if not store.has_list(listed):
                raise Failure(f"No such manifest: {listed}")
            store.remove(listed)
        except Failure as exc:
            failures.append(str(exc))
    if failures:
        raise Failure("\n".join(failures))
    return 0


def _named(name: str, prefix: str = "") -> str:
    """The full reference. Raises Failure."""
    try:
        check(name)
    except Failure as exc:
        raise Failure(f"{prefix}{exc}") from None
    return canonical(name)


def _raw(manifest: "Manifest") -> bytes:
    """The manifest's own bytes; files of older clients lack them, and have what they were indented from."""
    import binascii
    from hashlib import sha256

    raw = binascii.a2b_base64(manifest.get("Raw") or "")
    if not raw:
        member, indent = ("OCIManifest", "  ") if "OCIManifest" in manifest else ("SchemaV2Manifest", "   ")
        raw = pretty(manifest.get(member), indent).encode()
    digest, found = manifest["Descriptor"]["digest"], f"sha256:{sha256(raw).hexdigest()}"
    if found != digest:
        raise Failure(f"internal digest mismatch for {manifest['Ref']}: expected {digest}, got {found}")
    return raw


COMMANDS = {
    "manifest create": Command(
        "manifest create",
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        "Create a local manifest list for annotating and pushing to a registry",
        create,
        _CREATE,
        minimum=2,
    ),
    "manifest annotate": Command(
        "manifest annotate",
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        "Add additional information to a local image manifest",
        annotate,
        _ANNOTATE,
        minimum=2,
        maximum=2,
    ),
    "manifest push": Command(
        "manifest push",
        "[OPTIONS] MANIFEST_LIST",
        "Push a manifest list to a repository",
        push,
        _PUSH,
        minimum=1,
        maximum=1,
    ),
    "manifest rm": Command(
        "manifest rm",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        "Delete one or more manifest lists from local storage",
        remove,
        minimum=1,
    ),
}

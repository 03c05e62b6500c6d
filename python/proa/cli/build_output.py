"""What becomes of a built image beside being in the store: pushes, archives, files, and what says its id.

    type=docker,dest=   type=oci,dest=   the image as an archive
    type=tar,dest=      type=local,dest= its files, as a container of it has them

Source: the documentation of `docker buildx build`, --output.
"""

import os

from proa.cli.environment import absolute
from proa.cli.failure import Failure
from proa.cli.flags import Parsed
from proa.cli.jsontext import pretty
from proa.cli.transport import Client, query, quote
from proa.cli.values import csv_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_FIELDS = (
    "compression",
    "compression-level",
    "force-compression",
    "name-canonical",
    "oci-mediatypes",
    "rewrite-timestamp",
)
_BOOLS = (
    "force-compression",
    "insecure",
    "name-canonical",
    "oci-mediatypes",
    "platform-split",
    "push",
    "push-by-digest",
    "rewrite-timestamp",
    "store",
    "tar",
    "unpack",
)
_TRUE, _FALSE = ("", "1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_ANNOTATED = ("manifest", "index", "manifest-descriptor")
_KINDS = ("docker", "image", "local", "oci", "registry", "tar")


class Built:
    """What a build came to: an id, a manifest's digest if there is one, the images of several platforms."""

    def __init__(self) -> None:
        self.image = ""
        self.digest = ""
        self.images: list[dict[str, str]] = []
        self.warnings: list[dict[str, Any]] = []

    def told(self, aux: "dict[str, Any]") -> None:
        """What the daemon says at the end."""
        self.image = aux.get("ID", self.image)
        self.digest = aux.get("Digest", "")
        self.images = aux.get("Images", [])


class Output:
    """One --output: `target` is a path, `-` for stdout, or nothing for the store."""

    __slots__ = ("fields", "kind", "names", "options", "push", "target")

    def __init__(
        self,
        kind: str,
        target: str,
        push: bool,
        names: list[str],
        fields: "dict[str, str] | None" = None,
        options: "dict[str, bool] | None" = None,
    ) -> None:
        """`fields` are for the daemon: what the image is to be like; `options` are for us."""
        self.kind = kind
        self.target = target
        self.push = push
        self.names = names
        self.fields = fields or {}
        self.options = options or {}

    @property
    def unpacked(self) -> bool:
        """Whether an archive is wanted as a directory."""
        return not self.options.get("tar", True)


def outputs_of(parsed: Parsed) -> list[Output]:
    """What --output, --push and --load ask for. Raises Failure."""
    found = [_output(text) for text in parsed.get("output", ())]
    if parsed.flag("push"):
        found.append(Output("registry", "", True, []))
    if sum(output.target == "-" for output in found) > 1:
        raise Failure("ERROR: only one output can go to stdout")
    if any(output.push for output in found) and not (parsed.get("tag") or any(o.names for o in found)):
        raise Failure("ERROR: tag is needed when pushing to registry")
    if any(output.target == "-" for output in found) and os.isatty(1):
        raise Failure("ERROR: dest file is required for an exporter: refusing to write to console")
    return found


def _output(text: str) -> Output:
    fields = csv_fields(text)
    if len(fields) == 1 and "=" not in text:
        return Output("tar", "-", False, []) if text == "-" else Output("local", text, False, [])
    values = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise Failure(f"ERROR: invalid value {field}, expected key=value")
        key = key.strip()
        values[key if key.startswith("annotation") else key.lower()] = value
    kind, target = values.get("type", ""), values.get("dest", "")
    if not kind:
        raise Failure("ERROR: type is required for output")
    if kind not in _KINDS:
        raise Failure(f'ERROR: failed to solve: exporter "{kind}" could not be found')
    options = {name: _truth(name, values[name]) for name in _BOOLS if name in values}
    values.update({name: "true" if value else "false" for name, value in options.items()})
    if options.get("push-by-digest"):
        raise Failure("ERROR: push-by-digest=true is not supported")
    if not options.get("tar", True) and target in ("", "-"):
        raise Failure(f"ERROR: dest is required for {kind} exporter with tar=false")
    if kind == "local" and target in ("", "-"):
        raise Failure("ERROR: dest is required for local exporter")
    if kind in ("oci", "tar") and not target:
        target = "-"
    if values.get("compression") == "estargz":
        raise Failure("ERROR: compression=estargz is not supported: gzip, zstd and uncompressed are")
    names = [name for name in values.get("name", "").split(",") if name]
    push = kind == "registry" or (kind == "image" and options.get("push", False))
    wanted = {
        name: value for name, value in values.items() if name in _FIELDS or name.startswith("annotation")
    }
    return Output(kind, "" if kind in ("image", "registry") else target, push, names, wanted, options)


def _truth(name: str, value: str) -> bool:
    if value not in _TRUE and value not in _FALSE:
        said = f'strconv.ParseBool: parsing "{value}": invalid syntax'
        raise Failure(f"ERROR: failed to solve: non-bool value specified for {name}: {said}")
    return value in _TRUE


def image_fields(parsed: Parsed, outputs: list[Output]) -> dict[str, str]:
    """What the image is to be like, of all outputs and --annotation: there is one. Raises Failure."""
    found: dict[str, str] = {}
    for output in outputs:
        for name, value in output.fields.items():
            if found.setdefault(name, value) != value:
                raise Failure(f"ERROR: outputs of one build cannot differ in {name}")
    # An archive's bytes follow from the build alone: not from what the store has of a layer by chance.
    archives = {output.kind for output in outputs if output.target}
    if archives & {"docker", "oci"}:
        found.setdefault("compression", "gzip")
    if "oci" in archives:
        found.setdefault("oci-mediatypes", "true")
    for text in parsed.get("annotation", ()):
        key, equals, value = text.partition("=")
        if not equals:
            raise Failure(f"ERROR: invalid annotation {text!r}, expected key=value")
        kinds, colon, name = key.rpartition(":")
        # A key may have a colon of its own; what is before it is a kind only where it is one.
        if not colon or any(kind.partition("[")[0] not in _ANNOTATED for kind in kinds.split(",")):
            kinds, name = "manifest", key
        for kind in kinds.split(","):
            found[f"annotation-{kind}.{name}"] = value
    return found


def deliver(
    api: Client, parsed: Parsed, outputs: list[Output], built: Built, names: list[str], *, quiet: bool
) -> None:
    """Everything that was asked for, of the image or the images of several platforms. Raises Failure."""
    for output in outputs:
        if output.kind == "local":
            for place, image in _places(api, built, output):
                _files(api, image, place)
        elif output.kind == "tar":
            _export(api, built, output)
        elif output.target:
            _check_archive(output, built, names)
            _save(api, names or [built.image], output)
    if any(output.push for output in outputs):
        from proa.cli.pull import push_image

        for name in names:
            push_image(api, name, parsed.options, platform="", quiet=quiet, all_tags=False)


def _places(api: Client, built: Built, output: Output) -> list[tuple[str, str]]:
    """(directory, image): a directory for each platform where there are several, or it is asked for."""
    if not output.options.get("platform-split", bool(built.images)):
        images = [each["ID"] for each in built.images] or [built.image]
        return [(output.target, image) for image in images]
    return [(f"{output.target}/{_platform_name(each)}", each["ID"]) for each in _images(api, built)]


def _images(api: Client, built: Built) -> list[dict[str, str]]:
    """The image of each platform, where there is one platform, too."""
    if built.images:
        return built.images
    found = api.call("GET", f"/images/{built.image}/json")
    parts = (found.get("Os"), found.get("Architecture"), found.get("Variant"))
    return [{"Platform": "/".join(part for part in parts if part), "ID": built.image}]


def _platform_name(image: "dict[str, str]") -> str:
    return image["Platform"].replace("/", "_")


def _check_archive(output: Output, built: Built, names: list[str]) -> None:
    if built.images and output.kind == "docker":
        raise Failure("ERROR: docker exporter does not currently support exporting manifest lists")
    if built.images and not names:
        raise Failure("ERROR: an archive of several platforms needs a tag: give --tag or name=")


def write_results(parsed: Parsed, api: Client, built: Built, names: list[str], *, pushed: bool) -> None:
    """--iidfile and --metadata-file. Raises Failure."""
    image = built.image
    if parsed.get("iidfile"):
        _write(parsed.get("iidfile"), built.digest if built.images else image)
    if parsed.get("metadata-file"):
        found: dict[str, Any] = {"containerimage.config.digest": image}
        if built.images:
            found = {}
        digest = built.digest or (_pushed_digest(api, names) if pushed else "")
        found["containerimage.digest"] = digest or image
        if digest:
            descriptor = _descriptor(api, names, digest) if pushed else None
            found["containerimage.descriptor"] = descriptor or {"digest": digest}
        if names:
            from proa.cli.reference import full_repository, split

            full = []
            for name in names:
                repository, tag, _ = split(name)
                full.append(f"{full_repository(repository)}:{tag or 'latest'}")
            found["image.name"] = ",".join(full)
        _write(parsed.get("metadata-file"), pretty(found, "  "))


def _pushed_digest(api: Client, names: list[str]) -> str:
    """What the registry has under the first name."""
    from proa.cli.reference import full_repository, split

    repository, _, _ = split(names[0])
    wanted = full_repository(repository)
    for name in api.call("GET", f"/images/{quote(names[0])}/json").get("RepoDigests") or ():
        found, _, digest = name.partition("@")
        if full_repository(found) == wanted:
            return str(digest)
    return ""


def _descriptor(api: Client, names: list[str], digest: str) -> "dict[str, Any] | None":
    """The registry's own words, where it has some for us."""
    try:
        found = api.call("GET", f"/distribution/{quote(names[0])}/json")
    except Failure:
        return None
    descriptor: dict[str, Any] = found.get("Descriptor") or {}
    return descriptor if descriptor.get("digest") == digest else None


def _write(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(draft, path)
    except OSError as exc:
        raise Failure(f"ERROR: open {path}: {(exc.strerror or '').lower()}") from None


def _save(api: Client, names: list[str], output: Output) -> None:
    from proa.cli.archives import write_body

    wanted = "&".join(f"names={quote(name)}" for name in names)
    path = "" if output.unpacked else _path(output.target)
    response = api.request("GET", f"/images/get?{wanted}")
    if output.unpacked:
        _unpack(response, output.target)
    else:
        write_body(response, path)


def _path(target: str) -> str:
    """As write_body takes it: nothing for stdout."""
    if target == "-":
        return ""
    folder = os.path.dirname(absolute(target))
    if not os.path.isdir(folder):
        raise Failure(f'ERROR: invalid output path: directory "{folder}" does not exist')
    if os.path.isdir(target):
        raise Failure(f"ERROR: destination file {target} is a directory")
    return target


class _Container:
    """A container of the image that never runs, for its files; removed at the end."""

    def __init__(self, api: Client, image: str) -> None:
        self._api = api
        self._image = image
        self._id = ""

    def __enter__(self) -> "Any":
        import _signal  # type: ignore[import-not-found]

        # Ctrl-C must not leave the container behind.
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        body = {"Image": self._image, "Cmd": ["/"], "NetworkDisabled": True}
        self._id = self._api.call("POST", "/containers/create", body)["Id"]
        return self._api.request("GET", f"/containers/{self._id}/export?image=1")

    def __exit__(self, *reason: object) -> None:
        self._api.call("DELETE", f"/containers/{self._id}{query(force=True, v=True)}")


def _export(api: Client, built: Built, output: Output) -> None:
    from proa.cli.archives import write_body

    path, split = _path(output.target), output.options.get("platform-split", bool(built.images))
    if built.images and not split:
        raise Failure("ERROR: platform-split=false is not supported for a tar of several platforms")
    if split:
        write_body(_Joined(api, _images(api, built)), path)
        return
    with _Container(api, built.image) as response:
        write_body(response, path)
        api.release(response)


class _Joined:
    """The files of several platforms as one tar, a directory each."""

    def __init__(self, api: Client, images: list[dict[str, str]]) -> None:
        self._api = api
        self._images = images

    def chunks(self) -> "Iterator[bytes]":
        """As a response has them."""
        from proa.cli.localtar import END, below

        for image in self._images:
            with _Container(self._api, image["ID"]) as response:
                yield from below(_platform_name(image), response.chunks())
                self._api.release(response)
        yield END


def _files(api: Client, image: str, target: str) -> None:
    with _Container(api, image) as response:
        _unpack(response, target)
        api.release(response)


def _unpack(response: "Any", target: str) -> None:
    from proa.cli.localtar import unpack

    try:
        os.makedirs(target, exist_ok=True)
    except OSError as exc:
        raise Failure(f"ERROR: mkdir {target}: {(exc.strerror or '').lower()}") from None
    unpack(response.chunks(), target, [])

"""What a client of BuildKit asks for, as the engine's builds take it.

Source: moby/buildkit frontend/dockerfile/builder (keys of the options), exporter/containerimage/exptypes;
the documentation of `docker buildx build`.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from proa.build.words import go_quoted
from proa.errors import InvalidParameter, NotImplemented_
from proa.schema.build import BuildOptions, ProaBuild
from proa.schema.container import Ulimit
from proa.schema.reference import parse_digest

FRONTENDS: Final = ("dockerfile.v0", "gateway.v0")
LINT: Final = "frontend.lint"
_LOCAL: Final = "local:"
_LAYOUT: Final = "oci-layout://"
_UPLOAD: Final = "http://buildkit-session"
_NETWORKS: Final = {"": "default", "sandbox": "default", "default": "default", "host": "host", "none": "none"}
_EXPORTERS: Final = ("moby", "image", "docker", "oci", "tar", "local")
_IMAGE_FIELDS: Final = (
    "annotation",
    "compression",
    "force-compression",
    "name-canonical",
    "oci-mediatypes",
    "rewrite-timestamp",
)
"""What begins with one of them says what the image is to be like."""
_MOUNT: Final = re.compile(r"--mount=([^\s\\]+)")
_HOST: Final = re.compile(r"(?<![\w./:@-])((?:[\w-]+\.)+[\w-]+(?::\d+)?|[\w-]+:\d+|localhost)/[\w./-]+")


class Export(Struct, frozen=True, kw_only=True):
    """What becomes of the image."""

    kind: str = "image"
    names: tuple[str, ...] = ()
    push: bool = False
    fields: dict[str, str] = {}
    """What the image is to be like."""


def exports_of(asked: Any) -> list[Export]:
    """The exporters of a Control.Solve, in their order. Raises NotImplemented_ for what is not there."""
    exporters = [(each.Type, dict(each.Attrs)) for each in asked.Exporters]
    if not exporters and asked.ExporterDeprecated:
        exporters = [(asked.ExporterDeprecated, dict(asked.ExporterAttrsDeprecated))]
    return [_export(kind, fields) for kind, fields in exporters]


def _export(kind: str, fields: dict[str, str]) -> Export:
    if kind not in _EXPORTERS:
        raise NotImplemented_(f"exporter {go_quoted(kind)} could not be found")
    if kind in ("oci", "docker") and fields.get("tar") in ("false", "0"):
        raise NotImplemented_(f"exporter {go_quoted(kind)} without a tar is not supported")
    return Export(
        kind=kind,
        names=tuple(name for name in fields.get("name", "").split(",") if name),
        push=fields.get("push") in ("true", "1"),
        fields={name: value for name, value in fields.items() if name.startswith(_IMAGE_FIELDS)},
    )


def image_of(exports: Sequence[Export]) -> Export:
    """The one image that all exporters are of: every name, and what it is to be like.

    Raises NotImplemented_ where they do not agree on that.
    """
    fields: dict[str, str] = {}
    for export in exports:
        for name, value in export.fields.items():
            if fields.setdefault(name, value) != value:
                raise NotImplemented_(f"outputs that differ in {name} are not supported in one build")
    names = dict.fromkeys(name for export in exports for name in export.names)
    return Export(names=tuple(names), fields=fields)


class Directories(Struct, frozen=True, kw_only=True):
    """Which of the client's directories a build needs, by what they are called to the client."""

    context: str = ""
    """Empty where the context is no directory of the client's."""
    dockerfile: str = "dockerfile"
    file: str = "Dockerfile"
    named: dict[str, str] = {}


def directories_of(options: Mapping[str, str]) -> Directories:
    """From the frontend's options. Raises InvalidParameter."""
    context = options.get("context", "")
    local = context.removeprefix(_LOCAL) if context.startswith(_LOCAL) else "" if context else "context"
    return Directories(
        context=options.get("contextkey", local) if not context or local else "",
        dockerfile=options.get("dockerfilekey", "dockerfile"),
        file=options.get("filename") or "Dockerfile",
        named={
            name.removeprefix("context:"): value.removeprefix(_LOCAL)
            for name, value in options.items()
            if name.startswith("context:") and value.startswith(_LOCAL)
        },
    )


def options_of(
    options: Mapping[str, str],
    export: Export,
    own: ProaBuild,
    imports: Iterable[Any],
    exports: Iterable[Any],
) -> BuildOptions:
    """The whole build; `own` has the directories and secrets. Raises InvalidParameter, NotImplemented_."""
    _check_attestations(options)
    no_cache = options.get("no-cache")
    arguments = _prefixed(options, "build-arg:")
    context = options.get("context", "")
    remote = "" if context.startswith(_LOCAL) or upload_of(options) else context
    epoch = arguments.get("SOURCE_DATE_EPOCH", "")
    if epoch and not (epoch.isascii() and epoch.isdigit()):
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    contexts = {
        name.partition("::")[0]: value
        for name, value in _prefixed(options, "context:").items()
        if not value.startswith((_LOCAL, _LAYOUT))
    }
    if any(value.startswith("/") for value in contexts.values()):
        raise InvalidParameter("a named context is no directory of the daemon's host")
    network = options.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise InvalidParameter(f"unsupported network mode {network!r}")
    return BuildOptions(
        local=replace(
            own,
            contexts={**contexts, **own.contexts},
            no_cache_filter=[name for name in (no_cache or "").split(",") if name],
            cache_from=[_cache(each, _store(each, "src")) for each in imports],
            cache_to=[_cache(each, _store(each, "dest")) for each in exports],
            output=export.fields,
            source_date_epoch=int(epoch) if epoch else None,
            check=options.get("requestid") == LINT,
        ),
        events=True,
        dockerfile=options.get("filename") or "Dockerfile",
        remote=remote,
        tags=export.names,
        no_cache=no_cache is not None and not no_cache.strip(","),
        pull=options.get("image-resolve-mode") == "pull",
        target=options.get("target", ""),
        platform=options.get("platform", ""),
        arguments=arguments,
        labels=_prefixed(options, "label:"),
        network_mode=_NETWORKS[network],
        extra_hosts=tuple(text.replace("=", ":", 1) for text in _row(options.get("add-hosts", ""))),
        cgroup_parent=options.get("cgroup-parent", ""),
        shm_size=_number(options, "shm-size"),
        ulimits=tuple(_ulimit(text) for text in _row(options.get("ulimit", ""))),
    )


def _check_attestations(options: Mapping[str, str]) -> None:
    """Raises NotImplemented_ for what somebody asked for; clients add provenance of their own accord."""
    for name, value in _prefixed(options, "attest:").items():
        fields = value.split(",")
        if "disabled=true" not in fields and "inline-only=true" not in fields:
            raise NotImplemented_(f"attestations are not supported: {name}")


def upload_of(options: Mapping[str, str]) -> str:
    """The path under which the client uploads its context, a tar from its stdin; empty where it does not."""
    context = options.get("context", "")
    return context.removeprefix(_UPLOAD) if context.startswith(f"{_UPLOAD}/") else ""


def secrets_in(dockerfile: str) -> list[str]:
    """The ids of the secrets that a Dockerfile may mount."""
    found: dict[str, None] = {}
    for fields in _mounts(dockerfile, "secret"):
        target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
        if id_ := fields.get("id") or target.rpartition("/")[2]:
            found[id_] = None
    return list(found)


def agents_in(dockerfile: str) -> list[str]:
    """The ids of the ssh agents that a Dockerfile may mount."""
    return list({fields.get("id") or "default": None for fields in _mounts(dockerfile, "ssh")})


def _mounts(dockerfile: str, kind: str) -> Iterator[dict[str, str]]:
    for text in _MOUNT.findall(dockerfile):
        pairs = [field.partition("=") for field in text.strip("\"'").split(",")]
        fields = {name.lower(): value.strip("\"'") for name, _, value in pairs}
        if fields.get("type") == kind:
            yield fields


def hosts_in(texts: Sequence[str]) -> list[str]:
    """Registries whose names appear, docker.io among them: whose credentials a build may need."""
    found = {"docker.io": None}
    for text in texts:
        found |= dict.fromkeys(_HOST.findall(text))
    return list(found)


def _prefixed(options: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: value for name, value in options.items() if name.startswith(prefix)}


def _row(text: str) -> list[str]:
    return [field for row in csv.reader([text]) for field in row] if text else []


def _cache(asked: Any, store: str) -> dict[str, str]:
    """One in a directory of the client's is at a store of its own: no path is left in it."""
    if not store:
        return {"type": asked.Type, **asked.Attrs}
    kept = {name: value for name, value in asked.Attrs.items() if name not in ("src", "dest")}
    return {"type": asked.Type, **kept, "store": store}


def _store(asked: Any, directory: str) -> str:
    return f"{_LOCAL}{asked.Attrs.get(directory, '')}" if asked.Type == "local" else ""


def stores_of(imports: Iterable[Any], exports: Iterable[Any]) -> dict[str, str]:
    """The client's stores that caches are in, and the digest that is read of each; none of those written."""
    found = {store: "" for each in exports if (store := _store(each, "dest"))}
    return found | {store: each.Attrs.get("digest", "") for each in imports if (store := _store(each, "src"))}


class Layout(Struct, frozen=True, kw_only=True):
    """An image in a store of the client's, that is a named context."""

    name: str
    store: str
    digest: str


def layouts_of(options: Mapping[str, str]) -> list[Layout]:
    """From the frontend's options. Raises InvalidParameter."""
    found = []
    for name, value in _prefixed(options, "context:").items():
        if value.startswith(_LAYOUT):
            reference, _, digest = value.removeprefix(_LAYOUT).partition("@")
            if not digest:
                raise InvalidParameter(f"oci-layout reference {reference!r} has no digest")
            store = f"oci:{reference.partition(':')[0]}"
            found.append(Layout(name=name.partition("::")[0], store=store, digest=str(parse_digest(digest))))
    return found


def _number(options: Mapping[str, str], name: str) -> int:
    text = options.get(name) or "0"
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f"invalid {name}: {text}")
    return int(text)


def _ulimit(text: str) -> Ulimit:
    """`nofile=1024:2048`. Raises InvalidParameter."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return Ulimit(name=name, soft=int(soft), hard=int(hard or soft))
    except ValueError:
        raise InvalidParameter(f"invalid ulimit argument: {text}") from None

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

from proa.errors import InvalidParameter, NotImplemented_
from proa.schema.build import BuildOptions, ProaBuild
from proa.schema.container import Ulimit

FRONTENDS: Final = ("dockerfile.v0", "gateway.v0")
LINT: Final = "frontend.lint"
_LOCAL: Final = "local:"
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


def export_of(asked: Any) -> Export:
    """The exporter of a Control.Solve. Raises NotImplemented_ for what is not there."""
    exporters = [(each.Type, dict(each.Attrs)) for each in asked.Exporters]
    if not exporters and asked.ExporterDeprecated:
        exporters = [(asked.ExporterDeprecated, dict(asked.ExporterAttrsDeprecated))]
    if not exporters:
        return Export()
    if len(exporters) > 1:
        raise NotImplemented_("multiple exporters are not supported")
    ((kind, fields),) = exporters
    if kind not in _EXPORTERS:
        raise NotImplemented_(f"exporter {kind!r} could not be found")
    return Export(
        kind=kind,
        names=tuple(name for name in fields.get("name", "").split(",") if name),
        push=fields.get("push") in ("true", "1"),
        fields={name: value for name, value in fields.items() if name.startswith(_IMAGE_FIELDS)},
    )


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
    # buildx asks for provenance of its own accord; Docker's own store has none, and passes over it too.
    if "attest:sbom" in options and "disabled=true" not in options["attest:sbom"]:
        raise NotImplemented_("attestations are not supported")
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
        if not value.startswith(_LOCAL)
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
            cache_from=[_cache(each) for each in imports],
            cache_to=[_cache(each) for each in exports],
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


def _cache(asked: Any) -> dict[str, str]:
    """Raises NotImplemented_ for one in the client's directories."""
    if asked.Type == "local":
        raise NotImplemented_(
            "caches of type local are not supported over this protocol: use registry or inline"
        )
    return {"type": asked.Type, **asked.Attrs}


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

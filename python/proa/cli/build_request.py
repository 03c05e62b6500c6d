"""What `build` asks of the daemon: the query that Docker's API has, and the body that is proa's own.

Source: the Docker Engine API, v1.51, ImageBuild; the documentation of `docker buildx build`.
"""

import os

from proa.cli.environment import absolute, config_directory, exists
from proa.cli.failure import Failure
from proa.cli.flags import Parsed
from proa.cli.jsontext import encode
from proa.cli.transport import query, quote
from proa.cli.values import csv_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SECRET_LIMIT = 500 << 10
_URLS = ("docker-image://", "http://", "https://", "git://", "ssh://", "git@", "github.com/")


def refuse_unsupported(parsed: Parsed) -> None:
    """One line for what the daemon cannot do and Docker would not pass over either. Raises Failure."""
    from proa.cli.pull import refuse_trust

    refuse_trust(parsed)
    if parsed.flag("squash"):
        raise Failure("ERROR: --squash is not supported")
    if parsed.get("security-opt"):
        raise Failure("ERROR: --security-opt is not supported for builds: use --allow")
    asked = [_attestation(text) for text in parsed.get("attest", ())]
    asked += [parsed.get(name) not in ("", "false") for name in ("provenance", "sbom")]
    if any(asked):
        raise Failure("ERROR: Attestation is not supported")


def _attestation(text: str) -> bool:
    return not any(field.replace(" ", "").lower() == "disabled=true" for field in csv_fields(text))


def platforms(parsed: Parsed) -> list[str]:
    """What --platform or the environment names."""
    given = parsed.get("platform", ()) or [os.environ.get("DOCKER_DEFAULT_PLATFORM", "")]
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def query_of(parsed: Parsed, tags: list[str], more: "dict[str, str]") -> str:
    """The query of POST /build; `more` says where the context is. Raises Failure."""
    ulimits = list(parsed.get("ulimit", {}).values())
    labels = dict(_pair(text) for text in parsed.get("label", ()))
    arguments = build_arguments(parsed)
    text = query(
        nocache=parsed.flag("no-cache"),
        pull=parsed.flag("pull"),
        q=parsed.flag("quiet"),
        target=parsed.get("target"),
        platform=",".join(platforms(parsed)),
        buildargs=encode(arguments).decode() if arguments else "",
        labels=encode(labels).decode() if labels else "",
        networkmode=parsed.get("network"),
        cgroupparent=parsed.get("cgroup-parent"),
        shmsize=parsed.get("shm-size"),
        ulimits=encode(ulimits).decode() if ulimits else "",
        memory=parsed.get("memory"),
        memswap=parsed.get("memory-swap"),
        cpushares=parsed.get("cpu-shares"),
        cpuperiod=parsed.get("cpu-period"),
        cpuquota=parsed.get("cpu-quota"),
        cpusetcpus=parsed.get("cpuset-cpus"),
        cpusetmems=parsed.get("cpuset-mems"),
        **more,
    )
    repeated = [("t", tag) for tag in tags] + [("extrahosts", host) for host in parsed.get("add-host", ())]
    parts = [text[1:]] if text else []
    parts += [f"{name}={quote(value)}" for name, value in repeated]
    return "?" + "&".join(parts) if parts else ""


def build_arguments(parsed: Parsed) -> dict[str, str]:
    """--build-arg (without a value it is the environment's, if that has one), and config.json's proxies."""
    found = {}
    for text in parsed.get("build-arg", ()):
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    if exists(f"{config_directory(parsed.options)}/config.json"):
        from proa.cli.configfile import load, proxies

        found.update(proxies(load(parsed.options), set(found)))
    return found


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def own_options(parsed: Parsed, agents: dict[str, str]) -> "dict[str, Any]":
    """What Docker's API has no place for, with the names of schema/build.py's ProaBuild. Raises Failure."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not (epoch.isascii() and epoch.isdigit()):
        raise Failure(f"ERROR: invalid SOURCE_DATE_EPOCH: {epoch}")
    filters = [name for text in parsed.get("no-cache-filter", ()) for name in text.split(",") if name]
    found = {
        "Contexts": dict(_context(text) for text in parsed.get("build-context", ())),
        "Secrets": dict(_secret(text) for text in parsed.get("secret", ())),
        "Ssh": agents,
        "Entitlements": parsed.get("allow", []),
        "NoCacheFilter": filters,
        "SourceDateEpoch": int(epoch) if epoch else None,
        "CacheFrom": [_cache(text, "from") for text in parsed.get("cache-from", ())],
        "CacheTo": [_cache(text, "to") for text in parsed.get("cache-to", ())],
        "ExplainCache": parsed.flag("explain-cache"),
        "Check": checks(parsed),
    }
    return {name: value for name, value in found.items() if value or (name == "SourceDateEpoch" and epoch)}


def checks(parsed: Parsed) -> bool:
    """Whether the Dockerfile is only checked. Raises Failure."""
    call = parsed.get("call") or "build"
    if call in ("check", "lint") or parsed.flag("check"):
        return True
    if call != "build":
        raise Failure(f"ERROR: --call={call} is not supported: only build and check are")
    return False


def _context(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise Failure(f"ERROR: invalid context value: {text}, expected key=value")
    if value.startswith("oci-layout://"):
        raise Failure("ERROR: oci-layout:// is not supported for --build-context")
    if os.path.isdir(value):
        return name, absolute(value)
    if value.startswith(_URLS):
        return name, value
    raise Failure(f"ERROR: failed to get build context {name}: stat {value}: no such file or directory")


def _cache(text: str, way: str) -> dict[str, str]:
    """The fields of a cache, the directory of a local one absolute. Raises Failure."""
    if "=" not in text:
        return {"type": "registry", "ref": text}
    found = {}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            raise Failure(f"ERROR: invalid value {field}, expected key=value")
        found[key.strip().lower()] = value
    if not found.get("type"):
        raise Failure(f"ERROR: type required form> {text!r}")
    directory = "src" if way == "from" else "dest"
    if found["type"] == "local":
        if not found.get(directory):
            raise Failure(f"ERROR: local cache requires {directory}=")
        found[directory] = absolute(found[directory])
        if way == "to":
            # By whoever asks: what the daemon writes there is the directory's owner's.
            try:
                os.makedirs(found[directory], exist_ok=True)
            except OSError as exc:
                raise Failure(f"ERROR: mkdir {exc.filename}: {(exc.strerror or '').lower()}") from None
    return found


def _secret(text: str) -> tuple[str, str]:
    """(id, base64 of the value)."""
    fields = _fields("secret", text, {"type", "id", "source", "src", "env"})
    name, kind = fields.get("id", ""), fields.get("type", "")
    if kind not in ("", "file", "env"):
        raise Failure(f'ERROR: unsupported secret type "{kind}"')
    source = fields.get("src") or fields.get("source") or ""
    variable = fields.get("env", "")
    if kind == "env" and not variable:
        variable, source = source or name, ""
    if not (kind or variable or source) and name in os.environ:
        variable = name
    if not name:
        name = os.path.basename(source) or variable
    if not name:
        raise Failure("ERROR: secret missing required id")
    value = os.environb.get(os.fsencode(variable), b"") if variable else _content(source or name)
    if len(value) > _SECRET_LIMIT:
        raise Failure(f"ERROR: invalid secret {name}: secret too big. max size {_SECRET_LIMIT}")
    import binascii

    return name, binascii.b2a_base64(value, newline=False).decode()


def _content(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path) if path.startswith("~/") else path, "rb") as file:
            return file.read(_SECRET_LIMIT + 1)
    except OSError as exc:
        reason = (exc.strerror or "").lower()
        raise Failure(f"ERROR: failed to stat {path}: stat {path}: {reason}") from None


def _fields(flag: str, text: str, known: set[str]) -> dict[str, str]:
    found = {}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            raise Failure(f"ERROR: invalid field '{field}' must be a key=value pair")
        if key not in known:
            raise Failure(f"ERROR: unexpected key '{key}' in '{field}' of --{flag}")
        found[key] = value
    return found

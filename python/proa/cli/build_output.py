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
    from typing import Any

_KINDS = ("docker", "image", "local", "oci", "registry", "tar")


class Output:
    """One --output: `target` is a path, `-` for stdout, or nothing for the store."""

    __slots__ = ("kind", "names", "push", "target")

    def __init__(self, kind: str, target: str, push: bool, names: list[str]) -> None:
        self.kind = kind
        self.target = target
        self.push = push
        self.names = names


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
        values[key.strip().lower()] = value
    kind, target = values.get("type", ""), values.get("dest", "")
    if not kind:
        raise Failure("ERROR: type is required for output")
    if kind not in _KINDS:
        raise Failure(f"ERROR: exporter {kind!r} could not be found")
    if kind == "local" and target in ("", "-"):
        raise Failure("ERROR: dest is required for local exporter")
    if kind in ("oci", "tar") and not target:
        target = "-"
    names = [name for name in values.get("name", "").split(",") if name]
    push = kind == "registry" or (kind == "image" and values.get("push", "") in ("true", "1"))
    return Output(kind, "" if kind in ("image", "registry") else target, push, names)


def deliver(
    api: Client, parsed: Parsed, outputs: list[Output], image: str, names: list[str], *, quiet: bool
) -> None:
    """Everything that was asked for, of the image with this id. Raises Failure."""
    for output in outputs:
        if output.kind == "local":
            _files(api, image, output.target)
        elif output.kind == "tar":
            _export(api, image, output.target)
        elif output.target:
            _save(api, names or [image], output.target)
    if any(output.push for output in outputs):
        from proa.cli.pull import push_image

        for name in names:
            push_image(api, name, parsed.options, platform="", quiet=quiet, all_tags=False)


def write_results(parsed: Parsed, image: str, names: list[str]) -> None:
    """--iidfile and --metadata-file. Raises Failure."""
    if parsed.get("iidfile"):
        _write(parsed.get("iidfile"), image)
    if parsed.get("metadata-file"):
        found = {"containerimage.config.digest": image, "containerimage.digest": image}
        if names:
            from proa.cli.reference import full_repository, split

            full = []
            for name in names:
                repository, tag, _ = split(name)
                full.append(f"{full_repository(repository)}:{tag or 'latest'}")
            found["image.name"] = ",".join(full)
        _write(parsed.get("metadata-file"), pretty(found, "  "))


def _write(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(draft, path)
    except OSError as exc:
        raise Failure(f"ERROR: open {path}: {(exc.strerror or '').lower()}") from None


def _save(api: Client, names: list[str], target: str) -> None:
    from proa.cli.archives import write_body

    wanted = "&".join(f"names={quote(name)}" for name in names)
    write_body(api.request("GET", f"/images/get?{wanted}"), _path(target))


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
        return self._api.request("GET", f"/containers/{self._id}/export")

    def __exit__(self, *reason: object) -> None:
        self._api.call("DELETE", f"/containers/{self._id}{query(force=True, v=True)}")


def _export(api: Client, image: str, target: str) -> None:
    from proa.cli.archives import write_body

    path = _path(target)
    with _Container(api, image) as response:
        write_body(response, path)
        api.release(response)


def _files(api: Client, image: str, target: str) -> None:
    from proa.cli.localtar import unpack

    try:
        os.makedirs(target, exist_ok=True)
    except OSError as exc:
        raise Failure(f"ERROR: mkdir {target}: {(exc.strerror or '').lower()}") from None
    with _Container(api, image) as response:
        unpack(response.chunks(), target, [])
        api.release(response)

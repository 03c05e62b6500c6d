"""Pulls and pushes, and the progress streams of the daemon (load, import and others have them, too).

Source: the Docker Engine API, v1.51, ImageCreate; the observed output of docker 28.
"""

import os

from proa.cli.failure import Failure
from proa.cli.jsontext import decode_many, encode
from proa.cli.transport import Client, Response, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals, Parsed
    from proa.cli.rows import Rows


def pull_image(
    api: Client,
    image: str,
    options: "Globals",
    *,
    platform: str = "",
    quiet: bool = False,
    out: int = 1,
    all_tags: bool = False,
) -> None:
    """Pull it, showing progress on `out`. Raises Failure."""
    from proa.cli.reference import split

    repository, tag, digest = split(image)
    wanted = "" if all_tags else digest or tag or "latest"
    path = "/images/create" + query(fromImage=repository, tag=wanted, platform=platform or None)
    _transfer(api, path, image, options, None if quiet else out)


def push_image(
    api: Client, image: str, options: "Globals", *, platform: str, quiet: bool, all_tags: bool
) -> None:
    """Push it, showing progress. Raises Failure."""
    from proa.cli.reference import split

    repository, tag, _ = split(image)
    wanted = "" if all_tags else tag or "latest"
    path = f"/images/{quote(repository)}/push" + query(tag=wanted, platform=as_json(platform))
    for aux in _transfer(api, path, image, options, None if quiet else 1):
        if aux.get("manifestPushedInsteadOfIndex"):
            _tell_of_one(aux["originalIndex"]["digest"], aux["selectedManifest"]["digest"])


def _tell_of_one(index: str, manifest: str) -> None:
    """What went to the registry is less than what the name means here."""
    text = "Not all multiplatform-content is present and only the available single-platform image was pushed"
    os.write(2, f"\n Info -> {text}\n         {index} -> {manifest}\n".encode())


def refuse_trust(parsed: "Parsed") -> None:
    """Raises Failure where signatures are to be verified or made: what is not must not pass for it."""
    trusted = os.environ.get("DOCKER_CONTENT_TRUST", "").lower() in ("1", "t", "true")
    if not parsed.get("disable-content-trust", not trusted):
        raise Failure("content trust is not supported: use --disable-content-trust")


def _transfer(
    api: Client, path: str, image: str, options: "Globals", out: int | None
) -> "list[dict[str, Any]]":
    from proa.cli.credentials import header_for, header_line

    response = api.request("POST", path, extra=header_line(header_for(image, options)))
    extra = show_progress(response, out)
    api.release(response)
    return extra


def as_json(platform: str) -> str:
    """`os/architecture[/variant]` as the API takes it where it is not for pulls; empty for none."""
    if not platform:
        return ""
    from proa.cli.platform import normalize

    names = ("os", "architecture", "variant")
    return encode(dict(zip(names, normalize(platform).split("/"), strict=False))).decode()


def messages(response: Response) -> "Any":
    """The JSON objects of a progress stream, as they come in."""
    text = b""
    for part in response.chunks():
        text += part
        found, rest = decode_many(text.decode("utf-8", "surrogateescape"))
        text = rest.encode("utf-8", "surrogateescape")
        yield from found


def show_progress(response: Response, out: int | None) -> "list[dict[str, Any]]":
    """Print a progress stream; returns its `aux` objects. Raises Failure for an error in it."""
    extra = []
    display = Progress(out)
    try:
        for message in messages(response):
            error = (message.get("errorDetail") or {}).get("message") or message.get("error")
            if error:
                raise Failure(error)
            if "aux" in message:
                extra.append(message["aux"])
            else:
                display.show(message)
    finally:
        display.close()
    return extra


class Progress:
    """Plain lines without counts of bytes; on a terminal rows, one a layer."""

    def __init__(self, out: int | None) -> None:
        self._out = out
        self._rows: Rows | None = None
        self._counted = False
        if out is not None and os.isatty(out):
            from proa.cli import rows

            self._rows = rows.Rows(out)

    def show(self, message: "dict[str, Any]") -> None:
        """Print one message."""
        if self._out is None:
            return
        layer, status = message.get("id", ""), message.get("status", "")
        if self._rows is not None and layer:
            self._rows.show(layer, status, message.get("progressDetail") or {})
            return
        if self._rows is not None:
            self._rows.close()
        if message.get("progress") or (message.get("progressDetail") or {}).get("current"):
            if self._rows is not None:
                self._clear()
                self._write(f"{status} {message.get('progress', '')}\r")
                self._counted = True
            return
        self._clear()
        self._write(message.get("stream") or (f"{layer}: {status}\n" if layer else f"{status}\n"))

    def close(self) -> None:
        """Leave what is shown as it is."""
        if self._rows is not None:
            self._rows.close()
        self._clear()

    def _clear(self) -> None:
        """Take a count away that is shown without a row."""
        if self._counted:
            self._write("\x1b[2K\r")
            self._counted = False

    def _write(self, text: str) -> None:
        from proa.cli.streams import write_all

        assert self._out is not None
        write_all(self._out, text.encode("utf-8", "replace"))

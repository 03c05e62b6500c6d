"""Pulls, and the progress streams of the daemon (pull, push, load, import).

Source: the Docker Engine API, v1.51, ImageCreate; the observed output of docker 28.
"""

import os

from proa.cli.failure import Failure
from proa.cli.jsontext import decode_many
from proa.cli.transport import Client, Response, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pull_image(api: Client, image: str, platform: str, quiet: bool, out: int, all_tags: bool = False) -> None:
    """Pull it, showing progress on `out`. Raises Failure."""
    from proa.cli.reference import split

    repository, tag, digest = split(image)
    wanted = "" if all_tags else digest or tag or "latest"
    response = api.request(
        "POST", "/images/create" + query(fromImage=repository, tag=wanted, platform=platform or None)
    )
    show_progress(response, None if quiet else out)
    api.release(response)


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
    for message in messages(response):
        error = (message.get("errorDetail") or {}).get("message") or message.get("error")
        if error:
            raise Failure(error)
        if "aux" in message:
            extra.append(message["aux"])
        else:
            display.show(message)
    return extra


class Progress:
    """One line a layer, moved about on a terminal; plain lines elsewhere."""

    def __init__(self, out: int | None) -> None:
        self._out = out
        self._terminal = out is not None and os.isatty(out)
        self._rows: dict[str, int] = {}

    def show(self, message: "dict[str, Any]") -> None:
        """Print one message."""
        if self._out is None:
            return
        if "stream" in message:
            self._write(message["stream"])
            return
        layer, status = message.get("id", ""), message.get("status", "")
        progress = message.get("progress", "") or self._bar(message.get("progressDetail") or {})
        if progress and not self._terminal:
            return
        line = f"{layer}: {status}" if layer else status
        if progress:
            line += f" {progress}"
        if not self._terminal or not layer:
            self._write(line + "\n")
            self._rows.clear()
            return
        up = len(self._rows) - self._rows.setdefault(layer, len(self._rows))
        if up <= 0:
            self._write(f"\x1b[2K\r{line}\n")
        else:
            self._write(f"\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")

    def _bar(self, detail: "dict[str, Any]") -> str:
        current, total = detail.get("current", 0), detail.get("total", 0)
        if not current:
            return ""
        from proa.cli.human import decimal_size

        if total <= 0:
            return decimal_size(current)
        filled = min(50, current * 50 // total)
        bar = "=" * filled + (">" if filled < 50 else "") + " " * (49 - filled)
        return f"[{bar}] {decimal_size(current):>8}/{decimal_size(total)}"

    def _write(self, text: str) -> None:
        from proa.cli.streams import write_all

        assert self._out is not None
        write_all(self._out, text.encode("utf-8", "replace"))

"""The --security-opt flag: profiles are files of the client, so their text is what is sent."""

from proa.cli.failure import Failure
from proa.cli.jsontext import decode, go
from proa.cli.values import go_quote


def security_options(texts: list[str]) -> tuple[list[str], bool]:
    """(what the daemon is sent, whether `systempaths=unconfined` was among it). Raises Failure."""
    found = []
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator and key != "no-new-privileges":
            key, separator, value = text.partition(":")
        if (not separator or not value) and key != "no-new-privileges":
            raise Failure(f"Invalid --security-opt: {go_quote(text)}")
        if key == "seccomp" and value not in ("builtin", "unconfined"):
            text = f"seccomp={_profile(value)}"
        if text != "systempaths=unconfined":
            found.append(text)
    return found, len(found) != len(texts)


def _profile(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as exc:
        reason = f"open {path}: {(exc.strerror or '').lower()}"
        raise Failure(f"opening seccomp profile ({path}) failed: {reason}") from None
    try:
        return go(decode(text))
    except ValueError as exc:
        raise Failure(f"compacting json for seccomp profile ({path}) failed: {exc}") from None

"""From a request's line to what is to be done: the URLs of the specification.

    /v2/  /v2/_catalog  /v2/<name>/tags/list  /v2/<name>/manifests/<reference>  /v2/<name>/referrers/<digest>
    /v2/<name>/blobs/<digest>  /v2/<name>/blobs/uploads/  /v2/<name>/blobs/uploads/<id>

A name has slashes, so that URLs are read from their end. Escapes are resolved first and the grammars hold
for what they resolve to. Source: OCI distribution-spec 1.1, "Endpoints".
"""

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from proa.distribution import names
from proa.distribution.failures import Code, Refusal


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `what` and the method decide who answers it."""

    what: str
    repository: str = ""
    reference: str = ""
    streams_body: bool = False
    refusal: Refusal | None = None
    hijacks: bool = False


METHODS = {
    "base": ("GET", "HEAD"),
    "catalog": ("GET", "HEAD"),
    "tags": ("GET", "HEAD"),
    "referrers": ("GET", "HEAD"),
    "manifest": ("GET", "HEAD", "PUT", "DELETE"),
    "blob": ("GET", "HEAD", "DELETE"),
    "uploads": ("POST",),
    "upload": ("GET", "HEAD", "PATCH", "PUT", "DELETE"),
}

_BODIES = frozenset(("POST", "PATCH", "PUT"))


def resolve(method: str, path: str) -> Call:
    """Never fails: a refusal is a call too."""
    try:
        call = _split(unquote(path, errors="strict") if "%" in path else path)
        if method not in METHODS[call.what]:
            allow = {"Allow": ", ".join(METHODS[call.what])}
            raise Refusal(Code.UNSUPPORTED, "the operation is unsupported", allow)
    except UnicodeDecodeError:
        return Call("", refusal=Refusal(Code.NAME_INVALID, "invalid repository name"))
    except Refusal as refusal:
        return Call("", refusal=refusal)
    if call.what in ("uploads", "upload") and method in _BODIES:
        return Call(call.what, call.repository, call.reference, streams_body=True)
    return call


def _split(path: str) -> Call:
    if path in ("/v2/", "/v2"):
        return Call("base")
    if path == "/v2/_catalog":
        return Call("catalog")
    if path.startswith("/v2/"):
        parts = path[4:].split("/")
        name, kind, last = "/".join(parts[:-2]), parts[-2:-1], parts[-1]
        if parts[-3:-1] == ["blobs", "uploads"] and len(parts) > 3:
            name = names.check_name("/".join(parts[:-3]))
            return Call("upload", name, names.check_upload(last)) if last else Call("uploads", name)
        if parts[-2:] == ["blobs", "uploads"] and len(parts) > 2:
            return Call("uploads", names.check_name(name))
        if name and kind == ["manifests"]:
            return Call("manifest", names.check_name(name), names.check_reference(last))
        if name and kind == ["blobs"]:
            return Call("blob", names.check_name(name), names.check_digest(last))
        if name and kind == ["referrers"]:
            return Call("referrers", names.check_name(name), names.check_digest(last))
        if name and parts[-2:] == ["tags", "list"]:
            return Call("tags", names.check_name(name))
    raise Refusal(Code.UNSUPPORTED, "page not found", status=404)


class Query:
    """A request's query; the last of a repeated parameter counts."""

    def __init__(self, text: str) -> None:
        try:
            self.lists = parse_qs(text, keep_blank_values=True, max_num_fields=64, errors="strict")
        except (ValueError, UnicodeDecodeError) as exc:
            raise Refusal(Code.UNSUPPORTED, "malformed query", status=400) from exc

    def get(self, name: str) -> str:
        """A parameter, empty where it is not there."""
        return self.lists[name][-1] if name in self.lists else ""

    def __contains__(self, name: str) -> bool:
        return name in self.lists

    def count(self, default: int, maximum: int) -> int:
        """`n`, the size of a page. Raises Refusal."""
        text = self.get("n")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Refusal(
                Code.PAGINATION_NUMBER_INVALID, f"invalid number of results requested: {text[:40]!r}"
            )
        return min(int(text), maximum)

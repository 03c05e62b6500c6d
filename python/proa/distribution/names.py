"""Names in URLs: repositories, tags, digests. Checked here once, safe in a path and a query ever after.

Source: OCI distribution-spec 1.1, "Pulling manifests"; OCI image-spec 1.1, descriptor.md (digests).
"""

import hashlib
import re
from typing import Any, Final

from proa.distribution.failures import Code, Refusal

NAME_LENGTH_MAX: Final = 255

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_UPLOAD = re.compile(r"[0-9a-f]{32}")


def check_name(text: str) -> str:
    """A repository's name. Raises Refusal."""
    if len(text) > NAME_LENGTH_MAX or not _NAME.fullmatch(text):
        raise Refusal(Code.NAME_INVALID, f"invalid repository name: {text[:NAME_LENGTH_MAX]!r}")
    return text


def check_digest(text: str) -> str:
    """sha256 or sha512, in lower case. Raises Refusal."""
    if not _DIGEST.fullmatch(text):
        raise Refusal(Code.DIGEST_INVALID, f"invalid digest: {text[:160]!r}")
    return text


def is_digest(reference: str) -> bool:
    """Whether the last part of a manifest's URL is meant as a digest: a tag has no colon."""
    return ":" in reference


def check_reference(text: str) -> str:
    """A tag or a digest. Raises Refusal."""
    if is_digest(text):
        return check_digest(text)
    return check_tag(text)


def check_tag(text: str) -> str:
    """Raises Refusal."""
    if not _TAG.fullmatch(text):
        raise Refusal(Code.TAG_INVALID, f"invalid tag: {text[:160]!r}")
    return text


def check_upload(text: str) -> str:
    """The id of an upload, one of ours. Raises Refusal."""
    if not _UPLOAD.fullmatch(text):
        raise Refusal(Code.BLOB_UPLOAD_UNKNOWN, "blob upload unknown to registry")
    return text


def hasher(digest: str) -> Any:
    """A new hash of the digest's algorithm."""
    return hashlib.new(digest.partition(":")[0])


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """The digest of bytes in memory, by the algorithm of `like`."""
    state = hasher(like)
    state.update(data)
    return f"{state.name}:{state.hexdigest()}"

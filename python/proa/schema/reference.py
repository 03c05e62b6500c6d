"""Names of images: digests and references, as value types. Pure.

    docker.io/library/busybox:1.36@sha256:...
    domain    path            tag  digest

Source: distribution's reference grammar (github.com/distribution/reference, regexp.go and normalize.go).
"""

import re
from typing import Final, NewType

from msgspec import Struct

from proa.errors import InvalidParameter

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
NAME_LENGTH_MAX: Final = 255

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{1,64}")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")


Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits: checked once by `parse_digest`, safe in a path ever after.

A plain str at run time, since msgspec encodes no subclasses of it.
"""


def parse_digest(text: str) -> Digest:
    """Raises InvalidParameter for anything else; no other algorithm is supported."""
    if not _DIGEST.fullmatch(text):
        raise InvalidParameter(f"invalid digest format: {text!r}")
    return Digest(text)


def digest_hex(digest: Digest) -> str:
    """The 64 digits."""
    return digest[7:]


class Reference(Struct, frozen=True):
    """A normalised reference: the domain is never empty; tag and digest may both be."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path: what a registry is asked for."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as Docker shows it: without docker.io and library."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        prefix, _, rest = self.path.partition("/")
        return rest if prefix == "library" and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """The whole as Docker shows it."""
        return self._suffixed(self.familiar_name)

    @property
    def canonical(self) -> str:
        """The whole, normalised: what the store keeps."""
        return self._suffixed(self.name)

    def with_default_tag(self) -> "Reference":
        """`latest` where neither tag nor digest is given."""
        return self if self.tag or self.digest else Reference(self.domain, self.path, DEFAULT_TAG)

    def _suffixed(self, name: str) -> str:
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """A reference as a user types it, normalised. Raises InvalidParameter in Docker's words."""
    rest, _, digest = text.partition("@")
    if "@" in text:
        digest = parse_digest(digest)
    name, tag = _split_tag(rest)
    if not digest and _HEX.fullmatch(text):
        raise InvalidParameter(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, path = _split_domain(name)
    if path.lower() != path:
        raise InvalidParameter(
            f"invalid reference format: repository name ({_shown(domain, path)}) must be lowercase"
        )
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain) or (":" in rest[len(name) :] and not tag):
        raise InvalidParameter("invalid reference format")
    if tag and not _TAG.fullmatch(tag):
        raise InvalidParameter("invalid reference format")
    if len(f"{domain}/{path}") > NAME_LENGTH_MAX:
        raise InvalidParameter(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    return Reference(domain, path, tag, digest)


def parse_tag(tag: str) -> str:
    """A tag alone. Raises InvalidParameter."""
    if not _TAG.fullmatch(tag):
        raise InvalidParameter("invalid tag format")
    return tag


def id_prefix(text: str) -> str:
    """The hex digits of an image id or a prefix of one (`sha256:` optional); empty where it cannot be one."""
    digits = text.removeprefix("sha256:")
    return digits if _PREFIX.fullmatch(digits) else ""


def _split_tag(text: str) -> tuple[str, str]:
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, "")


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = "." in first or ":" in first or first == "localhost" or first.lower() != first
    if not slash or not is_domain:
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = ("index.docker.io" if first == "index.docker.io" else first), rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _shown(domain: str, path: str) -> str:
    return path.removeprefix("library/") if domain == DEFAULT_DOMAIN else f"{domain}/{path}"

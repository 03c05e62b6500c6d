"""Image references as people write them.

Source: the grammar of the distribution project's `reference` package; the observed output of docker 28.
"""

from proa.cli.failure import Failure

DEFAULT_DOMAIN = "docker.io"


def split(reference: str) -> tuple[str, str, str]:
    """(repository, tag, digest) as written; tag and digest may be empty."""
    name, _, digest = reference.partition("@")
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    return (name, "", digest) if colon < 0 else (name[:colon], name[colon + 1 :], digest)


def familiar_repository(repository: str) -> str:
    """Without the domain and the `library/` that Docker adds by itself."""
    first, slash, rest = repository.partition("/")
    if slash and first in (DEFAULT_DOMAIN, "index.docker.io"):
        repository = rest
    if repository.startswith("library/") and "/" not in repository[8:]:
        repository = repository[8:]
    return repository


def full_repository(repository: str) -> str:
    """With the domain and the `library/` that are meant."""
    return "/".join(_domain_and_path(repository))


def familiar(reference: str) -> str:
    """The short form, with the tag that is meant."""
    repository, tag, digest = split(reference)
    name = familiar_repository(repository)
    if digest:
        return f"{name}:{tag}@{digest}" if tag else f"{name}@{digest}"
    return f"{name}:{tag or 'latest'}"


_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_SUFFIX = r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"


def check(reference: str) -> None:
    """Raises Failure for what is no reference."""
    import re

    domain, path = _domain_and_path(reference)
    name = path.partition("@")[0]
    name = name[: name.find(":", name.rfind("/") + 1)] if ":" in name[name.rfind("/") + 1 :] else name
    if name != name.lower():
        raise Failure(f"invalid reference format: repository name ({name}) must be lowercase")
    whole = rf"{_DOMAIN}/{_COMPONENT}(?:/{_COMPONENT})*{_SUFFIX}"
    if not re.fullmatch(whole, f"{domain}/{path}", re.ASCII):
        raise Failure("invalid reference format")


def _domain_and_path(reference: str) -> tuple[str, str]:
    first, slash, rest = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        first, rest = DEFAULT_DOMAIN, reference
    if first in (DEFAULT_DOMAIN, "index.docker.io") and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest

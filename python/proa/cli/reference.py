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


def familiar(reference: str) -> str:
    """The short form, with the tag that is meant."""
    repository, tag, digest = split(reference)
    name = familiar_repository(repository)
    if digest:
        return f"{name}:{tag}@{digest}" if tag else f"{name}@{digest}"
    return f"{name}:{tag or 'latest'}"


def check(reference: str) -> None:
    """Raises Failure for what is no reference."""
    repository, tag, digest = split(reference)
    if not repository or (reference.endswith(":") and not tag) or ("@" in reference and ":" not in digest):
        raise Failure("invalid reference format")
    first, slash, rest = repository.partition("/")
    path = rest if slash and ("." in first or ":" in first or first == "localhost") else repository
    if path != path.lower():
        raise Failure("invalid reference format: repository name must be lowercase")

"""What registries answer when they refuse, as errors of proa in Docker's words.

    refusal(response, body)           what an answer that is no success says
    general(refusal)                  that as an error which leaves the room
    pull_failure(refusal, reference)  the same for a pull: what is missing and what is denied is NotFound

Source: distribution-spec 1.1 (Error Codes); distribution registry/api/errcode; moby distribution/errors.go.
"""

from typing import Any

import msgspec
from msgspec import Struct

from proa.errors import Forbidden, InvalidParameter, NotFound, ProaError, System, Unavailable
from proa.registry.challenge import parse_challenges
from proa.registry.response import Response
from proa.schema.reference import Reference

BODY_MAX = 64 * 1024
"""Bytes of an error's body that are read."""
TEXT_MAX = 512
"""Characters of a foreign message that are shown."""


class Refusal(Exception):
    """A registry's refusal: `code` is the specification's, lower case with spaces, or empty."""

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class _Error(Struct, frozen=True):
    code: str = ""
    message: str = ""
    detail: Any = None


class _Errors(Struct, frozen=True):
    errors: list[_Error] | None = None
    details: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(_Errors).decode


def refusal(response: Response, body: bytes) -> Refusal:
    """Read an answer that is no success."""
    status = response.status
    found = _from_challenge(response) or _from_body(body)
    if found is None and status == 401:
        found = "unauthorized", "authentication required"
    if found is None and status == 429:
        found = "toomanyrequests", "too many requests"
    if found is None:
        return Refusal(f"received unexpected HTTP status: {response.line}", "", status)
    code, message = found
    return Refusal(f"{code}: {message}" if code else message, code, status)


def general(found: Refusal) -> ProaError:
    """By cause; the text is the registry's.

    A registry's 401 is System, as in dockerd: a client takes the daemon's own 401 for a question, and the
    docker CLI then waits at its standard input for a login, even where nobody can give one.
    """
    text = str(found)
    if found.code == "denied" or found.status == 403:
        return Forbidden(text)
    if found.status == 404:
        return NotFound(text)
    if found.status == 429 or found.status >= 500:
        return Unavailable(text)
    return InvalidParameter(text) if found.status == 400 else System(text)


def pull_failure(found: Refusal, reference: Reference) -> ProaError:
    """Docker's words for a pull: one that is denied is not found, as nobody may learn what exists."""
    if found.code == "denied":
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {found}"
        )
    if found.code == "manifest unknown" or (found.status == 404 and not found.code):
        cause = str(found) if found.code else "manifest unknown: manifest unknown"
        return NotFound(f"manifest for {reference.familiar} not found: {cause}")
    if found.code == "name unknown":
        return NotFound(f"repository {reference.familiar_name} not found: {found}")
    return general(found)


def _from_challenge(response: Response) -> tuple[str, str] | None:
    """A bearer challenge says more than the body: a token that is good, but not for this."""
    if response.status != 401:
        return None
    for challenge in parse_challenges(response.headers.get("www-authenticate", "")):
        error = challenge.get("error") if challenge.scheme == "bearer" else ""
        if error == "insufficient_scope":
            return "denied", "requested access to the resource is denied"
        if error == "invalid_token":
            return "unauthorized", "authentication required"
    return None


def _from_body(body: bytes) -> tuple[str, str] | None:
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return None
    if answer.errors:
        first = answer.errors[0]
        code = first.code.lower().replace("_", " ")
        return shown(code), shown(first.message or code)
    text = answer.details if isinstance(answer.details, str) else answer.message
    if isinstance(text, str) and text:
        return "", shown(text)
    return None


def shown(text: str) -> str:
    """A foreign text, fit for a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_MAX])

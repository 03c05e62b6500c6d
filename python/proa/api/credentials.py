"""The X-Registry-Auth header.

Source: the Docker Engine API v1.51 (Authentication); moby api/types/registry/authconfig.go.
"""

import base64
import binascii

import msgspec

from proa.api import gojson
from proa.errors import InvalidParameter
from proa.http._request import Request
from proa.schema.registry import Credentials


def credentials_of(request: Request) -> Credentials | None:
    """What the client sent, None for nothing. Raises InvalidParameter."""
    return decode_credentials(request.headers.get("x-registry-auth", ""))


def decode_credentials(header: str) -> Credentials | None:
    """Base64url (padded or not) of JSON; None where it is empty or says nothing.

    Raises InvalidParameter.
    """
    text = header.strip().rstrip("=")
    if not text:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = gojson.decode(data, Credentials) if data.strip() else Credentials()
    except (binascii.Error, msgspec.DecodeError, UnicodeError, RecursionError, InvalidParameter) as exc:
        raise InvalidParameter(f"invalid X-Registry-Auth header: {exc}") from None
    return None if found.anonymous else found

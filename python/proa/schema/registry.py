"""Registries as the API speaks of them: credentials, login, search, and what a registry says of an image.

Source: the Docker Engine API, v1.51 (AuthConfig, SystemAuth, ImageSearch, DistributionInspect).
"""

from msgspec import Struct, field

from proa.schema.oci import Descriptor, Platform


class Credentials(Struct, frozen=True, kw_only=True, rename="lower", omit_defaults=True):
    """Who the client is to one registry: X-Registry-Auth, decoded, and the body of POST /auth.

    They are for the registry at `server_address` and follow no redirect. All empty means anonymous.
    """

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    server_address: str = field(default="", name="serveraddress")
    identity_token: str = field(default="", name="identitytoken")
    """A refresh token: exchanged for access tokens at the registry's token server."""
    registry_token: str = field(default="", name="registrytoken")
    """A bearer token to be sent as it is."""

    @property
    def anonymous(self) -> bool:
        """Nothing that could be shown to a registry."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, server_address={self.server_address!r}, ...)"


class AuthResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The answer to a login that succeeded; `identity_token` is to be kept instead of the password."""

    status: str = ""
    identity_token: str = ""


class SearchResult(Struct, frozen=True, kw_only=True):
    """One repository that a search found."""

    name: str = ""
    description: str = ""
    is_official: bool = False
    is_automated: bool = False
    star_count: int = 0


class DistributionInspect(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a registry has under a name: its descriptor and the platforms it runs on."""

    descriptor: Descriptor = Descriptor()
    platforms: list[Platform] = []

"""Who the user is to a registry: what `login` stored, as the header that pull, push, run and search send.

Nothing is imported or asked where there is no config.json: a run of a local image never gets further.
"""

from proa.cli.environment import config_directory, exists
from proa.cli.flags import Globals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.credential_store import Login


def header_for(reference: str, options: Globals | None = None) -> str | None:
    """The value of X-Registry-Auth for the registry of an image; None where nothing is stored for it.

    Raises Failure where a credential helper fails: nothing else is sent then.
    """
    from proa.cli.reference import full_repository

    return header_of(full_repository(reference).partition("/")[0], options)


def header_of(domain: str, options: Globals | None = None) -> str | None:
    """The same for a registry's domain."""
    options = options or Globals()
    if not exists(f"{config_directory(options)}/config.json"):
        return None
    from proa.cli.credential_store import INDEX, CredentialStore

    server = INDEX if domain in ("docker.io", "index.docker.io") else domain
    login = CredentialStore(options).get(server)
    return None if login.empty else encoded(login)


def encoded(login: "Login") -> str:
    """A login as X-Registry-Auth has it: base64url of JSON."""
    return _base64url(_fields(login))


def encoded_all(logins: "list[Login]") -> str:
    """Logins by registry, as X-Registry-Config has them."""
    return _base64url({login.server: _fields(login) for login in logins})


def _fields(login: "Login") -> dict[str, str]:
    fields = {"serveraddress": login.server}
    if login.identity_token:
        fields["identitytoken"] = login.identity_token
    if login.username:
        fields["username"], fields["password"] = login.username, login.password
    return fields


def _base64url(value: object) -> str:
    import binascii

    from proa.cli.jsontext import encode

    text = binascii.b2a_base64(encode(value), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


def header_line(value: str | None) -> str:
    """The header of a request, or nothing."""
    return f"X-Registry-Auth: {value}\r\n" if value else ""

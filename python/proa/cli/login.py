"""`login` and `logout`.

The daemon asks the registry; what it answers is kept by the store of config.json.

Source: the Docker Engine API, v1.51, SystemAuth; the observed output of docker 28.
"""

import os

from proa.cli.credential_store import INDEX, CredentialStore, Login, hostname
from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import PROGRAM, Command, Parsed
from proa.cli.table import show
from proa.cli.transport import Client, client

_EXISTING = (
    "Authenticating with existing credentials... [Username: {}]\n\n"
    " Info -> To login with a different account, run '{} logout' followed by '{} login'\n\n\n"
)
_UNENCRYPTED = (
    "\nWARNING! Your credentials are stored unencrypted in '{}'.\n"
    "Configure a credential helper to remove this warning. See\n"
    "https://docs.docker.com/go/credential-store/\n\n"
)
_HUB = (
    "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have "
    "a Docker ID, head over to https://hub.docker.com/ to create one.\n"
    "You can log in with your password or a Personal Access Token (PAT). Using a limited-scope PAT grants "
    "better security and is required for organizations using SSO. "
    "Learn more at https://docs.docker.com/go/access-tokens/\n\n"
)

_FLAGS = (
    ("password", "p", "string", "", "Password or Personal Access Token (PAT)"),
    ("password-stdin", "", "bool", "", "Take the Password or Personal Access Token (PAT) from stdin"),
    ("username", "u", "string", "", "Username"),
)


def login(parsed: Parsed) -> int:
    """`proa login`."""
    username, password = parsed.get("username"), _password(parsed)
    server = parsed.args[0] if parsed.args else ""
    server = INDEX if server in ("", "docker.io") else server
    if server != INDEX:
        server = hostname(server)
    store = CredentialStore(parsed.options)
    api = client(parsed.options)
    kept = Login(server)
    if not username and not password:
        kept = store.get(server)
        if kept.identity_token or (kept.username and kept.password):
            _tell(_EXISTING.format(kept.username, PROGRAM, PROGRAM))
            try:
                return _authenticated(api, store, kept, known=True)
            except DaemonError as exc:
                _tell(_stored_refused(exc))
    if not username or not password:
        username, password = _prompted(username or kept.username, password, server)
    return _authenticated(api, store, Login(server, username, password))


def _password(parsed: Parsed) -> str:
    """What the flags say. Raises Failure."""
    password: str = parsed.get("password")
    if password and parsed.flag("password-stdin"):
        raise Failure("conflicting options: cannot specify both --password and --password-stdin")
    if password:
        _tell("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")
    if not parsed.flag("password-stdin"):
        return password
    if not parsed.get("username"):
        raise Failure("the --password-stdin option requires --username to be set")
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
    return b"".join(parts).decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


def _authenticated(api: Client, store: CredentialStore, login: Login, known: bool = False) -> int:
    """Ask the registry, and keep what is new."""
    body = {"serveraddress": login.server}
    if login.identity_token:
        body["identitytoken"] = login.identity_token
    else:
        body["username"], body["password"] = login.username, login.password
    answer = api.call("POST", "/auth", body) or {}
    token = answer.get("IdentityToken") or ""
    if token and token != login.identity_token:
        store.put(Login(login.server, login.username, "", token))
    elif not known and store.put(login):
        _tell(_UNENCRYPTED.format(store.path))
    if answer.get("Status"):
        show(answer["Status"] + "\n")
    return 0


def _stored_refused(exc: DaemonError) -> str:
    if exc.status == 401:
        return "Stored credentials invalid or expired\n"
    return f"Login did not succeed, error: {exc}\n"


_NO_DEVICE_CODE = (
    "Web-based login is Docker's own and not supported here: log in with a username and a token.\n\n"
)


def _prompted(username: str, password: str, server: str) -> tuple[str, str]:
    """Ask at the terminal for what is missing. Raises Failure without one."""
    if not os.isatty(0):
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not username and server == INDEX:
        show(_NO_DEVICE_CODE + _HUB)
    known = username
    if not password:
        username = _line(f"Username ({known}): " if known else "Username: ") or known
    if not username:
        raise Failure("Error: Non-null Username Required")
    if not password:
        password = _hidden("Password: ")
    if not password:
        raise Failure("Error: Password Required")
    return username, password


def _line(question: str) -> str:
    show(question)
    text = b""
    while not text.endswith(b"\n") and (part := os.read(0, 4096)):
        text += part
    return text.decode("utf-8", "surrogateescape").strip()


def _hidden(question: str) -> str:
    """A line that the terminal does not show; its settings come back whatever happens."""
    import termios

    saved = termios.tcgetattr(0)
    quiet = termios.tcgetattr(0)
    quiet[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(0, termios.TCSANOW, quiet)
        text = _line(question)
    finally:
        termios.tcsetattr(0, termios.TCSANOW, saved)
    show("\n")
    return text


def logout(parsed: Parsed) -> int:
    """`proa logout`."""
    given = parsed.args[0] if parsed.args else ""
    server = INDEX if given in ("", "docker.io") else given
    shown = server if server == INDEX else hostname(server)
    names = (
        [server] if server == INDEX else dict.fromkeys((server, shown, f"http://{shown}", f"https://{shown}"))
    )
    show(f"Removing login credentials for {shown}\n")
    store = CredentialStore(parsed.options)
    errors = []
    for name in names:
        try:
            store.erase(name)
        except Failure as exc:
            errors.append(f"{name}: {exc}")
    if len(errors) == len(names):
        raise Failure("Could not erase credentials:\n" + "\n".join(errors))
    return 0


def _tell(text: str) -> None:
    os.write(2, text.encode("utf-8", "surrogateescape"))


COMMANDS = {
    "login": Command(
        "login",
        "[OPTIONS] [SERVER]",
        "Authenticate to a registry",
        login,
        _FLAGS,
        maximum=1,
        long="Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    ),
    "logout": Command(
        "logout",
        "[SERVER]",
        "Log out from a registry",
        logout,
        maximum=1,
        long="Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    ),
}

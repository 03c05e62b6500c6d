"""Where logins are kept: the client's config.json, or a credential helper that it names.

    credHelpers[host]  this registry's helper        credsStore  everybody's
    auths[server]      what is kept in the file itself: base64 of user:password, or an identity token

A helper is a program docker-credential-<name>; a helper that fails ends the command: nothing else is sent in
its place (CVE-2021-41092). The file is replaced in one step, with mode 0600.

Source: docker/docker-credential-helpers (the protocol); docker/cli cli/config (the file).
"""

import os

from proa.cli.configfile import load
from proa.cli.environment import config_directory
from proa.cli.failure import Failure
from proa.cli.jsontext import decode, encode, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals

INDEX = "https://index.docker.io/v1/"
"""The Hub's name in every store."""
_TOKEN = "<token>"
"""The user name under which a helper keeps an identity token."""
_NOT_FOUND = "credentials not found in native keychain"


class Login:
    """What is kept of one registry."""

    __slots__ = ("identity_token", "password", "server", "username")

    def __init__(self, server: str, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.server = server
        self.username = username
        self.password = password
        self.identity_token = identity_token

    @property
    def empty(self) -> bool:
        """Nothing is kept."""
        return not (self.username or self.password or self.identity_token)


class CredentialStore:
    """The logins of one config directory."""

    def __init__(self, options: "Globals") -> None:
        """Raises Failure for a file that is no JSON."""
        self.path = f"{config_directory(options)}/config.json"
        self._settings: dict[str, Any] = load(options)

    def helper_of(self, server: str) -> str:
        """The helper's name for a registry, empty for the file."""
        helpers = self._settings.get("credHelpers") or {}
        found = helpers.get(server) or helpers.get(hostname(server)) or self._settings.get("credsStore")
        if found:
            return str(found)
        return "" if self._auths or "credsStore" in self._settings else _default_helper()

    def get(self, server: str) -> Login:
        """What is kept for a server; an empty one for nothing. Raises Failure where the helper fails."""
        name = self.helper_of(server)
        if not name:
            return self._from_file(server)
        code, out = _ask(name, "get", server.encode())
        if code:
            if out.strip() == _NOT_FOUND:
                return Login(server)
            raise Failure(f"error getting credentials - err: {_status(code)}, out: `{out.strip()}`")
        found = _object(out, name)
        user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
        if user == _TOKEN:
            return Login(server, identity_token=secret)
        return Login(server, user, secret)

    def all(self) -> list[Login]:
        """Everything that is kept; a helper that fails is passed over: a build may not need its logins."""
        helpers = self._settings.get("credHelpers") or {}
        servers = [*self._auths, *(server for server in helpers if server not in self._auths)]
        if store := self._settings.get("credsStore"):
            code, out = _ask(str(store), "list", b"")
            listed = [] if code else list(_object(out, str(store)))
            servers += [server for server in listed if server not in servers]
        found = []
        for server in servers:
            try:
                found.append(self.get(server))
            except Failure:
                continue
        return [login for login in found if not login.empty]

    def put(self, login: Login) -> bool:
        """Keep a login; True where it lies unencrypted in the file. Raises Failure."""
        name = self.helper_of(login.server)
        if not name:
            self._auths_to_change()[login.server] = _entry(login)
            self._save()
            return True
        user, secret = login.username, login.password
        if login.identity_token:
            user, secret = _TOKEN, login.identity_token
        body = {"ServerURL": login.server, "Username": user, "Secret": secret}
        code, out = _ask(name, "store", encode(body))
        if code:
            raise Failure(f"error storing credentials - err: {_status(code)}, out: `{out.strip()}`")
        self._auths_to_change()[login.server] = {}
        self._save()
        return False

    def erase(self, server: str) -> None:
        """Forget a server. Raises Failure where the helper fails."""
        name = self.helper_of(server)
        known = self._auths.pop(server, None) is not None
        if known:
            self._save()
        if name:
            code, out = _ask(name, "erase", server.encode())
            if code and out.strip() != _NOT_FOUND:
                raise Failure(f"error erasing credentials - err: {_status(code)}, out: `{out.strip()}`")

    @property
    def _auths(self) -> "dict[str, Any]":
        found = self._settings.get("auths")
        return found if isinstance(found, dict) else {}

    def _auths_to_change(self) -> "dict[str, Any]":
        if not isinstance(self._settings.get("auths"), dict):
            self._settings["auths"] = {}
        auths: dict[str, Any] = self._settings["auths"]
        return auths

    def _from_file(self, server: str) -> Login:
        auths = self._auths
        entry = auths.get(server)
        if entry is None:
            wanted = hostname(server)
            entry = next((value for key, value in auths.items() if hostname(key) == wanted), None)
        if not isinstance(entry, dict):
            return Login(server)
        user, password = _taken_apart(str(entry.get("auth") or ""), self.path)
        token = str(entry.get("identitytoken") or "")
        return Login(
            server,
            user or str(entry.get("username") or ""),
            password or str(entry.get("password") or ""),
            token,
        )

    def _save(self) -> None:
        """Replace the file; what else is in it stays."""
        path = os.path.realpath(self.path)
        folder = os.path.dirname(path)
        draft = f"{path}.{os.getpid()}"
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(pretty(self._settings, "\t").encode("utf-8", "surrogateescape"))
                    file.flush()
                    os.fsync(fd)
                os.rename(draft, path)
            except BaseException:
                os.unlink(draft)
                raise
        except OSError as exc:
            raise Failure(
                f"Error saving credentials: {exc.filename or path}: {(exc.strerror or '').lower()}"
            ) from exc


def hostname(server: str) -> str:
    """`https://host:port/v1/` as host:port."""
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _default_helper() -> str:
    """The platform's own where it is installed, as Docker chooses it for who has no login yet."""
    import shutil

    name = "pass" if shutil.which("pass") else "secretservice"
    return name if shutil.which(f"docker-credential-{name}") else ""


def _entry(login: Login) -> "dict[str, Any]":
    import binascii

    text = f"{login.username}:{login.password}".encode("utf-8", "surrogateescape")
    entry = {"auth": binascii.b2a_base64(text, newline=False).decode()} if login.username else {}
    if login.identity_token:
        entry = {"auth": binascii.b2a_base64(f"{login.username}:".encode(), newline=False).decode()}
        entry["identitytoken"] = login.identity_token
    return entry


def _taken_apart(auth: str, path: str) -> tuple[str, str]:
    if not auth:
        return "", ""
    import binascii

    try:
        user, colon, password = binascii.a2b_base64(auth, strict_mode=True).decode().partition(":")
    except ValueError:
        raise Failure(f"Error loading config file: {path}: illegal base64 data in an auth") from None
    if not colon or not user:
        raise Failure(f"Error loading config file: {path}: invalid auth configuration file")
    return user, password.strip("\0")


def _ask(name: str, verb: str, text: bytes) -> tuple[int, str]:
    """(exit status, output) of a helper. Raises Failure where there is none."""
    import subprocess

    program = f"docker-credential-{name}"
    if "/" in name:
        raise Failure(f"invalid credential helper: {name}")
    try:
        done = subprocess.run([program, verb], input=text, stdout=subprocess.PIPE, check=False)
    except OSError as exc:
        reason = "executable file not found in $PATH" if isinstance(exc, FileNotFoundError) else exc.strerror
        raise Failure(f'error getting credentials - err: exec: "{program}": {reason}, out: ``') from exc
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape")


def _status(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"signal: {-code}"


def _object(text: str, name: str) -> "dict[str, Any]":
    try:
        found = decode(text)
    except ValueError as exc:
        raise Failure(f"error getting credentials - err: docker-credential-{name}: {exc}, out: ``") from None
    return found if isinstance(found, dict) else {}

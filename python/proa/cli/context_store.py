"""Contexts: named daemons, where Docker's CLI keeps them, so that both have the same ones.

    contexts/meta/KEY/meta.json      name, description, the daemon's address; KEY is the name's SHA-256
    contexts/tls/KEY/docker/*.pem    certificates, for the user alone
    contexts/proa-current            the name that `proa context use` chose

The choice is proa's own: config.json's currentContext leads `docker` to its daemon, and proa is not that one.
Source: the documentation of `docker context`; the files that docker 28 writes.
"""

import os
import re

from proa.cli.environment import choice_file, config_directory, variable
from proa.cli.failure import Failure
from proa.cli.jsontext import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals

DEFAULT = "default"

_NAME = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"


class Context:
    """One context: `meta` is its file's content, `tls` its certificates by endpoint and file name."""

    __slots__ = ("meta", "tls")

    def __init__(self, meta: "dict[str, Any]", tls: "dict[str, dict[str, bytes]]") -> None:
        self.meta = meta
        self.tls = tls

    @property
    def description(self) -> str:
        """What its maker wrote of it."""
        return str((self.meta.get("Metadata") or {}).get("Description") or "")

    @property
    def endpoint(self) -> "dict[str, Any]":
        """`Host` and `SkipTLSVerify` of the daemon."""
        found = (self.meta.get("Endpoints") or {}).get("docker")
        return found if isinstance(found, dict) else {}

    @property
    def host(self) -> str:
        """The daemon's address; empty where none was given."""
        return str(self.endpoint.get("Host") or "")


def current(options: "Globals") -> str:
    """The name of the context that a command line is for."""
    if options.context:
        return options.context
    if options.hosts or variable("PROA_HOST") or variable("DOCKER_HOST"):
        return DEFAULT
    named = variable("PROA_CONTEXT") or variable("DOCKER_CONTEXT")
    return named or ContextStore(options).choice()


def check_name(name: str) -> None:
    """Raises Failure where no context can be made or changed under this name."""
    if not name:
        raise Failure("context name cannot be empty")
    if name == DEFAULT:
        raise Failure('"default" is a reserved context name')
    _check_spelling(name)


def _check_spelling(name: str) -> None:
    if not re.match(_NAME[:-1] + r"\Z", name):
        raise Failure(f'context name "{name}" is invalid, names are validated against regexp "{_NAME}"')


class ContextStore:
    """The contexts of one config directory."""

    def __init__(self, options: "Globals") -> None:
        self._root = config_directory(options)
        self._choice = choice_file(options)

    # ---- reading ------------------------------------------------------------------------------------

    def folders(self, name: str) -> tuple[str, str]:
        """Where a context's description and its certificates are, or would be."""
        from hashlib import sha256

        key = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{self._root}/contexts/meta/{key}", f"{self._root}/contexts/tls/{key}"

    def names(self) -> list[str]:
        """Every context that can be read, in no order."""
        meta = f"{self._root}/contexts/meta"
        found = []
        for key in os.listdir(meta) if os.path.isdir(meta) else ():
            try:
                found.append(str(_read_meta(f"{meta}/{key}/meta.json")["Name"]))
            except (OSError, ValueError, KeyError):
                continue
        return found

    def load(self, name: str) -> Context:
        """A context with its certificates. Raises Failure where there is none of this name."""
        _check_spelling(name)
        folder, tls = self.folders(name)
        path = f"{folder}/meta.json"
        try:
            meta = _read_meta(path)
        except OSError as exc:
            reason = (exc.strerror or "").lower()
            raise Failure(f'context "{name}": context not found: open {path}: {reason}') from None
        except ValueError:
            raise Failure(f'context "{name}": {path} is not a context of docker') from None
        return Context(meta, _read_tls(tls))

    def exists(self, name: str) -> bool:
        """Whether a context has this name."""
        return os.path.exists(f"{self.folders(name)[0]}/meta.json")

    # ---- writing ------------------------------------------------------------------------------------

    def save(self, name: str, context: Context) -> None:
        """Keep a context under a name: certificates first, so that what is seen is whole. Raises Failure."""
        folder, tls = self.folders(name)
        context.meta = {"Name": name, **{key: value for key, value in context.meta.items() if key != "Name"}}
        try:
            _remove(tls)
            for endpoint, files in context.tls.items():
                for directory in (f"{self._root}/contexts/tls", tls, f"{tls}/{endpoint}"):
                    os.makedirs(directory, 0o700, exist_ok=True)
                for file, content in files.items():
                    _write(f"{tls}/{endpoint}/{file}", content, 0o600)
            os.makedirs(folder, 0o755, exist_ok=True)
            _write(f"{folder}/meta.json", encode(context.meta), 0o644)
        except OSError as exc:
            raise Failure(f"{exc.filename or folder}: {(exc.strerror or '').lower()}") from exc

    def remove(self, name: str) -> None:
        """Forget a context and its certificates."""
        for folder in self.folders(name):
            _remove(folder)

    # ---- the one in use -----------------------------------------------------------------------------

    def choice(self) -> str:
        """The context that `proa context use` chose."""
        try:
            with open(self._choice, encoding="utf-8", errors="surrogateescape") as file:
                return file.read().strip() or DEFAULT
        except OSError:
            return DEFAULT

    def choose(self, name: str) -> None:
        """Make a context the one of commands that name none. Raises Failure."""
        path = self._choice
        try:
            if name == DEFAULT:
                if os.path.exists(path):
                    os.unlink(path)
                return
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            _write(path, f"{name}\n".encode(), 0o644)
        except OSError as exc:
            raise Failure(f"{path}: {(exc.strerror or '').lower()}") from exc


def _read_meta(path: str) -> "dict[str, Any]":
    with open(path, encoding="utf-8", errors="replace") as file:
        found = decode(file.read())
    if not isinstance(found, dict) or not isinstance(found.get("Endpoints"), dict):
        raise ValueError(path)
    return found


def _read_tls(folder: str) -> "dict[str, dict[str, bytes]]":
    found: dict[str, dict[str, bytes]] = {}
    for endpoint in os.listdir(folder) if os.path.isdir(folder) else ():
        files = found[endpoint] = {}
        for name in sorted(os.listdir(f"{folder}/{endpoint}")):
            with open(f"{folder}/{endpoint}/{name}", "rb") as file:
                files[name] = file.read()
    return found


def _write(path: str, content: bytes, mode: int) -> None:
    """Replace a file in one step. Raises OSError."""
    draft = f"{path}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(content)
        os.rename(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _remove(folder: str) -> None:
    import shutil

    if os.path.isdir(folder):
        shutil.rmtree(folder)

"""Who may come in: HTTP Basic against an htpasswd file with bcrypt, as Apache's `htpasswd -B` writes it.

A check costs some 50 ms of CPU on purpose. It runs on threads of its own, so that a flood of wrong passwords
takes nothing from transfers; what was found right is remembered for a while as a keyed hash.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import os
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from proa.distribution.failures import Code, Refusal
from proa.errors import InvalidParameter

log = logging.getLogger(__name__)

CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="proa registry", charset="UTF-8"'}
REMEMBERED: Final = 256
REMEMBER_SECONDS: Final = 300.0
_THREADS: Final = 2
_PASSWORD_MAX: Final = 72
"""Bytes that bcrypt looks at."""


class Htpasswd:
    """The users of one file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidParameter where the file cannot be used."""
        self._path = path
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="bcrypt")
        self._users: dict[str, bytes] = {}
        self._version: tuple[int, int] | None = None
        self._read()
        import bcrypt

        self._nobody = bcrypt.hashpw(secrets.token_hex(16).encode(), bcrypt.gensalt(10))

    async def check(self, header: str | None) -> str:
        """The user that an Authorization header names; raises Refusal."""
        user, password = credentials(header)
        self._read()
        token = hmac.digest(self._key, f"{user}\0{password}".encode(), "sha256")
        now = time.monotonic()
        if now < self._right.get(token, 0.0):
            self._right.move_to_end(token)
            return user
        loop = asyncio.get_running_loop()
        version = self._version
        right = await loop.run_in_executor(self._executor, self._verify, user, password)
        if not right:
            raise refusal("authentication required: unknown user or wrong password")
        if version == self._version:
            self._right[token] = now + REMEMBER_SECONDS
            while len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        return user

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _verify(self, user: str, password: str) -> bool:
        """Compare in constant time; an unknown user takes as long as a known one. Blocks."""
        import bcrypt

        stored = self._users.get(user)
        compared = stored or next(iter(self._users.values()), self._nobody)
        try:
            same = bcrypt.checkpw(password.encode()[:_PASSWORD_MAX], compared)
        except ValueError:
            log.error("htpasswd %s: a hash is malformed", self._path)
            return False
        return same and stored is not None

    def _read(self) -> None:
        """Take the file over where it changed; who was in before must prove it again."""
        try:
            status = os.stat(self._path)
            version = (status.st_mtime_ns, status.st_ino)
            if version == self._version:
                return
            users = parse(self._path.read_text())
        except (OSError, UnicodeDecodeError, InvalidParameter) as exc:
            reason = f"htpasswd {self._path}: {getattr(exc, 'strerror', '') or exc}"
            if not self._version:
                raise InvalidParameter(reason) from exc
            log.error("%s; it stays as it was", reason)
            return
        self._users, self._version = users, version
        self._right.clear()


def parse(text: str) -> dict[str, bytes]:
    """Users and their hashes. Raises InvalidParameter."""
    users = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        user, _, stored = line.partition(":")
        if line.startswith("#"):
            continue
        if not stored.startswith(("$2a$", "$2b$", "$2y$")):
            raise InvalidParameter(f"{user}: only bcrypt is supported (htpasswd -B)")
        users[user] = stored.encode()
    return users


def credentials(header: str | None) -> tuple[str, str]:
    """User and password of a Basic header; raises Refusal."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        raise refusal("authentication required")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise refusal("authentication required: malformed credentials") from exc
    if not colon or "\0" in user or "\0" in password:
        raise refusal("authentication required: malformed credentials")
    return user, password


def refusal(message: str) -> Refusal:
    """401, and how to do better."""
    return Refusal(Code.UNAUTHORIZED, message, CHALLENGE)

"""Who a process runs as: `User` and `GroupAdd` looked up in the container's own passwd and group files.

A number is always an id, whatever the files say; ids are 32-bit and a larger one is an error, never a
wrapped one. Source: moby/sys/user's rules; passwd(5), group(5).
"""

import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from proa.errors import InvalidParameter

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
MAX_ID = (1 << 31) - 1
"""As Docker has it: uid_t is unsigned, but tools inside containers sign it."""

_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class Identity(Struct, frozen=True, kw_only=True):
    """Ids and the home directory of a user."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _User(Struct, frozen=True):
    name: str
    uid: str
    gid: str
    home: str


class _Group(Struct, frozen=True):
    name: str
    gid: str
    members: tuple[str, ...]


def identify(
    user: str, group_add: Sequence[str], read: Callable[[Sequence[str]], Sequence[bytes | None]]
) -> Identity:
    """The identity that `user` (`name`, `uid`, either with `:group` or `:gid`) stands for.

    `read` is asked for passwd and group at most once. Raises InvalidParameter in Docker's words.
    """
    try:
        passwd, group = read((PASSWD, GROUP))
    except OSError as exc:
        raise InvalidParameter(f"unable to find user {user}: {exc.strerror or exc}") from exc
    users, groups = list(_users(passwd or b"")), list(_groups(group or b""))
    name, _, group_name = user.partition(":")
    entry = _find_user(name, users)
    if entry is None and name and not _NUMBER.fullmatch(name):
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    uid = _id(entry.uid if entry else name or "0")
    gid = _id(entry.gid) if entry else 0
    supplementary: list[int] = []
    if group_name:
        gid = _group_id(group_name, groups)
    elif entry is not None:
        supplementary = [_id(g.gid) for g in groups if entry.name in g.members]
    supplementary += [_group_id(g, groups) for g in group_add]
    return Identity(
        uid=uid,
        gid=gid,
        groups=tuple(dict.fromkeys([gid, *supplementary])),
        home=(entry.home if entry else "") or "/",
    )


def _find_user(name: str, users: Sequence[_User]) -> _User | None:
    """The first entry of the user; a number (or nothing, which is root) is looked up by id."""
    number = name or "0"
    if _NUMBER.fullmatch(number):
        wanted = _id(number)
        return next((u for u in users if _is_number(u.uid) and int(u.uid) == wanted), None)
    return next((u for u in users if u.name == name), None)


def _group_id(name: str, groups: Sequence[_Group]) -> int:
    if _NUMBER.fullmatch(name):
        return _id(name)
    for group in groups:
        if group.name == name:
            return _id(group.gid)
    raise InvalidParameter(f"unable to find group {name}: no matching entries in group file")


def _is_number(text: str) -> bool:
    """The length check keeps int() from working on a megabyte of digits, which it refuses to."""
    return len(text) <= 20 and _NUMBER.fullmatch(text) is not None


def _id(text: str) -> int:
    """A uid or gid."""
    if _is_number(text) and 0 <= int(text) <= MAX_ID:
        return int(text)
    raise InvalidParameter(f"invalid id {text[:20]}: uids and gids must be in range 0-{MAX_ID}")


def _lines(content: bytes) -> Iterator[list[str]]:
    # Not splitlines: what a user may put into a field of its own, a U+2028 say, must not begin a line.
    for line in content.decode("utf-8", "replace").split("\n"):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped.split(":")


def _users(content: bytes) -> Iterator[_User]:
    for fields in _lines(content):
        if len(fields) >= 4:
            yield _User(fields[0], fields[2], fields[3], fields[5] if len(fields) > 5 else "")


def _groups(content: bytes) -> Iterator[_Group]:
    for fields in _lines(content):
        if len(fields) >= 3:
            members = fields[3].split(",") if len(fields) > 3 else []
            yield _Group(fields[0], fields[2], tuple(m for m in members if m))

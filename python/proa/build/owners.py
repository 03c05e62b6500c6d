"""`--chown=user[:group]`: names are looked up in the files of the step's own root.

Source: passwd(5), group(5).
"""

from collections.abc import Iterable, Sequence

import proa_native

from proa.errors import InvalidParameter

_HIGHEST = (1 << 32) - 2


def owner_of(text: str, lower: Sequence[str]) -> tuple[int, int]:
    """(uid, gid); without a group it is a named user's own, or the user's number. Raises InvalidParameter.

    `root` is 0 wherever there are no such files. Where there are, a user whom they do not have is root, and a
    group that they do not have is not looked at: BuildKit does so, and builds rely on it.
    """
    user, _, group = text.partition(":")
    uid = gid = _number(user) if user else 0
    named = uid is None or (group and _number(group) is None)
    passwd, groups = _read(lower) if named else (None, None)
    if uid is None:
        if passwd is None:
            raise InvalidParameter(f"unable to find user {user}: no matching entries in passwd file")
        found = ((own, its) for name, own, its in _users(passwd) if name == user)
        uid, gid = next(found, (0, 0))
    if group:
        number = _number(group)
        if number is None:
            if groups is None:
                raise InvalidParameter(f"unable to find group {group}: no matching entries in group file")
            number = next((number for name, number in _groups(groups) if name == group), gid)
        gid = number
    return uid, uid if gid is None else gid


def _read(lower: Sequence[str]) -> tuple[str | None, str | None]:
    try:
        found = proa_native.read_in_layers(list(lower), ["/etc/passwd", "/etc/group"])
    except OSError as exc:
        raise InvalidParameter(f"cannot look up owners: {exc}") from exc
    passwd, group = (None if data is None else data.decode("utf-8", "replace") for data in found)
    return passwd, group


def _number(text: str) -> int | None:
    """A numeric id is always an id; past 32 bits it is an error."""
    if text == "root":
        return 0
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) > _HIGHEST:
        raise InvalidParameter(f"uids and gids must be in range 0-{_HIGHEST}: {text}")
    return int(text)


def _users(passwd: str) -> Iterable[tuple[str, int, int]]:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            yield fields[0], int(fields[2]), int(fields[3])


def _groups(groups: str) -> Iterable[tuple[str, int]]:
    for line in groups.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isdigit():
            yield fields[0], int(fields[2])

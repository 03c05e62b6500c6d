"""Where the API is served: unix sockets and tcp, and who may connect.

Owns the socket files: their modes, their owners, the removal of one that a dead daemon left.
"""

import errno
import grp
import os
import socket
import stat
import struct

from proa.errors import Conflict, InvalidParameter, System

BACKLOG = 1024
_PEERCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h, Linux 4.13
_GROUPS_BYTES = 1024  # the most that Python asks a socket option for: 256 groups
_FIRST_INHERITED = 3


def listen_unix(path: str, group: str) -> socket.socket:
    """A listening socket at `path`: mode 0600, or 0660 and owned by `group` (a name or a number).

    Raises Conflict when a live server holds the path, System and InvalidParameter else.
    """
    gid = group_id(group) if group else None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        remove_stale(path)
        # The file takes its mode from the socket's inode (net/unix/af_unix.c): never wider, not for a moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        if gid is not None:
            os.chown(path, -1, gid)
            os.chmod(path, 0o660)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise System(f"failed to listen on unix://{path}: {exc.strerror}") from exc
    except BaseException:
        listener.close()
        raise
    return listener


def remove_stale(path: str) -> None:
    """Remove a socket nobody listens on; raises Conflict when somebody does."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"failed to listen on unix://{path}: the file exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result == errno.ECONNREFUSED:
        os.unlink(path)
    elif result != errno.ENOENT:
        raise Conflict(f"failed to listen on unix://{path}: another daemon is listening there")


def group_id(group: str) -> int:
    """The id of a group given by name or number; raises InvalidParameter."""
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidParameter(f"group {group} not found") from None


def listen_tcp(address: str) -> list[socket.socket]:
    """Listening sockets for `host:port`, `[v6]:port` or `:port`."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise InvalidParameter(f"invalid bind address tcp://{address}: a port is needed")
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
    except OSError as exc:
        for listener in sockets:
            listener.close()
        raise System(f"failed to listen on tcp://{address}: {exc.strerror or exc}") from exc
    return sockets


def inherited() -> list[socket.socket]:
    """The sockets that systemd listens on for us, in its order (sd_listen_fds(3)); raises InvalidParameter.

    The variables are consumed: they are not for programs that this process starts.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or not int(count):
        raise InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    sockets = []
    for fd in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        sockets.append(listener)
    return sockets


class PeerPolicy:
    """Who may use the unix socket: root, the daemon's own user, and the members of its group.

    The file's mode says the same; this holds where someone widens the mode.
    """

    def __init__(self, group: str) -> None:
        self._uids = {0, os.geteuid()}
        self._gid = group_id(group) if group else None

    def admits(self, peer: socket.socket) -> bool:
        """Whether the process that connected may; `peer` is a connected unix socket."""
        _, uid, gid = peer_credentials(peer)
        if uid in self._uids:
            return True
        return self._gid is not None and (gid == self._gid or self._gid in peer_groups(peer))


def peer_credentials(peer: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process that connected. Source: unix(7), SO_PEERCRED."""
    pid, uid, gid = _PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return pid, uid, gid


def peer_groups(peer: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the process that connected; none where it has more than 256."""
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as exc:
        if exc.errno == errno.ERANGE:
            return ()
        raise
    return struct.unpack(f"{len(raw) // 4}I", raw)

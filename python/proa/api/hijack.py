"""A client's connection on its way out of HTTP: what attach and exec hand to the engine.

Source: moby daemon/server/router/container/container_routes.go (postContainersAttach) and exec.go.
"""

from proa.api.responses import COMMON_HEADERS, MULTIPLEXED_STREAM, RAW_STREAM
from proa.http._request import Request


class Hijack:
    """HijackedConnection over an HTTP connection of this server."""

    def __init__(self, request: Request, location: str = "") -> None:
        """`location`: what the request made, where it made something."""
        self._request = request
        self._rest = COMMON_HEADERS + (f"Location: {location}\r\n" if location else "")

    def raw_stream_head(self, *, multiplexed: bool) -> bytes:
        """101 UPGRADED where the client asked for an upgrade, else 200 (clients before 1.20)."""
        if "upgrade" not in self._request.headers:
            return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n{self._rest}\r\n".encode()
        content_type = MULTIPLEXED_STREAM if multiplexed and self._request.minor >= 42 else RAW_STREAM
        return (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\n{self._rest}\r\n"
        ).encode()

    def detach(self) -> tuple[int, bytes]:
        """(fd, input read already); raises ConnectionResetError when the client is gone."""
        return self._request.connection.detach()

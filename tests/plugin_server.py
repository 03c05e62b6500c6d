"""A volume plugin in a thread: Docker's plugin protocol on a unix socket, with directories for volumes.

`replies` puts bytes, or a whole JSON reply, in place of what a method would answer; `calls` are those
that came.
"""

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class PluginServer(socketserver.ThreadingUnixStreamServer):
    """Serves until `stop`; `root` has a directory for each volume."""

    daemon_threads = True

    def __init__(self, path: Path, root: Path, *, implements: str = "VolumeDriver") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.implements = implements
        self.volumes: dict[str, dict[str, str]] = {}
        self.mounts: list[tuple[str, str]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.replies: dict[str, dict[str, Any] | bytes] = {}
        self.stuck: set[str] = set()
        """Methods that are never answered."""
        self.let_go = threading.Event()
        super().__init__(str(path), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """End it; its socket goes, too."""
        self.let_go.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        Path(str(self.server_address)).unlink(missing_ok=True)

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a driver of directories says."""
        name = body.get("Name", "")
        mountpoint = str(self.root / name)
        match method:
            case "/Plugin.Activate":
                return {"Implements": [self.implements]}
            case "/VolumeDriver.Create":
                (self.root / name).mkdir(parents=True, exist_ok=True)
                self.volumes[name] = body.get("Opts") or {}
            case "/VolumeDriver.Remove":
                self.volumes.pop(name, None)
            case "/VolumeDriver.Mount":
                self.mounts.append((name, body["ID"]))
                return {"Mountpoint": mountpoint, "Err": ""}
            case "/VolumeDriver.Unmount":
                self.mounts.remove((name, body["ID"]))
            case "/VolumeDriver.Get":
                if name not in self.volumes:
                    return {"Err": f"no volume {name}"}
                shown = {
                    "Name": name,
                    "Mountpoint": mountpoint,
                    "Status": {"options": len(self.volumes[name])},
                }
                return {"Volume": shown, "Err": ""}
            case "/VolumeDriver.List":
                shown = [{"Name": name, "Mountpoint": str(self.root / name)} for name in self.volumes]
                return {"Volumes": shown, "Err": ""}
            case "/VolumeDriver.Capabilities":
                return {"Capabilities": {"Scope": "global"}}
        return {"Err": ""}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PluginServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        self.server.calls.append((self.path, body))
        if self.path in self.server.stuck:
            self.server.let_go.wait()
            self.close_connection = True
            return
        reply = self.server.replies.get(self.path)
        if reply is None:
            reply = self.server.answer(self.path, body)
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(200 if not (isinstance(reply, dict) and reply.get("Err")) else 500)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the other side has had enough

    def log_message(self, format: str, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "plugin"


@contextmanager
def serving(path: Path, root: Path, *, implements: str = "VolumeDriver") -> Iterator[PluginServer]:
    """A plugin for as long as the block lasts."""
    server = PluginServer(path, root, implements=implements)
    try:
        yield server
    finally:
        server.stop()


def dead_socket(path: Path) -> None:
    """A socket file that nobody listens on any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

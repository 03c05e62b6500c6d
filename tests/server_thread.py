"""The API server over a fake engine on a loop of its own thread, for clients that block."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import uvloop
from fake_engine import FakeEngine

from proa.api.server import serve
from proa.schema.config import DaemonConfig


class ServerThread:
    """A server on a loop of its own thread, for clients that block."""

    def __init__(self, address: Path) -> None:
        self.engine: FakeEngine
        self.url = f"unix://{address}"
        self._address = address
        self._stop: Callable[[], object]
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))

    async def _main(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        self.engine = FakeEngine()
        server = await serve(self.engine, DaemonConfig(hosts=(self.url,)))
        self._ready.set_result(None)
        await stop.wait()
        await server.close()

    def __enter__(self) -> "ServerThread":
        self._thread.start()
        self._ready.result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        self._thread.join()

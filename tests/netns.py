"""A network namespace as a machine of its own, for tests: a thread that has left the test's."""

import ctypes
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace and the thread that lives in it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        try:
            self.tid = self.run(self._leave)
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def run(self, call: Callable[..., T], *arguments: object) -> T:
        return self._thread.submit(call, *arguments).result(timeout=30)

    def command(self, *words: str) -> str:
        done = self.run(lambda: subprocess.run(words, capture_output=True, text=True, check=False))
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def ip(self, *words: str) -> str:
        return self.command("ip", *words)

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def _leave() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        return threading.get_native_id()

"""What holds for every test file, and for all together: descriptors do not pile up.

A thousand of them are most processes' limit, and what a test leaves open it may be the code that leaked it.
"""

import gc
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from instance import eventually

LEFT_BY_A_FILE = 16
"""What its last test has is still held when this looks, and what later files share stays open."""
LEFT_BY_ALL = 64
KEPT = ("/sys/fs/cgroup", "/dev/null", "/proc")
"""Opened once by the native core for the whole process."""


@pytest.fixture(scope="session", autouse=True)
def all_descriptors_are_closed() -> Iterator[None]:
    """What every test together leaves open is next to nothing."""
    yield from growing_by(LEFT_BY_ALL)


@pytest.fixture(scope="module", autouse=True)
def descriptors_are_closed() -> Iterator[None]:
    """What a file's tests opened is closed again: at once, as garbage, or at a thread's end."""
    yield from growing_by(LEFT_BY_A_FILE)


def growing_by(most: int) -> Iterator[None]:
    before = kinds()
    yield

    def grown() -> Counter[str]:
        gc.collect()
        return kinds() - before

    if not eventually(lambda: grown().total() <= most):
        pytest.fail(f"descriptors are left open: {dict(grown())}")


def kinds() -> Counter[str]:
    """How many descriptors are open, by what they are; files by their path."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed them
        if not target.startswith(KEPT):
            found[target if target.startswith("/") else target.partition(":")[0]] += 1
    return found

"""Which docker CLI is here: proa is held against the texts and requests of 28, and Debian 12 has 20.10."""

import re
import shutil
import subprocess

import pytest

WANTED = 28

DOCKER = shutil.which("docker")


def _major() -> int:
    if DOCKER is None:
        return 0
    done = subprocess.run([DOCKER, "--version"], capture_output=True, text=True, check=True, timeout=20)
    found = re.search(r"version (\d+)", done.stdout)
    return int(found[1]) if found else 0


MAJOR = _major()

needs_docker_28 = pytest.mark.skipif(
    MAJOR < WANTED,
    reason=f"needs the docker CLI {WANTED}, and here is {MAJOR or 'none'}",
)

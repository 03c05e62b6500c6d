"""skopeo as a second client of registries and archives; tests skip where it is missing."""

import shutil
import subprocess

import pytest


def skopeo(*words: str) -> str:
    """One command that succeeds; its output."""
    if not shutil.which("skopeo"):
        pytest.skip("needs skopeo")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""The bundle runs the same modules as the package does, and has those that must start fast."""

import subprocess
import sys
from pathlib import Path

import pytest

from proa.cli import bundle

PYTHON = Path(__file__).parents[3] / "python"

BOOT = (PYTHON / "scripts/proa.c").read_text().partition("boot[] =")[2].partition(";\n\n")[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the bundle alone: what it does not have cannot be imported."""
    directory = tmp_path_factory.mktemp("installed")
    (directory / "proa/cli").mkdir(parents=True)
    (directory / bundle.PATH).write_bytes(bundle.pack(PYTHON))
    return directory


def start(installed: Path, *words: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """The launcher's own code, with `before` run first."""
    lines = [line.strip().strip('"') for line in BOOT.replace('" BUNDLE "', f"/{bundle.PATH}").splitlines()]
    code = "".join(lines).replace("\\n", "\n")
    return subprocess.run(
        [sys.executable, "-I", "-S", "-Xutf8", "-c", before + code, str(installed), *words],
        capture_output=True,
        text=True,
        check=False,
        env={"DOCKER_HOST": "unix:///nowhere/proa.sock"},
    )


def test_it_answers_for_the_program(installed: Path) -> None:
    done = start(installed, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "proa version 0.1.0\n", "")


def test_what_it_has_not_comes_from_the_directory(installed: Path) -> None:
    done = start(installed, "run", "busybox")
    assert "No module named 'proa.cli.endpoint'" in done.stderr
    assert "proa/cli/run.py" in done.stderr
    (installed / "proa/cli/endpoint.py").write_bytes((PYTHON / "proa/cli/endpoint.py").read_bytes())
    done = start(installed, "run", "busybox")
    assert "Cannot connect to the Docker daemon at unix:///nowhere/proa.sock" in done.stderr


def test_what_site_knows_is_found_when_it_is_wanted() -> None:
    probe = "import sys; from proa.cli import bundle; sys.meta_path.append(bundle.Site()); import msgspec"
    code = f"import sys; sys.path.append({str(PYTHON)!r}); {probe}; import proa_absent"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'proa_absent'"

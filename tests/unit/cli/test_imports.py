"""The commands that must start fast import next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from proa.cli import bundle

PYTHON = Path(__file__).parents[3] / "python"

# What Python's own start-up has imported already (with -I -S it is the least that any start imports).
SLOW = {
    "argparse",
    "asyncio",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "http",
    "json",
    "logging",
    "msgspec",
    "os",
    "proa.schema",
    "re",
    "select",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "struct",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
}

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from proa.cli import main
command, rest = main.find(sys.argv[2:])
from proa.cli.flags import Globals, parse
parsed = parse(command, rest, Globals())
if sys.argv[2] in ("run", "create"):
    from proa.cli.create_body import create_body
    create_body(parsed)
    import proa.cli.streams
print(*sys.modules)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--rm", "busybox", "true"),
        ("run", "-d", "--name", "x", "busybox"),
        (
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "/a:/b",
            "-e",
            "A=b",
            "-m",
            "1g",
            "--tmpfs",
            "/t",
            "busybox",
        ),
        ("run", "-p", "80:80", "--device", "/dev/null", "--mount", "type=tmpfs,dst=/x", "busybox"),
        ("create", "busybox"),
        ("exec", "x", "true"),
        ("start", "x"),
        ("stop", "x"),
        ("rm", "-f", "x"),
        ("ps", "-q"),
        ("logs", "x"),
        ("inspect", "x"),
    ],
)
def test_fast_commands_import_little(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROBE, str(PYTHON), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    # A path can only be normalized with what `os` is made of.
    assert not SLOW & imported - ({"os"} if "--device" in words else set())
    if words[0] in ("run", "exec"):
        bundled = {f"proa.cli.{name}" for name in bundle.MODULES} | set(bundle.PACKAGES)
        assert {name for name in imported if name.startswith("proa")} <= bundled


def test_version_needs_no_other_module() -> None:
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import proa.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe, str(PYTHON)], capture_output=True, text=True, check=True
    )
    ours = {name for name in done.stdout.split() if name.startswith("proa")}
    assert ours == {"proa", "proa.cli", "proa.cli.main"}


def test_version_is_the_distributions() -> None:
    import tomllib

    from proa.cli.main import VERSION

    project = tomllib.loads((PYTHON.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION

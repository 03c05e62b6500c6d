"""The launcher finds its interpreter and its package wherever an installer puts them."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "python/scripts"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LAYOUTS = (f"lib/{PYTHON}/site-packages", f"lib64/{PYTHON}/site-packages", f"lib/{PYTHON}/dist-packages", ".")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("commands", SCRIPTS / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    commands: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(commands)
    target = tmp_path_factory.mktemp("launcher") / "proa"
    commands.compile_launcher(target)
    return target


class Prefix:
    """An installation whose interpreter prints its own path and its arguments."""

    def __init__(self, root: Path, launcher: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        self.proa = self.bin / "proa"
        self.proa.write_bytes(launcher.read_bytes())
        self.proa.chmod(0o755)

    def interpreter(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
        path.chmod(0o755)
        return path

    def first_line(self, line: str) -> None:
        (self.bin / "proad").write_text(f"{line}\nfrom proa.daemon import main\n")

    def bundle(self, place: str) -> str:
        directory = self.root / place
        (directory / "proa/cli").mkdir(parents=True)
        (directory / "proa/cli/commands.bundle").touch()
        return str(directory)

    def call(self, *words: str, program: Path | None = None) -> list[str]:
        done = subprocess.run([program or self.proa, *words], capture_output=True, text=True, check=False)
        assert not done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def prefix(tmp_path: Path, launcher: Path) -> Prefix:
    return Prefix(tmp_path / "prefix", launcher)


@pytest.mark.parametrize("place", LAYOUTS)
def test_starts_the_bundle_without_site(prefix: Prefix, place: str) -> None:
    prefix.first_line(f"#!{prefix.interpreter(prefix.root / 'somewhere/python3')}")
    directory = prefix.bundle(place)
    said = prefix.call("run", "--rm", "two words", "")
    assert said[0] == str(prefix.root / "somewhere/python3")
    assert said[1:5] == ["-I", "-S", "-Xutf8", "-c"]
    assert os.path.normpath(said[-5]) == os.path.normpath(directory)
    assert said[-4:] == ["run", "--rm", "two words", ""]


def test_an_editable_installation_is_found_by_site(prefix: Prefix) -> None:
    prefix.first_line(f"#!{prefix.interpreter(prefix.bin / 'python3')}")
    assert prefix.call("ps", "-q")[1:] == ["-P", "-m", "proa.cli", "ps", "-q"]


@pytest.mark.parametrize(
    "line", ["#!/bin/sh", "#!/usr/bin/env python3", "#!/nowhere/python3", "#!python", "", "#!/usr/bin/perl"]
)
def test_the_interpreter_beside_it_where_the_line_names_none(prefix: Prefix, line: str) -> None:
    beside = prefix.interpreter(prefix.bin / PYTHON)
    prefix.first_line(line)
    assert prefix.call("ps")[0] == str(beside)
    (prefix.bin / "proad").unlink()
    assert prefix.call("ps")[0] == str(beside)


def test_a_symlink_leads_to_it(prefix: Prefix, tmp_path: Path) -> None:
    beside = prefix.interpreter(prefix.bin / PYTHON)
    link = tmp_path / "elsewhere"
    link.symlink_to(prefix.proa)
    assert prefix.call("ps", program=link)[0] == str(beside)


def test_without_an_interpreter_it_says_so(prefix: Prefix) -> None:
    done = subprocess.run([prefix.proa, "ps"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, f"proa: there is no {PYTHON} that it was installed for\n")


def test_it_is_small_and_needs_no_library(launcher: Path) -> None:
    assert launcher.stat().st_size < 32768
    done = subprocess.run(shlex.split(f"readelf -l {launcher}"), capture_output=True, text=True, check=False)
    assert "INTERP" not in done.stdout

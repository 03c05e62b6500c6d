"""What the build makes beside the modules: the launcher `proa` and the bundle that it runs."""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.command.build_py import build_py  # first: what follows comes from setuptools, too

from distutils.command.build_scripts import build_scripts  # isort: skip

HERE = Path(__file__).parent

# No C library, and nothing that would call one.
FREESTANDING = (
    "-nostdlib",
    "-static",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
    "-no-pie",
    "-fno-tree-loop-distribute-patterns",
)
PROCESSORS = ("x86_64", "aarch64")

SCRIPT = """\
#!python
from proa.cli.main import main

main()
"""


class BuildScripts(build_scripts):
    """Adds `proa`: the launcher, or where no compiler makes it a script that does the same, more slowly."""

    def run(self) -> None:
        super().run()
        target = Path(self.build_dir, "proa")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            compile_launcher(target)
        except (OSError, subprocess.CalledProcessError) as exc:
            self.warn(f"proa is a script, which starts more slowly than its launcher: {exc}")
            target.write_text(SCRIPT, encoding="ascii")
        target.chmod(0o755)


class BuildPy(build_py):
    """Adds the bundle; not to an editable installation, whose modules are the sources."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        sys.path.insert(0, str(HERE.parent))
        try:
            from proa.cli import bundle
        finally:
            del sys.path[0]
        Path(self.build_lib, bundle.PATH).write_bytes(bundle.pack(HERE.parent))


def compile_launcher(target: Path) -> None:
    """Raises OSError or CalledProcessError where that is not possible."""
    if not sys.platform.startswith("linux"):
        raise OSError("only Linux has it")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = FREESTANDING if os.uname().machine in PROCESSORS and sys.maxsize > 2**32 else ()
    name = f'-DPYTHON="python{sys.version_info.major}.{sys.version_info.minor}"'
    command = [*compiler, "-O2", "-Wall", *flags, name, str(HERE / "proa.c"), "-o", str(target)]
    subprocess.run(command, check=True)

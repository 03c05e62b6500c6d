"""The modules of the commands that must start fast, compiled into one file that the launcher runs.

Finding, opening and checking a dozen files takes as long as running them. The file is made with the wheel,
for the one version of Python that the wheel is for. Without it (an editable installation,
`python -m proa.cli`) the same modules are imported as usual.

The file is a head of HEAD bytes (this module's code and where each module lies, marshalled), and the modules'
code: a command reads the ones it needs.

The launcher starts Python without `site`: modules that are not proa's own are looked for with it when the
first one is wanted. Source: Python's importlib, "Setting up an importer".
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from types import CodeType, ModuleType
    from typing import Any, NoReturn

PATH = "proa/cli/commands.bundle"

HEAD = 8192
"""Bytes, as the launcher has it."""

PACKAGES = ("proa", "proa.cli")

MODULES = (
    "attached",
    "conversation",
    "create_body",
    "create_flags",
    "devices",
    "endpoints",
    "environment",
    "execute",
    "failure",
    "flags",
    "jsontext",
    "main",
    "run",
    "specifications",
    "streams",
    "terminal",
    "transport",
    "values",
)


def pack(sources: "Path") -> bytes:
    """The file."""
    names = {name: f"{name.replace('.', '/')}/__init__.py" for name in PACKAGES}
    names |= {f"proa.cli.{name}": f"proa/cli/{name}.py" for name in MODULES}
    places: dict[str, tuple[int, int]] = {}
    modules = b""
    for name, path in names.items():
        code = marshal.dumps(_compiled(sources, path))
        places[name] = (HEAD + len(modules), len(code))
        modules += code
    head = marshal.dumps((_compiled(sources, "proa/cli/bundle.py"), places))
    if len(head) > HEAD:
        raise ValueError(f"the head of {PATH} has {len(head)} bytes")
    return head.ljust(HEAD, b"\0") + modules


def _compiled(sources: "Path", path: str) -> "CodeType":
    text = (sources / path).read_bytes()
    return compile(text, path, "exec", dont_inherit=True, optimize=2)


def start(fd: int, places: dict[str, tuple[int, int]], directory: str) -> "NoReturn":
    """Run the command line with the modules of the bundle, open at `fd`; `directory` holds the package."""
    sys.meta_path.insert(0, Bundle(fd, places, directory))
    sys.meta_path.append(Site())
    sys.path.append(directory)
    from proa.cli.main import main

    main()


class Bundle:
    """Finds and loads what the bundle has; everything else of the package lies in its directory."""

    def __init__(self, fd: int, places: dict[str, tuple[int, int]], directory: str) -> None:
        self._fd = fd
        self._places = places
        self._directory = directory

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        """The importer's question; None for what is not in the bundle."""
        if name not in self._places:
            return None
        spec = ModuleSpec(name, self, origin=f"{self._directory}/{PATH}")  # type: ignore[arg-type]
        if name in PACKAGES:
            spec.submodule_search_locations = [f"{self._directory}/{name.replace('.', '/')}"]
        return spec

    def create_module(self, spec: "Any") -> None:
        """Nothing special."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        start, size = self._places[module.__name__]
        exec(marshal.loads(posix.pread(self._fd, size, start)), module.__dict__)


class Site:
    """The last to be asked for a module: looks where `site` looks, once."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        """None for what is not there either."""
        if path is not None:
            return None
        sys.meta_path.remove(self)
        import site
        from importlib.machinery import PathFinder

        site.main()
        return PathFinder.find_spec(name)

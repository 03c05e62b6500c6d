"""The modules of the commands that must start fast, compiled into one file that the launcher runs.

Finding, opening and checking a dozen files takes as long as running them. The file is made with the wheel,
for the one version of Python that the wheel is for. Without it (an editable installation,
`python -m proa.cli`) the same modules are imported as usual.

The launcher starts Python without `site`: modules that are not proa's own are looked for with it when the
first one is wanted. Source: Python's importlib, "Setting up an importer".
"""

import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from types import CodeType, ModuleType
    from typing import Any, NoReturn

PATH = "proa/cli/commands.bundle"

PACKAGES = ("proa", "proa.cli")

MODULES = (
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
    """The file: this module's code, and by name that of each module, still marshalled."""
    names = {name: f"{name.replace('.', '/')}/__init__.py" for name in PACKAGES}
    names |= {f"proa.cli.{name}": f"proa/cli/{name}.py" for name in MODULES}
    modules = {name: marshal.dumps(_compiled(sources, path)) for name, path in names.items()}
    return marshal.dumps((_compiled(sources, "proa/cli/bundle.py"), modules))


def _compiled(sources: "Path", path: str) -> "CodeType":
    text = (sources / path).read_bytes()
    return compile(text, path, "exec", dont_inherit=True, optimize=2)


def start(modules: dict[str, bytes], directory: str) -> "NoReturn":
    """Run the command line with the modules of the bundle; `directory` holds the package."""
    sys.meta_path.insert(0, Bundle(modules, directory))
    sys.meta_path.append(Site())
    sys.path.append(directory)
    from proa.cli.main import main

    main()


class Bundle:
    """Finds and loads what the bundle has; everything else of the package lies in its directory."""

    def __init__(self, modules: dict[str, bytes], directory: str) -> None:
        self._modules = modules
        self._directory = directory

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        """The importer's question; None for what is not in the bundle."""
        if name not in self._modules:
            return None
        spec = ModuleSpec(name, self, origin=f"{self._directory}/{PATH}")  # type: ignore[arg-type]
        if name in PACKAGES:
            spec.submodule_search_locations = [f"{self._directory}/{name.replace('.', '/')}"]
        return spec

    def create_module(self, spec: "Any") -> None:
        """Nothing special."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        exec(marshal.loads(self._modules[module.__name__]), module.__dict__)


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

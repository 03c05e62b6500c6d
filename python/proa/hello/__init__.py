"""proa/hello: a whole image made here, so that the first command needs no registry. Pure.

One layer with one file: a static program of a few hundred bytes that writes the greeting and exits. The
same version of proa makes the same bytes, so the image's id is stable.
"""

import tarfile
from hashlib import sha256
from typing import Final

import msgspec

from proa.hello.program import elf_program

HELLO_NAME: Final = "docker.io/proa/hello:latest"
CREATED: Final = "2026-01-01T00:00:00Z"
_CREATED_SECONDS: Final = 1767225600

GREETING: Final = """
Hello from proa!
This message shows that your installation works.

To print it, proa took these steps:
 1. The proa client asked the proad daemon to run "proa/hello" (and started it, if it was not running).
 2. The daemon found the image inside its own package and unpacked its one layer.
 3. The keeper made a container of it: namespaces, control groups, a root filesystem of its own.
 4. A program in it wrote what you are reading, and ended. All that took milliseconds.

To try something larger, load an image and look around in it:
 $ docker save busybox | proa load
 $ proa run -it busybox sh

Or run straight from a directory:
 $ proa run --rm -it --rootfs /path/to/a/root /bin/sh

"""


def hello_layer(architecture: str) -> bytes:
    """The layer, a plain tar: /hello for `amd64` or `arm64`."""
    program = elf_program(architecture, GREETING.encode())
    info = tarfile.TarInfo("hello")
    info.size, info.mode, info.mtime = len(program), 0o755, _CREATED_SECONDS
    padding = bytes(-len(program) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.USTAR_FORMAT) + program + padding + bytes(2 * tarfile.BLOCKSIZE)


def hello_config(architecture: str) -> bytes:
    """The config blob that goes with `hello_layer`."""
    diff_id = "sha256:" + sha256(hello_layer(architecture)).hexdigest()
    return msgspec.json.encode(
        {
            "architecture": architecture,
            "config": {
                "Cmd": ["/hello"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "created": CREATED,
            "history": [
                {"created": CREATED, "created_by": "COPY hello / # the proa package"},
                {"created": CREATED, "created_by": 'CMD ["/hello"]', "empty_layer": True},
            ],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    )

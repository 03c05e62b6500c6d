"""proa/hello: its program runs, its image is the same each time."""

import json
import os
import platform
import struct
import subprocess
import tarfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from proa.errors import NotImplemented_
from proa.hello import GREETING, hello_config, hello_layer
from proa.hello.program import elf_program


def test_the_program_writes_its_text(tmp_path: Path) -> None:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if architecture is None:
        pytest.skip(f"no program for {platform.machine()}")
    program = tmp_path / "hello"
    program.write_bytes(elf_program(architecture, b"hi there\n"))
    program.chmod(0o755)
    done = subprocess.run([program], capture_output=True, check=True)
    assert done.stdout == b"hi there\n"


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_the_layer_holds_the_program_alone(architecture: str, machine: int) -> None:
    layer = hello_layer(architecture)
    assert layer == hello_layer(architecture)
    with tarfile.open(fileobj=BytesIO(layer)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        program = file.read()
    assert (member.name, member.mode) == ("hello", 0o755)
    assert struct.unpack_from("<H", program, 18) == (machine,)
    assert program.endswith(GREETING.encode())
    config = json.loads(hello_config(architecture))
    assert config["rootfs"]["diff_ids"] == ["sha256:" + sha256(layer).hexdigest()]
    assert config["architecture"] == architecture


def test_the_arm_program_addresses_its_text() -> None:
    program = elf_program("arm64", b"text")
    code = struct.unpack_from("<8I", program, 120)
    distance = ((code[1] >> 5) & 0x7FFFF) << 2 | (code[1] >> 29) & 3
    assert program[120 + 4 + distance :] == b"text"
    assert (code[2] >> 5) & 0xFFFF == 4


def test_other_architectures_are_told() -> None:
    with pytest.raises(NotImplemented_, match="architecture riscv64"):
        elf_program("riscv64", b"")


def test_the_greeting_is_in_the_spirit() -> None:
    assert "Hello from proa!" in GREETING
    assert len(GREETING.encode()) < os.sysconf("SC_PAGESIZE")

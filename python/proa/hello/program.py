"""A static ELF program that writes one text to its standard output and exits with 0. Pure.

    file offset 0   ELF header, 64 bytes
               64   one program header, 56 bytes: the whole file, readable and executable, at BASE
              120   code, then the text

Source: the System V ABI, chapter 4 (Object Files); the Intel and Arm manuals for the instructions.
"""

import struct
from collections.abc import Callable
from typing import Final

from proa.errors import NotImplemented_

BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_PAGE: Final = 0x1000


def elf_program(architecture: str, text: bytes) -> bytes:
    """The program for `amd64` or `arm64`; `text` is below 64 KiB. Raises NotImplemented_ for others."""
    known = _MACHINES.get(architecture)
    if known is None:
        raise NotImplemented_(f"proa/hello is not there for architecture {architecture}")
    machine, code_of = known
    code = code_of(len(text))
    size = _HEADERS + len(code) + len(text)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little endian, version 1
        2,  # ET_EXEC
        machine,
        1,
        BASE + _HEADERS,  # entry
        64,  # program headers
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, _PAGE)  # PT_LOAD, r-x
    return header + segment + code + text


def _amd64(length: int) -> bytes:
    """write(1, text, length); exit(0)"""
    before = b"\xbf\x01\x00\x00\x00"  # mov edi, 1
    after = (
        b"\xba" + struct.pack("<I", length)  # mov edx, length
        + b"\xb8\x01\x00\x00\x00"  # mov eax, SYS_write
        + b"\x0f\x05"  # syscall
        + b"\x31\xff"  # xor edi, edi
        + b"\xb8\x3c\x00\x00\x00"  # mov eax, SYS_exit
        + b"\x0f\x05"  # syscall
    )  # fmt: skip
    return before + b"\x48\x8d\x35" + struct.pack("<i", len(after)) + after  # lea rsi, [rip + after]


def _arm64(length: int) -> bytes:
    """write(1, text, length); exit(0)"""

    def movz(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    svc = 0xD4000001
    rest = [movz(2, length), movz(8, 64), svc, movz(0, 0), movz(8, 93), svc]
    distance = 4 * (len(rest) + 1)  # from adr to the text
    adr_x1 = 0x10000001 | (distance >> 2) << 5
    words = [movz(0, 1), adr_x1, *rest]
    return struct.pack(f"<{len(words)}I", *words)


_MACHINES: Final[dict[str, tuple[int, Callable[[int], bytes]]]] = {
    "amd64": (62, _amd64),
    "arm64": (183, _arm64),
}

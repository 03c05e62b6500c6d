"""The cache before the native seccomp compiler: one program per profile and capability set."""

from hashlib import sha256

import proa_native

_CAPACITY = 64


class SeccompCache:
    """`compile_seccomp`, remembered. The default profile with the default capabilities is the usual case."""

    def __init__(self) -> None:
        self._programs: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, profile: bytes | None, capabilities: int) -> bytes:
        """Raises ValueError for a malformed profile."""
        key = (b"" if profile is None else sha256(profile).digest(), capabilities)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= _CAPACITY:
                del self._programs[next(iter(self._programs))]
            program = self._programs[key] = proa_native.compile_seccomp(profile, capabilities)
        return program

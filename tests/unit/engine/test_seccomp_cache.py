"""Profiles are compiled once, however many containers have them."""

import proa_native
import pytest

from proa.engine.resolve.seccomp import SeccompCache


def test_a_profile_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[bytes | None, int]] = []

    def compile_seccomp(profile: bytes | None, capabilities: int) -> bytes:
        compiled.append((profile, capabilities))
        return b"%d" % len(compiled)

    monkeypatch.setattr(proa_native, "compile_seccomp", compile_seccomp)
    cache = SeccompCache()
    assert [cache(None, 1), cache(None, 1), cache(b"{}", 1), cache(None, 2)] == [b"1", b"1", b"2", b"3"]
    assert [cache(None, 2), cache(b"{}", 1)] == [b"3", b"2"]
    assert compiled == [(None, 1), (b"{}", 1), (None, 2)]
    for number in range(200):
        cache(b"%d" % number, 1)
    cache(None, 1)
    assert compiled[-1] == (None, 1), "of profiles without end only some are kept"

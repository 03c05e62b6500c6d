"""Archives with random damage, seeded: loaded, or refused in one clear error with nothing left of them.

What a layer's own entries may do is fuzzed in the native core (native/src/layer/tests/fuzz.rs); here it is
what leads to layers: the outer archive, its documents, digests and names.
"""

import random
from pathlib import Path

import pytest
from image_archives import chunks, docker_archive, legacy_archive, oci_archive, tar
from images_rig import Rig

from proa.errors import ProaError

BASE = tar({"bin": None, "bin/true": b"#!base", "link": "/etc"})
TOP = tar({"link/os": b"top", "etc": None})
SEEDS = (
    docker_archive([BASE, TOP], ["a:1", "b/c:2"]),
    oci_archive([BASE, TOP], "docker.io/library/a:1", nested=True),
    legacy_archive([BASE, TOP], {"a": {"1": f"{1:064x}"}}),
)
SNIPPETS = (
    b"../", b"/", b"sha256:", b"\x00", b'"', b"{", b"[", b"null", b"-1", b"1e999", b"\xff", b"blobs/sha256/",
    b"manifest.json", b"index.json", b"layer.tar", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"(\xb5/\xfd",
)  # fmt: skip
ROUNDS = 5


def damaged(chance: random.Random, archive: bytes) -> bytes:
    """One to four changes; headers' checksums are made right again, so that they get past them."""
    data = bytearray(archive)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        with_ = chance.choice(SNIPPETS)
        kind = chance.randrange(8)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] = chance.randrange(256)
        elif kind == 2:
            start = at - at % 512
            data[start:start] = data[: chance.choice((512, 1024, 2048))]
        else:
            data[at : at + len(with_)] = with_
        if not data:
            break
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            block = data[start : start + 512]
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\x00 " % sum(block)
    return bytes(data)


@pytest.mark.parametrize("seed", range(40))
async def test_damage_is_refused_or_does_no_harm(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rig = Rig(tmp_path)
    for _ in range(ROUNDS):
        before = rig.files()
        archive = damaged(chance, chance.choice(SEEDS))
        try:
            await rig.load(chunks(archive, chance.choice((100, 5000, 1 << 20))))
        except ProaError:
            assert rig.files() <= before
        assert not [name for name in rig.files() if name.startswith("ingest/")]
    # Where the link of the layers leads, and what the outer archive was told to climb to.
    assert not Path("/etc/os").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"content", "snapshots", "db", "db-wal", "db-shm"}

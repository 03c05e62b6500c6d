"""Archives that attack the engine that loads them: escapes, overlayfs's own marks, bombs, hostile documents.

CVE-2014-9357, CVE-2025-47290, CVE-2026-17106, CVE-2017-14992, CVE-2024-3727.
"""

import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hostile import load, sh
from image_archives import config, digest, docker_archive, tar
from instance import Instance

MIB = 1 << 20


def post(daemon: Instance, archive: bytes | Iterator[bytes], path: str = "/images/load?quiet=1") -> str:
    """What the engine answers to an archive that it must refuse: an error, and no failure of its own."""
    assert daemon.engine is not None
    with closing(daemon.engine.connection()) as connection:
        chunked = not isinstance(archive, bytes)
        headers = {"Content-Type": "application/x-tar"}
        connection.request("POST", "/v1.41" + path, archive, headers, encode_chunked=chunked)
        response = connection.getresponse()
        text = response.read().decode()
    assert response.status < 500, text
    assert "internal error" not in text
    assert response.status >= 400 or '"error"' in text, text
    return text


def archive(
    *members: tuple[str, bytes, bytes, str], pax: Mapping[str, Mapping[str, str]] | None = None
) -> bytes:
    """A tar of (name, type, content, link), with PAX records for the names in `pax`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target:
        for name, kind, content, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(content), link, 0o755
            info.devmajor, info.devminor = 1, 3
            info.pax_headers = dict((pax or {}).get(name, {}))
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def peak(daemon: Instance) -> int:
    """Bytes that proad has had at most."""
    assert daemon.process is not None
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


@pytest.fixture
def alive(daemon: Instance) -> Iterator[Instance]:
    """The daemon, which goes on, keeps nothing in scratch and takes no more than 160 MiB for any of this."""
    assert daemon.process is not None
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    before = peak(daemon)
    yield daemon
    assert peak(daemon) - before < 160 * MIB
    assert sh(daemon, "echo alive")[1] == "alive\n"
    assert list(Path(daemon.config.data_root, "content/ingest").glob("*/*")) == []


OUT = "/tmp/proa-boundary-out"
F, D, S, H = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../../../../.." + OUT, F, b"x", "")],
        [("a/../../../../../.." + OUT, F, b"x", "")],
        [("link", S, b"", "../../../../../../../../tmp"), ("link/proa-boundary-out", F, b"x", "")],
        [("link", S, b"", "/tmp"), ("link/proa-boundary-out", D, b"", "")],
        [("link", S, b"", "/tmp"), ("again", S, b"", "link"), ("again/proa-boundary-out", S, b"", "x")],
        [("link", S, b"", OUT), ("link", F, b"x", "")],
        [("hard", H, b"", "/etc/passwd")],
        [("hard", H, b"", "../../../../../../etc/passwd")],
        [("link", S, b"", "/etc"), ("hard", H, b"", "link/passwd")],
        [("link", S, b"", "/tmp"), ("link/.wh.proa-boundary-out", F, b"", "")],
        [("link", S, b"", "/tmp"), ("link/.wh..wh..opq", F, b"", "")],
        [(".wh..", F, b"", "")],
        [(".wh...", F, b"", "")],
        [("d/.wh..", F, b"", "")],
        [(".wh..wh.plnk/1.2", H, b"", "/etc/passwd")],
        [(".wh..wh.plnk", D, b"", ""), (".wh..wh.aufs", F, b"x", "")],
        [("proc/self/root/tmp/proa-boundary-out", F, b"x", "")],
        [("p", S, b"", "/proc/self/root"), ("p/tmp/proa-boundary-out", F, b"x", "")],
        [("p", S, b"", "/proc/self/cwd"), ("p/proa-boundary-out", F, b"x", "")],
        [("dev", tarfile.CHRTYPE, b"", ""), ("dev/x", F, b"x", "")],
        [("fifo", tarfile.FIFOTYPE, b"", ""), ("fifo", F, b"x", "")],
    ],
    ids=lambda members: " ".join(f"{name}>{link}" if link else name for name, _, _, link in members),
)
def test_nothing_is_written_outside(alive: Instance, members: list[tuple[str, bytes, bytes, str]]) -> None:
    links = os.stat("/etc/passwd").st_nlink
    layer = archive(*members)
    assert alive.engine is not None
    with closing(alive.engine.connection()) as connection:
        connection.request("POST", "/v1.41/images/create?fromSrc=-&repo=attack/escape", layer)
        text = connection.getresponse().read().decode()
    assert "internal error" not in text
    assert not os.path.lexists(OUT)
    assert os.stat("/etc/passwd").st_nlink == links
    alive.run("rmi", "-f", "attack/escape", cli="proa")


def test_overlayfs_s_marks_in_a_layer_mean_nothing(alive: Instance) -> None:
    """A layer redirects no directory, borrows no content and hides nothing that it did not white out."""
    secret = ("secret/file", F, b"of the lower layer", "")
    base = archive(("secret", D, b"", ""), secret, ("d", D, b"", ""), ("d/below", F, b"below", ""))
    prefixes = ("trusted.overlay.", "user.overlay.")
    marks = {
        f"SCHILY.xattr.{prefix}{mark}": value
        for prefix in prefixes
        for mark, value in {
            "redirect": "/secret",
            "opaque": "y",
            "metacopy": "",
            "origin": "x",
            "whiteout": "y",
            "impure": "y",
            "nlink": "U+1",
            "protattr": "i",
            "overlay.opaque": "y",
        }.items()
    }
    evil = archive(
        ("d", D, b"", ""),
        ("d/new", F, b"new", ""),
        ("moved", D, b"", ""),
        ("meta", F, b"", ""),
        pax=dict.fromkeys(("d", "d/new", "moved", "meta"), marks),
    )
    busybox = archive(("bin", D, b"", ""), ("bin/sh", F, Path("/bin/busybox").read_bytes(), ""))
    load(alive, "attack/marks", [base, evil, busybox], {"Cmd": ["sh"]})
    script = "cat /d/below /d/new; echo; echo /moved/*; cat /meta"
    done = alive.run("run", "--rm", "attack/marks", "/bin/sh", "-c", script, cli="proa")
    assert done.stdout == "belownew\n/moved/*\n", done.stderr
    layers = [
        path for path in Path(alive.config.data_root, "snapshots").glob("l*/fs") if (path / "d").is_dir()
    ]
    assert layers
    for path in (path for layer in layers for path in layer.rglob("*") if not path.is_symlink()):
        if path.name in ("d", "new", "moved", "meta"):
            assert not [name for name in os.listxattr(path) if ".overlay." in name], path


def gzip_bomb(size: int) -> bytes:
    """A layer that unpacks to one file of zeros."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    packer = zlib.compressobj(9, wbits=31)
    out = [packer.compress(info.tobuf())]
    zeros = bytes(16 * MIB)
    out += [packer.compress(zeros) for _ in range(size // len(zeros))]
    return b"".join([*out, packer.compress(bytes(1024)), packer.flush()])


def test_a_bomb_within_a_bomb_is_bounded(alive: Instance) -> None:
    inner = gzip_bomb(64 * MIB)
    outer = gzip.compress(tar({"0/layer.tar": inner, "manifest.json": b"[]"}))
    post(alive, outer + b"\0")


def pax_blocks(count: int, size: int) -> bytes:
    """Extended headers, one after the other, before the file that they are of."""
    value = b"x" * (size + 99)
    length = size
    record = b"%d SCHILY.xattr.user.a=" % length
    record += value[: length - len(record) - 1] + b"\n"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    block = info.tobuf() + record + bytes(-len(record) % 512)
    return block * count + tarfile.TarInfo("file").tobuf() + bytes(1024)


@pytest.mark.parametrize("path", ["/images/load?quiet=1", "/images/create?fromSrc=-&repo=attack/pax"])
def test_extended_headers_do_not_add_up(alive: Instance, path: str) -> None:
    assert "extended headers" in post(alive, gzip.compress(pax_blocks(8000, 60_000), 1), path)


def test_many_members_end(alive: Instance) -> None:
    one = tarfile.TarInfo("x").tobuf()
    assert "more than" in post(alive, gzip.compress(one * 150_000 + bytes(1024), 1))


def test_many_entries_of_a_layer_are_cheap(alive: Instance) -> None:
    entries = b"".join(tarfile.TarInfo(f"{n:x}").tobuf() for n in range(10_000))
    load(alive, "attack/many", [entries + bytes(1024)], {"Cmd": ["x"]})
    alive.run("rmi", "attack/many", cli="proa")


NESTED = b'{"a":' * 100_000
DOCUMENTS: dict[str, Callable[[], dict[str, bytes | str | None]]] = {
    "deep manifest": lambda: {"manifest.json": b"[" * 200_000},
    "deep member": lambda: {"manifest.json": b'[{"Config":"c","x":' + b"[" * 100_000},
    "deep index": lambda: {"index.json": NESTED},
    "deep config": lambda: {
        "c": NESTED,
        "manifest.json": b'[{"Config":"c","RepoTags":null,"Layers":null}]',
    },
    "no list": lambda: {"manifest.json": b"{}"},
    "null": lambda: {"manifest.json": b"null"},
    "numbers": lambda: {"manifest.json": b"[1e999]"},
    "no utf-8": lambda: {"manifest.json": b'[{"Config":"\xff"}]'},
    "surrogate": lambda: {"manifest.json": b'[{"Config":"\\ud800","Layers":["\\ud800"]}]'},
    "absolute": lambda: {"manifest.json": b'[{"Config":"/etc/passwd","Layers":["/etc/shadow"]}]'},
    "climbing": lambda: {"manifest.json": b'[{"Config":"../../../../etc/passwd","Layers":[]}]'},
    "link out": lambda: {
        "c": "../../../../../../etc/passwd",
        "manifest.json": b'[{"Config":"c","Layers":[]}]',
    },
    "link loop": lambda: {"c": "c", "manifest.json": b'[{"Config":"c","Layers":[]}]'},
    "manifest by link": lambda: {"manifest.json": "/etc/passwd"},
    "manifest a directory": lambda: {"manifest.json": None},
    "digest that climbs": lambda: {"index.json": index("sha256:../../../../etc/passwd")},
    "digest of another kind": lambda: {"index.json": index("md5:" + "0" * 32)},
    "digest in capitals": lambda: {"index.json": index("sha256:" + "A" * 64)},
    "digest with a line": lambda: {"index.json": index("sha256:" + "0" * 64 + "\n")},
    "blob of another digest": lambda: {
        "index.json": index("sha256:" + "0" * 64),
        "blobs/sha256/" + "0" * 64: b"{}",
    },
    "index of itself": lambda: looping_index(),
    "diff id that climbs": lambda: with_config({"rootfs": {"diff_ids": ["../../x"], "type": "layers"}}),
    "diff id of nothing": lambda: with_config({"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}),
    "name that climbs": lambda: {
        "c": config([]),
        "manifest.json": json.dumps([{"Config": "c", "RepoTags": ["../../x:y"], "Layers": []}]).encode(),
    },
    "name with a line": lambda: {
        "c": config([]),
        "manifest.json": json.dumps([{"Config": "c", "RepoTags": ["a\nb:c"], "Layers": []}]).encode(),
    },
    "huge document": lambda: {"manifest.json": b"[" + b" " * (9 * MIB) + b"]"},
}


def index(of: str, media_type: str = "application/vnd.oci.image.manifest.v1+json") -> bytes:
    return json.dumps({"manifests": [{"mediaType": media_type, "digest": of, "size": 2}]}).encode()


def looping_index() -> dict[str, bytes | str | None]:
    """An index of an index of an index..."""
    members: dict[str, bytes | str | None] = {}
    data = b'{"manifests":[]}'
    for _ in range(200):
        members[f"blobs/sha256/{digest(data)[7:]}"] = data
        data = index(digest(data), "application/vnd.oci.image.index.v1+json")
    return {**members, "index.json": data}


def with_config(extra: dict[str, object]) -> dict[str, bytes | str | None]:
    blob = config([], **extra)
    manifest = [{"Config": "c", "RepoTags": ["attack/config:1"], "Layers": ["l"]}]
    return {"c": blob, "l": tar({"a": b"x"}), "manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_hostile_documents_are_refused(alive: Instance, name: str) -> None:
    post(alive, tar(DOCUMENTS[name]()))


def test_of_two_members_with_one_name_no_mixture_is_made(alive: Instance) -> None:
    """The blob is what is hashed, whichever member came last."""
    good, bad = tar({"good": b"1"}), tar({"bad": b"1"})
    members = [("0/layer.tar", F, good, ""), ("0/layer.tar", F, bad, "")]
    with tarfile.open(fileobj=io.BytesIO(docker_archive([good], ["attack/twice:1"]))) as source:
        for member in source.getmembers()[1:]:
            content = source.extractfile(member)
            assert content is not None
            members.append((member.name, F, content.read(), ""))
    assert "diffID" in post(alive, archive(*members))


@pytest.mark.parametrize(
    "user",
    [
        "4294967296",
        "-1",
        "99999999999999999999",
        "0x0",
        " 0",
        "root\n",
        "0:4294967296",
        "ghost",
        "0:ghost",
        "1:2:3",
    ],
)
def test_the_user_of_an_image_is_parsed_as_strictly(alive: Instance, user: str) -> None:
    busybox = archive(("bin", D, b"", ""), ("bin/sh", F, Path("/bin/busybox").read_bytes(), ""))
    load(alive, "attack/user", [busybox], {"Cmd": ["sh"], "User": user})
    done = alive.run("run", "--rm", "attack/user", "/bin/sh", "-c", "echo ran", cli="proa")
    assert (done.returncode, done.stdout) == (125, "")

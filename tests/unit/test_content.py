"""Blobs: complete and known, or gone."""

from pathlib import Path

import pytest

from proa.content import SCHEMA, Content, digest_of, remove_all
from proa.errors import Conflict, InvalidParameter, NotFound, System
from proa.metadata import Metadata
from proa.schema.reference import parse_digest


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(tmp_path / "content", Metadata(tmp_path / "db", {"content": SCHEMA}))


def put(content: Content, data: bytes) -> str:
    digest = digest_of(data)
    with content.scratch() as scratch:
        (scratch / "x").write_bytes(data)
        content.place(scratch / "x", digest)
    content.record(digest, len(data), digest)
    return digest


def test_a_blob_is_found_by_its_digest(content: Content) -> None:
    digest = parse_digest(put(content, b"data"))
    assert content.path(digest).read_bytes() == b"data"
    assert content.find(digest) == (4, digest)
    assert content.size(digest) == 4
    with pytest.raises(NotFound):
        content.size(digest_of(b"other"))


def test_directories_are_private(content: Content, tmp_path: Path) -> None:
    for directory in ("content", "content/blobs/sha256", "content/ingest"):
        assert (tmp_path / directory).stat().st_mode & 0o777 == 0o700


def test_scratch_goes_even_when_the_ingest_fails(content: Content, tmp_path: Path) -> None:
    def ingest() -> None:
        with content.scratch() as scratch:
            (scratch / "half").write_bytes(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        ingest()
    assert list((tmp_path / "content/ingest").iterdir()) == []


def test_a_forgotten_blob_makes_room_at_once(content: Content) -> None:
    digest = parse_digest(put(content, b"data"))
    content.forget([digest])
    assert content.find(digest) is None
    aside = content.discard([digest])
    assert not content.path(digest).exists()
    put(content, b"data")
    remove_all(aside)
    remove_all(aside)
    assert content.path(digest).read_bytes() == b"data"


def test_the_sweep_removes_what_is_not_known(content: Content, tmp_path: Path) -> None:
    digest = parse_digest(put(content, b"kept"))
    (tmp_path / "content/blobs/sha256/half").write_bytes(b"x")
    (tmp_path / "content/ingest/dead").mkdir()
    (tmp_path / "content/ingest/dead/0").touch()
    remove_all(content.sweep())
    assert [path.name for path in (tmp_path / "content/blobs/sha256").iterdir()] == [digest[7:]]
    assert list((tmp_path / "content/ingest").iterdir()) == []


def test_a_failed_call_says_which_blob(content: Content, tmp_path: Path) -> None:
    digest = digest_of(b"x")
    with pytest.raises(System, match=f"content {digest}: No such file"):
        content.place(tmp_path / "missing", digest)


def test_no_path_leaves_the_store(content: Content) -> None:
    with pytest.raises(InvalidParameter):
        content.discard(["sha256:../../x"])


def test_a_broken_ingest_goes_on_where_it_ended(content: Content, tmp_path: Path) -> None:
    digest = digest_of(b"whole blob")
    with content.ingest(digest) as ingest:
        ingest.write(b"whole")
    again = Content(tmp_path / "content", Metadata(tmp_path / "again", {"content": SCHEMA}))
    remove_all(again.sweep())  # the next process begins with it
    with again.ingest(digest) as ingest:
        assert (ingest.offset, b"".join(ingest.kept())) == (5, b"whole")
        ingest.write(b" blob")
        ingest.seal()
        assert again.find(digest) is None
        again.adopt(digest)
        again.record(digest, 10, digest)
    assert again.path(digest).read_bytes() == b"whole blob"
    assert list((tmp_path / "content/partial").iterdir()) == []
    assert again.path(digest).stat().st_mode & 0o777 == 0o600


def test_an_ingest_that_was_not_the_blob_starts_over(content: Content) -> None:
    digest = digest_of(b"right")
    with content.ingest(digest) as ingest:
        ingest.write(b"wrong and long")
        ingest.restart()
        ingest.write(b"right")
        assert (ingest.offset, b"".join(ingest.kept())) == (5, b"right")


def test_an_ingest_that_has_nothing_leaves_nothing(content: Content, tmp_path: Path) -> None:
    with content.ingest(digest_of(b"x")):
        pass
    assert list((tmp_path / "content/partial").iterdir()) == []


def test_a_blob_is_written_by_one_at_a_time(content: Content) -> None:
    digest = digest_of(b"x")
    with content.ingest(digest), pytest.raises(Conflict), content.ingest(digest):
        pass
    with content.ingest(digest):
        pass


def test_partials_expire_but_for_those_being_written(content: Content, tmp_path: Path) -> None:
    old, written = digest_of(b"old"), digest_of(b"written")
    with content.ingest(old) as ingest:
        ingest.write(b"o")
    with content.ingest(written):
        assert content.expired() == []
        aside = content.expired(seconds=0)
        assert [path.name for path in (tmp_path / "content/partial").iterdir()] == [written[7:]]
    remove_all(aside)
    assert list((tmp_path / "content/ingest").iterdir()) == []


def boot(tmp_path: Path, name: str) -> Content:
    """The store as the daemon finds it under that boot of the kernel."""
    return Content(tmp_path / "content", Metadata(tmp_path / "db", {"content": SCHEMA}), boot=name)


def test_a_blob_is_in_doubt_until_a_sync_or_a_look_at_it(tmp_path: Path) -> None:
    content = boot(tmp_path, "first")
    synced = put(content, b"synced")
    seen = content.unsynced()
    late = put(content, b"late")
    assert seen == [synced]
    content.synced(seen)
    assert content.unsynced() == [late]
    assert boot(tmp_path, "first").doubtful() == []  # a daemon that died lost nothing
    content = boot(tmp_path, "second")
    assert content.doubtful() == [late]
    content.verified(parse_digest(late))
    assert (content.doubtful(), content.unsynced()) == ([], [late])


def test_a_store_without_a_boot_has_no_doubts(content: Content, tmp_path: Path) -> None:
    put(content, b"data")
    assert (content.unsynced(), content.doubtful()) == ([], [])


def test_a_store_from_before_the_mark_is_taken_as_it_is(tmp_path: Path) -> None:
    database = Metadata(tmp_path / "db", {"content": SCHEMA[:1]})
    database.execute("INSERT INTO blobs VALUES ('sha256:a', 1, '')")
    assert boot(tmp_path, "any").doubtful() == []

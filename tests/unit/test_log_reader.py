"""The native log reader as Python sees it: chunks, filters, following by a descriptor."""

import json
import select
from pathlib import Path

import pytest
from proa_native import LogReader


def write(path: Path, *entries: tuple[str, str, str]) -> None:
    with path.open("a") as log:
        for stream, text, time in entries:
            log.write(json.dumps({"log": text, "stream": stream, "time": time}) + "\n")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "x-json.log"
    write(tmp_path / "x-json.log.1", ("stdout", "one\n", "2026-01-01T00:00:01Z"))
    write(
        path,
        ("stderr", "two\n", "2026-01-01T00:00:02.5Z"),
        ("stdout", "thr\u00e9e\n", "2026-01-01T00:00:03Z"),
    )
    return path


def test_chunks_are_ready_for_the_wire(log: Path) -> None:
    reader = LogReader(str(log), stdout=True, stderr=True)
    assert b"".join(iter(reader.read, b"")) == (
        b"\1\0\0\0\0\0\0\4one\n\2\0\0\0\0\0\0\4two\n\1\0\0\0\0\0\0\7thr\xc3\xa9e\n"
    )


def test_times_tail_and_streams_select(log: Path) -> None:
    since = 1_767_225_602 * 10**9
    reader = LogReader(
        str(log), stdout=False, stderr=True, since_ns=since, timestamps=True, multiplexed=False
    )
    assert reader.read() == b"2026-01-01T00:00:02.500000000Z two\n"
    assert LogReader(str(log), stdout=True, stderr=True, tail=0).read() == b""


def test_following_tells_by_its_descriptor(log: Path) -> None:
    reader = LogReader(str(log), stdout=True, stderr=True, tail=0, multiplexed=False, follow=True)
    assert reader.read() == b""
    poll = select.poll()
    poll.register(reader.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    write(log, ("stdout", "four\n", "2026-01-01T00:00:04Z"))
    assert poll.poll(5000) == [(reader.fileno(), select.POLLIN)]
    assert reader.read() == b"four\n"


def test_a_closed_reader_says_so(log: Path) -> None:
    reader = LogReader(str(log), stdout=True, stderr=True)
    with pytest.raises(ValueError, match="not followed"):
        reader.fileno()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
